package record_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/functions/record"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/agents"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

type world struct {
	*brokertest.World
	path    string // of the blobs
	dir     *dir.Dir
	blobs   store.Blobs
	signer  brokertest.Signer // of the log
	handler http.Handler
	agent   *brokertest.Agent
	s       *brokertest.Session
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{World: brokertest.New(t), path: t.TempDir()}
	var err error
	w.dir, err = dir.Open(w.path)
	brokertest.Must(t, err)
	t.Cleanup(func() { _ = w.dir.Close() })
	w.blobs, w.signer = &storetest.FaultyBlobs{Faults: w.Faults, Blobs: w.dir}, brokertest.NewSigner(t)
	h, err := record.New(record.Config{Items: w.Items, Blobs: w.blobs, CA: w.CA.Cert(), StateKey: w.StateKey, Now: w.Now})
	brokertest.Must(t, err)
	w.handler, w.agent = h, w.Agent("agent-1", "app")
	w.s = w.Seed(w.agent, w.Login("alice"), "app")
	return w
}

// decided stores one item of decided commands, as functions/decide does.
func (w *world) decided(s *brokertest.Session, outcomes ...access.Outcome) []access.Command {
	w.T.Helper()
	var cmds []access.Command
	var entries []audit.Entry
	for i, o := range outcomes {
		c := s.Command(i, access.Read, "public.orders", "x")
		kept, err := audit.CommandOf(c, s.Digest(c), s.State.DataKey)
		brokertest.Must(w.T, err)
		entries = append(entries, audit.Entry{V: 1, Kind: audit.KindCommand, ID: string(c.ID), Time: w.Now(), Agent: s.Agent.Name, Session: c.Session,
			Seq: c.Seq, Command: kept, Decision: &access.Decision{Command: c.ID, Seq: c.Seq, Digest: s.Digest(c), Outcome: o}})
		cmds = append(cmds, c)
	}
	put, err := audit.Put(entries...)
	brokertest.Must(w.T, err)
	brokertest.Must(w.T, w.DB.Put(context.Background(), put))
	s.Stored(cmds...)
	return cmds
}

func (w *world) outcome(c access.Command) api.Outcome {
	return api.Outcome{Session: c.Session, Command: c.ID, Seq: c.Seq, Time: w.Now(),
		Result: access.Result{Status: access.StatusOK, Tag: "SELECT 1", Rows: 1, Masked: map[string]int64{"email": 1}}}
}

func (w *world) send(outcomes ...api.Outcome) error {
	return w.agent.Call(w.handler, api.PathRecord, api.RecordRequest{Agent: w.agent.Name, Outcomes: outcomes}, &struct{}{})
}

func (w *world) stored() (out []audit.Entry) {
	for _, e := range w.Entries() {
		if e.Kind == audit.KindOutcome {
			out = append(out, e)
		}
	}
	return out
}

func TestRecord(t *testing.T) {
	w := newWorld(t)
	cmds := w.decided(w.s, access.Allow)
	for range 3 { // at least once
		brokertest.Must(t, w.send(w.outcome(cmds[0]), w.outcome(cmds[0])))
	}
	es := w.stored()
	if len(es) != 1 || es[0].ID != string(cmds[0].ID) || es[0].Result.Rows != 1 || es[0].Session != w.s.State.Session {
		t.Errorf("stored %+v", es)
	}
	// The first one counts.
	other := w.outcome(cmds[0])
	other.Result.Rows = 99
	brokertest.Must(t, w.send(other))
	if es := w.stored(); len(es) != 1 || es[0].Result.Rows != 1 {
		t.Errorf("stored %+v", es)
	}
}

func TestRecordBatches(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		w.decided(w.s, access.Allow)
	}
	outcomes := make([]access.Outcome, api.MaxBatch)
	for i := range outcomes {
		outcomes[i] = access.Allow
	}
	cmds := w.decided(w.s, outcomes...)
	// The last alone, whose item begins 63 before it, then all in any order.
	brokertest.Must(t, w.send(w.outcome(cmds[63])))
	if n := len(w.stored()); n != 1 {
		t.Fatalf("%d stored", n)
	}
	var all []api.Outcome
	for i := range cmds {
		all = append(all, w.outcome(cmds[(i*7)%64]))
	}
	brokertest.Must(t, w.send(all...))
	if n := len(w.stored()); n != 64 {
		t.Errorf("%d stored", n)
	}
}

