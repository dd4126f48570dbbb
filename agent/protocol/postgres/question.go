package postgres

import (
	"context"
	"errors"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/internal/access"
)

// check asks the gate, and meanwhile watches for the client to cancel, to terminate or to go. It returns a permit for each command
// before the one that is denied. err is for what ends the session.
func (f *front) check(ctx context.Context, cmds []access.Command) ([]*gate.Permit, *access.Denied, error) {
	asking, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	f.asked(abort)
	defer f.asked(nil)
	type answer struct {
		permits []*gate.Permit
		err     error
	}
	done, held := make(chan answer, 1), make(chan struct{}, len(cmds))
	go func() {
		permits, err := f.s.Gate.Check(asking, cmds, func(h access.HeldCommand) {
			select {
			case held <- struct{}{}:
			default:
			}
			f.notice(h)
		})
		done <- answer{permits, err}
	}()
	waiting := false
	for {
		full := f.in.full
		if f.in.done {
			full = nil
		}
		if waiting && (f.in.done || f.in.terminates()) {
			abort(errClientGone) // what was sent before that is not worth a reviewer's time
		}
		select {
		case a := <-done:
			return f.answered(asking, cmds, a.permits, a.err)
		case <-held:
			waiting = true
		case chunk, ok := <-full:
			f.in.arrived(chunk, ok)
		}
	}
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
