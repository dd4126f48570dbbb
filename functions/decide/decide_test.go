package decide_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/sallyport/sallyport/functions/decide"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/agents"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
	"github.com/sallyport/sallyport/internal/token"
)

const cedar = `
@id("connect") permit(principal in Group::"engineers", action == Action::"connect", resource in Target::"app");
@id("read") permit(principal in Group::"engineers", action == Action::"read", resource in Target::"app");
@id("write") permit(principal in Group::"engineers", action == Action::"write", resource in Target::"app");
@id("define") permit(principal in Group::"engineers", action == Action::"define", resource in Target::"app");
@id("hold-accounts") @hold("prod-write") @hint("a reviewer must see it") forbid(principal, action == Action::"write", resource == Table::"app/public.accounts");
@id("no-secrets") @hint("ask somebody else") forbid(principal, action, resource == Table::"app/public.secrets");
`

func load(t testing.TB, edit map[string]string) *policy.Bundle {
	t.Helper()
	files := map[string]string{
		"a.cedar":      cedar,
		"targets.yaml": "targets:\n- name: app\n  protocol: postgres\n  database: app\n- name: other\n  protocol: postgres\n",
		"holds.yaml":   "holds:\n- name: prod-write\n  reviewers: [reviewers]\n  expires: 30m\n",
		"classes.yaml": "classes:\n- name: email\n  columns: [\"*.customers.email\"]\n  mask: email\n",
	}
	for name, body := range edit {
		files[name] = body
	}
	tree := fstest.MapFS{}
	for name, body := range files {
		tree[name] = &fstest.MapFile{Data: []byte(body)}
	}
	b, err := policy.Load(tree)
	brokertest.Must(t, err)
	return b
}

// world is a broker with one agent and one person.
type world struct {
	*brokertest.World
	handler http.Handler
	agent   *brokertest.Agent
	alice   *brokertest.Person

	dir      *dir.Dir
	evidence store.Blobs // dir behind Faults
	uploads  *dir.Uploads
	granter  store.Uploads      // uploads, as a rule
	signer   *brokertest.Signer // of the log, once it was sealed
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{World: brokertest.New(t)}
	w.Use(load(t, nil))
	var err error
	w.dir, err = dir.Open(t.TempDir())
	brokertest.Must(t, err)
	t.Cleanup(func() { _ = w.dir.Close() })
	w.evidence = storetest.FaultyBlobs{Faults: w.Faults, Blobs: w.dir}
	w.uploads = &dir.Uploads{Dir: w.dir, Base: brokertest.Issuer, Key: make([]byte, 32), Now: w.Now}
	w.granter = w.uploads
	w.handler = w.newHandler(w.Items)
	w.agent = w.Agent("agent-1", "app")
	w.alice = w.Login("alice", "engineers")
	return w
}

func (w *world) newHandler(items store.Items) http.Handler {
	h, err := decide.New(decide.Config{Items: items, Evidence: w.evidence, Uploads: w.granter, Bundles: w, Verifier: w.Verifier, CA: w.CA.Cert(), StateKey: w.StateKey,
		Console: "https://console.test/", Base: brokertest.Issuer, Now: w.Now})
	brokertest.Must(w.T, err)
	return h
}

// check asks and returns the first answer.
func (w *world) check(asks ...api.Ask) api.Answer {
	w.T.Helper()
	var resp api.CheckResponse
	err := w.agent.Call(w.handler, api.PathCheck, api.CheckRequest{Agent: w.agent.Name, Asks: asks}, &resp)
	if e := (*api.Error)(nil); errors.As(err, &e) { // the whole call was refused: so was each ask of it
		return api.Answer{Session: asks[0].Session, Error: e}
	}
	brokertest.Must(w.T, err)
	if len(resp.Answers) != len(asks) {
		w.T.Fatalf("%d answers to %d asks", len(resp.Answers), len(asks))
	}
	return resp.Answers[0]
}

func outcomes(a api.Answer) string {
	var s []string
	for _, d := range a.Decisions {
		if d.Outcome == access.Deny {
			s = append(s, d.Rule)
			continue
		}
		s = append(s, d.Outcome.String())
	}
	if a.Error != nil {
		s = append(s, "error:"+a.Error.Code)
	}
	return strings.Join(s, " ")
}

func (w *world) commandEntries() []audit.Entry {
	var out []audit.Entry
	for _, e := range w.Entries() {
		if e.Kind == audit.KindCommand {
			out = append(out, e)
		}
	}
	return out
}

