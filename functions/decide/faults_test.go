package decide_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

// steps runs action once without faults to count its store calls, and then once per call and kind of fault, each in a fresh
// world. verify gets the world after the fault.
func steps(t *testing.T, action func(t *testing.T, w *world) (run func() error), verify func(t *testing.T, w *world, err error, retry func() error)) {
	t.Helper()
	calls := 0
	func() {
		w := newWorld(t)
		run := action(t, w)
		w.Faults.Set(func(string, string) storetest.Fault { calls++; return storetest.None })
		brokertest.Must(t, run())
		w.Faults.Set(nil)
	}()
	if calls == 0 {
		t.Fatal("no store calls")
	}
	for n := 1; n <= calls; n++ {
		for fault, name := range map[storetest.Fault]string{storetest.NotApplied: "not applied", storetest.Applied: "applied"} {
			t.Run(fmt.Sprintf("call %d of %d %s", n, calls, name), func(t *testing.T) {
				w := newWorld(t)
				run := action(t, w)
				count := 0
				w.Faults.Set(func(string, string) storetest.Fault {
					if count++; count == n {
						return fault
					}
					return storetest.None
				})
				err := run()
				w.Faults.Set(nil)
				if count < n {
					t.Fatalf("the fault was never met: %d calls", count)
				}
				verify(t, w, err, run)
			})
		}
	}
}

// neverAllowWithoutEntry is the promise: whatever was answered, an allow has its entry.
func neverAllowWithoutEntry(t *testing.T, w *world, decs []access.Decision) {
	t.Helper()
	allowed := map[string]bool{}
	for _, e := range w.Entries() {
		if e.Decision != nil && e.Decision.Outcome == access.Allow && (e.Kind == audit.KindCommand || e.Kind == audit.KindClaim) {
			allowed[e.ID] = true
		}
	}
	for _, d := range decs {
		if d.Outcome == access.Allow && !allowed[string(d.Command)] {
			t.Errorf("command %s is allowed without an entry", d.Command)
		}
	}
}

func TestFaultsOfCheck(t *testing.T) {
	for _, tt := range []struct{ name, table, want string }{
		{"allow", "public.orders", "allow allow"},
		{"deny", "public.secrets", "no-secrets batch-stopped"},
		{"hold", "public.accounts", "hold batch-stopped"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var answer api.Answer
			action := func(t *testing.T, w *world) func() error {
				s := w.Seed(w.agent, w.alice, "app")
				e := access.Read
				if tt.name == "hold" {
					e = access.Write
				}
				ask := s.Ask(s.Command(0, e, tt.table, "a"), s.Command(1, access.Read, "public.orders", "b"))
				return func() error { answer = w.check(ask); return nil }
			}
			steps(t, action, func(t *testing.T, w *world, _ error, retry func() error) {
				if outcomes(answer) != "error:unavailable" {
					t.Errorf("with the fault: %s, want no decision", outcomes(answer))
				}
				neverAllowWithoutEntry(t, w, answer.Decisions)
				for range 2 {
					brokertest.Must(t, retry())
					if outcomes(answer) != tt.want {
						t.Errorf("retry: %s, want %s", outcomes(answer), tt.want)
					}
					neverAllowWithoutEntry(t, w, answer.Decisions)
				}
				want := 1
				if tt.name == "allow" {
					want = 2
				}
				if n := len(w.commandEntries()); n != want {
					t.Errorf("%d entries, want %d", n, want)
				}
				recs, err := new(approval.Waiting).List(context.Background(), w.DB, w.Now())
				brokertest.Must(t, err)
				if (tt.name == "hold") != (len(recs) == 1) {
					t.Errorf("%d approvals", len(recs))
				}
			})
		})
	}
}

// TestFaultThenAnother: a put whose answer was lost may have happened. If it did, its place is taken for everything else.
func TestFaultThenAnother(t *testing.T) {
	for fault, want := range map[storetest.Fault]string{storetest.NotApplied: "allow", storetest.Applied: "error:revoked"} {
		w := newWorld(t)
		s := w.Seed(w.agent, w.alice, "app")
		w.Faults.Set(storetest.Nth("put", 1, fault))
		if a := w.check(s.Ask(s.Command(0, access.Read, "public.orders", "a"))); outcomes(a) != "error:unavailable" {
			t.Fatal(outcomes(a))
		}
		w.Advance(120e9) // another minute: another partition
		if a := w.check(s.Ask(s.Command(0, access.Read, "public.orders", "b"))); outcomes(a) != want {
			t.Errorf("after a put that was applied=%v: %s, want %s", fault == storetest.Applied, outcomes(a), want)
		}
	}
}

