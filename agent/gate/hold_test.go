package gate

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// holding makes the broker hold every command whose text is "hold".
func holding(r *rig) {
	r.rule = func(c access.Command) access.Decision {
		if c.Text != "hold" {
			return access.Decision{Outcome: access.Allow}
		}
		return access.Decision{Outcome: access.Hold, Rule: "prod", HoldName: "prod-write", Approval: "A", Link: "https://x/approve/A", Expires: time.Now().Add(time.Minute)}
	}
}

type checked struct {
	permits []*Permit
	err     error
}

// wait asks for a command that is held, and returns once it waits.
func wait(ctx context.Context, t *testing.T, r *rig, cs ...access.Command) <-chan checked {
	t.Helper()
	holding(r)
	done := make(chan checked, 1)
	told := make(chan access.HeldCommand, 2)
	go func() {
		ps, err := r.g.Check(ctx, cs, func(h access.HeldCommand) { told <- h })
		done <- checked{ps, err}
	}()
	synctest.Wait()
	select {
	case h := <-told:
		if h.Approval != "A" || h.Name != "prod-write" || h.Link == "" || h.Expires.IsZero() {
			t.Errorf("told %+v", h)
		}
	default:
		t.Fatal("nobody was told of the hold")
	}
	return done
}

func TestApproved(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		done := wait(t.Context(), t, r, cmd("a"), cmd("hold"), cmd("b"))
		time.Sleep(30 * time.Second)
		r.answer("A", api.Verdict{Approval: "A", Status: "approved"})
		got := <-done
		if got.err != nil || len(got.permits) != 3 {
			t.Fatal(got)
		}
		if len(r.claims) != 1 || r.claims[0].Command.Text != "hold" || r.claims[0].Command.ID != got.permits[1].Command() || r.claims[0].Agent != "agent" || r.claims[0].State != "sealed" {
			t.Errorf("claims %+v", r.claims)
		}
		denied(t, nil, got.permits[0].Use(), access.CodeNoDecision, "permit-late") // it was allowed half a minute ago
		for _, p := range got.permits[1:] {
			if err := p.Use(); err != nil {
				t.Error(err)
			}
		}
		for _, p := range got.permits {
			p.Done(access.Result{Status: access.StatusOK})
		}
	})
}

func TestHeldWithoutAnybodyToTell(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		holding(r)
		go func() {
			synctest.Wait()
			r.answer("A", api.Verdict{Approval: "A", Status: "approved"})
		}()
		ps, err := r.g.Check(t.Context(), []access.Command{cmd("hold")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ps[0].Done(access.Result{})
	})
}

func TestVerdictsThatDoNotLet(t *testing.T) {
	for _, c := range []struct {
		v                api.Verdict
		code, rule, hint string
	}{
		{api.Verdict{Approval: "A", Status: "denied", Reason: "not on Fridays"}, access.CodeHeldDenied, api.RuleHoldDenied, "the reviewer said: not on Fridays"},
		{api.Verdict{Approval: "A", Status: "denied"}, access.CodeHeldDenied, api.RuleHoldDenied, "ask the reviewer what would be accepted"},
		{api.Verdict{Approval: "A", Status: "expired"}, access.CodeHeldExpired, api.RuleHoldExpired, ""},
		{api.Verdict{Approval: "A", Status: "withdrawn"}, access.CodeCancelled, api.RuleHoldWithdrawn, ""},
		{api.Verdict{Approval: "A", Status: "claimed"}, access.CodeNoDecision, "verdict-unknown", ""},
		{api.Verdict{Approval: "A"}, access.CodeNoDecision, "verdict-unknown", ""},
		{api.Verdict{Approval: "B", Status: "approved"}, access.CodeNoDecision, "verdict-unknown", ""},
		{api.Verdict{Approval: "B", Status: "denied"}, access.CodeNoDecision, "verdict-unknown", ""},
	} {
		t.Run(c.v.Status, func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				done := wait(t.Context(), t, r, cmd("hold"))
				r.answer("A", c.v)
				got := <-done
				d := denied(t, got.permits, got.err, c.code, c.rule)
				if d.Approval != "A" || c.hint != "" && d.Hint != c.hint {
					t.Errorf("%+v", d)
				}
				if len(r.claims) != 0 {
					t.Error("it was claimed")
				}
			})
		})
	}
}

func TestNobodyAnswers(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		start := time.Now()
		done := wait(t.Context(), t, r, cmd("hold"))
		got := <-done
		denied(t, got.permits, got.err, access.CodeHeldExpired, api.RuleHoldExpired)
		if took := time.Since(start); took != time.Minute+holdGrace {
			t.Errorf("it waited %s", took)
		}
		synctest.Wait()
		if r.withdrawn() != 1 {
			t.Errorf("claims %+v", r.claims)
		}
	})
}

func TestCancelWhileHeldWithdraws(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.claim = func(ctx context.Context, req api.ClaimRequest) (access.Decision, error) {
			if len(r.claims) < withdrawTries {
				return access.Decision{}, errors.New("connection refused")
			}
			return access.Decision{}, ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := wait(ctx, t, r, cmd("hold"), cmd("b"))
		cancel()
		got := <-done
		d := denied(t, got.permits, got.err, access.CodeCancelled, "cancelled")
		if d.Approval != "A" || len(r.verdicts) != 0 {
			t.Errorf("%+v, still watched: %v", d, r.verdicts)
		}
		time.Sleep(withdrawTries * withdrawPause)
		if r.withdrawn() != withdrawTries {
			t.Errorf("withdrawn %d times", r.withdrawn())
		}
		ps, err := r.g.Check(t.Context(), cmds(1), nil) // the session goes on
		if err != nil {
			t.Fatal(err)
		}
		ps[0].Done(access.Result{})
	})
}

