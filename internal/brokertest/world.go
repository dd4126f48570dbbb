// Package brokertest builds what surrounds a function of the broker in a test: real stores in a temporary directory, a CA, an
// enrolled agent, a person who is logged in, sessions. It refuses nothing by itself: the functions under test do.
package brokertest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
	"github.com/sallyport/sallyport/internal/token"
)

// Issuer is the broker's base URL.
const Issuer = "https://broker.test"

// World is the surroundings of one function.
type World struct {
	T        testing.TB
	DB       *sqlite.DB
	Faults   *storetest.Faults // of Items
	Items    store.Items       // DB behind Faults
	CA       *token.CA
	Issuer   *token.Issuer
	Verifier *token.Verifier
	StateKey []byte

	mu     sync.Mutex
	now    time.Time
	bundle *policy.Bundle
}

// New makes a world whose clock stands at six minutes and seven seconds past the next hour: a store deletes what has expired by
// its own clock, so this one is not behind it.
func New(t testing.TB) *World {
	t.Helper()
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "store.db"))
	Must(t, err)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &World{T: t, DB: db, Faults: &storetest.Faults{}, StateKey: make([]byte, 32),
		now: time.Now().UTC().Truncate(time.Hour).Add(time.Hour + 6*time.Minute + 7*time.Second)}
	_, _ = rand.Read(w.StateKey)
	w.Items = storetest.FaultyItems{Faults: w.Faults, Items: db}
	ca := NewSigner(t)
	der, err := token.CreateCA(context.Background(), ca, w.Now())
	Must(t, err)
	w.CA, err = token.NewCA(ca, der)
	Must(t, err)
	signer := NewSigner(t)
	w.Issuer = token.NewIssuer(Issuer, signer, 0)
	w.Verifier = token.NewVerifier(Issuer, 0, signer.Public())
	return w
}

// Must ends the test on an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Now is the world's clock, which only Advance moves.
func (w *World) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// Advance moves the clock.
func (w *World) Advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// Use makes a bundle the active one.
func (w *World) Use(b *policy.Bundle) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bundle = b
}

// Active implements the functions' Bundles.
func (w *World) Active(context.Context) (*policy.Bundle, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bundle == nil {
		return nil, store.ErrNotFound
	}
	return w.bundle, nil
}

// ID makes a ULID of the world's time.
func (w *World) ID() string {
	id, err := token.NewID(w.Now())
	Must(w.T, err)
	return id
}

// Signer is a store.Signer over a key in memory.
type Signer struct{ key *ecdsa.PrivateKey }

// NewSigner makes one.
func NewSigner(t testing.TB) Signer { return Signer{NewKey(t)} }

// Public implements store.Signer.
func (s Signer) Public() *ecdsa.PublicKey { return &s.key.PublicKey }

// Sign implements store.Signer.
func (s Signer) Sign(_ context.Context, digest []byte) ([]byte, error) {
	return ecdsa.SignASN1(rand.Reader, s.key, digest)
}

// NewKey makes a P-256 key.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Must(t, err)
	return k
}

// Agent is an enrolled agent.
type Agent struct {
	w          *World
	Name       access.AgentName
	Key        *ecdsa.PrivateKey
	Cert       *x509.Certificate
	Thumbprint string
}

// Agent enrolls an agent for targets.
func (w *World) Agent(name access.AgentName, targets ...access.TargetName) *Agent {
	w.T.Helper()
	key := NewKey(w.T)
	raw, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	Must(w.T, err)
	csr, err := x509.ParseCertificateRequest(raw)
	Must(w.T, err)
	der, err := w.CA.IssueAgent(context.Background(), csr, name, targets, w.Now())
	Must(w.T, err)
	cert, err := x509.ParseCertificate(der)
	Must(w.T, err)
	return &Agent{w: w, Name: name, Key: key, Cert: cert, Thumbprint: token.Thumbprint(&key.PublicKey)}
}

// Request is a signed call.
func (a *Agent) Request(path string, in any) *http.Request {
	body, err := json.Marshal(in)
	Must(a.w.T, err)
	r := httptest.NewRequest(http.MethodPost, Issuer+path, bytes.NewReader(body))
	Must(a.w.T, token.SignAgent(r, body, a.Cert, a.Key, a.w.Now()))
	return r
}