func TestFaultsOfEnding(t *testing.T) {
	action := func(t *testing.T, w *world) func() error {
		s := w.Seed(w.agent, w.alice, "app")
		w.check(s.Ask(s.Command(0, access.Read, "public.orders", "a")))
		other := s.Ask(s.Command(0, access.Read, "public.orders", "b"))
		return func() error {
			if a := w.check(other); outcomes(a) == "allow" || len(a.Decisions) != 0 {
				t.Errorf("the second command of a sequence: %s", outcomes(a))
			}
			return nil
		}
	}
	steps(t, action, func(t *testing.T, w *world, _ error, retry func() error) {
		brokertest.Must(t, retry())
		w.handler = w.newHandler(w.Items)
		brokertest.Must(t, retry())
		if n := len(w.commandEntries()); n != 1 {
			t.Errorf("%d entries", n)
		}
	})
}

func TestFaultsOfClaim(t *testing.T) {
	for _, withdraw := range []bool{false, true} {
		t.Run(fmt.Sprintf("withdraw=%v", withdraw), func(t *testing.T) {
			var dec access.Decision
			var id access.ApprovalID
			action := func(t *testing.T, w *world) func() error {
				s := w.Seed(w.agent, w.alice, "app")
				c, held := w.hold(s, "x")
				id = held.Approval
				w.approve(id)
				return func() (err error) {
					dec, err = w.claim(s, held.Approval, c, withdraw)
					return err
				}
			}
			steps(t, action, func(t *testing.T, w *world, err error, retry func() error) {
				if err == nil || dec.Outcome != access.Deny {
					t.Errorf("with the fault: %+v, %v", dec, err)
				}
				for range 2 {
					brokertest.Must(t, retry())
					neverAllowWithoutEntry(t, w, []access.Decision{dec})
					if want := !withdraw; want != (dec.Outcome == access.Allow) {
						t.Errorf("retry: %+v", dec)
					}
				}
				if n := len(w.kinds(audit.KindClaim)) + len(w.kinds(audit.KindWithdraw)); n != 1 {
					t.Errorf("%d entries", n)
				}
			})
		})
	}
}

func TestFaultsOfOpen(t *testing.T) {
	var resp api.OpenResponse
	var id access.SessionID
	action := func(t *testing.T, w *world) func() error {
		req := w.Open(w.agent, w.alice, "app")
		id = req.Session
		return func() error {
			resp = api.OpenResponse{}
			return w.agent.Call(w.handler, api.PathOpen, req, &resp)
		}
	}
	steps(t, action, func(t *testing.T, w *world, err error, retry func() error) {
		if err == nil || resp.State != "" {
			t.Errorf("with the fault: %+v, %v", resp, err)
		}
		// A retry opens the session, or says that the client must connect again: never a session without an entry.
		if err := retry(); err == nil {
			if _, _, err := session.Get(context.Background(), w.DB, id); err != nil {
				t.Error(err)
			}
			if n := len(w.kinds(audit.KindOpen)); n != 1 {
				t.Errorf("%d entries", n)
			}
		}
	})
}

func TestFaultsOfClose(t *testing.T) {
	action := func(t *testing.T, w *world) func() error {
		s := w.Seed(w.agent, w.alice, "app")
		req := api.CloseRequest{Agent: w.agent.Name, Session: s.State.Session, State: s.Raw, Prev: s.Prev}
		return func() error { return w.agent.Call(w.handler, api.PathClose, req, &struct{}{}) }
	}
	steps(t, action, func(t *testing.T, w *world, err error, retry func() error) {
		if err == nil {
			t.Error("with the fault: closed")
		}
		for range 2 {
			brokertest.Must(t, retry())
		}
		if n := len(w.kinds(audit.KindClose)); n != 1 {
			t.Errorf("%d entries", n)
		}
	})
}
