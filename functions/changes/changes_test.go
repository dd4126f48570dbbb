package changes_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/functions/changes"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/agents"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
	"github.com/sallyport/sallyport/internal/telemetry"
	"github.com/sallyport/sallyport/internal/token"
)

type world struct {
	*brokertest.World
	handler http.Handler
	agent   *brokertest.Agent
	alice   *brokertest.Person
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{World: brokertest.New(t)}
	w.Use(&policy.Bundle{Address: "sha256:00"})
	h, err := changes.New(changes.Config{Items: w.Items, CA: w.CA.Cert(), StateKey: w.StateKey, Bundles: w, Now: w.Now})
	brokertest.Must(t, err)
	w.handler, w.agent, w.alice = h, w.Agent("agent-1", "app"), w.Login("alice", "engineers")
	return w
}

func live(s *brokertest.Session) api.LiveSession {
	return api.LiveSession{Session: s.State.Session, State: s.Raw}
}

func (w *world) ask(req api.ChangesRequest) (api.ChangesResponse, error) {
	var resp api.ChangesResponse
	req.Agent = w.agent.Name
	err := w.agent.Call(w.handler, api.PathChanges, req, &resp)
	return resp, err
}

func TestEnded(t *testing.T) {
	tests := []struct {
		name   string
		happen func(w *world, child *brokertest.Person, s *brokertest.Session)
		ends   bool
	}{
		{"nothing", func(*world, *brokertest.Person, *brokertest.Session) {}, false},
		{"its actor is revoked", func(_ *world, p *brokertest.Person, _ *brokertest.Session) { p.Revoke() }, true},
		{"its login is suspended", func(w *world, _ *brokertest.Person, _ *brokertest.Session) { w.alice.Revoke() }, true},
		{"its login ran out", func(w *world, _ *brokertest.Person, _ *brokertest.Session) {
			w.alice.Edit(func(r *token.Root) { r.RenewedUntil = w.Now() })
		}, true},
		{"its own time is over", func(w *world, _ *brokertest.Person, s *brokertest.Session) {
			w.alice.Edit(func(r *token.Root) { r.RenewedUntil = r.End() })
			w.Advance(time.Hour)
		}, true},
		{"the broker ended it", func(w *world, _ *brokertest.Person, s *brokertest.Session) {
			brokertest.Must(w.T, session.End(context.Background(), w.DB, s.State.Session, "sequence 1 was seen twice", w.Now()))
		}, true},
		{"the broker ended another", func(w *world, p *brokertest.Person, s *brokertest.Session) {
			o := w.Seed(w.agent, p, "app")
			brokertest.Must(w.T, session.End(context.Background(), w.DB, o.State.Session, "sequence 1 was seen twice", w.Now()))
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			child := w.alice.Child("coder", access.Everything())
			child.Claims.GrantExpires = w.Now().Add(time.Hour)
			s := w.Seed(w.agent, child, "app")
			bob := w.Seed(w.agent, w.Login("bob"), "app") // lives on
			tt.happen(w, child, s)
			resp, err := w.ask(api.ChangesRequest{Sessions: []api.LiveSession{live(s), live(bob)}})
			brokertest.Must(t, err)
			if tt.ends != (len(resp.Ended) == 1) || len(resp.Ended) > 1 {
				t.Fatalf("ended %+v, want %v", resp.Ended, tt.ends)
			}
			if tt.ends && (resp.Ended[0].Session != s.State.Session || resp.Ended[0].Code != access.CodeRevoked || resp.Ended[0].Hint == "") {
				t.Errorf("ended %+v", resp.Ended[0])
			}
			if resp.Bundle != "sha256:00" {
				t.Errorf("bundle %q", resp.Bundle)
			}
		})
	}
	t.Run("its login is not there", func(t *testing.T) {
		w := newWorld(t)
		p := w.Login("carol")
		p.Claims.Path[0].ID = access.ActorID(w.ID())
		s := w.Seed(w.agent, p, "app")
		if resp, err := w.ask(api.ChangesRequest{Sessions: []api.LiveSession{live(s)}}); err != nil || len(resp.Ended) != 1 {
			t.Errorf("%+v, %v", resp, err)
		}
	})
	t.Run("not this agent's", func(t *testing.T) {
		w := newWorld(t)
		theirs := w.Seed(w.Agent("agent-2", "app"), w.alice, "app")
		elsewhere := w.Seed(w.agent, w.alice, "other")
		swapped := api.LiveSession{Session: theirs.State.Session, State: w.Seed(w.agent, w.alice, "app").Raw}
		resp, err := w.ask(api.ChangesRequest{Sessions: []api.LiveSession{live(theirs), live(elsewhere), swapped, {Session: "x", State: "y"}}})
		if err != nil || len(resp.Ended) != 4 {
			t.Errorf("%+v, %v", resp, err)
		}
	})
}