// Call makes a signed call and decodes the answer strictly; an answer that is not 200 is an *api.Error.
func (a *Agent) Call(h http.Handler, path string, in, out any) error {
	a.w.T.Helper()
	return Do(a.w.T, h, a.Request(path, in), out)
}

// Do serves one request.
func Do(t testing.TB, h http.Handler, r *http.Request, out any) error {
	t.Helper()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	body, err := io.ReadAll(rec.Body)
	Must(t, err)
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if rec.Code != http.StatusOK {
		e := new(api.Error)
		if err := d.Decode(e); err != nil {
			t.Fatalf("answer %d is no error of the API: %s", rec.Code, body)
		}
		if e.Status() != rec.Code {
			t.Errorf("status %d for code %s, want %d", rec.Code, e.Code, e.Status())
		}
		return e
	}
	Must(t, d.Decode(out))
	return nil
}

// Person is a principal or actor with its key and token.
type Person struct {
	w      *World
	Claims token.Claims
	Key    *ecdsa.PrivateKey
	Token  string
}

// Login makes a login.
func (w *World) Login(name string, groups ...string) *Person {
	w.T.Helper()
	key, now := NewKey(w.T), w.Now()
	root := token.Root{ID: access.ActorID(w.ID()), Principal: name, Groups: groups, AuthTime: now, Created: now,
		RenewedUntil: now.Add(token.RootIdle), Thumbprint: token.Thumbprint(&key.PublicKey)}
	put, err := root.Put(store.Cond{})
	Must(w.T, err)
	Must(w.T, w.DB.Put(context.Background(), put))
	p := &Person{w: w, Key: key, Claims: token.Claims{Principal: name, Groups: groups, AuthTime: now,
		Path: []access.Node{{ID: root.ID, Name: name}}, Capability: access.Everything(),
		Thumbprint: token.Thumbprint(&key.PublicKey), GrantExpires: root.End()}}
	p.Renew()
	return p
}

// Child makes an actor under p.
func (p *Person) Child(name string, cap access.Capability) *Person {
	key := NewKey(p.w.T)
	c := &Person{w: p.w, Key: key, Claims: p.Claims}
	c.Claims.Path = append(append([]access.Node(nil), p.Claims.Path...), access.Node{ID: access.ActorID(p.w.ID()), Name: name, Purpose: "test"})
	c.Claims.Capability, c.Claims.Thumbprint, c.Claims.Assurance = cap, token.Thumbprint(&key.PublicKey), access.Exchanged
	c.Renew()
	return c
}

// Renew makes a fresh token.
func (p *Person) Renew() {
	p.w.T.Helper()
	now := p.w.Now()
	p.Claims.ID, p.Claims.Issued, p.Claims.Expires = p.w.ID(), now, now.Add(token.AccessLife)
	raw, err := p.w.Issuer.Access(context.Background(), p.Claims)
	Must(p.w.T, err)
	p.Token = raw
}

// Call makes a call with the person's token and a DPoP proof.
func (p *Person) Call(h http.Handler, path string, in, out any) error {
	p.w.T.Helper()
	body, err := json.Marshal(in)
	Must(p.w.T, err)
	r := httptest.NewRequest(http.MethodPost, Issuer+path, bytes.NewReader(body))
	proof, err := token.SignDPoP(p.Key, r.Method, Issuer+path, p.Token, p.w.Now())
	Must(p.w.T, err)
	r.Header.Set("Authorization", "DPoP "+p.Token)
	r.Header.Set("DPoP", proof)
	return Do(p.w.T, h, r, out)
}

// Edit changes the person's root item.
func (p *Person) Edit(change func(*token.Root)) {
	p.w.T.Helper()
	ctx := context.Background()
	root, it, err := token.GetRoot(ctx, p.w.DB, p.Claims.Lineage().Root(), true)
	Must(p.w.T, err)
	change(&root)
	put, err := root.Put(store.Cond{Version: it.Version})
	Must(p.w.T, err)
	Must(p.w.T, p.w.DB.Put(ctx, put))
}

// Revoke revokes the person's own node.
func (p *Person) Revoke() {
	p.Edit(func(r *token.Root) {
		ids := make([]access.ActorID, len(p.Claims.Path))
		for i, n := range p.Claims.Path {
			ids[i] = n.ID
		}
		var err error
		*r, err = r.Revoke(ids[len(ids)-1], ids, p.Claims.GrantExpires, p.w.Now())
		Must(p.w.T, err)
	})
}

