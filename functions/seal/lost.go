package seal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
)

const (
	// lostGrace is how long after a session's expiry its agent may still say how it ended.
	lostGrace = 10 * time.Minute
	// lostDays, lostBatch and lostLimit bound one sweep: no session lives longer than a day, and the next sweep goes on where this one ended.
	// To find the end of one chain takes a query for each minute of its life, and sealing must not wait for them.
	lostDays  = 3
	lostBatch = 1000
	lostLimit = 15 * time.Second
)

// CloseLost ends, on the broker's word, sessions that expired and whose agent never came back to close them: their chain gets an
// end with the last command that is in the evidence. It returns how many. One that cannot be closed does not keep the others.
func (s *Sealer) CloseLost(ctx context.Context) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sweep, cancel := context.WithTimeout(ctx, lostLimit)
	defer cancel()
	now := s.Now().UTC()
	recs, next, err := session.Walk(sweep, s.Items, now, lostDays, lostBatch, s.at)
	if err != nil {
		s.at = session.Position{}
		return 0, fmt.Errorf("close lost sessions: %w", err)
	}
	var errs []error
	for _, r := range recs {
		if !r.Closed.IsZero() || now.Before(r.Expires.Add(lostGrace)) {
			continue
		}
		err := s.closeLost(sweep, r, now)
		if err != nil && sweep.Err() != nil {
			return n, errors.Join(append(errs, ctx.Err())...) // out of time: the next sweep begins at the same place, and finds these closed
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("close lost session %s: %w", r.ID, err))
			continue
		}
		n++
	}
	s.at = next
	return n, errors.Join(errs...)
}

func (s *Sealer) closeLost(ctx context.Context, r session.Record, now time.Time) error {
	seq, link, err := s.lastOf(ctx, r)
	if err != nil {
		return err
	}
	id, err := ulid.New(ulid.Timestamp(now), ulid.DefaultEntropy())
	if err != nil {
		return err
	}
	entry, err := audit.Put(audit.Entry{V: 1, Kind: audit.KindClose, ID: id.String(), Time: now, Agent: r.Agent, Session: r.ID, Seq: seq, Prev: link,
		Target: r.Target, Lineage: &r.Lineage, Note: map[string]string{"reason": "lost: its agent did not come back"}})
	if err != nil {
		return err
	}
	err = session.Close(ctx, s.Items, r.ID, session.Closing{Status: session.Lost, Reason: "its agent did not come back", LastSeq: seq, Now: now}, entry)
	if errors.Is(err, store.ErrConflict) {
		return nil // its agent came back after all, or another sweep was faster
	}
	return err
}

// lastOf walks the minutes in which the session could ask, and finds the end of its chain.
func (s *Sealer) lastOf(ctx context.Context, r session.Record) (seq uint64, link string, err error) {
	link = audit.FirstLink(r.ID)
	for t := r.Opened.Add(-session.Skew); !t.After(r.Expires.Add(session.Skew + time.Minute)); t = t.Add(time.Minute) {
		for cursor := ""; ; {
			page, err := s.Items.Query(ctx, store.Audit, audit.MinuteOf(t), string(r.ID)+"#", cursor, 1000)
			if err != nil {
				return 0, "", err
			}
			for _, it := range page.Items {
				entries, err := audit.Decode(it)
				if err != nil {
					return 0, "", err
				}
				for _, e := range entries {
					if e.Kind == audit.KindCommand && e.Command != nil && e.Seq > seq {
						seq, link = e.Seq, audit.Link(e.Prev, access.CommandID(e.ID), e.Seq, e.Command.Digest)
					}
				}
			}
			if cursor = page.Cursor; cursor == "" {
				break
			}
		}
	}
	return seq, link, nil
}
