package decide_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/functions/seal"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// large is a statement of n bytes whose literals are most of it.
func large(n int) string { return "insert into orders values ('" + strings.Repeat("é", n/2) + "')" }

// listen serves the broker over TLS, with the twin of presigned URLs beside it, and gives an agent's client for it.
func (w *world) listen(t *testing.T) *broker.Agent {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("PUT "+dir.UploadPath, w.uploads)
	mux.Handle("/", w.handler)
	// A CA of its own, whose clock is the machine's: the world's stands elsewhere.
	signer := brokertest.NewSigner(t)
	der, err := token.CreateCA(t.Context(), signer, time.Now())
	brokertest.Must(t, err)
	ca, err := token.NewCA(signer, der)
	brokertest.Must(t, err)
	key := brokertest.NewKey(t)
	leaf, err := ca.IssueServer(t.Context(), &key.PublicKey, token.ServerNames{URI: token.URIBroker, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now())
	brokertest.Must(t, err)
	srv := httptest.NewUnstartedServer(mux)
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{leaf, ca.Cert().Raw}, PrivateKey: key}}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	w.uploads.Base = srv.URL
	url := srv.URL + "/#ca=" + ca.Pin()
	a, err := broker.NewAgent(broker.AgentConfig{URL: url, Now: w.Now, Certificate: func() (tls.Certificate, error) {
		return tls.Certificate{Certificate: [][]byte{w.agent.Cert.Raw}, PrivateKey: w.agent.Key, Leaf: w.agent.Cert}, nil
	}})
	brokertest.Must(t, err)
	t.Cleanup(a.CloseIdle)
	return a
}

// A statement of 10 MB is decided, recorded whole, and verifiable; a damaged body is named.
func TestALargeCommandIsDecidedRecordedAndVerifiable(t *testing.T) {
	w := newWorld(t)
	agent := w.listen(t)
	s := w.Seed(w.agent, w.alice, "app")
	c := s.Command(0, access.Write, "public.orders", large(10_000_000))
	c.Normalised, c.Params = "insert into orders values ($1)"+strings.Repeat(" ", 20_000), []access.Param{{Value: []byte{0, 255}}}
	for range 2 { // and once more, as if the answer had been lost
		resp, err := agent.Check(t.Context(), api.CheckRequest{Agent: w.agent.Name, Asks: []api.Ask{s.Ask(c)}})
		brokertest.Must(t, err)
		if a := resp.Answers[0]; outcomes(a) != "allow" || a.Decisions[0].Digest != s.Digest(c) {
			t.Fatalf("%+v", a)
		}
	}
	es := w.commandEntries()
	if len(es) != 1 || es[0].Command.Large == nil || es[0].Command.Body != nil || !strings.HasSuffix(es[0].Command.Normalised, "(20030 bytes in all)") {
		t.Fatalf("%d entries: %+v", len(es), es[0].Command)
	}
	blob, err := w.dir.Open(t.Context(), audit.BodyName(c.Session, c.ID))
	brokertest.Must(t, err)
	if bytes.Contains(blob, []byte("insert into")) {
		t.Error("the body lies open")
	}
	body, err := audit.OpenLarge(c.ID, s.State.DataKey, blob)
	if err != nil || body.Text != c.Text || !bytes.Equal(body.Params[0].Value, []byte{0, 255}) || body.Normalised != c.Normalised {
		t.Errorf("%d bytes, %v", len(body.Text), err)
	}
	if r := w.verify(t); r.Bodies != 1 || len(r.Problems) != 0 {
		t.Errorf("%+v", r)
	}
	for name, tamper := range map[string]func(d *dir.Dir){
		"is gone":     func(*dir.Dir) {},
		"was altered": func(d *dir.Dir) { brokertest.Must(t, d.Create(t.Context(), audit.BodyName(c.Session, c.ID), blob[1:])) },
	} {
		d := w.copyEvidence(t)
		tamper(d)
		if r := w.verifyAt(t, d); len(r.Problems) != 1 || !strings.Contains(r.Problems[0].What, name) || r.Problems[0].ID != string(c.ID) {
			t.Errorf("%s: %+v", name, r.Problems)
		}
	}
	// The next command goes on behind it.
	s.Stored(c)
	if a := w.check(s.Ask(s.Command(0, access.Read, "public.orders", "x"))); outcomes(a) != "allow" {
		t.Errorf("%+v", a)
	}
}

func (w *world) verify(t *testing.T) audit.Report { return w.verifyAt(t, w.dir) }

