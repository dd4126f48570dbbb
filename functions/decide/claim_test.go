package decide_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/store"
)

// hold asks for the session's next command on the protected table and returns it with its approval.
func (w *world) hold(s *brokertest.Session, text string) (access.Command, access.Decision) {
	w.T.Helper()
	c := s.Command(0, access.Write, "public.accounts", text)
	a := w.check(s.Ask(c))
	if outcomes(a) != "hold" {
		w.T.Fatalf("%s, want a hold", outcomes(a))
	}
	s.Stored(c)
	return c, a.Decisions[0]
}

// answer changes an approval as the reviewer's page would.
func (w *world) answer(id access.ApprovalID, change func(approval.Record) (approval.Record, error)) {
	w.T.Helper()
	ctx := context.Background()
	rec, it, err := approval.Get(ctx, w.DB, id)
	brokertest.Must(w.T, err)
	rec, err = change(rec)
	brokertest.Must(w.T, err)
	put, err := approval.Put(rec, store.Cond{Version: it.Version})
	brokertest.Must(w.T, err)
	brokertest.Must(w.T, w.DB.Put(ctx, put))
}

func (w *world) reviewer() approval.Reviewer {
	return approval.Reviewer{Subject: "rita", Groups: []string{"reviewers"}, AuthTime: w.Now()}
}

func (w *world) approve(id access.ApprovalID) {
	w.T.Helper()
	w.answer(id, func(r approval.Record) (approval.Record, error) { return r.Approve(w.reviewer(), "fine", w.Now()) })
}

func (w *world) claim(s *brokertest.Session, id access.ApprovalID, c access.Command, withdraw bool) (access.Decision, error) {
	var resp api.ClaimResponse
	err := s.Agent.Call(w.handler, api.PathClaim, api.ClaimRequest{Agent: s.Agent.Name, Session: s.State.Session, State: s.Raw,
		Approval: id, Command: c, Withdraw: withdraw}, &resp)
	return resp.Decision, err
}

func (w *world) status(id access.ApprovalID) approval.Status {
	w.T.Helper()
	rec, _, err := approval.Get(context.Background(), w.DB, id)
	brokertest.Must(w.T, err)
	return rec.Status
}

