package session

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

// Status of a session.
type Status string

// Statuses. The zero Status is none of them and reads as not open.
const (
	Open   Status = "open"
	Closed Status = "closed" // in order
	Lost   Status = "lost"   // its agent or connection went away
	Ended  Status = "ended"  // by the broker: Reason says why
)

// Record is what the broker knows of a session. It lives in store.Registry.
type Record struct {
	ID      access.SessionID  `json:"id"`
	Agent   access.AgentName  `json:"agent"`
	Target  access.TargetName `json:"target"`
	Lineage access.Lineage    `json:"lineage"`
	Client  api.Client        `json:"client"`
	// State is the sealed token.State: with the broker's state key it opens the session's digest and data keys.
	State   string    `json:"state"`
	Bundle  string    `json:"bundle"` // address of the policy bundle at open
	Opened  time.Time `json:"opened"`
	Expires time.Time `json:"expires"`
	Status  Status    `json:"status"`
	Reason  string    `json:"reason,omitempty"`
	Ended   time.Time `json:"ended,omitzero"`  // by the broker
	Closed  time.Time `json:"closed,omitzero"` // by the agent: its chain's last entry is stored
	LastSeq uint64    `json:"last_seq,omitempty"`
}

// Key is where a session's record lives: PK "sessions#YYYY-MM-DD" (the day in the id, UTC), SK the id.
func Key(id access.SessionID) (store.Key, error) {
	t, err := Time(string(id))
	if err != nil {
		return store.Key{}, fmt.Errorf("session: %w", err)
	}
	return store.Key{PK: partition(t), SK: string(id)}, nil
}

func partition(day time.Time) string { return "sessions#" + day.UTC().Format(time.DateOnly) }

// Put is the write that stores a record under a condition: the zero Cond makes a new one.
func Put(r Record, cond store.Cond) (store.Write, error) {
	k, err := Key(r.ID)
	if err != nil {
		return store.Write{}, err
	}
	body, err := json.Marshal(r)
	if err != nil {
		return store.Write{}, fmt.Errorf("encode session %s: %w", r.ID, err)
	}
	return store.Write{Table: store.Registry, Item: store.Item{Key: k, Body: body}, Cond: cond}, nil
}

// Get reads a record, strongly; store.ErrNotFound where there is none.
func Get(ctx context.Context, items store.Items, id access.SessionID) (Record, store.Item, error) {
	k, err := Key(id)
	if err != nil {
		return Record{}, store.Item{}, err
	}
	it, err := items.Get(ctx, store.Registry, k, true)
	if err != nil {
		return Record{}, store.Item{}, fmt.Errorf("session %s: %w", id, err)
	}
	r, err := decode(it)
	return r, it, err
}

func decode(it store.Item) (Record, error) {
	var r Record
	d := json.NewDecoder(bytes.NewReader(it.Body))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Record{}, fmt.Errorf("decode session %s: %w", it.SK, err)
	}
	if string(r.ID) != it.SK {
		return Record{}, fmt.Errorf("decode session %s: the record says %q", it.SK, clip(string(r.ID)))
	}
	return r, nil
}

// List returns the newest sessions first: at most limit (to 1000) of the last days days, now's included. It reads no more than that
// of a day, however many there are.
func List(ctx context.Context, items store.Items, now time.Time, days, limit int) ([]Record, error) {
	var all []Record
	for d := 0; d < days && len(all) < limit; d++ {
		of, err := store.Newest(ctx, items, store.Registry, partition(now.UTC().AddDate(0, 0, -d)), now.Add(2*Skew), limit-len(all))
		if err != nil {
			return nil, fmt.Errorf("list sessions: %w", err)
		}
		for _, it := range of {
			r, err := decode(it)
			if err != nil {
				return nil, fmt.Errorf("list sessions: %w", err)
			}
			all = append(all, r)
		}
	}
	return all, nil
}