func (w *world) verifyAt(t *testing.T, d *dir.Dir) audit.Report {
	t.Helper()
	if w.signer == nil {
		own := brokertest.NewSigner(t)
		w.signer = &own
		s, err := seal.New(seal.Config{Items: w.DB, Feed: w.DB, Blobs: w.dir, Heads: w.dir, Signer: own, Origin: "sallyport.test/audit", Now: w.Now})
		brokertest.Must(t, err)
		_, err = s.Seal(t.Context())
		brokertest.Must(t, err)
	}
	key, err := audit.VerifierKey("sallyport.test/audit", w.signer.Public())
	brokertest.Must(t, err)
	r, err := audit.Verify(t.Context(), audit.VerifyConfig{Blobs: d, Heads: d, Key: key})
	brokertest.Must(t, err)
	var rest []audit.Problem
	for _, p := range r.Problems {
		if p.Code != audit.CodeChain { // the world's sessions have no opening
			rest = append(rest, p)
		}
	}
	r.Problems = rest
	return r
}

// copyEvidence is the log without the bodies beside it.
func (w *world) copyEvidence(t *testing.T) *dir.Dir {
	t.Helper()
	d, err := dir.Open(t.TempDir())
	brokertest.Must(t, err)
	t.Cleanup(func() { _ = d.Close() })
	names, err := w.dir.List(t.Context(), "")
	brokertest.Must(t, err)
	for _, n := range names {
		if strings.HasPrefix(n, audit.BodyPrefix) {
			continue
		}
		b, err := w.dir.Open(t.Context(), n)
		brokertest.Must(t, err)
		brokertest.Must(t, d.Create(t.Context(), n, b))
	}
	return d
}

func TestOverTheCeilingIsRefusedWithASentence(t *testing.T) {
	w := newWorld(t)
	agent := w.listen(t)
	s := w.Seed(w.agent, w.alice, "app")
	_, err := agent.Check(t.Context(), api.CheckRequest{Agent: w.agent.Name, Asks: []api.Ask{s.Ask(s.Command(0, access.Write, "public.orders", large(api.MaxUpload)))}})
	if e := (*api.Error)(nil); !errors.As(err, &e) || !errors.Is(e, api.ErrTooLarge) || !strings.Contains(e.Message, "33554432") {
		t.Errorf("%v", err)
	}
	up := api.Uploaded{First: access.CommandID(w.ID()), Bytes: api.MaxUpload + 1, SHA256: make([]byte, 32)}
	err = w.agent.Call(w.handler, api.PathUpload, api.UploadRequest{Agent: w.agent.Name, Session: s.State.Session, State: s.Raw, Uploaded: up}, &api.UploadResponse{})
	if !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("the broker grants it: %v", err)
	}
}

// put uploads commands without a client's help.
func (w *world) put(t *testing.T, s *brokertest.Session, b []byte, first access.CommandID) api.Uploaded {
	t.Helper()
	sum := sha256.Sum256(b)
	brokertest.Must(t, w.dir.Create(context.Background(), "uploads/"+string(s.State.Session)+"/"+string(first), b))
	return api.Uploaded{First: first, Bytes: int64(len(b)), SHA256: sum[:]}
}

