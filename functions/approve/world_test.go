package approve_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/functions/approve"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/localstack/idp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const console = "sallyport-console"

// users of the identity provider: name, password and groups.
var users = []idp.User{
	{Name: "alice", Password: "alice's", Groups: []string{"engineers"}},
	{Name: "rita", Password: "rita's", Groups: []string{"reviewers"}},
	{Name: "rolf", Password: "rolf's", Groups: []string{"reviewers"}},
	{Name: "adam", Password: "adam's", Groups: []string{"auditors"}},
	{Name: "eve", Password: "eve's", Groups: []string{"engineers"}},
}

// world is the pages behind a real listener, an identity provider behind another, and what a broker would have stored.
type world struct {
	*brokertest.World
	t     testing.TB
	items store.Items // what the pages use
	// evidence holds the chunks of recordings.
	evidence *dir.Dir
	pages    *httptest.Server
	op       *httptest.Server
	idp      *idp.Provider
	log      *safeBuffer
	alice    *brokertest.Person
	agent    *brokertest.Agent

	mu   sync.Mutex
	lie  func(idp.TokenRequest) idp.TokenRequest // changes what the provider's token says
	down bool                                    // the provider answers nobody
	last said
}

type safeBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newWorld(t testing.TB, wrap ...func(store.Items) store.Items) *world {
	t.Helper()
	w := &world{World: brokertest.New(t), t: t, log: &safeBuffer{}}
	b, err := policy.Load(fstest.MapFS{
		"a.cedar":      {Data: []byte(`@id("read") permit(principal in Group::"engineers", action == Action::"read", resource in Target::"app");`)},
		"targets.yaml": {Data: []byte("targets:\n- name: app\n  protocol: postgres\n  database: app\n")},
		"roles.yaml":   {Data: []byte("auditors: [auditors]\nadministrators: [administrators]\n")},
	})
	brokertest.Must(t, err)
	w.Use(b)
	w.op = httptest.NewServer(http.HandlerFunc(w.provider))
	t.Cleanup(w.op.Close)
	w.idp, err = idp.New(idp.Config{Issuer: w.op.URL, Dir: t.TempDir(), Clients: []idp.Client{{ID: console, RedirectURIs: []string{"http://127.0.0.1/callback"}}}, Users: users, Now: w.Now})
	brokertest.Must(t, err)
	w.items = w.Items
	w.evidence, err = dir.Open(t.TempDir())
	brokertest.Must(t, err)
	t.Cleanup(func() { _ = w.evidence.Close() })
	for _, f := range wrap {
		w.items = f(w.items)
	}
	var h http.Handler
	w.pages = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { h.ServeHTTP(rw, r) }))
	t.Cleanup(w.pages.Close)
	h, err = approve.New(w.config())
	brokertest.Must(t, err)
	w.agent = w.Agent("agent-1", "app")
	w.alice = w.Login("alice", "engineers")
	w.index(w.alice)
	return w
}

// newHandler is the pages once more, on other stores.
func (w *world) newHandler(items store.Items) http.Handler {
	c := w.config()
	c.Items = items
	h, err := approve.New(c)
	brokertest.Must(w.t, err)
	return h
}

func (w *world) config() approve.Config {
	tr := &http.Transport{}
	w.t.Cleanup(tr.CloseIdleConnections)
	return approve.Config{Items: w.items, Evidence: w.evidence, Bundles: w, Verifier: w.Verifier, Base: w.pages.URL, API: brokertest.Issuer, StateKey: w.StateKey, Now: w.Now,
		OIDC: approve.OIDC{Issuer: w.op.URL, ClientID: console, HTTPClient: &http.Client{Transport: tr}}, Log: slog.New(slog.NewTextHandler(w.log, nil))}
}

// provider is the real one, but for the token where a test lies.
func (w *world) provider(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	lie, down := w.lie, w.down
	w.mu.Unlock()
	switch {
	case down:
		http.Error(rw, "canary-provider-detail", http.StatusBadGateway)
	case lie != nil && r.URL.Path == "/token":
		rec := httptest.NewRecorder()
		w.idp.ServeHTTP(rec, r)
		var answer map[string]any
		brokertest.Must(w.t, json.Unmarshal(rec.Body.Bytes(), &answer))
		if raw, ok := answer["id_token"].(string); ok {
			w.mu.Lock()
			w.last = claims(w.t, raw)
			w.mu.Unlock()
		}
		w.mu.Lock()
		said := w.last // a lax provider takes a code twice
		w.mu.Unlock()
		delete(answer, "error")
		answer["access_token"], answer["token_type"] = "x", "Bearer"
		t := lie(idp.TokenRequest{ClientID: console, User: said.Sub, Groups: said.Groups, Nonce: said.Nonce, AuthTime: time.Unix(said.AuthTime, 0), Now: time.Unix(said.Iat, 0)})
		forged, err := w.idp.IDToken(t)
		brokertest.Must(w.t, err)
		if answer["id_token"] = forged; t.User == "nothing" {
			delete(answer, "id_token")
		}
		rw.Header().Set("Content-Type", "application/json")
		brokertest.Must(w.t, json.NewEncoder(rw).Encode(answer))
	default:
		w.idp.ServeHTTP(rw, r)
	}
}

