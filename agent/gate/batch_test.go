package gate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// asker is one session's gate on a shared batcher.
func asker(t *testing.T, b *Batcher, f *fake, i int) *Gate {
	t.Helper()
	g, err := New(Config{Batcher: b, Claims: f, Verdicts: f, Outcomes: f, Session: access.SessionID(fmt.Sprintf("T%d", i)), Target: "app",
		State: "sealed", DigestKey: key})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// allow answers without keeping anything: many sessions share it.
func allow(req api.CheckRequest) (resp api.CheckResponse) {
	for _, a := range req.Asks {
		ans := api.Answer{Session: a.Session}
		for _, c := range a.Commands {
			ans.Decisions = append(ans.Decisions, access.Decision{Outcome: access.Allow, Command: c.ID, Seq: c.Seq, Digest: access.Digest(key, "app", c)})
		}
		resp.Answers = append(resp.Answers, ans)
	}
	return resp
}

func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		var inFlight, most atomic.Int32
		f.check = func(_ context.Context, req api.CheckRequest) (api.CheckResponse, error) {
			most.Store(max(most.Load(), inFlight.Add(1)))
			defer inFlight.Add(-1)
			time.Sleep(time.Millisecond)
			return allow(req), nil
		}
		b := NewBatcher("agent", f)
		start := time.Now()
		if ps, err := asker(t, b, f, 0).Check(t.Context(), cmds(1), nil); err != nil || time.Since(start) != time.Millisecond {
			t.Fatalf("an idle batcher added latency: %v %s", err, time.Since(start))
		} else {
			ps[0].Done(access.Result{})
		}
		done := make(chan error)
		const n = 40
		for i := range n {
			go func() {
				ps, err := asker(t, b, f, i).Check(t.Context(), cmds(4), nil)
				for _, p := range ps {
					p.Done(access.Result{})
				}
				done <- err
			}()
		}
		for range n {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if most.Load() != maxCalls {
			t.Errorf("%d calls in flight, want %d", most.Load(), maxCalls)
		}
		// 1 + two that left at once + 38 sessions of 4 commands, 16 to a call.
		if len(f.asked) != 1+2+3 {
			t.Errorf("%d calls", len(f.asked))
		}
		for _, r := range f.asked {
			commands := 0
			for _, a := range r.Asks {
				commands += len(a.Commands)
			}
			if commands > api.MaxBatch {
				t.Errorf("%d commands in a call", commands)
			}
		}
		b.Close()
	})
}

func TestLargeQuestionsGoApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		release := make(chan struct{})
		f.check = func(_ context.Context, req api.CheckRequest) (api.CheckResponse, error) {
			<-release
			return allow(req), nil
		}
		b := NewBatcher("agent", f)
		large := cmd(strings.Repeat("x", maxCall/3))
		large.Params = []access.Param{{Value: []byte("p")}}
		done := make(chan error)
		for i := range 6 {
			go func() {
				ps, err := asker(t, b, f, i).Check(t.Context(), []access.Command{large}, nil)
				for _, p := range ps {
					p.Done(access.Result{})
				}
				done <- err
			}()
		}
		synctest.Wait()
		close(release)
		for range 6 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if len(f.asked) != 6 {
			t.Errorf("%d calls", len(f.asked))
		}
		b.Close()
	})
}

// One question that makes a call fail must not refuse those that shared it.
func TestABadQuestionHurtsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		var seen sync.Map
		f.check = func(_ context.Context, req api.CheckRequest) (api.CheckResponse, error) {
			time.Sleep(time.Millisecond)
			for _, a := range req.Asks {
				if _, again := seen.LoadOrStore(a.Session, true); again && len(req.Asks) > 1 {
					t.Errorf("a question that failed in company is asked again in company")
				}
				if a.Commands[0].Text == "poison" {
					return api.CheckResponse{}, errors.New("broken")
				}
			}
			return allow(req), nil
		}
		b := NewBatcher("agent", f)
		done := make(chan error)
		for i := range 8 {
			c := cmd("good")
			if i == 5 {
				c = cmd("poison")
			}
			go func() {
				ps, err := asker(t, b, f, i).Check(t.Context(), []access.Command{c}, nil)
				for _, p := range ps {
					p.Done(access.Result{})
				}
				done <- err
			}()
		}
		bad := 0
		for range 8 {
			if err := <-done; err != nil {
				bad++
			}
		}
		if bad != 1 {
			t.Errorf("%d were refused", bad)
		}
		b.Close()
	})
}

