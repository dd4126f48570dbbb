package gate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// gated makes the broker wait for leave before each answer.
func gated(r *rig) (leave chan struct{}) {
	leave = make(chan struct{})
	r.check = func(ctx context.Context, req api.CheckRequest) (api.CheckResponse, error) {
		select {
		case <-leave:
			return r.decide(req), nil
		case <-ctx.Done():
			return api.CheckResponse{}, ctx.Err()
		}
	}
	return leave
}

// start asks in a goroutine of its own, and returns once it waits for something.
func start(ctx context.Context, r *rig, cs ...access.Command) <-chan checked {
	done := make(chan checked, 1)
	go func() {
		ps, err := r.g.Check(ctx, cs, nil)
		done <- checked{ps, err}
	}()
	synctest.Wait()
	return done
}

func (c checked) good(t *testing.T, want int) {
	t.Helper()
	if c.err != nil || len(c.permits) != want {
		t.Fatalf("%d permits, %v", len(c.permits), c.err)
	}
	c.used(t)
}

func (c checked) used(t *testing.T) {
	t.Helper()
	for _, p := range c.permits {
		if err := p.Use(); err != nil {
			t.Error(err)
		}
		p.Done(access.Result{Status: access.StatusOK})
	}
}

func texts(req api.CheckRequest) (all []string) {
	for _, c := range req.Asks[0].Commands {
		all = append(all, c.Text)
	}
	return all
}

func TestAHeldCommandBlocksNobody(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		first := wait(t.Context(), t, r, cmd("hold"), cmd("after it"))
		for range 3 {
			(<-start(t.Context(), r, cmd("a"), cmd("b"))).good(t, 2)
		}
		r.answer("A", api.Verdict{Approval: "A", Status: "approved"})
		(<-first).good(t, 2)
		if r.g.seq != 8 {
			t.Errorf("%d commands are in the chain", r.g.seq)
		}
	})
}

func TestSeveralAreHeldAtOnce(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.rule = func(c access.Command) access.Decision {
			return access.Decision{Outcome: access.Hold, HoldName: "h", Approval: access.ApprovalID(c.Text), Expires: time.Now().Add(time.Minute)}
		}
		a, b, c := start(t.Context(), r, cmd("A")), start(t.Context(), r, cmd("B")), start(t.Context(), r, cmd("C"))
		r.answer("B", api.Verdict{Approval: "B", Status: "approved"})
		(<-b).good(t, 1)
		r.answer("A", api.Verdict{Approval: "A", Status: "denied"})
		got := <-a
		if d := denied(t, got.permits, got.err, access.CodeHeldDenied, api.RuleHoldDenied); d.Command == "" || d.Approval != "A" {
			t.Errorf("%+v", d)
		}
		r.g.Close(t.Context()) // gives up what is held
		got = <-c
		denied(t, got.permits, got.err, access.CodeNoDecision, "session-closed")
		if r.withdrawn() != 1 {
			t.Errorf("claims %+v", r.claims)
		}
	})
}

func TestThoseWhoWaitGoTogether(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		leave := gated(r)
		var all []<-chan checked
		for i := range 5 {
			all = append(all, start(t.Context(), r, cmd(fmt.Sprint(i)), cmd("and")))
		}
		for range 2 {
			leave <- struct{}{}
			synctest.Wait()
		}
		for _, c := range all {
			(<-c).good(t, 2)
		}
		if len(r.asked) != 2 || len(texts(r.asked[0])) != 2 || len(texts(r.asked[1])) != 8 {
			t.Errorf("%d questions", len(r.asked))
		}
	})
}

