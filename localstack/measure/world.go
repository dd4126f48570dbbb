package measure

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"testing/fstest"
	"time"

	"github.com/sallyport/sallyport/functions/decide"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/bundles"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/stack"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// base is the address that calls are made to. Nobody resolves it.
const base = "https://broker.test"

// target is the one target.
const target access.TargetName = "app"

var policies = fstest.MapFS{
	"a.cedar": {Data: []byte(`
@id("connect") permit(principal in Group::"engineers", action == Action::"connect", resource in Target::"app");
@id("read") permit(principal in Group::"engineers", action == Action::"read", resource in Target::"app");
@id("write") permit(principal in Group::"engineers", action == Action::"write", resource in Target::"app");
@id("hold-accounts") @hold("prod-write") forbid(principal, action == Action::"write", resource == Table::"app/public.accounts");
`)},
	"targets.yaml": {Data: []byte("targets:\n- name: app\n  protocol: postgres\n  database: app\n")},
	"holds.yaml":   {Data: []byte("holds:\n- name: prod-write\n  reviewers: [reviewers]\n  expires: 30m\n")},
}

// World is a deployment with a policy and people, so that there is something to decide.
type World struct {
	Items    store.Items
	place    *Place
	getenv   func(string) string
	ca       *token.CA
	stateKey []byte
	policy   *policy.Bundle
	begun    time.Time
}

// NewWorld puts a CA, a secret and a policy into a place.
func NewWorld(ctx context.Context, p *Place, getenv func(string) string) (*World, error) {
	w := &World{place: p, getenv: p.Getenv(getenv), begun: time.Now()}
	var err error
	if w.policy, err = policy.Load(policies); err != nil {
		return nil, err
	}
	s := stack.Open(w.getenv)
	w.ca, w.stateKey, w.Items = s.CA(ctx), s.StateKey(ctx), s.Items()
	if err := s.Err(); err != nil {
		return nil, err
	}
	return w, s.Publish(ctx, w.policy)
}

// Handler is functions/decide as a process of its own would have it: with its own memory and connections.
func (w *World) Handler(ctx context.Context) (http.Handler, error) {
	s := stack.Open(w.getenv)
	return w.handler(ctx, s, s.Items(), s.Bundles(), nil)
}

// Hot is a Handler for which it stays the same second: what is believed for one is believed for good. Calls must be made within a minute.
func (w *World) Hot(ctx context.Context) (http.Handler, error) {
	s, now := stack.Open(w.getenv), time.Now()
	blobs := s.Blobs()
	if err := s.Err(); err != nil {
		return nil, err
	}
	return w.handler(ctx, s, s.Items(), bundles.NewSource(s.Items(), blobs, time.Hour), func() time.Time { return now })
}

func (w *World) handler(ctx context.Context, s *stack.Stack, items store.Items, active decide.Bundles, now func() time.Time) (http.Handler, error) {
	c := decide.Config{Now: now, Items: items, Evidence: s.Evidence(), Uploads: s.Uploads(), Bundles: active, Verifier: s.Verifier(ctx), CA: s.CACertificate(ctx), StateKey: s.StateKey(ctx),
		Console: s.Console(), Base: base}
	if err := s.Err(); err != nil {
		return nil, err
	}
	return decide.New(c)
}