func TestOpenThenCheck(t *testing.T) {
	w := newWorld(t)
	var open api.OpenResponse
	req := w.Open(w.agent, w.alice, "app")
	brokertest.Must(t, w.agent.Call(w.handler, api.PathOpen, req, &open))
	if open.Session != req.Session || open.Lineage.Principal != "alice" || len(open.Classes) != 1 || len(open.DigestKey) != 32 {
		t.Fatalf("open answered %+v", open)
	}
	if want := w.alice.Claims.GrantExpires; !open.Expires.Equal(want) {
		t.Errorf("expires %s, want the grant's %s", open.Expires, want)
	}
	rec, _, err := session.Get(context.Background(), w.DB, req.Session)
	brokertest.Must(t, err)
	if rec.Status != session.Open || rec.Client.Program != "psql" {
		t.Errorf("record %+v", rec)
	}
	st, err := token.OpenState(w.StateKey, open.State)
	brokertest.Must(t, err)
	cmd := access.Command{ID: access.CommandID(w.ID()), Session: req.Session, Seq: 1, Verb: "SELECT", Text: "select 1 from orders", Complete: true,
		Touches: []access.Touch{{Effect: access.Read, Resource: access.Resource{Kind: access.KindTable, Name: "public.orders"}}}}
	a := w.check(api.Ask{Session: req.Session, State: open.State, Prev: audit.FirstLink(req.Session), Commands: []access.Command{cmd}})
	if outcomes(a) != "allow" {
		t.Fatalf("answer %+v", a)
	}
	d := a.Decisions[0]
	if d.Command != cmd.ID || d.Seq != 1 || d.Digest != access.Digest(open.DigestKey, "app", cmd) {
		t.Errorf("the decision does not echo its command: %+v", d)
	}
	entries := w.Entries()
	if len(entries) != 2 || entries[0].Kind != audit.KindOpen || entries[1].Kind != audit.KindCommand {
		t.Fatalf("entries %+v", entries)
	}
	body, err := audit.OpenBody(entries[1].Command, cmd.ID, st.DataKey)
	brokertest.Must(t, err)
	if body.Text != cmd.Text {
		t.Errorf("stored text %q", body.Text)
	}
}

// TestOpenEndsWithTheGrant: a child's session is over when the child is.
func TestOpenEndsWithTheGrant(t *testing.T) {
	w := newWorld(t)
	child := w.alice.Child("coder", access.Everything())
	child.Claims.GrantExpires = w.Now().Add(time.Hour)
	child.Renew()
	var open api.OpenResponse
	brokertest.Must(t, w.agent.Call(w.handler, api.PathOpen, w.Open(w.agent, child, "app"), &open))
	if !open.Expires.Equal(child.Claims.GrantExpires) {
		t.Errorf("expires %s, the grant %s", open.Expires, child.Claims.GrantExpires)
	}
}