func TestADenialAmongThoseWhoGoTogether(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.rule = func(c access.Command) access.Decision {
			switch c.Text {
			case "no":
				return access.Decision{Outcome: access.Deny, Rule: "policy"}
			case "strange":
				return oblige(access.Obligation{Kind: "dance"})
			}
			return access.Decision{Outcome: access.Allow}
		}
		leave := gated(r)
		first := start(t.Context(), r, cmd("0"))
		odd := start(t.Context(), r, cmd("strange"), cmd("unused"))
		no := start(t.Context(), r, cmd("1"), cmd("no"), cmd("never"))
		after := start(t.Context(), r, cmd("2"))
		later := start(t.Context(), r, cmd("3"))
		for range 3 {
			leave <- struct{}{}
			synctest.Wait()
		}
		(<-first).good(t, 1)
		got := <-odd
		denied(t, got.permits, got.err, access.CodeNoDecision, "obligation-unknown")
		got = <-no
		var d *access.Denied
		if !errors.As(got.err, &d) || d.Rule != "policy" || d.Index != 1 || len(got.permits) != 1 {
			t.Errorf("%+v", got)
		}
		got.used(t)
		(<-after).good(t, 1)
		(<-later).good(t, 1)
		if len(r.asked) != 3 || len(texts(r.asked[2])) != 2 {
			t.Errorf("questions: %d", len(r.asked))
		}
		if r.g.seq != 7 { // all but "never"
			t.Errorf("%d commands are in the chain", r.g.seq)
		}
	})
}

func TestAQuestionThatIsRefusedForTheSakeOfOne(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		leave := gated(r)
		first := start(t.Context(), r, cmd("0"))
		inner := r.check
		r.mu.Lock()
		r.check = func(ctx context.Context, req api.CheckRequest) (api.CheckResponse, error) {
			for _, text := range texts(req) {
				if text == "bad" {
					return api.CheckResponse{}, api.Because(api.ErrBadRequest, "write it otherwise", "bad")
				}
			}
			return inner(ctx, req)
		}
		r.mu.Unlock()
		a, bad, b := start(t.Context(), r, cmd("a")), start(t.Context(), r, cmd("bad")), start(t.Context(), r, cmd("b"))
		for range 3 {
			leave <- struct{}{}
			synctest.Wait()
		}
		(<-first).good(t, 1)
		(<-a).good(t, 1)
		(<-b).good(t, 1)
		got := <-bad
		denied(t, got.permits, got.err, access.CodeNoDecision, "broker-refused")
	})
}

func TestNoAnswerForThoseWhoGoTogether(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		leave := gated(r)
		first := start(t.Context(), r, cmd("0"))
		a, b := start(t.Context(), r, cmd("a")), start(t.Context(), r, cmd("b"))
		leave <- struct{}{}
		(<-first).good(t, 1)
		for _, c := range []<-chan checked{a, b} {
			got := <-c
			denied(t, got.permits, got.err, access.CodeNoDecision, "no-answer")
		}
		r.mu.Lock()
		r.check = nil
		r.mu.Unlock()
		(<-start(t.Context(), r, cmd("c"))).good(t, 1)
	})
}

func TestAFullSpoolForThoseWhoGoTogether(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		leave := gated(r)
		first := start(t.Context(), r, cmd("0"))
		r.mu.Lock()
		r.full = true
		r.mu.Unlock()
		a, b := start(t.Context(), r, cmd("a")), start(t.Context(), r, cmd("b"))
		leave <- struct{}{}
		(<-first).good(t, 1)
		for _, c := range []<-chan checked{a, b} {
			got := <-c
			denied(t, got.permits, got.err, access.CodeBusy, "spool-full")
		}
	})
}

func TestGivingUpInTheLine(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		leave := gated(r)
		first := start(t.Context(), r, cmd("0"))
		ctx, cancel := context.WithCancel(t.Context())
		gone := start(ctx, r, cmd("gone"))
		cancel()
		got := <-gone
		denied(t, got.permits, got.err, access.CodeCancelled, "cancelled")
		stays := start(t.Context(), r, cmd("stays"))
		for range 2 {
			leave <- struct{}{}
			synctest.Wait()
		}
		(<-first).good(t, 1)
		(<-stays).good(t, 1)
	})
}

// Who gives up while its commands are asked for together with others' leaves no permit behind, and no hold.
func TestGivingUpWhileAskedForTogether(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		holding(r)
		leave := gated(r)
		first := start(t.Context(), r, cmd("0"))
		ctx, cancel := context.WithCancel(t.Context())
		stays, gone, never := start(t.Context(), r, cmd("stays")), start(ctx, r, cmd("a"), cmd("hold")), start(ctx, r, cmd("never stored"))
		leave <- struct{}{}
		synctest.Wait()
		cancel()
		for _, c := range []<-chan checked{gone, never} {
			got := <-c
			denied(t, got.permits, got.err, access.CodeCancelled, "cancelled")
		}
		leave <- struct{}{}
		(<-first).good(t, 1)
		(<-stays).good(t, 1)
		synctest.Wait()
		if r.withdrawn() != 1 || len(r.outcomes) != 3 {
			t.Errorf("%d withdrawals, outcomes %+v", r.withdrawn(), r.outcomes)
		}
	})
}

