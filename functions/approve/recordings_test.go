package approve_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/recording"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// tape stores a recording of a session's next command, as functions/record does; the last chunk ends it where ended is not "".
func (w *world) tape(s *brokertest.Session, kind, name, ended string, chunks ...string) access.CommandID {
	w.t.Helper()
	e := w.command(s, "ssh shell", allowed)
	w.audit(e)
	r := recording.Record{Session: s.State.Session, Command: access.CommandID(e.ID), Seq: e.Seq, Agent: "agent-1", Kind: kind, Name: name, Started: w.Now(), Updated: w.Now(), Ended: ended}
	for i, c := range chunks {
		p := recording.Place{Session: r.Session, Command: r.Command, Index: i}
		if i == len(chunks)-1 && ended != "" {
			p.Last, p.Reason = true, ended
		}
		sealed, err := recording.Seal(s.State.DataKey, p, []byte(c))
		brokertest.Must(w.t, err)
		brokertest.Must(w.t, w.evidence.Create(context.Background(), audit.RecordingName(r.Session, r.Command, i), sealed))
		sum := sha256.Sum256(sealed)
		w.audit(audit.Entry{V: 1, Kind: audit.KindRecording, ID: w.ID(), Time: w.Now(), Session: r.Session, Seq: r.Seq,
			Recording: &audit.Recording{Command: r.Command, Index: i, SHA256: hex.EncodeToString(sum[:]), Last: p.Last}})
		r.Next, r.Bytes = i+1, r.Bytes+int64(len(c))
	}
	put, err := r.Put(store.Cond{})
	brokertest.Must(w.t, err)
	brokertest.Must(w.t, w.DB.Put(context.Background(), put))
	return r.Command
}

const castHead = `{"version": 2, "width": 80, "height": 24}` + "\n"

func output(text string) string {
	b, _ := json.Marshal([]any{0.5, "o", text})
	return string(b) + "\n"
}