func (w *world) kinds(kind audit.Kind) (out []audit.Entry) {
	for _, e := range w.Entries() {
		if e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

func TestHold(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	c, dec := w.hold(s, "update accounts set balance = 1 where id = 1")
	if dec.HoldName != "prod-write" || dec.Link != "https://console.test/approve/"+string(dec.Approval) || !dec.Expires.Equal(w.Now().Add(30*time.Minute)) {
		t.Errorf("decision %+v", dec)
	}
	rec, _, err := approval.Get(context.Background(), w.DB, dec.Approval)
	brokertest.Must(t, err)
	if rec.Status != approval.Pending || rec.Text != c.Text || rec.Digest != s.Digest(c) || rec.Command != c.ID || rec.Lineage.Principal != "alice" || len(rec.Reviewers) != 1 {
		t.Errorf("record %+v", rec)
	}
	// The retry names the same approval.
	s.Seq, s.Prev = 0, audit.FirstLink(s.State.Session)
	if a := w.check(s.Ask(c)); outcomes(a) != "hold" || a.Decisions[0].Approval != dec.Approval {
		t.Errorf("retry %+v", a)
	}
	for range 2 * api.MaxHolds {
		s.Seq, s.Prev = 0, audit.FirstLink(s.State.Session)
		w.handler = w.newHandler(w.Items) // a process that does not know the session
		if a := w.check(s.Ask(c)); outcomes(a) != "hold" || a.Decisions[0].Approval != dec.Approval {
			t.Fatalf("retry elsewhere %+v", a)
		}
	}
	// The same statement again is another hold.
	s.Stored(c)
	if _, again := w.hold(s, c.Text); again.Approval == dec.Approval {
		t.Error("one approval for two commands")
	}
}

func TestHoldsAreBounded(t *testing.T) {
	w := newWorld(t)
	var asks []api.Ask
	for i := range 3 * api.MaxHolds {
		s := w.Seed(w.agent, w.alice.Child("coder", access.Everything()), "app")
		asks = append(asks, s.Ask(s.Command(0, access.Write, "public.accounts", fmt.Sprint(i))))
	}
	var resp api.CheckResponse
	brokertest.Must(t, w.agent.Call(w.handler, api.PathCheck, api.CheckRequest{Agent: w.agent.Name, Asks: asks}, &resp))
	got := map[string]int{}
	var held []access.ApprovalID
	for _, a := range resp.Answers {
		got[outcomes(a)]++
		if outcomes(a) == "hold" {
			held = append(held, a.Decisions[0].Approval)
		}
	}
	if got["hold"] != api.MaxHolds || got[api.RuleTooManyHolds] != 2*api.MaxHolds {
		t.Fatalf("decided %v", got)
	}
	// Another login has its own slots.
	other := w.Seed(w.agent, w.Login("bob", "engineers"), "app")
	w.hold(other, "x")
	// Answered, a slot is free again.
	w.answer(held[3], func(r approval.Record) (approval.Record, error) { return r.Deny(w.reviewer(), "no", w.Now()) })
	s := w.Seed(w.agent, w.alice, "app")
	w.hold(s, "y")
	if a := w.check(s.Ask(s.Command(0, access.Write, "public.accounts", "z"))); outcomes(a) != api.RuleTooManyHolds {
		t.Errorf("an eleventh: %s", outcomes(a))
	}
}

func TestClaim(t *testing.T) {
	tests := []struct {
		name   string
		before func(w *world, s *brokertest.Session, c *access.Command, id access.ApprovalID)
		want   string // rule of a denial, "allow", or "error:CODE"
		status approval.Status
		kind   audit.Kind // of what was stored
	}{
		{"approved", func(w *world, _ *brokertest.Session, _ *access.Command, id access.ApprovalID) { w.approve(id) }, "allow", approval.Claimed, audit.KindClaim},
		{"not answered", func(*world, *brokertest.Session, *access.Command, access.ApprovalID) {}, "error:conflict", approval.Pending, ""},
		{"denied", func(w *world, _ *brokertest.Session, _ *access.Command, id access.ApprovalID) {
			w.answer(id, func(r approval.Record) (approval.Record, error) { return r.Deny(w.reviewer(), "no", w.Now()) })
		}, api.RuleHoldDenied, approval.Denied, audit.KindWithdraw},
		{"never answered", func(w *world, _ *brokertest.Session, _ *access.Command, id access.ApprovalID) {
			w.Advance(30 * time.Minute)
		}, api.RuleHoldExpired, approval.Pending, audit.KindWithdraw},
		{"approved, used too late", func(w *world, _ *brokertest.Session, _ *access.Command, id access.ApprovalID) {
			w.approve(id)
			w.Advance(30 * time.Minute)
		}, api.RuleHoldExpired, approval.Approved, audit.KindWithdraw},
		{"another literal", func(w *world, _ *brokertest.Session, c *access.Command, id access.ApprovalID) {
			w.approve(id)
			c.Text += "0"
		}, "error:denied", approval.Approved, ""},
		{"another parameter", func(w *world, _ *brokertest.Session, c *access.Command, id access.ApprovalID) {
			w.approve(id)
			c.Params = []access.Param{{Value: []byte("1")}}
		}, "error:denied", approval.Approved, ""},
		{"another role", func(w *world, _ *brokertest.Session, c *access.Command, id access.ApprovalID) {
			w.approve(id)
			c.State.Role = "postgres"
		}, "error:denied", approval.Approved, ""},
		{"other effects than the reviewer saw", func(w *world, _ *brokertest.Session, c *access.Command, id access.ApprovalID) {
			w.approve(id)
			c.Touches = append(c.Touches, access.Touch{Effect: access.Write, Resource: access.Resource{Kind: access.KindTable, Name: "public.orders"}})
		}, "error:denied", approval.Approved, ""},
		{"the same text as another command", func(w *world, s *brokertest.Session, c *access.Command, id access.ApprovalID) {
			w.approve(id)
			*c, _ = w.hold(s, c.Text)
		}, "error:denied", approval.Approved, ""},
		{"the requester was revoked", func(w *world, _ *brokertest.Session, _ *access.Command, id access.ApprovalID) {
			w.approve(id)
			w.alice.Revoke()
		}, api.RuleRevoked, approval.Withdrawn, audit.KindWithdraw},
		{"the requester was revoked before the verdict", func(w *world, _ *brokertest.Session, _ *access.Command, id access.ApprovalID) {
			w.alice.Revoke()
		}, api.RuleRevoked, approval.Withdrawn, audit.KindWithdraw},
		{"the policy forbids it now", func(w *world, _ *brokertest.Session, _ *access.Command, id access.ApprovalID) {
			w.approve(id)
			w.Use(load(w.T, map[string]string{"b.cedar": `@id("freeze") forbid(principal, action == Action::"write", resource in Target::"app");`}))
		}, "freeze", approval.Withdrawn, audit.KindWithdraw},
		{"the reviewer's group reviews it no longer", func(w *world, _ *brokertest.Session, _ *access.Command, id access.ApprovalID) {
			w.approve(id)
			w.Use(load(w.T, map[string]string{"holds.yaml": "holds:\n- name: prod-write\n  reviewers: [security]\n  expires: 30m\n"}))
		}, api.RuleHoldReviewer, approval.Withdrawn, audit.KindWithdraw},
		{"another group reviews it, too", func(w *world, _ *brokertest.Session, _ *access.Command, id access.ApprovalID) {
			w.approve(id)
			w.Use(load(w.T, map[string]string{"holds.yaml": "holds:\n- name: prod-write\n  reviewers: [security, reviewers]\n  expires: 30m\n"}))
		}, "allow", approval.Claimed, audit.KindClaim},
		{"the classes of data changed", func(w *world, _ *brokertest.Session, _ *access.Command, id access.ApprovalID) {
			w.approve(id)
			w.Use(load(w.T, map[string]string{"classes.yaml": "classes:\n- name: email\n  columns: [\"public.*.email\"]\n  mask: email\n"}))
		}, api.RulePolicyChanged, approval.Withdrawn, audit.KindWithdraw},
		{"withdrawn", func(w *world, s *brokertest.Session, c *access.Command, id access.ApprovalID) {
			w.approve(id)
			_, err := w.claim(s, id, *c, true)
			brokertest.Must(w.T, err)
		}, api.RuleHoldWithdrawn, approval.Withdrawn, audit.KindWithdraw},
		{"the session was closed", func(w *world, s *brokertest.Session, c *access.Command, id access.ApprovalID) {
			w.approve(id)
			brokertest.Must(w.T, s.Agent.Call(w.handler, api.PathClose, api.CloseRequest{Agent: s.Agent.Name, Session: s.State.Session, State: s.Raw, LastSeq: s.Seq, Prev: s.Prev}, &struct{}{}))
		}, "error:revoked", approval.Approved, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			s := w.Seed(w.agent, w.alice, "app")
			c, held := w.hold(s, "update accounts set balance = 1 where id = 1")
			w.Advance(2 * time.Minute) // longer than a command's id is fresh
			tt.before(w, s, &c, held.Approval)
			for range 2 { // the second is a retry
				dec, err := w.claim(s, held.Approval, c, false)
				got := dec.Rule
				if dec.Outcome == access.Allow {
					got = "allow"
				}
				if e := (*api.Error)(nil); errors.As(err, &e) {
					got = "error:" + e.Code
				}
				if got != tt.want && !(got == api.RuleHoldWithdrawn && tt.status == approval.Withdrawn) {
					t.Errorf("claim: %s (%+v, %v), want %s", got, dec, err, tt.want)
				}
				if got == "allow" && (dec.Command != c.ID || dec.Digest != s.Digest(c) || dec.Approval != held.Approval) {
					t.Errorf("the decision does not echo its command: %+v", dec)
				}
			}
			if got := w.status(held.Approval); got != tt.status {
				t.Errorf("approval is %s, want %s", got, tt.status)
			}
			claims, withdrawals := w.kinds(audit.KindClaim), w.kinds(audit.KindWithdraw)
			if (tt.kind == audit.KindClaim) != (len(claims) == 1) || (tt.kind == audit.KindWithdraw) != (len(withdrawals) == 1) {
				t.Errorf("stored %d claims, %d withdrawals; want one %q", len(claims), len(withdrawals), tt.kind)
			}
			for _, e := range withdrawals {
				if e.Decision != nil && e.Decision.Outcome != access.Deny {
					t.Errorf("withdrawal %+v", e)
				}
			}
		})
	}
}

// TestHoldEndsWithItsSession: nobody could use an approval later.
func TestHoldEndsWithItsSession(t *testing.T) {
	w := newWorld(t)
	child := w.alice.Child("coder", access.Everything())
	child.Claims.GrantExpires = w.Now().Add(time.Minute)
	_, dec := w.hold(w.Seed(w.agent, child, "app"), "x")
	if !dec.Expires.Equal(child.Claims.GrantExpires) {
		t.Errorf("expires %s, the session %s", dec.Expires, child.Claims.GrantExpires)
	}
}

func TestClaimIsNotOthers(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	c, held := w.hold(s, "x")
	w.approve(held.Approval)
	for name, other := range map[string]*brokertest.Session{
		"another session": w.Seed(w.agent, w.alice, "app"),
		"another agent":   w.Seed(w.Agent("agent-2", "app"), w.alice, "app"),
	} {
		theirs := c
		theirs.Session = other.State.Session
		if _, err := w.claim(other, held.Approval, theirs, false); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := w.claim(other, held.Approval, theirs, true); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s withdraws: %v", name, err)
		}
	}
	for name, edit := range map[string]func(*access.Command){
		"another id":       func(c *access.Command) { c.ID = access.CommandID(w.ID()) },
		"another sequence": func(c *access.Command) { c.Seq++ },
		"another text":     func(c *access.Command) { c.Text += " " },
	} {
		other := c
		edit(&other)
		for _, withdraw := range []bool{false, true} {
			if _, err := w.claim(s, held.Approval, other, withdraw); !errors.Is(err, api.ErrDenied) {
				t.Errorf("%s, withdraw=%v: %v", name, withdraw, err)
			}
		}
	}
	for _, id := range []access.ApprovalID{"", "nonsense", access.ApprovalID(w.ID())} {
		if _, err := w.claim(s, id, c, false); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("approval %q: %v", id, err)
		}
	}
	if got := w.status(held.Approval); got != approval.Approved {
		t.Errorf("approval is %s", got)
	}
}