func TestOpenRefuses(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(*world, *api.OpenRequest)
		code    string
		stored  bool // the refusal is evidence: its asker is known
	}{
		{"another agent's name", func(w *world, r *api.OpenRequest) { r.Agent = "agent-2" }, "denied", false},
		{"an old session id", func(w *world, r *api.OpenRequest) {
			id, err := token.NewID(w.Now().Add(-61 * time.Second))
			brokertest.Must(w.T, err)
			r.Session = access.SessionID(id)
		}, "bad_request", false},
		{"a session id in other letters", func(w *world, r *api.OpenRequest) { r.Session = access.SessionID(strings.ToLower(string(r.Session))) }, "bad_request", false},
		{"a target that the certificate does not name", func(w *world, r *api.OpenRequest) { r.Target = "other" }, "denied", false},
		{"another exporter", func(w *world, r *api.OpenRequest) { r.Exporter[0] ^= 1 }, "denied", false},
		{"a short exporter", func(w *world, r *api.OpenRequest) { r.Exporter = r.Exporter[:16] }, "denied", false},
		{"no token", func(w *world, r *api.OpenRequest) { r.Token = "" }, "login_needed", false},
		{"a proof by another key", func(w *world, r *api.OpenRequest) { r.Proof = w.Open(w.agent, w.Login("bob"), "app").Proof }, "denied", false},
		{"all of a proof but its key", func(w *world, r *api.OpenRequest) {
			p, _, err := token.VerifyProof(r.Proof, w.Now())
			brokertest.Must(w.T, err)
			thief := w.Login("bob", "engineers")
			p.Nonce = token.NewNonce(w.StateKey, thief.Claims.Thumbprint, p.Target, p.Endpoint, w.Now())
			r.Proof, err = token.SignProof(thief.Key, p)
			brokertest.Must(w.T, err)
		}, "denied", false},
		{"a proof for another agent", func(w *world, r *api.OpenRequest) {
			other := w.Open(w.Agent("agent-2", "app"), w.alice, "app")
			r.Proof, r.Exporter = other.Proof, other.Exporter
		}, "denied", false},
		{"a proof for another token", func(w *world, r *api.OpenRequest) { w.alice.Renew(); r.Token = w.alice.Token }, "denied", false},
		{"an old nonce", func(w *world, r *api.OpenRequest) { w.Advance(61 * time.Second); r.Session = access.SessionID(w.ID()) }, "login_needed", false},
		{"an expired token", func(w *world, r *api.OpenRequest) { w.Advance(6 * time.Minute); r.Session = access.SessionID(w.ID()) }, "login_needed", false},
		{"a revoked lineage", func(w *world, r *api.OpenRequest) { w.alice.Revoke() }, "revoked", true},
		{"nobody the policy knows", func(w *world, r *api.OpenRequest) { *r = w.Open(w.agent, w.Login("mallory", "visitors"), "app") }, "denied", true},
		{"an id that was opened before", func(w *world, r *api.OpenRequest) {
			first := w.Open(w.agent, w.alice, "app")
			brokertest.Must(w.T, w.agent.Call(w.handler, api.PathOpen, first, &api.OpenResponse{}))
			r.Session = first.Session
		}, "conflict", true},
		{"a nonce that was used before", func(w *world, r *api.OpenRequest) {
			brokertest.Must(w.T, w.agent.Call(w.handler, api.PathOpen, r, &api.OpenResponse{}))
			r.Session = access.SessionID(w.ID())
		}, "denied", true},
		{"no policy", func(w *world, r *api.OpenRequest) { w.Use(nil) }, "unavailable", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			req := w.Open(w.agent, w.alice, "app")
			tt.prepare(w, &req)
			before := len(w.Entries())
			err := w.agent.Call(w.handler, api.PathOpen, req, &api.OpenResponse{})
			e := (*api.Error)(nil)
			if !errors.As(err, &e) || e.Code != tt.code {
				t.Fatalf("answer %v, want code %s", err, tt.code)
			}
			if got := w.Entries(); tt.stored && len(got) == 0 || !tt.stored && len(got) != before {
				t.Errorf("%d entries are stored, %d were before", len(got), before)
			}
			for _, en := range w.Entries()[before:] {
				if en.Decision == nil || en.Decision.Outcome != access.Deny {
					t.Errorf("the refusal was stored as %+v", en)
				}
			}
		})
	}
}