// Agent is an enrolled agent.
type Agent struct {
	Name access.AgentName
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// Agent enrolls one.
func (w *World) Agent(ctx context.Context, name access.AgentName) (*Agent, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	raw, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(raw)
	if err != nil {
		return nil, err
	}
	der, err := w.ca.IssueAgent(ctx, csr, name, []access.TargetName{target}, time.Now())
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &Agent{name, key, cert}, err
}

// Request is a signed call, and its body.
func (a *Agent) Request(ctx context.Context, path string, in any) (*http.Request, []byte, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, base+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	return r, body, token.SignAgent(r, body, a.cert, a.key, time.Now())
}

// Login makes a person who is logged in, and an actor of theirs: the lineage of what follows.
func (w *World) Login(ctx context.Context, name string) (access.Lineage, error) {
	now := time.Now().UTC()
	ids := [2]string{}
	for i := range ids {
		var err error
		if ids[i], err = token.NewID(now); err != nil {
			return access.Lineage{}, err
		}
	}
	root := token.Root{ID: access.ActorID(ids[0]), Principal: name, Groups: []string{"engineers"}, AuthTime: now, Created: now, RenewedUntil: now.Add(token.RootIdle), Thumbprint: token.NewRandom()}
	put, err := root.Put(store.Cond{})
	if err != nil {
		return access.Lineage{}, err
	}
	return access.Lineage{Principal: name, Groups: root.Groups, Assurance: access.Exchanged, AuthTime: now.Truncate(time.Second),
		Path: []access.Node{{ID: root.ID, Name: name}, {ID: access.ActorID(ids[1]), Name: "reporter", Purpose: "monthly figures"}}}, w.Items.Put(ctx, put)
}

// Session is an open session, as its agent knows it.
type Session struct {
	ID    access.SessionID
	state token.State
	raw   string
	seq   uint64
	prev  string
}

// Session makes one, as functions/decide leaves it.
func (w *World) Session(ctx context.Context, a *Agent, l access.Lineage) (*Session, error) {
	now := time.Now().UTC()
	id, err := token.NewID(now)
	if err != nil {
		return nil, err
	}
	st := token.State{Session: access.SessionID(id), Agent: a.Name, AgentKey: token.Thumbprint(&a.key.PublicKey), Target: target, Lineage: l, Capability: access.Everything(),
		Thumbprint: token.NewRandom(), Opened: now, Expires: now.Add(time.Hour), DigestKey: make([]byte, 32), DataKey: make([]byte, 32), Bundle: w.policy.Address}
	_, _ = rand.Read(st.DigestKey) // never fails (crypto/rand)
	_, _ = rand.Read(st.DataKey)
	raw, err := token.SealState(w.stateKey, st)
	if err != nil {
		return nil, err
	}
	put, err := session.Put(session.Record{ID: st.Session, Agent: a.Name, Target: target, Lineage: l, State: raw, Bundle: st.Bundle, Opened: now, Expires: st.Expires, Status: session.Open}, store.Cond{})
	if err != nil {
		return nil, err
	}
	return &Session{ID: st.Session, state: st, raw: raw, prev: audit.FirstLink(st.Session)}, w.Items.Put(ctx, put)
}

// Ask is a question about the session's next n commands: an everyday query each, or writes that are held.
func (s *Session) Ask(n int, held bool) (api.Ask, error) {
	ask := api.Ask{Session: s.ID, State: s.raw, Prev: s.prev}
	for i := range n {
		id, err := token.NewID(time.Now())
		if err != nil {
			return api.Ask{}, err
		}
		text := fmt.Sprintf("select id, customer_id, total from orders where customer_id = %d order by created_at desc limit 20", i)
		c := access.Command{ID: access.CommandID(id), Session: s.ID, Seq: s.seq + uint64(i) + 1, Verb: "SELECT", Text: text,
			Normalised: "select id, customer_id, total from orders where customer_id = $1 order by created_at desc limit $2", Complete: true,
			Facts: access.Facts{HasWhere: true, Statement: 1}, State: access.State{Database: "app", Role: "app"},
			Touches: []access.Touch{{Effect: access.Read, Resource: access.Resource{Kind: access.KindTable, Name: "public.orders"}}}}
		if held {
			c.Verb, c.Text, c.Normalised = "UPDATE", "update accounts set plan = 'free' where id = 7", "update accounts set plan = $1 where id = $2"
			c.Touches[0] = access.Touch{Effect: access.Write, Resource: access.Resource{Kind: access.KindTable, Name: "public.accounts"}}
		}
		ask.Commands = append(ask.Commands, c)
	}
	return ask, nil
}

// Answered moves the session behind an ask, when every command of it was decided as wanted.
func (s *Session) Answered(ask api.Ask, a api.Answer, want access.Outcome) error {
	if a.Error != nil || len(a.Decisions) != len(ask.Commands) {
		return fmt.Errorf("session %s: %d decisions on %d commands: %w", s.ID, len(a.Decisions), len(ask.Commands), errorOf(a))
	}
	for i, d := range a.Decisions {
		c := ask.Commands[i]
		if d.Outcome != want || d.Command != c.ID || d.Digest != access.Digest(s.state.DigestKey, target, c) {
			return fmt.Errorf("session %s, command %d: %s by rule %q, want %s", s.ID, c.Seq, d.Outcome, d.Rule, want)
		}
		s.seq, s.prev = c.Seq, audit.Link(s.prev, c.ID, c.Seq, d.Digest)
	}
	return nil
}

func errorOf(a api.Answer) error {
	if a.Error == nil {
		return errShort
	}
	return a.Error
}

var errShort = fmt.Errorf("the answer is short")

// Vars is the environment of a function of this world, credentials included.
func (w *World) Vars() map[string]string {
	vars := maps.Clone(w.place.Vars)
	for _, k := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"} {
		if v := w.getenv(k); v != "" {
			vars[k] = v
		}
	}
	return vars
}