// A question that has not left is taken back, and leaves nothing to find out.
func TestAQuestionThatNeverLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.check = func(ctx context.Context, _ api.CheckRequest) (api.CheckResponse, error) {
			<-ctx.Done()
			return api.CheckResponse{}, ctx.Err()
		}
		b := NewBatcher("agent", f)
		busy := make(chan error)
		for i := range maxCalls {
			go func() {
				_, err := asker(t, b, f, i).Check(t.Context(), cmds(1), nil)
				busy <- err
			}()
		}
		synctest.Wait()
		g := asker(t, b, f, 7)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ps, err := g.Check(ctx, cmds(1), nil)
		denied(t, ps, err, access.CodeCancelled, "cancelled")
		if g.pending != nil {
			t.Error("something is pending")
		}
		// The same for one that was sent before, and is queued again: that one is not forgotten.
		g.pending = &question{ask: api.Ask{Session: "T7", Commands: make([]access.Command, 1)}, digests: []string{""}, made: time.Now(), sent: true, done: make(chan result, 1)}
		g.reserved = 1
		_ = f.Reserve(1)
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ps, err = g.Check(ctx, cmds(1), nil)
		denied(t, ps, err, access.CodeCancelled, "cancelled")
		if g.pending == nil {
			t.Error("it was forgotten")
		}
		for range maxCalls {
			<-busy
		}
		b.Close()
	})
}

func TestFullAndClosedBatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.check = func(ctx context.Context, _ api.CheckRequest) (api.CheckResponse, error) {
			<-ctx.Done()
			return api.CheckResponse{}, ctx.Err()
		}
		b := NewBatcher("agent", f)
		waiting := make(chan error, 1)
		for i := range maxCalls + 1 {
			go func() {
				_, err := asker(t, b, f, i).Check(t.Context(), cmds(1), nil)
				waiting <- err
			}()
		}
		synctest.Wait()
		for len(b.queue) < maxQueue {
			b.queue = append(b.queue, &question{done: make(chan result, 1)})
		}
		g := asker(t, b, f, 9)
		ps, err := g.Check(t.Context(), cmds(1), nil)
		denied(t, ps, err, access.CodeBusy, "gate-busy")
		b.Close()
		for range maxCalls + 1 {
			if err := <-waiting; err == nil {
				t.Error("allowed by a closed batcher")
			}
		}
		ps, err = g.Check(t.Context(), cmds(1), nil)
		denied(t, ps, err, access.CodeBusy, "gate-busy")
	})
}

func TestTake(t *testing.T) {
	q := func(commands, bytes int, alone bool) *question {
		return &question{ask: api.Ask{Commands: make([]access.Command, commands)}, bytes: bytes, alone: alone}
	}
	for name, c := range map[string]struct {
		queue []*question
		want  int
	}{
		"all":                 {[]*question{q(1, 1, false), q(2, 1, false), q(61, 1, false)}, 3},
		"too many commands":   {[]*question{q(1, 1, false), q(64, 1, false)}, 1},
		"too many bytes":      {[]*question{q(1, maxCall, false), q(1, 1, false)}, 1},
		"large by itself":     {[]*question{q(1, 2*maxCall, false)}, 1},
		"alone first":         {[]*question{q(1, 1, true), q(1, 1, false)}, 1},
		"alone later":         {[]*question{q(1, 1, false), q(1, 1, true)}, 1},
		"alone and by itself": {[]*question{q(64, 1, true)}, 1},
	} {
		n, b := len(c.queue), &Batcher{queue: c.queue}
		if got := b.take(); len(got) != c.want || len(b.queue) != n-c.want || !got[0].sent {
			t.Errorf("%s: took %d, left %d", name, len(got), len(b.queue))
		}
	}
}