func (w *world) approval(s *brokertest.Session, status approval.Status) access.ApprovalID {
	w.T.Helper()
	rec := approval.Record{ID: access.ApprovalID(w.ID()), Status: status, Session: s.State.Session, Agent: s.Agent.Name, Reason: "because",
		Created: w.Now(), Expires: w.Now().Add(time.Minute)}
	put, err := approval.Put(rec, store.Cond{})
	brokertest.Must(w.T, err)
	brokertest.Must(w.T, w.DB.Put(context.Background(), put))
	return rec.ID
}

func TestVerdicts(t *testing.T) {
	for _, tt := range []struct {
		status approval.Status
		later  time.Duration
		want   string
	}{
		{approval.Pending, 0, ""}, {approval.Pending, time.Minute, "expired"}, {approval.Approved, 0, "approved"}, {approval.Approved, time.Minute, "expired"},
		{approval.Denied, 0, "denied"}, {approval.Withdrawn, 0, "withdrawn"}, {approval.Claimed, 0, "approved"},
	} {
		w := newWorld(t)
		s := w.Seed(w.agent, w.alice, "app")
		theirs := w.approval(w.Seed(w.Agent("agent-2", "app"), w.alice, "app"), tt.status)
		unshown := w.approval(w.Seed(w.agent, w.alice, "app"), tt.status)
		id := w.approval(s, tt.status)
		w.Advance(tt.later)
		resp, err := w.ask(api.ChangesRequest{Sessions: []api.LiveSession{live(s)},
			Approvals: []access.ApprovalID{theirs, id, unshown, "nonsense", access.ApprovalID(w.ID())}})
		brokertest.Must(t, err)
		if tt.want == "" {
			if len(resp.Verdicts) != 0 {
				t.Errorf("%s: %+v", tt.status, resp.Verdicts)
			}
			continue
		}
		if len(resp.Verdicts) != 1 || resp.Verdicts[0] != (api.Verdict{Approval: id, Status: tt.want, Reason: "because"}) {
			t.Errorf("%s after %s: %+v", tt.status, tt.later, resp.Verdicts)
		}
	}
}

func TestRefuses(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	var resp api.ChangesResponse
	if err := w.agent.Call(w.handler, api.PathChanges, api.ChangesRequest{Agent: "agent-2"}, &resp); !errors.Is(err, api.ErrDenied) {
		t.Errorf("another agent's name: %v", err)
	}
	if _, err := w.ask(api.ChangesRequest{Sessions: make([]api.LiveSession, 1001)}); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("1001 sessions: %v", err)
	}
	if _, err := w.ask(api.ChangesRequest{Approvals: make([]access.ApprovalID, 1001)}); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("1001 approvals: %v", err)
	}
	// Whatever store call fails, there is no answer at all.
	id := w.approval(s, approval.Approved)
	for n := 1; n <= 3; n++ {
		count := 0
		w.Faults.Set(func(string, string) storetest.Fault {
			if count++; count == n {
				return storetest.NotApplied
			}
			return storetest.None
		})
		if resp, err := w.ask(api.ChangesRequest{Sessions: []api.LiveSession{live(s)}, Approvals: []access.ApprovalID{id}}); !errors.Is(err, api.ErrUnavailable) {
			t.Errorf("fault at call %d: %+v, %v", n, resp, err)
		}
	}
	w.Faults.Set(nil)
	w.Use(nil)
	if _, err := w.ask(api.ChangesRequest{}); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("no policy: %v", err)
	}
}

func BenchmarkChanges(b *testing.B) {
	w := newWorld(b)
	var req api.ChangesRequest
	for range 100 {
		req.Sessions = append(req.Sessions, live(w.Seed(w.agent, w.alice, "app")))
	}
	b.ReportAllocs()
	for b.Loop() {
		if resp, err := w.ask(req); err != nil || len(resp.Ended) != 0 {
			b.Fatal(resp, err)
		}
	}
}

// A revoked agent is refused within a second, whatever this process remembers of it; a later certificate is good; an unreadable record refuses.
func TestRevokedAgent(t *testing.T) {
	w := newWorld(t)
	call := func() error {
		_, err := w.ask(api.ChangesRequest{})
		return err
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

func TestSpoolsAreCounted(t *testing.T) {
	w := newWorld(t)
	var out bytes.Buffer
	tel, err := telemetry.New(telemetry.Config{Function: "changes", Out: &out, Figures: true})
	brokertest.Must(t, err)
	w.handler = tel.Serve(w.handler)
	if _, err := w.ask(api.ChangesRequest{}); err != nil || out.Len() != 0 {
		t.Errorf("%v: %s", err, out.String())
	}
	if _, err := w.ask(api.ChangesRequest{Spool: &api.Spool{Bytes: 4096, OldestSeconds: 12.5}}); err != nil {
		t.Error(err)
	}
	if !strings.Contains(out.String(), `"SpoolBytes":4096`) || !strings.Contains(out.String(), `"SpoolOldestSeconds":12.5`) || !strings.Contains(out.String(), `"_aws"`) {
		t.Error(out.String())
	}
}