func TestWhoMayReadARecording(t *testing.T) {
	w := newWorld(t)
	coder := w.child(w.alice, "coder", "code")
	sibling := w.child(w.alice, "writer", "write")
	eve, adam := w.Login("eve", "engineers"), w.Login("adam", "auditors")
	s := w.Seed(w.agent, coder, "app")
	id := w.tape(s, api.RecordingCast, "a shell", api.ReasonComplete, castHead, output("one\r\n"), output("two\r\n"), "")
	path := api.PathSessions + "/" + string(s.State.Session) + "/recordings/" + string(id)
	for name, p := range map[string]*brokertest.Person{"alice": w.alice, "coder": coder, "writer": sibling, "eve": eve, "adam": adam} {
		may := name == "alice" || name == "coder" || name == "adam"
		var v api.ChunksView
		err := w.ask(p, path, &v)
		if may != (err == nil) || !may && !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
		if may && (string(v.Data) != castHead+output("one\r\n")+output("two\r\n") || v.Next != 4 || v.Ended != api.ReasonComplete) {
			t.Errorf("%s reads %+v", name, v)
		}
	}
	var rest api.ChunksView
	brokertest.Must(t, w.ask(w.alice, path+"?from=2", &rest))
	if string(rest.Data) != output("two\r\n") || rest.From != 2 {
		t.Errorf("%+v", rest)
	}
	for _, bad := range []string{path + "?from=5", path + "?from=-1", path + "?from=x"} {
		if err := w.ask(w.alice, bad, &rest); !errors.Is(err, api.ErrBadRequest) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for _, bad := range []string{w.ID(), "x"} {
		if err := w.ask(w.alice, api.PathSessions+"/"+string(s.State.Session)+"/recordings/"+bad, &rest); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	var one api.SessionView
	brokertest.Must(t, w.ask(w.alice, api.PathSessions+"/"+string(s.State.Session), &one))
	if len(one.Recordings) != 1 || one.Recordings[0].Command != id || one.Recordings[0].Name != "a shell" || one.Recordings[0].Ended != api.ReasonComplete {
		t.Errorf("%+v", one.Recordings)
	}
	for user, may := range map[string]bool{"alice": true, "adam": true, "eve": false} {
		p := w.as(user).get("/sessions/" + string(s.State.Session) + "/recordings/" + string(id))
		if got := p.status == http.StatusOK && strings.Contains(p.body, "one\ntwo"); got != may {
			t.Errorf("%s: %d %s", user, p.status, p.body)
		}
	}
}

// A long recording is read in runs, whose whole is the whole.
func TestALongRecordingComesInRuns(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	var chunks []string
	for i := range 30 {
		chunks = append(chunks, strings.Repeat(string(rune('a'+i%26)), api.MaxChunk))
	}
	id := w.tape(s, api.RecordingFile, "f", "", chunks...)
	var got bytes.Buffer
	for from := 0; from < 30; {
		var v api.ChunksView
		brokertest.Must(t, w.ask(w.alice, fmt.Sprintf("%s/%s/recordings/%s?from=%d", api.PathSessions, s.State.Session, id, from), &v))
		if v.Next <= from || len(v.Data) > api.MaxChunkBytes || v.Ended != "" {
			t.Fatalf("from %d to %d, %d bytes, %q", from, v.Next, len(v.Data), v.Ended)
		}
		got.Write(v.Data)
		from = v.Next
	}
	if got.String() != strings.Join(chunks, "") {
		t.Error("the whole is another")
	}
}

// Whatever a program sent to its terminal is text on the page, and nothing else.
func TestHostileBytesOnTheRecordingPage(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	var evil strings.Builder
	for r := rune(0); r < 0x100; r++ {
		evil.WriteRune(r)
	}
	evil.WriteString("\x1b\\\r\n") // ends the strings that some of them begin
	for _, x := range []string{`<script>alert(1)</script>`, `</pre><img src=x onerror=alert(1)>`, `"><svg onload=alert(1)>`, `{{.Viewer}}`, "\x1b]52;c;QkFE\x07", "\x1b]0;title\x07",
		"\u202etxt.exe", "\u2028", "&lt;b&gt;", "javascript:alert(1)", "\x1b]8;;http://evil.example/\x1b\\click\x1b]8;;\x1b\\"} {
		evil.WriteString(x + "\r\n")
	}
	id := w.tape(s, api.RecordingCast, `"><script>alert(2)</script>`, "", castHead, output(evil.String()), output("the end\r\n"))
	v := w.as("alice")
	for _, path := range []string{"/sessions/" + string(s.State.Session) + "/recordings/" + string(id), "/sessions/" + string(s.State.Session)} {
		p := v.get(path)
		if p.status != http.StatusOK {
			t.Fatalf("%s: %d", path, p.status)
		}
		for _, tag := range regexp.MustCompile(`<(script|img|svg|a|iframe)\b[^>]*>`).FindAllString(p.body, -1) {
			if !strings.Contains(tag, `"/assets/`) && !strings.Contains(tag, `href="/`) {
				t.Errorf("%s: a recording made the tag %s", path, tag)
			}
		}
		if i := strings.IndexFunc(p.body, func(r rune) bool {
			return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r))
		}); i >= 0 {
			t.Errorf("%s: %q is on the page", path, p.body[i:i+4])
		}
		csp := p.header.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "script-src 'self';") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: policy %q", path, csp)
		}
	}
	p := v.get("/sessions/" + string(s.State.Session) + "/recordings/" + string(id))
	if !p.says("the end") || !p.says("<script>alert(1)</script>") || p.says("QkFE") || !strings.Contains(p.body, "/assets/recording.js") {
		t.Errorf("the page says %s", p.text())
	}
}

func TestARecordingPageShowsTheEndOfALongOneAndNothingOfAFile(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	chunks := []string{castHead}
	for i := range 100 {
		chunks = append(chunks, output(fmt.Sprintf("line %d\r\n", i)))
	}
	long := w.tape(s, api.RecordingCast, "long", "", chunks...)
	file := w.tape(s, api.RecordingFile, "id_rsa", api.ReasonComplete, "file content", "")
	broken := w.tape(s, api.RecordingCast, "broken", "", castHead, output("before\r\n"), "no json\n")
	v := w.as("alice")
	at := func(c access.CommandID) page {
		return v.get("/sessions/" + string(s.State.Session) + "/recordings/" + string(c))
	}
	if p := at(long); !p.says("line 99") || p.says("line 3 ") || !p.says("The end of it") {
		t.Errorf("%s", p.text())
	}
	if p := at(file); p.says("file content") || !p.says("id_rsa") || !p.says("export") {
		t.Errorf("%s", p.text())
	}
	if p := at(broken); !p.says("before") || !p.says("is not shown") {
		t.Errorf("%s", p.text())
	}
}

