package approve

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
)

// watch is the state that live pages show. However many browsers look, the stores are asked once a watchLife, and a minute of
// evidence that nothing can be added to any more is read once.
type watch struct {
	mu      sync.Mutex
	last    *state
	minutes map[time.Time]refused // settled ones
	waiting approval.Waiting
}

const (
	watchLife    = time.Second
	denialWindow = 15 * time.Minute
	// settled is when a minute is over for good: a command is stored within session.Skew of its id's time, by the broker's clock.
	settled     = minute + 2*session.Skew
	maxScan     = 2000 // items of one minute
	keepDenials = 100  // of one minute
)

// state is what everybody together may see, newest first. It is not changed once it is made.
type state struct {
	at       time.Time
	trees    []api.ActorView
	pending  []approval.Record
	sessions []session.Record
	denials  []denial
	partial  bool // there is more than the bounds let be read
}

// denial is one refused command.
type denial struct {
	Time                      time.Time
	Chain, Target, Rule, Text string
	Session                   access.SessionID
	lineage                   access.Lineage
}

// refused are the denials of one minute.
type refused struct {
	denials []denial
	partial bool
}

func (w *watch) look(ctx context.Context, p *pages) (*state, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := p.Now()
	if w.last != nil && now.Sub(w.last.at).Abs() < watchLife {
		return w.last, nil
	}
	s := &state{at: now}
	var err error
	if s.sessions, err = session.List(ctx, p.Items, now, listDays, maxSessions); err != nil {
		return nil, err
	}
	var more bool
	if s.trees, more, err = p.trees(ctx, scope{all: true}, s.sessions); err != nil {
		return nil, err
	}
	if s.pending, err = w.waiting.List(ctx, p.Items, now); err != nil {
		return nil, err
	}
	if err := w.refusals(ctx, p, s); err != nil {
		return nil, err
	}
	s.partial = s.partial || more || len(s.sessions) == maxSessions
	w.last = s
	return s, nil
}

// refusals reads the last minutes, newest first.
func (w *watch) refusals(ctx context.Context, p *pages, s *state) error {
	kept := map[time.Time]refused{}
	first := s.at.Add(session.Skew).UTC().Truncate(minute) // ids carry the agent's clock
	for m := first; s.at.Sub(m) < denialWindow; m = m.Add(-minute) {
		r, ok := w.minutes[m]
		if !ok {
			var err error
			if r, err = p.refusedIn(ctx, m); err != nil {
				return err
			}
		}
		if s.at.Sub(m) > settled {
			kept[m] = r
		}
		s.denials, s.partial = append(s.denials, r.denials...), s.partial || r.partial
	}
	w.minutes = kept
	slices.SortStableFunc(s.denials, func(a, b denial) int { return b.Time.Compare(a.Time) })
	return nil
}

func (p *pages) refusedIn(ctx context.Context, m time.Time) (refused, error) {
	var r refused
	scanned := 0
	for cursor := ""; ; {
		page, err := p.Items.Query(ctx, store.Audit, audit.MinuteOf(m), "", cursor, evidencePage)
		if err != nil {
			return refused{}, fmt.Errorf("recent denials: %w", err)
		}
		for _, it := range page.Items {
			if !strings.HasSuffix(it.SK, "#c") {
				continue
			}
			entries, err := audit.Decode(it)
			if err != nil {
				return refused{}, err
			}
			for _, e := range entries {
				if e.Decision != nil && e.Decision.Outcome == access.Deny && e.Command != nil && e.Lineage != nil {
					r.denials = append(r.denials, denial{e.Time, e.Lineage.Chain(), string(e.Target), e.Decision.Rule, glance(e.Command.Normalised), e.Session, *e.Lineage})
				}
			}
		}
		scanned += len(page.Items)
		if cursor = page.Cursor; cursor == "" {
			break
		}
		if scanned >= maxScan {
			r.partial = true
			break
		}
	}
	slices.SortStableFunc(r.denials, func(a, b denial) int { return b.Time.Compare(a.Time) })
	if len(r.denials) > keepDenials {
		r.denials, r.partial = slices.Clip(r.denials[:keepDenials]), true
	}
	return r, nil
}