func (w *world) lies(f func(idp.TokenRequest) idp.TokenRequest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lie = f
}

func (w *world) breaks(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
}

// index lists a login on its day, as functions/token does.
func (w *world) index(p *brokertest.Person) {
	l := p.Claims.Lineage()
	brokertest.Must(w.t, w.DB.Put(context.Background(), store.Write{Table: store.Grants, Item: store.Item{Key: token.DayKey(l.Root(), w.Now()), Body: []byte(`{}`)}}))
}

// child is an actor with its record in the tree.
func (w *world) child(p *brokertest.Person, name, purpose string) *brokertest.Person {
	c := p.Child(name, access.Everything())
	c.Claims.Path[len(c.Claims.Path)-1].Purpose = purpose
	c.Renew()
	l := c.Claims.Lineage()
	var path []access.ActorID
	for _, n := range l.Path {
		path = append(path, n.ID)
	}
	put, err := token.ActorRecord{Node: l.Actor(), Parent: path[len(path)-2], Path: path, Capability: access.Everything(), Created: w.Now(),
		Expires: w.Now().Add(time.Hour), Thumbprint: c.Claims.Thumbprint}.Put(l.Root())
	brokertest.Must(w.t, err)
	brokertest.Must(w.t, w.DB.Put(context.Background(), put))
	return c
}

const held = "update accounts\n   set balance = balance - 30\n where id = 1"

// hold makes a pending approval of a command by p.
func (w *world) hold(p *brokertest.Person, edit ...func(*approval.Record)) approval.Record {
	w.t.Helper()
	rec := approval.Record{ID: access.ApprovalID(w.ID()), Status: approval.Pending, Hold: "prod-write", Session: access.SessionID(w.ID()), Command: access.CommandID(w.ID()),
		Seq: 1, Digest: "digest-" + w.ID(), Target: "app", State: access.State{Database: "shop", Role: "app", SearchPath: "public"}, Verb: "UPDATE", Text: held,
		Normalised: "update accounts set balance = balance - $1 where id = $2", Lineage: p.Claims.Lineage(), Agent: "agent-1", Bundle: "sha256:x",
		Touches: []access.Touch{{Effect: access.Write, Resource: access.Resource{Kind: access.KindTable, Name: "public.accounts", Columns: []string{"balance"}}},
			{Effect: access.Read, Resource: access.Resource{Kind: access.KindTable, Name: "public.accounts", Columns: []string{"balance", "id"}}}},
		Reviewers: []string{"reviewers"}, Created: w.Now(), Expires: w.Now().Add(30 * time.Minute)}
	for _, f := range edit {
		f(&rec)
	}
	w.put(rec, store.Cond{})
	return rec
}

func (w *world) put(rec approval.Record, cond store.Cond) {
	w.t.Helper()
	put, err := approval.Put(rec, cond)
	brokertest.Must(w.t, err)
	brokertest.Must(w.t, w.DB.Put(context.Background(), put))
}

func (w *world) get(id access.ApprovalID) approval.Record {
	w.t.Helper()
	rec, _, err := approval.Get(context.Background(), w.DB, id)
	brokertest.Must(w.t, err)
	return rec
}

func (w *world) audit(entries ...audit.Entry) {
	w.t.Helper()
	put, err := audit.Put(entries...)
	brokertest.Must(w.t, err)
	brokertest.Must(w.t, w.DB.Put(context.Background(), put))
}

// verdicts are the entries of verdicts on an approval.
func (w *world) verdicts(id access.ApprovalID) (out []audit.Entry) {
	for _, e := range w.Entries() {
		if e.Kind == audit.KindVerdict && e.Approval.ID == id {
			out = append(out, e)
		}
	}
	return out
}

// rows counts everything that was ever written: what only looks must leave it as it is.
func (w *world) rows() int {
	n := 0
	for _, table := range []string{store.Grants, store.Approvals, store.Registry, store.Audit} {
		items, _, err := w.DB.Since(context.Background(), table, "", 100_000)
		brokertest.Must(w.t, err)
		for _, it := range items {
			n += int(it.Version)
		}
	}
	return n
}