// TestRecordAcrossMinutes: the batch began in the minute before.
func TestRecordAcrossMinutes(t *testing.T) {
	w := newWorld(t)
	w.Advance(52*time.Second + 900*time.Millisecond) // six minutes, 59.9 seconds past the hour
	first := w.s.Command(0, access.Read, "public.orders", "x")
	w.Advance(time.Second)
	second := w.s.Command(1, access.Read, "public.orders", "y")
	var entries []audit.Entry
	for _, c := range []access.Command{first, second} {
		entries = append(entries, audit.Entry{V: 1, Kind: audit.KindCommand, ID: string(c.ID), Session: c.Session, Seq: c.Seq,
			Command: &audit.Command{}, Decision: &access.Decision{Outcome: access.Allow}})
	}
	put, err := audit.Put(entries...)
	brokertest.Must(t, err)
	brokertest.Must(t, w.DB.Put(context.Background(), put))
	brokertest.Must(t, w.send(w.outcome(second)))
	if n := len(w.stored()); n != 1 {
		t.Errorf("%d stored", n)
	}
}

func TestRecordRefuses(t *testing.T) {
	tests := []struct {
		name string
		make func(w *world) api.Outcome
	}{
		{"a denied command", func(w *world) api.Outcome { return w.outcome(w.decided(w.s, access.Deny)[0]) }},
		{"a held command that was not claimed", func(w *world) api.Outcome { return w.outcome(w.decided(w.s, access.Hold)[0]) }},
		{"a held command that was withdrawn", func(w *world) api.Outcome {
			c := w.decided(w.s, access.Hold)[0]
			put, err := audit.Put(audit.Entry{Kind: audit.KindWithdraw, ID: string(c.ID), Session: c.Session, Seq: c.Seq, Decision: &access.Decision{Outcome: access.Deny}})
			brokertest.Must(w.T, err)
			brokertest.Must(w.T, w.DB.Put(context.Background(), put))
			return w.outcome(c)
		}},
		{"an unknown command", func(w *world) api.Outcome {
			w.decided(w.s, access.Allow)
			return w.outcome(w.s.Command(0, access.Read, "t", "x"))
		}},
		{"another id under an allowed sequence", func(w *world) api.Outcome {
			o := w.outcome(w.decided(w.s, access.Allow)[0])
			o.Command = access.CommandID(w.ID())
			return o
		}},
		{"another sequence", func(w *world) api.Outcome {
			o := w.outcome(w.decided(w.s, access.Allow, access.Allow)[0])
			o.Seq++
			return o
		}},
		{"another agent's session", func(w *world) api.Outcome {
			return w.outcome(w.decided(w.Seed(w.Agent("agent-2", "app"), w.Login("bob"), "app"), access.Allow)[0])
		}},
		{"another session's command", func(w *world) api.Outcome {
			o := w.outcome(w.decided(w.Seed(w.agent, w.Login("bob"), "app"), access.Allow)[0])
			o.Session = w.s.State.Session
			return o
		}},
		{"a session that is none", func(w *world) api.Outcome {
			o := w.outcome(w.decided(w.s, access.Allow)[0])
			o.Session = access.SessionID(w.ID())
			return o
		}},
		{"a session id with a path in it", func(w *world) api.Outcome {
			o := w.outcome(w.decided(w.s, access.Allow)[0])
			o.Session += "#"
			return o
		}},
		{"a command id that is none", func(w *world) api.Outcome {
			o := w.outcome(w.decided(w.s, access.Allow)[0])
			o.Command = "x"
			return o
		}},
		{"a status that is not known", func(w *world) api.Outcome {
			o := w.outcome(w.decided(w.s, access.Allow)[0])
			o.Result.Status = "fine"
			return o
		}},
		{"a result that is too large", func(w *world) api.Outcome {
			o := w.outcome(w.decided(w.s, access.Allow)[0])
			o.Result.Tag = strings.Repeat("x", 1000)
			return o
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			good := w.outcome(w.decided(w.s, access.Allow)[0])
			// What is good beside it arrives, so that a spool is not stuck for ever.
			brokertest.Must(t, w.send(tt.make(w), good))
			if es := w.stored(); len(es) != 1 || es[0].ID != string(good.Command) {
				t.Errorf("stored %+v", es)
			}
		})
	}
	w := newWorld(t)
	if err := w.agent.Call(w.handler, api.PathRecord, api.RecordRequest{Agent: "agent-2"}, &struct{}{}); !errors.Is(err, api.ErrDenied) {
		t.Errorf("another agent's name: %v", err)
	}
	if err := w.send(make([]api.Outcome, 501)...); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("501 outcomes: %v", err)
	}
}