// TestClaimOnce: of a hundred claims at once one uses the approval. Those by other commands of the very same text lose; those
// that repeat the winner's question get its stored answer, and one entry is all there is.
func TestClaimOnce(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	c, held := w.hold(s, "update accounts set balance = 1 where id = 1")
	w.approve(held.Approval)
	var wg sync.WaitGroup
	decs, errs := make([]access.Decision, 100), make([]error, 100)
	for i := range decs {
		mine := c
		if i%2 == 1 {
			mine.ID, mine.Seq = access.CommandID(w.ID()), c.Seq+uint64(i)
		}
		wg.Go(func() { decs[i], errs[i] = w.claim(s, held.Approval, mine, false) })
	}
	wg.Wait()
	for i, dec := range decs {
		if i%2 == 1 && (!errors.Is(errs[i], api.ErrDenied) || dec.Outcome != access.Deny) {
			t.Errorf("claim %d for another command: %+v, %v", i, dec, errs[i])
		}
		if i%2 == 0 && (errs[i] != nil || dec.Outcome != access.Allow || dec.Command != c.ID) {
			t.Errorf("claim %d: %+v, %v", i, dec, errs[i])
		}
	}
	_, it, err := approval.Get(context.Background(), w.DB, held.Approval)
	brokertest.Must(t, err)
	if es := w.kinds(audit.KindClaim); len(es) != 1 || it.Version != 3 || w.status(held.Approval) != approval.Claimed {
		t.Errorf("%d claims stored, the approval has version %d", len(es), it.Version)
	}
	// Later nobody gets it, the winner included.
	w.Advance(2*api.PermitLife + time.Second)
	if dec, err := w.claim(s, held.Approval, c, false); err != nil || dec.Rule != api.RuleHoldUsed {
		t.Errorf("late: %+v, %v", dec, err)
	}
	// A retry of a revoked lineage gets nothing either.
	w.Advance(-2 * api.PermitLife)
	w.alice.Revoke()
	if dec, err := w.claim(s, held.Approval, c, false); err != nil || dec.Rule != api.RuleRevoked {
		t.Errorf("revoked: %+v, %v", dec, err)
	}
}