func TestUploadedCommandsAreHeldToWhatWasSaid(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(up *api.Uploaded, a *api.Ask)
		body func(cmds []byte) []byte
		want string
	}{
		"as it is":        {nil, nil, "allow"},
		"another hash":    {func(up *api.Uploaded, _ *api.Ask) { up.SHA256[0] ^= 1 }, nil, "error:bad_request"},
		"another size":    {func(up *api.Uploaded, _ *api.Ask) { up.Bytes++ }, nil, "error:bad_request"},
		"nothing there":   {func(up *api.Uploaded, _ *api.Ask) { up.First = up.First[:25] + access.CommandID('0'+up.First[25]&1^1) }, nil, "error:bad_request"},
		"a path":          {func(up *api.Uploaded, _ *api.Ask) { up.First = "../x" }, nil, "error:bad_request"},
		"short hash":      {func(up *api.Uploaded, _ *api.Ask) { up.SHA256 = up.SHA256[:31] }, nil, "error:bad_request"},
		"in both places":  {func(_ *api.Uploaded, a *api.Ask) { a.Commands = []access.Command{{}} }, nil, "error:bad_request"},
		"no commands":     {nil, func([]byte) []byte { return []byte("[]") }, "error:bad_request"},
		"no JSON":         {nil, func([]byte) []byte { return []byte("x") }, "error:bad_request"},
		"millions":        {nil, func([]byte) []byte { return []byte("[" + strings.Repeat("{},", 5_000_000) + "{}]") }, "error:too_large"},
		"something more":  {nil, func(b []byte) []byte { return append(b, "[]"...) }, "error:bad_request"},
		"a field unknown": {nil, func(b []byte) []byte { return bytes.Replace(b, []byte(`"verb"`), []byte(`"more":1,"verb"`), 1) }, "error:bad_request"},
		"another command": {nil, func(b []byte) []byte { return bytes.Replace(b, []byte(`"id":"01`), []byte(`"id":"02`), 1) }, "error:bad_request"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := w.Seed(w.agent, w.alice, "app")
			c := s.Command(0, access.Read, "public.orders", "x")
			b, err := json.Marshal([]access.Command{c})
			brokertest.Must(t, err)
			if tt.body != nil {
				b = tt.body(b)
			}
			up := w.put(t, s, b, c.ID)
			a := s.Ask()
			if tt.edit != nil {
				tt.edit(&up, &a)
			}
			a.Uploaded = &up
			if got := outcomes(w.check(a)); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// A large command is never allowed without its body and entry, whatever fails on the way; asked again it is.
func TestFaultsOfALargeCommand(t *testing.T) {
	steps(t, func(t *testing.T, w *world) func() error {
		s := w.Seed(w.agent, w.alice, "app")
		c := s.Command(0, access.Read, "public.orders", large(500_000))
		return func() error {
			a := w.check(s.Ask(c))
			if a.Error != nil {
				return a.Error
			}
			neverAllowWithoutEntry(t, w, a.Decisions)
			if outcomes(a) != "allow" {
				t.Errorf("%+v", a)
			}
			return nil
		}
	}, func(t *testing.T, w *world, err error, retry func() error) {
		if err != nil && !errors.Is(err, api.ErrUnavailable) {
			t.Errorf("%v", err)
		}
		brokertest.Must(t, retry())
		es := w.commandEntries()
		if len(es) != 1 || es[0].Command.Large == nil {
			t.Fatalf("%d entries", len(es))
		}
		if _, err := w.dir.Open(context.Background(), audit.BodyName(es[0].Session, access.CommandID(es[0].ID))); err != nil {
			t.Error(err)
		}
	})
}

// The twin of presigned URLs takes exactly what was granted, once.
const uploadLife = 10 * time.Second

func TestUploadsTakeWhatWasGranted(t *testing.T) {
	w := newWorld(t)
	b := []byte("some commands")
	sum := sha256.Sum256(b)
	grant, err := w.uploads.Grant(t.Context(), "uploads/S/C", int64(len(b)), sum, uploadLife)
	brokertest.Must(t, err)
	put := func(method, url string, body []byte, header bool) int {
		r := httptest.NewRequest(method, url, bytes.NewReader(body))
		if header {
			for k, v := range grant.Header {
				r.Header.Set(k, v)
			}
		}
		rec := httptest.NewRecorder()
		w.uploads.ServeHTTP(rec, r)
		return rec.Code
	}
	for name, tt := range map[string]struct {
		url    string
		body   []byte
		method string
		header bool
		want   int
	}{
		"another name":      {strings.Replace(grant.URL, "/S/", "/T/", 1), b, "PUT", true, 403},
		"another time":      {strings.Replace(grant.URL, "until=1", "until=2", 1), b, "PUT", true, 403},
		"another size":      {strings.Replace(grant.URL, "size=13", "size=14", 1), append(bytes.Clone(b), 'x'), "PUT", true, 403},
		"no signature":      {strings.Split(grant.URL, "&signature")[0], b, "PUT", true, 403},
		"without condition": {grant.URL, b, "PUT", false, 403},
		"other bytes":       {grant.URL, []byte("other bytes!!"), "PUT", true, 400},
		"more bytes":        {grant.URL, append(bytes.Clone(b), 'x'), "PUT", true, 403},
		"a GET":             {grant.URL, nil, "GET", true, 405},
	} {
		if got := put(tt.method, tt.url, tt.body, tt.header); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
	if got := put("PUT", grant.URL, b, true); got != 200 {
		t.Errorf("as granted: %d", got)
	}
	if got := put("PUT", grant.URL, b, true); got != 200 {
		t.Errorf("the same again: %d", got)
	}
	w.Advance(2 * uploadLife)
	if got := put("PUT", grant.URL, b, true); got != 403 {
		t.Errorf("too late: %d", got)
	}
	if _, err := w.uploads.Grant(t.Context(), "../x", 1, sum, uploadLife); err == nil {
		t.Error("a name that leaves")
	}
	if _, err := w.uploads.Grant(t.Context(), "x", dir.MaxBlob+1, sum, uploadLife); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}