// The exact text of a command that fits no entry is read as other texts are, in pieces.
func TestWhoMayReadALargeBody(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	c := s.Command(0, access.Read, "public.orders", strings.Repeat("select ", 1_000_000))
	kept, blob, err := audit.LargeCommandOf(c, s.Digest(c), s.State.DataKey)
	brokertest.Must(t, err)
	brokertest.Must(t, w.evidence.Create(context.Background(), audit.BodyName(c.Session, c.ID), blob))
	e := w.command(s, "x", allowed)
	e.ID, e.Command = string(c.ID), kept
	w.audit(e)
	path := api.PathSessions + "/" + string(c.Session)
	var one api.SessionView
	brokertest.Must(t, w.ask(w.alice, path, &one))
	if len(one.Commands) != 1 || !one.Commands[0].Large || !strings.Contains(one.Commands[0].Text, "bytes in all") {
		t.Errorf("%+v", one.Commands)
	}
	if p := w.as("alice").get("/sessions/" + string(c.Session)); !p.says("--body FILE") {
		t.Errorf("%s", p.text())
	}
	var got []byte
	for from, more := 0, true; more; from++ {
		var v api.ChunksView
		brokertest.Must(t, w.ask(w.alice, fmt.Sprintf("%s/bodies/%s?from=%d", path, c.ID, from), &v))
		got, more = append(got, v.Data...), v.Ended == ""
	}
	var body audit.Body
	if err := json.Unmarshal(got, &body); err != nil || body.Text != c.Text {
		t.Errorf("%d bytes, %v", len(body.Text), err)
	}
	var v api.ChunksView
	if err := w.ask(w.Login("eve", "engineers"), path+"/bodies/"+string(c.ID), &v); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a stranger: %v", err)
	}
	for _, bad := range []string{"x", w.ID()} {
		if err := w.ask(w.alice, path+"/bodies/"+bad, &v); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// What was altered where it lies is not shown as if it were the original.
func TestAnAlteredChunkIsNotShown(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	id := w.tape(s, api.RecordingCast, "x", "", castHead)
	r, it, err := recording.Get(context.Background(), w.DB, s.State.Session, id)
	brokertest.Must(t, err)
	brokertest.Must(t, w.evidence.Create(context.Background(), audit.RecordingName(s.State.Session, id, 1), []byte("not sealed by us, at all")))
	r.Next = 2
	put, err := r.Put(store.Cond{Version: it.Version})
	brokertest.Must(t, err)
	brokertest.Must(t, w.DB.Put(context.Background(), put))
	var v api.ChunksView
	if err := w.ask(w.alice, api.PathSessions+"/"+string(s.State.Session)+"/recordings/"+string(id), &v); !errors.Is(err, api.ErrInternal) {
		t.Errorf("%v %+v", err, v)
	}
}

// send posts to the JSON side.
func (w *world) send(p *brokertest.Person, path string, in any) error {
	w.t.Helper()
	b, err := json.Marshal(in)
	brokertest.Must(w.t, err)
	r := httptest.NewRequest(http.MethodPost, brokertest.Issuer+path, bytes.NewReader(b))
	proof, err := token.SignDPoP(p.Key, http.MethodPost, brokertest.Issuer+path, p.Token, w.Now())
	brokertest.Must(w.t, err)
	r.Header.Set("Authorization", "DPoP "+p.Token)
	r.Header.Set("DPoP", proof)
	return brokertest.Do(w.t, w.pages.Config.Handler, r, &struct{}{})
}

func (w *world) status(id access.SessionID) session.Record {
	w.t.Helper()
	r, _, err := session.Get(context.Background(), w.DB, id)
	brokertest.Must(w.t, err)
	return r
}

func TestWhoMayEndASession(t *testing.T) {
	for name, tt := range map[string]struct {
		of   func(w *world, coder *brokertest.Person) *brokertest.Person
		want error
	}{
		"its principal": {func(w *world, _ *brokertest.Person) *brokertest.Person { return w.alice }, nil},
		"its actor":     {func(_ *world, coder *brokertest.Person) *brokertest.Person { return coder }, nil},
		"an administrator": {func(w *world, _ *brokertest.Person) *brokertest.Person {
			return w.Login("root", "administrators")
		}, nil},
		"an auditor":  {func(w *world, _ *brokertest.Person) *brokertest.Person { return w.Login("adam", "auditors") }, api.ErrDenied},
		"a stranger":  {func(w *world, _ *brokertest.Person) *brokertest.Person { return w.Login("eve", "engineers") }, api.ErrNotFound},
		"its child":   {func(w *world, coder *brokertest.Person) *brokertest.Person { return w.child(coder, "tester", "t") }, api.ErrNotFound},
		"its sibling": {func(w *world, _ *brokertest.Person) *brokertest.Person { return w.child(w.alice, "writer", "w") }, api.ErrNotFound},
		"an administrator's actor": {func(w *world, _ *brokertest.Person) *brokertest.Person {
			return w.child(w.Login("root", "administrators"), "robot", "r")
		}, api.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			coder := w.child(w.alice, "coder", "code")
			s := w.Seed(w.agent, coder, "app")
			path := api.PathSessions + "/" + string(s.State.Session) + "/end"
			who := tt.of(w, coder)
			err := w.send(who, path, api.EndRequest{Reason: "went astray"})
			rec := w.status(s.State.Session)
			marks, merr := session.Marks(context.Background(), w.DB, w.agent.Name, []access.SessionID{s.State.Session})
			brokertest.Must(t, merr)
			if tt.want != nil {
				if !errors.Is(err, tt.want) || rec.Status != session.Open || len(marks) != 0 || len(w.Entries()) != 0 {
					t.Errorf("%v, %s, %v", err, rec.Status, marks)
				}
				return
			}
			brokertest.Must(t, err)
			if rec.Status != session.Ended || !strings.Contains(marks[s.State.Session].Reason, "went astray") {
				t.Errorf("%+v %v", rec, marks)
			}
			es := w.Entries()
			if len(es) != 1 || es[0].Kind != audit.KindRevoke || es[0].Note["session"] != string(s.State.Session) || es[0].Lineage == nil || es[0].Note["by"] != who.Claims.Lineage().Chain() {
				t.Errorf("%+v", es)
			}
			if err := w.send(who, path, api.EndRequest{}); !errors.Is(err, api.ErrConflict) {
				t.Errorf("again: %v", err)
			}
		})
	}
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	if err := w.send(w.alice, api.PathSessions+"/"+string(s.State.Session)+"/end", api.EndRequest{Reason: strings.Repeat("x", 201)}); !errors.Is(err, api.ErrBadRequest) {
		t.Errorf("a long reason: %v", err)
	}
}