func TestRecordClaimed(t *testing.T) {
	w := newWorld(t)
	c := w.decided(w.s, access.Hold)[0]
	put, err := audit.Put(audit.Entry{Kind: audit.KindClaim, ID: string(c.ID), Session: c.Session, Seq: c.Seq, Decision: &access.Decision{Outcome: access.Allow}})
	brokertest.Must(t, err)
	brokertest.Must(t, w.DB.Put(context.Background(), put))
	w.Advance(3 * time.Hour) // a hold may wait
	brokertest.Must(t, w.send(w.outcome(c)))
	if n := len(w.stored()); n != 1 {
		t.Errorf("%d stored", n)
	}
}

func TestFaults(t *testing.T) {
	for _, op := range []string{"get", "put", "query"} {
		for _, fault := range []storetest.Fault{storetest.NotApplied, storetest.Applied} {
			for n := 1; n <= 2; n++ {
				w := newWorld(t)
				cmds := w.decided(w.s, access.Allow, access.Allow)
				w.Faults.Set(storetest.Nth(op, n, fault))
				err := w.send(w.outcome(cmds[1]), w.outcome(cmds[0]))
				w.Faults.Set(nil)
				if err != nil && !errors.Is(err, api.ErrUnavailable) {
					t.Errorf("%s %d: %v", op, n, err)
				}
				if err == nil && len(w.stored()) != 2 {
					t.Errorf("%s %d: answered without storing", op, n)
				}
				brokertest.Must(t, w.send(w.outcome(cmds[0]), w.outcome(cmds[1])))
				if got := len(w.stored()); got != 2 {
					t.Errorf("%s %d: %d stored", op, n, got)
				}
			}
		}
	}
}

func BenchmarkRecord(b *testing.B) {
	w := newWorld(b)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		var outs []api.Outcome
		for range 100 {
			outs = append(outs, w.outcome(w.decided(w.s, access.Allow)[0]))
		}
		b.StartTimer()
		brokertest.Must(b, w.send(outs...))
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(100*b.N), "µs/outcome")
}

// A revoked agent is refused within a second, whatever this process remembers of it; a later certificate is good; an unreadable record refuses.
func TestRevokedAgent(t *testing.T) {
	w := newWorld(t)
	call := func() error {
		return w.agent.Call(w.handler, api.PathRecord, api.RecordRequest{Agent: w.agent.Name}, &struct{}{})
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

// Chunks of recordings are calls of an agent like outcomes.
func TestRevokedAgentsChunks(t *testing.T) {
	w := newWorld(t)
	_, err := agents.Revoke(t.Context(), w.DB, agents.Revocation{Agent: w.agent.Name, By: "adam", Now: w.Now()}, func(time.Time) (store.Write, error) {
		return store.Write{Table: store.Audit, Item: store.Item{Key: store.Key{PK: "p", SK: "revoked"}, Body: []byte("[]")}}, nil
	})
	brokertest.Must(t, err)
	if err := w.agent.Call(w.handler, api.PathChunks, api.ChunksRequest{Agent: w.agent.Name}, &api.ChunksResponse{}); !errors.Is(err, api.ErrRevoked) {
		t.Errorf("a revoked agent's chunks: %v", err)
	}
}
