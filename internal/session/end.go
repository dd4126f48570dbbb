package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/store"
)

// tries bounds the compare-and-swap loops below: only a close and an end compete for one record.
const tries = 8

// Closing is what an agent says at the end of a session.
type Closing struct {
	Status  Status // Closed or Lost; a session that the broker ended stays Ended
	Reason  string
	LastSeq uint64
	Now     time.Time
}

// Close stores the session's last entry and marks its record, both or neither. A session that its agent has closed before
// stays as it is and the answer is nil: a lost answer may be asked for again.
func Close(ctx context.Context, items store.Items, id access.SessionID, c Closing, entry store.Write) error {
	return change(ctx, items, id, func(r *Record) *store.Write {
		if !r.Closed.IsZero() {
			return nil
		}
		r.Closed, r.LastSeq = c.Now, c.LastSeq
		if r.Status == Open {
			r.Status, r.Reason = c.Status, c.Reason
		}
		return &entry
	})
}

// Mark says that the broker ended a session. Marks lie beside each other per agent and day, so that one query answers for
// all sessions of an agent.
type Mark struct {
	Session access.SessionID `json:"session"`
	Reason  string           `json:"reason"` // for people
	Time    time.Time        `json:"time"`
}

func markPartition(agent access.AgentName, day time.Time) string {
	return "ended#" + string(agent) + "#" + day.UTC().Format(time.DateOnly)
}

// End ends an open session for good: its record says so, and a Mark tells functions/changes. Ending one that is over already
// changes nothing.
func End(ctx context.Context, items store.Items, id access.SessionID, reason string, now time.Time) error {
	made, err := Time(string(id))
	if err != nil {
		return fmt.Errorf("end session: %w", err)
	}
	var encode error
	err = change(ctx, items, id, func(r *Record) *store.Write {
		if r.Status != Open {
			return nil
		}
		r.Status, r.Reason, r.Ended = Ended, reason, now
		body, err := json.Marshal(Mark{Session: id, Reason: reason, Time: now})
		encode = err
		return &store.Write{Table: store.Registry, Item: store.Item{
			Key: store.Key{PK: markPartition(r.Agent, made), SK: string(id)}, Expires: r.Expires.Truncate(time.Second), Body: body}}
	})
	return errors.Join(err, encode)
}

// change is the compare-and-swap loop: edit answers nil where nothing is to change, else the write that goes along.
func change(ctx context.Context, items store.Items, id access.SessionID, edit func(*Record) *store.Write) error {
	for range tries {
		r, it, err := Get(ctx, items, id)
		if err != nil {
			return err
		}
		along := edit(&r)
		if along == nil {
			return nil
		}
		w, err := Put(r, store.Cond{Version: it.Version})
		if err != nil {
			return err
		}
		err = items.Transact(ctx, w, *along)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return fmt.Errorf("change session %s: %w", id, err)
		}
		return nil
	}
	return fmt.Errorf("change session %s: somebody else is changing it: %w", id, store.ErrConflict)
}

// maxMarks is how many marks of one agent and day Marks reads: past it the answer is an error, and an agent without an
// answer ends its sessions.
const maxMarks = 10_000

// Marks returns the broker's ends among an agent's sessions, by id. It asks once per day that the ids carry, strongly.
func Marks(ctx context.Context, items store.Items, agent access.AgentName, ids []access.SessionID) (map[access.SessionID]Mark, error) {
	marks := map[access.SessionID]Mark{}
	asked := map[string]bool{}
	for _, id := range ids {
		made, err := Time(string(id))
		if err != nil {
			return nil, fmt.Errorf("session marks: %w", err)
		}
		pk := markPartition(agent, made)
		if asked[pk] {
			continue
		}
		asked[pk] = true
		n := 0
		for cursor := ""; ; {
			p, err := items.Query(ctx, store.Registry, pk, "", cursor, 1000)
			if err != nil {
				return nil, fmt.Errorf("session marks of %s: %w", agent, err)
			}
			for _, it := range p.Items {
				var m Mark
				if err := json.Unmarshal(it.Body, &m); err != nil {
					return nil, fmt.Errorf("session mark %s: %w", it.SK, err)
				}
				marks[access.SessionID(it.SK)] = m
			}
			if n += len(p.Items); n > maxMarks {
				return nil, fmt.Errorf("session marks of %s: more than %d in %s", agent, maxMarks, pk)
			}
			if cursor = p.Cursor; cursor == "" {
				break
			}
		}
	}
	return marks, nil
}