func TestCheckBatches(t *testing.T) {
	read, held, secret := "public.orders", "public.accounts", "public.secrets"
	setting := func(c access.Command) access.Command {
		c.Touches = []access.Touch{{Effect: access.Define, Resource: access.Resource{Kind: access.KindTable, Name: "public.orders"}}}
		return c
	}
	tests := []struct {
		name   string
		make   func(s *brokertest.Session) []access.Command
		want   string
		stored int
	}{
		{"all allowed", func(s *brokertest.Session) []access.Command {
			return []access.Command{s.Command(0, access.Read, read, "a"), s.Command(1, access.Write, read, "b"), s.Command(2, access.Read, read, "c")}
		}, "allow allow allow", 3},
		{"stops behind a denial, which is stored", func(s *brokertest.Session) []access.Command {
			return []access.Command{s.Command(0, access.Read, read, "a"), s.Command(1, access.Read, secret, "b"), s.Command(2, access.Read, read, "c")}
		}, "allow no-secrets batch-stopped", 2},
		{"stops before a hold", func(s *brokertest.Session) []access.Command {
			return []access.Command{s.Command(0, access.Read, read, "a"), s.Command(1, access.Write, held, "b"), s.Command(2, access.Read, read, "c")}
		}, "allow batch-stopped batch-stopped", 1},
		{"a hold stands alone", func(s *brokertest.Session) []access.Command {
			return []access.Command{s.Command(0, access.Write, held, "a"), s.Command(1, access.Read, read, "b")}
		}, "hold batch-stopped", 1},
		{"stops before a change of state", func(s *brokertest.Session) []access.Command {
			return []access.Command{s.Command(0, access.Read, read, "a"), setting(s.Command(1, access.Define, read, "b"))}
		}, "allow batch-stopped", 1},
		{"stops behind a change of state", func(s *brokertest.Session) []access.Command {
			return []access.Command{setting(s.Command(0, access.Define, read, "a")), s.Command(1, access.Read, read, "b")}
		}, "allow batch-stopped", 1},
		{"what the agent refuses is stored", func(s *brokertest.Session) []access.Command {
			c := s.Command(0, access.Read, read, "a")
			c.Refused = &access.Refusal{Rule: "floor.no", Hint: "never"}
			return []access.Command{c}
		}, "floor.no", 1},
		{"what was not understood is stored", func(s *brokertest.Session) []access.Command {
			c := s.Command(0, access.Read, read, "a")
			c.Complete, c.Why = false, "because"
			return []access.Command{c}
		}, "incomplete", 1},
		{"what fits no entry is kept beside it", func(s *brokertest.Session) []access.Command {
			return []access.Command{s.Command(0, access.Read, read, strings.Repeat("x", 400_000)), s.Command(1, access.Read, read, "b")}
		}, "allow allow", 2},
		{"what is denied and fits no entry is kept as its digest", func(s *brokertest.Session) []access.Command {
			return []access.Command{s.Command(0, access.Read, "public.secrets", strings.Repeat("x", 400_000)), s.Command(1, access.Read, read, "b")}
		}, "no-secrets batch-stopped", 1},
		{"what is held and fits no page is denied", func(s *brokertest.Session) []access.Command {
			return []access.Command{s.Command(0, access.Write, held, strings.Repeat("x", 400_000)), s.Command(1, access.Read, read, "b")}
		}, "command-too-large batch-stopped", 1},
		{"a batch stops before the item is full", func(s *brokertest.Session) []access.Command {
			long := strings.Repeat("x", 60_000)
			return []access.Command{s.Command(0, access.Read, read, long), s.Command(1, access.Read, read, long), s.Command(2, access.Read, read, long)}
		}, "allow allow batch-stopped", 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			s := w.Seed(w.agent, w.alice, "app")
			cmds := tt.make(s)
			a := w.check(s.Ask(cmds...))
			if got := outcomes(a); got != tt.want {
				t.Fatalf("decided %q, want %q (%+v)", got, tt.want, a)
			}
			stored := w.commandEntries()
			if len(stored) != tt.stored {
				t.Fatalf("%d commands stored, want %d", len(stored), tt.stored)
			}
			prev := s.Prev
			for i, e := range stored {
				if e.Prev != prev || e.Decision.Outcome != a.Decisions[i].Outcome || e.Command.Digest != s.Digest(cmds[i]) {
					t.Errorf("entry %d: %+v", i, e)
				}
				prev = audit.Link(prev, access.CommandID(e.ID), e.Seq, e.Command.Digest)
			}
			// What was not stored is asked again under the same sequence.
			s.Stored(cmds[:tt.stored]...)
			if tt.stored < len(cmds) && cmds[tt.stored].Touches[0].Resource.Name == read {
				if a := w.check(s.Ask(cmds[tt.stored])); outcomes(a) != "allow" {
					t.Errorf("asked again: %s", outcomes(a))
				}
			}
			// A retry of the whole is answered from the store.
			s.Seq, s.Prev = 0, audit.FirstLink(s.State.Session)
			n := len(w.Entries())
			if again := w.check(s.Ask(cmds...)); outcomes(again) != tt.want || len(w.Entries()) != n {
				t.Errorf("asked again: %s, %d new entries", outcomes(again), len(w.Entries())-n)
			}
		})
	}
}

