package postgres

import (
	"context"
	"errors"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/internal/access"
)

// check asks the gate. While a command is held it watches for the client to terminate or to go; a cancel ends the question in any case. It returns a permit for each command
// before the one that is denied. err is for what ends the session.
func (f *front) check(ctx context.Context, cmds []access.Command) ([]*gate.Permit, *access.Denied, error) {
	asking, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	f.asked(abort)
	defer f.asked(nil)
	var w *watch
	permits, err := f.s.Gate.Check(asking, cmds, func(h access.HeldCommand) {
		if w == nil {
			w = f.watch(abort)
		}
		f.notice(h)
	})
	if w != nil {
		w.end()
	}
	return f.answered(asking, cmds, permits, err)
}

// watch takes what the client sends while a command of its is held: only a person's time is worth a goroutine of its own. Until end returns
// it has the inbox.
type watch struct{ stop, done chan struct{} }

func (f *front) watch(abort context.CancelCauseFunc) *watch {
	w := &watch{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for {
			full := f.in.full
			if f.in.done {
				full = nil
			}
			if f.in.done || f.in.terminates() {
				abort(errClientGone) // what was sent before that is not worth a reviewer's time
			}
			select {
			case <-w.stop:
				return
			case chunk, ok := <-full:
				f.in.arrived(chunk, ok)
			}
		}
	}()
	return w
}

func (w *watch) end() {
	close(w.stop)
	<-w.done
}

// asked makes the open question known to cancel.
func (l *link) asked(abort context.CancelCauseFunc) {
	l.askMu.Lock()
	defer l.askMu.Unlock()
	l.abort = abort
}

func (f *front) notice(h access.HeldCommand) {
	if err := f.out.send(heldNotice(h).append(nil)); err != nil {
		f.s.Log.Debug("client not told of a hold", "session", f.s.ID, "error", err)
	}
}

// answered judges what the gate said. Anything but one permit per command, or a denial that fits, is no decision.
func (f *front) answered(asking context.Context, cmds []access.Command, permits []*gate.Permit, err error) ([]*gate.Permit, *access.Denied, error) {
	cause := context.Cause(asking)
	if err == nil && cause == nil && len(permits) == len(cmds) {
		return permits, nil, nil
	}
	if cause != nil && !errors.Is(cause, errCancelled) {
		unused(permits)
		return nil, nil, cause
	}
	if err == nil && cause == nil {
		err = errOutOfStep
	}
	d := *deniedBy(err)
	if cause != nil {
		d.Code, d.Rule, d.Retryable, d.Hint = access.CodeCancelled, "cancelled", true, "send the command again"
		unused(permits)
		permits, d.Index = nil, 0
	}
	if d.Index < 0 || d.Index >= len(cmds) || d.Index > len(permits) {
		unused(permits)
		permits, d.Index = nil, 0
	}
	unused(permits[d.Index:])
	return permits[:d.Index], &d, nil
}

func unused(permits []*gate.Permit) {
	for _, p := range permits {
		if p != nil {
			p.Done(access.Result{Status: access.StatusUnused})
		}
	}
}

// use spends a permit right before its command's first byte. One that became late while a later command of the same question was held is
// asked for again, once.
func (f *front) use(ctx context.Context, p *gate.Permit, c access.Command) (*gate.Permit, *access.Denied, error) {
	err := p.Use()
	if err == nil {
		return p, nil, nil
	}
	unused([]*gate.Permit{p})
	d := deniedBy(err)
	if d.Rule != permitLate {
		return nil, d, nil
	}
	permits, d, err := f.check(ctx, []access.Command{c})
	if d != nil || err != nil {
		return nil, d, err
	}
	if err := permits[0].Use(); err != nil {
		unused(permits)
		return nil, deniedBy(err), nil
	}
	return permits[0], nil, nil
}

// barrier waits for a cancel that is on its way, so that it cannot hit what comes next.
func (l *link) barrier() {
	l.flight.Lock()
	defer l.flight.Unlock()
}