// command is a session's next command in the evidence.
func (w *world) command(s *brokertest.Session, text string, d access.Decision) audit.Entry {
	w.t.Helper()
	c := s.Command(0, access.Read, "public.orders", text)
	digest := s.Digest(c)
	body, err := audit.CommandOf(c, digest, s.State.DataKey)
	brokertest.Must(w.t, err)
	body.Normalised = "normalised " + text
	d.Command, d.Seq, d.Digest = c.ID, c.Seq, digest
	l := s.State.Lineage
	e := audit.Entry{V: 1, Kind: audit.KindCommand, ID: string(c.ID), Time: w.Now(), Agent: "agent-1", Session: s.State.Session, Seq: c.Seq, Prev: s.Prev,
		Target: "app", Lineage: &l, Command: body, Decision: &d}
	s.Stored(c)
	return e
}

// visitor is a browser without scripting.
type visitor struct {
	w      *world
	client *http.Client
	site   string // Sec-Fetch-Site of its forms
}

func (w *world) visitor() *visitor {
	jar, err := cookiejar.New(nil)
	brokertest.Must(w.t, err)
	tr := &http.Transport{}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &visitor{w: w, client: &http.Client{Jar: jar, Transport: tr}, site: "same-origin"}
}

type page struct {
	status int
	url    *url.URL
	header http.Header
	body   string
}

// text is what a person reads.
func (p page) text() string {
	return strings.Join(strings.Fields(html.UnescapeString(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(p.body, ""))), " ")
}

// says whether a person reads these words, at the start of a sentence or within.
func (p page) says(words string) bool {
	return strings.Contains(strings.ToLower(p.text()), strings.ToLower(words))
}

func (v *visitor) do(method, target string, form url.Values) page {
	v.w.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	if strings.HasPrefix(target, "/") {
		target = v.w.pages.URL + target
	}
	r, err := http.NewRequest(method, target, body)
	brokertest.Must(v.w.t, err)
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", v.site)
	}
	res, err := v.client.Do(r)
	brokertest.Must(v.w.t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	brokertest.Must(v.w.t, err)
	return page{res.StatusCode, res.Request.URL, res.Header, string(raw)}
}

func (v *visitor) get(target string) page { v.w.t.Helper(); return v.do("GET", target, nil) }

// stop keeps the visitor from following redirects.
func (v *visitor) stop() *visitor {
	c := *v.client
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &visitor{v.w, &c, v.site}
}

// login fills the provider's form that a page led to.
func (v *visitor) login(p page, user string) page {
	v.w.t.Helper()
	if !strings.HasPrefix(p.url.String(), v.w.op.URL+"/authorize") {
		v.w.t.Fatalf("%s (%d) is not the provider's login: %s", p.url, p.status, p.text())
	}
	return v.do("POST", p.url.String(), url.Values{"username": {user}, "password": {user + "'s"}})
}

func (v *visitor) signIn(target, user string) page {
	v.w.t.Helper()
	return v.login(v.get(target), user)
}

// as is a visitor who is signed in for no approval.
func (w *world) as(user string) *visitor {
	w.t.Helper()
	v := w.visitor()
	if p := v.signIn("/", user); p.status != 200 || !strings.Contains(p.body, "Sign out") {
		w.t.Fatalf("%s is not signed in: %d %s", user, p.status, p.text())
	}
	return v
}

// reviewing is a visitor who has logged in for an approval, and its page.
func (w *world) reviewing(user string, id access.ApprovalID) (*visitor, page) {
	w.t.Helper()
	v := w.visitor()
	return v, v.signIn("/approve/"+string(id), user)
}

var formShape = regexp.MustCompile(`name="form" value="([^"]+)"[^§]*?name="verdict"`)

// formOf is the form token of a page with a verdict's form; "" where it has none.
func formOf(p page) string {
	if m := formShape.FindStringSubmatch(after(p.body, `class="answer"`)); m != nil {
		return html.UnescapeString(m[1])
	}
	return ""
}

func after(s, mark string) string {
	_, rest, _ := strings.Cut(s, mark)
	return rest
}

type said struct {
	Sub, Nonce string
	Groups     []string
	AuthTime   int64 `json:"auth_time"`
	Iat        int64
}

// claims reads a token without verifying it.
func claims(t testing.TB, raw string) (s said) {
	t.Helper()
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no token", raw)
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	brokertest.Must(t, err)
	brokertest.Must(t, json.Unmarshal(b, &s))
	return s
}