func TestCheckRefusesMalformed(t *testing.T) {
	tests := []struct {
		name string
		edit func(*world, *brokertest.Session, *api.CheckRequest)
		want string // the answer's error, or that of the whole call
	}{
		{"another agent's name", func(_ *world, _ *brokertest.Session, r *api.CheckRequest) { r.Agent = "agent-2" }, "denied"},
		{"nothing", func(_ *world, _ *brokertest.Session, r *api.CheckRequest) { r.Asks = nil }, "bad_request"},
		{"no commands", func(_ *world, _ *brokertest.Session, r *api.CheckRequest) { r.Asks[0].Commands = nil }, "bad_request"},
		{"65 commands", func(_ *world, s *brokertest.Session, r *api.CheckRequest) {
			for i := 1; i < 65; i++ {
				r.Asks[0].Commands = append(r.Asks[0].Commands, s.Command(i, access.Read, "public.orders", "x"))
			}
		}, "bad_request"},
		{"a session twice", func(_ *world, _ *brokertest.Session, r *api.CheckRequest) { r.Asks = append(r.Asks, r.Asks[0]) }, "bad_request"},
		{"no state", func(_ *world, _ *brokertest.Session, r *api.CheckRequest) { r.Asks[0].State = "" }, "denied"},
		{"a changed state", func(_ *world, _ *brokertest.Session, r *api.CheckRequest) {
			other := "A"
			if r.Asks[0].State[0] == 'A' {
				other = "B"
			}
			r.Asks[0].State = other + r.Asks[0].State[1:]
		}, "denied"},
		{"another session's state", func(w *world, _ *brokertest.Session, r *api.CheckRequest) {
			r.Asks[0].State = w.Seed(w.agent, w.alice, "app").Raw
		}, "denied"},
		{"another agent's session", func(w *world, _ *brokertest.Session, r *api.CheckRequest) {
			o := w.Seed(w.Agent("agent-2", "app"), w.alice, "app")
			r.Asks[0] = o.Ask(o.Command(0, access.Read, "public.orders", "x"))
		}, "denied"},
		{"a target that the certificate does not name", func(w *world, _ *brokertest.Session, r *api.CheckRequest) {
			o := w.Seed(w.agent, w.alice, "other")
			r.Asks[0] = o.Ask(o.Command(0, access.Read, "public.orders", "x"))
		}, "denied"},
		{"an old command id", func(w *world, _ *brokertest.Session, _ *api.CheckRequest) { w.Advance(61 * time.Second) }, "bad_request"},
		{"a command id from the future", func(w *world, _ *brokertest.Session, _ *api.CheckRequest) { w.Advance(-61 * time.Second) }, "bad_request"},
		{"no command id", func(_ *world, _ *brokertest.Session, r *api.CheckRequest) { r.Asks[0].Commands[0].ID = "" }, "bad_request"},
		{"a command id with a path in it", func(_ *world, _ *brokertest.Session, r *api.CheckRequest) {
			r.Asks[0].Commands[0].ID = "01AN4Z07BY79KA1307SR9X4M#3"
		}, "bad_request"},
		{"sequence 0", func(_ *world, _ *brokertest.Session, r *api.CheckRequest) { r.Asks[0].Commands[0].Seq = 0 }, "bad_request"},
		{"a chain that begins elsewhere", func(_ *world, _ *brokertest.Session, r *api.CheckRequest) {
			r.Asks[0].Prev = audit.FirstLink("x")
		}, "bad_request"},
		{"a command of another session", func(w *world, _ *brokertest.Session, r *api.CheckRequest) {
			r.Asks[0].Commands[0].Session = access.SessionID(w.ID())
		}, "bad_request"},
		{"a gap", func(_ *world, s *brokertest.Session, r *api.CheckRequest) {
			r.Asks[0].Commands = append(r.Asks[0].Commands, s.Command(2, access.Read, "public.orders", "x"))
		}, "bad_request"},
		{"one id for two commands", func(_ *world, s *brokertest.Session, r *api.CheckRequest) {
			c := s.Command(1, access.Read, "public.orders", "x")
			c.ID = r.Asks[0].Commands[0].ID
			r.Asks[0].Commands = append(r.Asks[0].Commands, c)
		}, "bad_request"},
		{"a session that was never opened", func(w *world, s *brokertest.Session, r *api.CheckRequest) {
			st := s.State
			st.Session = access.SessionID(w.ID())
			raw, err := token.SealState(w.StateKey, st)
			brokertest.Must(w.T, err)
			r.Asks[0].Session, r.Asks[0].State, r.Asks[0].Prev = st.Session, raw, audit.FirstLink(st.Session)
			r.Asks[0].Commands[0].Session = st.Session
		}, "revoked"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			s := w.Seed(w.agent, w.alice, "app")
			req := api.CheckRequest{Agent: w.agent.Name, Asks: []api.Ask{s.Ask(s.Command(0, access.Read, "public.orders", "x"))}}
			tt.edit(w, s, &req)
			var resp api.CheckResponse
			err := w.agent.Call(w.handler, api.PathCheck, req, &resp)
			e := (*api.Error)(nil)
			if err == nil && len(resp.Answers) > 0 {
				e = resp.Answers[0].Error
				if len(resp.Answers[0].Decisions) > 0 {
					t.Errorf("decisions beside the error: %+v", resp.Answers[0])
				}
			} else {
				errors.As(err, &e)
			}
			if e == nil || e.Code != tt.want {
				t.Errorf("answer %+v, %v, want code %s", resp, err, tt.want)
			}
			if n := len(w.Entries()); n != 0 {
				t.Errorf("%d entries", n)
			}
		})
	}
}

