package approval

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/store"
)

// MaxListed bounds what List returns: a page that a person can still read.
const MaxListed = 1000

// Key is where a record lives: PK "day#YYYY-MM-DD" (the day in the id, UTC), SK the id.
func Key(id access.ApprovalID) (store.Key, error) {
	u, err := ulid.ParseStrict(string(id))
	if err != nil {
		return store.Key{}, fmt.Errorf("approval id: %w", err)
	}
	return store.Key{PK: partition(ulid.Time(u.Time())), SK: string(id)}, nil
}

func partition(day time.Time) string { return "day#" + day.UTC().Format(time.DateOnly) }

// Put is the write that stores a record under a condition: the zero Cond makes a new one. The item itself never expires, so that
// a late reader finds out what happened.
func Put(r Record, cond store.Cond) (store.Write, error) {
	k, err := Key(r.ID)
	if err != nil {
		return store.Write{}, err
	}
	body, err := json.Marshal(r)
	if err != nil {
		return store.Write{}, fmt.Errorf("encode approval %s: %w", r.ID, err)
	}
	if len(body) > store.MaxItem {
		return store.Write{}, fmt.Errorf("approval %s: %w", r.ID, store.ErrTooLarge)
	}
	return store.Write{Table: store.Approvals, Item: store.Item{Key: k, Body: body}, Cond: cond}, nil
}

// Get reads a record, strongly; store.ErrNotFound where there is none. The item's Version goes into the next Put's Cond.
func Get(ctx context.Context, items store.Items, id access.ApprovalID) (Record, store.Item, error) {
	k, err := Key(id)
	if err != nil {
		return Record{}, store.Item{}, fmt.Errorf("%w: %w", store.ErrNotFound, err)
	}
	it, err := items.Get(ctx, store.Approvals, k, true)
	if err != nil {
		return Record{}, store.Item{}, fmt.Errorf("approval %s: %w", id, err)
	}
	r, err := decode(it)
	return r, it, err
}

func decode(it store.Item) (Record, error) {
	var r Record
	d := json.NewDecoder(bytes.NewReader(it.Body))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Record{}, fmt.Errorf("decode approval %s: %w", it.SK, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Record{}, fmt.Errorf("decode approval %s: more than one value", it.SK)
	}
	if string(r.ID) != it.SK {
		return Record{}, fmt.Errorf("decode approval %s: it says it is %q", it.SK, r.ID)
	}
	return r, nil
}

// List returns the records of the last days (1: today only), newest first, at most MaxListed. It reads no more than that of a day,
// however many there are.
func List(ctx context.Context, items store.Items, now time.Time, days int) ([]Record, error) {
	var out []Record
	for day := 0; day < days && len(out) < MaxListed; day++ {
		pk := partition(now.AddDate(0, 0, -day))
		of, err := store.Newest(ctx, items, store.Approvals, pk, now.Add(time.Hour), MaxListed-len(out))
		if err != nil {
			return nil, fmt.Errorf("list approvals of %s: %w", pk, err)
		}
		for _, it := range of {
			r, err := decode(it)
			if err != nil {
				return nil, err
			}
			out = append(out, r)
		}
	}
	return out, nil
}