// TestClaimRace: of a hundred claims and withdrawals at once, one decides what became of the approval.
func TestClaimRace(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	c, held := w.hold(s, "x")
	w.approve(held.Approval)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var got []string
	for i := range 100 {
		wg.Go(func() {
			dec, err := w.claim(s, held.Approval, c, i%2 == 1)
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprint(i%2 == 1, dec.Outcome, err == nil))
		})
	}
	wg.Wait()
	claimed := w.status(held.Approval) == approval.Claimed
	if n := len(w.kinds(audit.KindClaim)) + len(w.kinds(audit.KindWithdraw)); n != 1 {
		t.Errorf("%d entries say what became of it", n)
	}
	for _, g := range got {
		allowed, withdrawn := strings.HasPrefix(g, "false allow"), g == "true deny true"
		if allowed && !claimed || withdrawn && claimed {
			t.Errorf("answer %q while claimed=%v", g, claimed)
		}
	}
}

func TestWithdraw(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	c, held := w.hold(s, "x")
	w.alice.Revoke() // giving up is always taken
	for range 2 {
		if dec, err := w.claim(s, held.Approval, c, true); err != nil || dec.Outcome != access.Deny || dec.Command != "" {
			t.Fatalf("withdraw: %+v, %v", dec, err)
		}
	}
	if es := w.kinds(audit.KindWithdraw); len(es) != 1 || es[0].ID != string(c.ID) || es[0].Approval.Status != "withdrawn" {
		t.Errorf("stored %+v", es)
	}
}