// TestStanding: what stands against a whole session denies its commands, and the denial is evidence.
func TestStanding(t *testing.T) {
	tests := []struct {
		name   string
		happen func(*world)
		rule   string
	}{
		{"the actor is revoked", func(w *world) { w.alice.Revoke() }, api.RuleRevoked},
		{"the login is suspended", func(w *world) { w.alice.Edit(func(r *token.Root) { r.Suspended = true }) }, api.RuleRevoked},
		{"the login's lease ran out", func(w *world) { w.alice.Edit(func(r *token.Root) { r.RenewedUntil = w.Now() }) }, api.RuleLoginExpired},
		{"the classes of data changed", func(w *world) {
			w.Use(load(w.T, map[string]string{"classes.yaml": "classes:\n- name: email\n  columns: [\"public.*.email\"]\n  mask: email\n"}))
		}, api.RulePolicyChanged},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			s := w.Seed(w.agent, w.alice, "app")
			first := s.Command(0, access.Read, "public.orders", "x")
			ask := s.Ask(first)
			if a := w.check(ask); outcomes(a) != "allow" {
				t.Fatal(outcomes(a))
			}
			s.Stored(first)
			tt.happen(w)
			// The retry of what was allowed is denied now.
			if a := w.check(ask); outcomes(a) != tt.rule {
				t.Errorf("retry: %s, want %s", outcomes(a), tt.rule)
			}
			a := w.check(s.Ask(s.Command(0, access.Read, "public.orders", "y"), s.Command(1, access.Read, "public.orders", "z")))
			if outcomes(a) != tt.rule+" batch-stopped" || a.Decisions[0].Code != access.CodeRevoked {
				t.Errorf("next: %+v", a)
			}
			es := w.commandEntries()
			if len(es) != 2 || es[1].Decision.Rule != tt.rule {
				t.Errorf("entries %+v", es)
			}
			marks, err := session.Marks(context.Background(), w.DB, w.agent.Name, []access.SessionID{s.State.Session})
			brokertest.Must(t, err)
			if want := tt.rule == api.RulePolicyChanged; want != (len(marks) == 1) {
				t.Errorf("marks %+v: what functions/changes cannot see by itself must be marked", marks)
			}
		})
	}
	t.Run("equal classes in another bundle go on", func(t *testing.T) {
		w := newWorld(t)
		s := w.Seed(w.agent, w.alice, "app")
		first := s.Command(0, access.Read, "public.orders", "x")
		w.check(s.Ask(first))
		s.Stored(first)
		w.Use(load(t, map[string]string{"b.cedar": `@id("no-orders") forbid(principal, action, resource == Table::"app/public.orders");`}))
		if a := w.check(s.Ask(s.Command(0, access.Read, "public.orders", "y"))); outcomes(a) != "no-orders" {
			t.Error(outcomes(a))
		}
	})
	t.Run("the session's own time", func(t *testing.T) {
		w := newWorld(t)
		child := w.alice.Child("coder", access.Everything())
		child.Claims.GrantExpires = w.Now().Add(time.Minute)
		s := w.Seed(w.agent, child, "app")
		w.Advance(time.Minute)
		if a := w.check(s.Ask(s.Command(0, access.Read, "public.orders", "x"))); outcomes(a) != api.RuleExpired {
			t.Error(outcomes(a))
		}
	})
}

func TestCapabilityNarrows(t *testing.T) {
	w := newWorld(t)
	g, err := access.ParseGrantlet("read:app/public.orders")
	brokertest.Must(t, err)
	s := w.Seed(w.agent, w.alice.Child("coder", access.Capability{g}), "app")
	if a := w.check(s.Ask(s.Command(0, access.Read, "public.orders", "x"), s.Command(1, access.Write, "public.orders", "y"))); outcomes(a) != "allow capability" {
		t.Error(outcomes(a))
	}
}

// TestSequenceSeenTwice: every way of using a sequence number again ends the session, in this process and in others.
func TestSequenceSeenTwice(t *testing.T) {
	tests := []struct {
		name  string
		again func(w *world, s *brokertest.Session, stored []access.Command) api.Ask
	}{
		{"another id", func(w *world, s *brokertest.Session, st []access.Command) api.Ask {
			return s.Ask(s.Command(0, access.Read, "public.orders", "a"))
		}},
		{"another text under the same id", func(w *world, s *brokertest.Session, st []access.Command) api.Ask {
			c := st[0]
			c.Text = "other"
			return s.Ask(c, st[1])
		}},
		{"another chain under the same id", func(w *world, s *brokertest.Session, st []access.Command) api.Ask {
			s.Seq, s.Prev = 1, audit.FirstLink("x")
			return s.Ask(st[1])
		}},
		{"another chain behind a stored command", func(w *world, s *brokertest.Session, st []access.Command) api.Ask {
			s.Stored(st...)
			c := s.Command(0, access.Read, "public.orders", "c")
			if a := w.check(s.Ask(c)); outcomes(a) != "allow" {
				w.T.Fatal(outcomes(a))
			}
			s.Prev = audit.FirstLink("x")
			return s.Ask(c)
		}},
		{"another id in another minute", func(w *world, s *brokertest.Session, st []access.Command) api.Ask {
			w.Advance(2 * time.Minute)
			return s.Ask(s.Command(0, access.Read, "public.orders", "a"))
		}},
		{"the middle of a batch", func(w *world, s *brokertest.Session, st []access.Command) api.Ask {
			s.Stored(st[0])
			return s.Ask(st[1])
		}},
		{"a shorter batch", func(w *world, s *brokertest.Session, st []access.Command) api.Ask { return s.Ask(st[0]) }},
		{"a broken chain behind it", func(w *world, s *brokertest.Session, st []access.Command) api.Ask {
			s.Stored(st[0])
			s.Seq = 2
			return s.Ask(s.Command(0, access.Read, "public.orders", "c"))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			s := w.Seed(w.agent, w.alice, "app")
			cmds := []access.Command{s.Command(0, access.Read, "public.orders", "a"), s.Command(1, access.Read, "public.orders", "b")}
			if a := w.check(s.Ask(cmds...)); outcomes(a) != "allow allow" {
				t.Fatal(outcomes(a))
			}
			if a := w.check(tt.again(w, s, cmds)); outcomes(a) != "error:revoked" {
				t.Fatalf("answer %s, want the end", outcomes(a))
			}
			s.Seq, s.Prev = 0, audit.FirstLink(s.State.Session)
			s.Stored(cmds...)
			if a := w.check(s.Ask(s.Command(0, access.Read, "public.orders", "c"))); outcomes(a) != "error:revoked" {
				t.Errorf("the session lives on: %s", outcomes(a))
			}
			w.handler = w.newHandler(w.Items) // another process
			if a := w.check(s.Ask(s.Command(0, access.Read, "public.orders", "c"))); outcomes(a) != "error:revoked" {
				t.Errorf("the session lives on elsewhere: %s", outcomes(a))
			}
			rec, _, err := session.Get(context.Background(), w.DB, s.State.Session)
			brokertest.Must(t, err)
			if rec.Status != session.Ended {
				t.Errorf("record %+v", rec)
			}
			marks, err := session.Marks(context.Background(), w.DB, w.agent.Name, []access.SessionID{s.State.Session})
			brokertest.Must(t, err)
			if _, ok := marks[s.State.Session]; !ok {
				t.Error("no mark for functions/changes")
			}
			for _, e := range w.commandEntries() {
				if e.Seq > 2 && e.Prev == audit.FirstLink("x") || e.Seq <= 2 && e.ID != string(cmds[e.Seq-1].ID) {
					t.Errorf("stored %+v", e)
				}
			}
		})
	}
}

