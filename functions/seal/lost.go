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
	// lostDays and lostBatch bound one sweep: no session lives longer than a day, and the next sweep takes what is left.
	lostDays  = 3
	lostBatch = 1000
)

// CloseLost ends, on the broker's word, sessions that expired and whose agent never came back to close them: their chain gets an
// end with the last command that is in the evidence. It returns how many.
func (s *Sealer) CloseLost(ctx context.Context) (int, error) {
	now := s.Now().UTC()
	recs, err := session.List(ctx, s.Items, now, lostDays, lostBatch)
	if err != nil {
		return 0, fmt.Errorf("close lost sessions: %w", err)
	}
	n := 0
	for _, r := range recs {
		if !r.Closed.IsZero() || now.Before(r.Expires.Add(lostGrace)) {
			continue
		}
		if err := s.closeLost(ctx, r, now); err != nil {
			return n, fmt.Errorf("close lost session %s: %w", r.ID, err)
		}
		n++
	}
	return n, nil
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