func TestAllGiveUpWhileAskedForTogether(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		leave := gated(r)
		first := start(t.Context(), r, cmd("0"))
		ctx, cancel := context.WithCancel(t.Context())
		a, b := start(ctx, r, cmd("a")), start(ctx, r, cmd("b"))
		leave <- struct{}{}
		(<-first).good(t, 1)
		synctest.Wait()
		began := time.Now()
		cancel()
		<-a
		<-b
		synctest.Wait()
		if len(r.g.turn) != 0 || time.Since(began) != 0 {
			t.Error("the question goes on for nobody")
		}
		go func() { leave <- struct{}{} }() // it had left: the next one takes its answer
		r.mu.Lock()
		r.check = nil
		r.mu.Unlock()
		(<-start(t.Context(), r, cmd("c"))).good(t, 1)
	})
}

// Who gets the turn when its reply is there already only gives it back.
func TestALateTurn(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		w := &waiting{done: make(chan reply, 1)}
		w.done <- reply{permits: []*Permit{{}}}
		r.g.turn <- struct{}{}
		if got, ok := r.g.lead(t.Context(), w); !ok || len(got.permits) != 1 || len(r.g.turn) != 0 {
			t.Errorf("%+v, %v", got, ok)
		}
	})
}

// A reply that came together with the end of its asker's context stands: nothing of it is lost.
func TestAReplyThatCameJustBefore(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		w := &waiting{done: make(chan reply, 1)}
		w.done <- reply{permits: []*Permit{{}}}
		r.g.line.leave(w)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if got := r.g.left(ctx, w); len(got.permits) != 1 || got.denied != nil {
			t.Errorf("%+v", got)
		}
		got := r.g.left(ctx, w)
		denied(t, got.permits, got.denied, access.CodeCancelled, "cancelled")
	})
}

func TestTheLineTakesWhatFits(t *testing.T) {
	var l line
	big := cmd(string(make([]byte, maxCall/4)))
	one, many, large, apart := &waiting{cmds: cmds(1)}, &waiting{cmds: cmds(api.MaxBatch)}, &waiting{cmds: []access.Command{big, big}}, &waiting{cmds: cmds(1), alone: true}
	two := &waiting{cmds: cmds(2)}
	for _, w := range []*waiting{one, apart, two, large, many} {
		l.join(w)
	}
	for _, c := range []struct {
		w    *waiting
		want int
	}{{two, 2}, {two, 0}, {one, 0}, {many, 1}, {apart, 1}, {large, 1}} {
		if got := l.take(c.w); len(got) != c.want || c.want > 0 && got[0] != c.w {
			t.Errorf("took %d, want %d", len(got), c.want)
		}
	}
}

// Many at once, some of them held, denied or gone: the broker, which compares every link, sees one chain.
func TestManyAskersKeepOneChain(t *testing.T) {
	for seed := range 20 {
		run(t, func(t *testing.T, r *rig) {
			r.rule = func(c access.Command) access.Decision {
				switch c.Text[0] {
				case 'h':
					return access.Decision{Outcome: access.Hold, HoldName: "h", Approval: access.ApprovalID(c.Text), Expires: time.Now().Add(time.Second)}
				case 'd':
					return access.Decision{Outcome: access.Deny, Rule: "policy"}
				}
				return access.Decision{Outcome: access.Allow}
			}
			r.check = func(_ context.Context, req api.CheckRequest) (api.CheckResponse, error) {
				time.Sleep(time.Millisecond)
				return r.decide(req), nil
			}
			var wg sync.WaitGroup
			for i := range 40 {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+(i*7+seed)%50)*time.Millisecond)
					defer cancel()
					var all []access.Command
					for n := range 1 + (i+seed)%4 {
						all = append(all, cmd(fmt.Sprintf("%c%d-%d", "aaadah"[(i+n*seed)%6], i, n)))
					}
					ps, err := r.g.Check(ctx, all, nil)
					if err == nil && len(ps) != len(all) {
						t.Errorf("%d permits for %d commands", len(ps), len(all))
					}
					checked{permits: ps}.used(t)
				})
			}
			wg.Wait()
		})
	}
}