// TestSequenceElsewhere: a process that never saw the session meets the taken place at the store.
func TestSequenceElsewhere(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	first := s.Command(0, access.Read, "public.orders", "a")
	ask := s.Ask(first)
	w.check(ask)
	w.handler = w.newHandler(w.Items)
	if a := w.check(ask); outcomes(a) != "allow" || len(w.commandEntries()) != 1 {
		t.Errorf("retry elsewhere: %s", outcomes(a))
	}
	w.handler = w.newHandler(w.Items)
	if a := w.check(s.Ask(s.Command(0, access.Read, "public.orders", "b"))); outcomes(a) != "error:revoked" {
		t.Errorf("another command elsewhere: %s", outcomes(a))
	}
}

func TestCheckManySessionsAtOnce(t *testing.T) {
	w := newWorld(t)
	var asks []api.Ask
	for i := range api.MaxBatch {
		s := w.Seed(w.agent, w.alice, "app")
		table := "public.orders"
		if i%2 == 1 {
			table = "public.secrets"
		}
		asks = append(asks, s.Ask(s.Command(0, access.Read, table, fmt.Sprint(i))))
	}
	reads := 0
	var mu sync.Mutex
	w.Faults.Set(func(op, on string) storetest.Fault {
		mu.Lock()
		defer mu.Unlock()
		if op == "get" && on == store.Grants {
			reads++
		}
		return storetest.None
	})
	var resp api.CheckResponse
	brokertest.Must(t, w.agent.Call(w.handler, api.PathCheck, api.CheckRequest{Agent: w.agent.Name, Asks: asks}, &resp))
	for i, a := range resp.Answers {
		if want := []string{"allow", "no-secrets"}[i%2]; outcomes(a) != want || a.Session != asks[i].Session {
			t.Errorf("answer %d: %s, want %s", i, outcomes(a), want)
		}
	}
	if reads != 1 {
		t.Errorf("the login was read %d times, want once", reads)
	}
	if n := len(w.commandEntries()); n != api.MaxBatch {
		t.Errorf("%d entries", n)
	}
}