func TestEndASessionInTheBrowser(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	at := "/sessions/" + string(s.State.Session)
	form := regexp.MustCompile(`action="` + at + `/end"[^>]*><input type="hidden" name="form" value="([^"]+)"`)
	if form.MatchString(w.as("adam").get(at).body) {
		t.Error("an auditor is offered to end a session")
	}
	v := w.as("alice")
	m := form.FindStringSubmatch(v.get(at).body)
	if m == nil {
		t.Fatal("there is no form")
	}
	if p := v.do(http.MethodPost, at+"/end", url.Values{"form": {"x"}}); p.status != http.StatusForbidden || w.status(s.State.Session).Status != session.Open {
		t.Errorf("a forged form: %d", p.status)
	}
	other := w.as("adam")
	if p := other.do(http.MethodPost, at+"/end", url.Values{"form": {m[1]}}); p.status != http.StatusForbidden || w.status(s.State.Session).Status != session.Open {
		t.Errorf("another's form: %d", p.status)
	}
	v.site = "cross-site"
	if p := v.do(http.MethodPost, at+"/end", url.Values{"form": {m[1]}}); p.status != http.StatusForbidden || w.status(s.State.Session).Status != session.Open {
		t.Errorf("another site's: %d", p.status)
	}
	v.site = "same-origin"
	if p := v.do(http.MethodPost, at+"/end", url.Values{"form": {m[1]}, "reason": {"enough"}}); p.status != http.StatusOK || w.status(s.State.Session).Status != session.Ended {
		t.Errorf("%d %s", p.status, p.text())
	}
	if form.MatchString(v.get(at).body) {
		t.Error("a session that is over can be ended again")
	}
}