func TestAWithdrawalThatTheBrokerRefusesIsOver(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.claim = func(context.Context, api.ClaimRequest) (access.Decision, error) {
			return access.Decision{}, api.Because(api.ErrConflict, "", "claimed")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := wait(ctx, t, r, cmd("hold"))
		cancel()
		<-done
		time.Sleep(time.Minute)
		if r.withdrawn() != 1 {
			t.Errorf("withdrawn %d times", r.withdrawn())
		}
	})
}

func TestClaimsThatDoNotLet(t *testing.T) {
	change := func(edit func(*access.Decision)) func(context.Context, api.ClaimRequest) (access.Decision, error) {
		return func(_ context.Context, r api.ClaimRequest) (access.Decision, error) {
			d := yes(r)
			if !r.Withdraw {
				edit(&d)
			}
			return d, nil
		}
	}
	for _, c := range []struct {
		name       string
		claim      func(context.Context, api.ClaimRequest) (access.Decision, error)
		code, rule string
		unused     bool
	}{
		{"policy says no", change(func(d *access.Decision) { d.Outcome, d.Rule, d.Hint = access.Deny, "frozen", "wait" }), access.CodeDenied, "frozen", false},
		{"held again", change(func(d *access.Decision) { d.Outcome = access.Hold }), access.CodeNoDecision, "claim-no-answer", true},
		{"outcome", change(func(d *access.Decision) { d.Outcome = 9 }), access.CodeNoDecision, "claim-no-answer", true},
		{"other command", change(func(d *access.Decision) { d.Command = "C" }), access.CodeNoDecision, "claim-no-answer", true},
		{"other sequence", change(func(d *access.Decision) { d.Seq = 9 }), access.CodeNoDecision, "claim-no-answer", true},
		{"other digest", change(func(d *access.Decision) { d.Digest = "x" }), access.CodeNoDecision, "claim-no-answer", true},
		{"other approval", change(func(d *access.Decision) { d.Approval = "B" }), access.CodeNoDecision, "claim-no-answer", true},
		{"obligation", change(func(d *access.Decision) { d.Obligations = []access.Obligation{{Kind: "x"}} }), access.CodeNoDecision, "obligation-unknown", true},
		{"refused", func(context.Context, api.ClaimRequest) (access.Decision, error) {
			return access.Decision{}, api.Because(api.ErrDenied, "", "another command")
		}, access.CodeNoDecision, "broker-refused", false},
		{"silent", func(ctx context.Context, _ api.ClaimRequest) (access.Decision, error) {
			<-ctx.Done()
			return access.Decision{}, ctx.Err()
		}, access.CodeNoDecision, "claim-no-answer", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				r.claim = c.claim
				done := wait(t.Context(), t, r, cmd("hold"))
				r.answer("A", api.Verdict{Approval: "A", Status: "approved"})
				got := <-done
				denied(t, got.permits, got.err, c.code, c.rule)
				if unused := len(r.outcomes) == 1 && r.outcomes[0].Result.Status == access.StatusUnused; unused != c.unused {
					t.Errorf("outcomes %+v", r.outcomes)
				}
			})
		})
	}
}

func TestALostClaimIsRepeated(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.claim = func(_ context.Context, req api.ClaimRequest) (access.Decision, error) {
			if len(r.claims) == 1 {
				return access.Decision{}, errors.New("connection reset")
			}
			return yes(req), nil
		}
		done := wait(t.Context(), t, r, cmd("hold"))
		r.answer("A", api.Verdict{Approval: "A", Status: "approved"})
		got := <-done
		if got.err != nil || got.permits[0].Use() != nil {
			t.Fatal(got)
		}
		got.permits[0].Done(access.Result{})
	})
}

func TestCancelWhileClaiming(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		ctx, cancel := context.WithCancel(t.Context())
		r.claim = func(ctx context.Context, req api.ClaimRequest) (access.Decision, error) {
			if req.Withdraw {
				return access.Decision{}, nil
			}
			cancel()
			return access.Decision{}, errors.New("lost")
		}
		done := wait(ctx, t, r, cmd("hold"))
		r.answer("A", api.Verdict{Approval: "A", Status: "approved"})
		got := <-done
		denied(t, got.permits, got.err, access.CodeCancelled, "cancelled")
		synctest.Wait()
		if r.withdrawn() != 1 {
			t.Error("it was not withdrawn")
		}
	})
}

func TestAHoldThatNobodyHeardOfIsWithdrawn(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		holding(r)
		r.check = func(_ context.Context, req api.CheckRequest) (api.CheckResponse, error) {
			r.decide(req)
			return api.CheckResponse{}, errors.New("lost")
		}
		ps, err := r.g.Check(t.Context(), []access.Command{cmd("hold")}, nil)
		denied(t, ps, err, access.CodeNoDecision, "no-answer")
		r.mu.Lock()
		r.check = nil
		r.mu.Unlock()
		ps, err = r.g.Check(t.Context(), cmds(1), nil)
		if err != nil {
			t.Fatal(err)
		}
		ps[0].Done(access.Result{})
		synctest.Wait()
		if r.withdrawn() != 1 {
			t.Error("it was not withdrawn")
		}
	})
}