func TestClose(t *testing.T) {
	for _, tt := range []struct {
		reason string
		want   session.Status
	}{{"the client left", session.Closed}, {decide.ReasonLost, session.Lost}} {
		t.Run(tt.reason, func(t *testing.T) {
			w := newWorld(t)
			s := w.Seed(w.agent, w.alice, "app")
			first := s.Command(0, access.Read, "public.orders", "a")
			w.check(s.Ask(first))
			s.Stored(first)
			w.alice.Revoke() // an end is always taken
			req := api.CloseRequest{Agent: w.agent.Name, Session: s.State.Session, State: s.Raw, LastSeq: 1, Prev: s.Prev, Reason: tt.reason}
			for range 2 {
				brokertest.Must(t, w.agent.Call(w.handler, api.PathClose, req, &struct{}{}))
			}
			es := w.Entries()
			if len(es) != 2 || es[1].Kind != audit.KindClose || es[1].Seq != 1 || es[1].Prev != s.Prev {
				t.Errorf("entries %+v", es)
			}
			rec, _, err := session.Get(context.Background(), w.DB, s.State.Session)
			brokertest.Must(t, err)
			if rec.Status != tt.want || rec.LastSeq != 1 || rec.Closed.IsZero() {
				t.Errorf("record %+v", rec)
			}
			for range 2 {
				if a := w.check(s.Ask(s.Command(0, access.Read, "public.orders", "b"))); outcomes(a) != "error:revoked" {
					t.Errorf("a closed session was answered %s", outcomes(a))
				}
				w.handler = w.newHandler(w.Items)
			}
		})
	}
}

func TestCan(t *testing.T) {
	w := newWorld(t)
	ask := func(p *brokertest.Person, e access.Effect, table string) (access.Decision, error) {
		var out api.CanResponse
		err := p.Call(w.handler, api.PathCan, api.CanRequest{Target: "app", Effect: e, Resource: access.Resource{Kind: access.KindTable, Name: table}}, &out)
		return out.Decision, err
	}
	for _, tt := range []struct {
		effect access.Effect
		table  string
		want   access.Outcome
	}{{access.Read, "public.orders", access.Allow}, {access.Write, "public.accounts", access.Hold}, {access.Read, "public.secrets", access.Deny}, {"", "public.orders", access.Deny}} {
		dec, err := ask(w.alice, tt.effect, tt.table)
		if err != nil || dec.Outcome != tt.want {
			t.Errorf("can %s %s: %+v, %v", tt.effect, tt.table, dec, err)
		}
	}
	w.alice.Revoke()
	if _, err := ask(w.alice, access.Read, "public.orders"); !errors.Is(err, api.ErrRevoked) {
		t.Errorf("revoked: %v", err)
	}
	if n := len(w.Entries()); n != 0 {
		t.Errorf("%d entries: can stores nothing", n)
	}
}

func TestNewRefuses(t *testing.T) {
	w := newWorld(t)
	good := decide.Config{Items: w.Items, Evidence: w.evidence, Uploads: w.granter, Bundles: w, Verifier: w.Verifier, CA: w.CA.Cert(), StateKey: w.StateKey, Console: "https://c", Base: "https://b"}
	for name, edit := range map[string]func(*decide.Config){
		"items":     func(c *decide.Config) { c.Items = nil },
		"evidence":  func(c *decide.Config) { c.Evidence = nil },
		"uploads":   func(c *decide.Config) { c.Uploads = nil },
		"bundles":   func(c *decide.Config) { c.Bundles = nil },
		"verifier":  func(c *decide.Config) { c.Verifier = nil },
		"ca":        func(c *decide.Config) { c.CA = nil },
		"state key": func(c *decide.Config) { c.StateKey = c.StateKey[:16] },
		"console":   func(c *decide.Config) { c.Console = "" },
		"base":      func(c *decide.Config) { c.Base = "" },
	} {
		c := good
		edit(&c)
		if _, err := decide.New(c); err == nil {
			t.Errorf("without %s: no error", name)
		}
	}
}

// A revoked agent is refused within a second, whatever this process remembers of it; a later certificate is good; an unreadable record refuses.
func TestRevokedAgent(t *testing.T) {
	w := newWorld(t)
	call := func() error {
		s := w.Seed(w.agent, w.alice, "app")
		if a := w.check(s.Ask(s.Command(0, access.Read, "public.orders", "a"))); a.Error != nil {
			return a.Error
		}
		return nil
	}
	brokertest.Must(t, call())
	_, err := agents.Revoke(t.Context(), w.DB, agents.Revocation{Agent: w.agent.Name, By: "adam", Now: w.Now()}, func(time.Time) (store.Write, error) {
		return store.Write{Table: store.Audit, Item: store.Item{Key: store.Key{PK: "p", SK: "revoked"}, Body: []byte("[]")}}, nil
	})
	brokertest.Must(t, err)
	w.Advance(time.Second)
	e := (*api.Error)(nil)
	if err := call(); !errors.As(err, &e) || !errors.Is(e, api.ErrRevoked) || e.Rule != api.RuleAgentRevoked || !strings.Contains(e.Hint, "sallyport agent enroll") {
		t.Errorf("a revoked agent: %v", err)
	}
	w.agent = w.Agent(w.agent.Name, "app")
	brokertest.Must(t, call())
	w.Advance(time.Second)
	w.Faults.Set(storetest.Nth("get", 1, storetest.NotApplied))
	if err := call(); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("without the agent's record: %v", err)
	}
}