// Open is a valid request for a session of p through a.
func (w *World) Open(a *Agent, p *Person, target access.TargetName) api.OpenRequest {
	w.T.Helper()
	endpoint, exporter := token.NewRandom(), make([]byte, 32)
	_, _ = rand.Read(exporter)
	proof, err := token.SignProof(p.Key, token.Proof{Target: target, AgentKey: a.Thumbprint, Exporter: exporter,
		Nonce: token.NewNonce(w.StateKey, p.Claims.Thumbprint, target, endpoint, w.Now()), TokenHash: token.HashToken(p.Token),
		Endpoint: endpoint, IssuedAt: w.Now()})
	Must(w.T, err)
	return api.OpenRequest{Session: access.SessionID(w.ID()), Target: target, Agent: a.Name, Token: p.Token, Proof: proof,
		Exporter: exporter, Client: api.Client{Program: "psql", PID: 42}}
}

// Session is an open session, as its agent knows it.
type Session struct {
	w     *World
	Agent *Agent
	State token.State
	Raw   string // the sealed state
	Seq   uint64
	Prev  string
}

// Seed makes an open session without asking anybody.
func (w *World) Seed(a *Agent, p *Person, target access.TargetName) *Session {
	w.T.Helper()
	now := w.Now()
	st := token.State{Session: access.SessionID(w.ID()), Agent: a.Name, AgentKey: a.Thumbprint, Target: target, Lineage: p.Claims.Lineage(),
		Capability: p.Claims.Capability, Thumbprint: p.Claims.Thumbprint, Opened: now, Expires: p.Claims.GrantExpires,
		DigestKey: bytes.Repeat([]byte{7}, 32), DataKey: bytes.Repeat([]byte{8}, 32)}
	if w.bundle != nil {
		st.Bundle = w.bundle.Address
	}
	raw, err := token.SealState(w.StateKey, st)
	Must(w.T, err)
	put, err := session.Put(session.Record{ID: st.Session, Agent: a.Name, Target: target, Lineage: st.Lineage, State: raw,
		Bundle: st.Bundle, Opened: now, Expires: st.Expires, Status: session.Open}, store.Cond{})
	Must(w.T, err)
	Must(w.T, w.DB.Put(context.Background(), put))
	return &Session{w: w, Agent: a, State: st, Raw: raw, Prev: audit.FirstLink(st.Session)}
}

// Command is the session's next command but n, on one table.
func (s *Session) Command(n int, e access.Effect, table, text string) access.Command {
	return access.Command{ID: access.CommandID(s.w.ID()), Session: s.State.Session, Seq: s.Seq + uint64(n) + 1, Verb: "TEST", Text: text,
		Normalised: text, Complete: true, Facts: access.Facts{HasWhere: true, Statement: 1}, State: access.State{Database: "app", Role: "app"},
		Touches: []access.Touch{{Effect: e, Resource: access.Resource{Kind: access.KindTable, Name: table}}}}
}

// Ask is a question about commands that were made in order.
func (s *Session) Ask(cmds ...access.Command) api.Ask {
	return api.Ask{Session: s.State.Session, State: s.Raw, Prev: s.Prev, Commands: cmds}
}

// Digest is the canonical digest of a command in this session.
func (s *Session) Digest(c access.Command) string {
	return access.Digest(s.State.DigestKey, s.State.Target, c)
}

// Stored moves the chain behind commands that were stored.
func (s *Session) Stored(cmds ...access.Command) {
	for _, c := range cmds {
		s.Seq, s.Prev = c.Seq, audit.Link(s.Prev, c.ID, c.Seq, s.Digest(c))
	}
}

// Entries reads every audit entry of the world, in the order in which they were stored.
func (w *World) Entries() []audit.Entry {
	w.T.Helper()
	var all []audit.Entry
	for after := ""; ; {
		items, next, err := w.DB.Since(context.Background(), store.Audit, after, 1000)
		Must(w.T, err)
		if len(items) == 0 {
			return all
		}
		for _, it := range items {
			es, err := audit.Decode(it)
			Must(w.T, err)
			all = append(all, es...)
		}
		after = next
	}
}
