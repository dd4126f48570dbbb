package journal

import (
	"context"
	"time"
)

// firstPause is the pause after a first failure.
const firstPause = 100 * time.Millisecond

// Pump delivers what waits.
type Pump struct {
	Wake   <-chan struct{}                              // something may wait
	Gather time.Duration                                // between waking and delivering, so that more comes along
	Most   time.Duration                                // the longest pause after failures
	Send   func(context.Context) (more bool, err error) // delivers some
	Failed func(err error, pause time.Duration)         // is told
}

// Run delivers until ctx ends: again at once while there is more, after a pause that grows where it failed.
func (p Pump) Run(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		select {
		case <-p.Wake:
		case <-ctx.Done():
			return
		}
		Pause(ctx, p.Gather)
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, err = p.Send(ctx); err == nil {
				pause = firstPause
				continue
			}
			p.Failed(err, pause)
			Pause(ctx, pause)
			pause, more = min(2*pause, p.Most), true
		}
	}
}

// Last delivers what is left, after Run and whatever ended it, for at most limit; the error is of the first failure.
func (p Pump) Last(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	for {
		if more, err := p.Send(ctx); err != nil || !more {
			return err
		}
	}
}

// Wake fills a channel of capacity 1.
func Wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Pause waits, or until ctx ends.
func Pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
