package approval

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/store"
)

// Announce puts an approval that is about to be stored on the list of those that wait. The line alone means nothing; without it, whoever has
// many commands held and gives them up again would bury everybody else's under their records.
func Announce(ctx context.Context, items store.Items, id access.ApprovalID, expires time.Time) error {
	k, err := Key(id)
	if err != nil {
		return err
	}
	err = items.Put(ctx, store.Write{Table: store.Approvals, Item: store.Item{Key: store.Key{PK: waiting(k.PK), SK: k.SK}, Body: []byte(`{}`),
		Expires: expires.Add(time.Minute).Truncate(time.Second)}})
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("announce approval %s: %w", id, err)
	}
	return nil
}

func waiting(day string) string { return "waiting#" + day }

// Bounds of a look at what waits.
const (
	maxAnnounced = 10_000 // lines of one day
	waitReaders  = 16
	maxSettled   = 50_000
)

// Waiting finds the records that wait for a reviewer, however many others there are. It remembers those that wait no more, which is for good.
// The zero Waiting is ready.
type Waiting struct {
	mu      sync.Mutex
	settled map[access.ApprovalID]bool
}

// List returns today's and yesterday's records that still wait, newest first. No hold waits longer than a day.
func (w *Waiting) List(ctx context.Context, items store.Items, now time.Time) ([]Record, error) {
	newest, err := List(ctx, items, now, 2)
	if err != nil {
		return nil, err
	}
	var out []Record
	seen := map[access.ApprovalID]bool{}
	for _, r := range newest {
		if seen[r.ID] = true; r.StatusAt(now) == Pending {
			out = append(out, r)
		}
	}
	ids, err := announced(ctx, items, now)
	if err != nil {
		return nil, err
	}
	older, err := w.older(ctx, items, slices.DeleteFunc(ids, func(id access.ApprovalID) bool { return seen[id] }), now)
	if err != nil {
		return nil, err
	}
	out = append(out, older...)
	slices.SortStableFunc(out, func(a, b Record) int { return cmp.Compare(b.ID, a.ID) })
	return out, nil
}

func announced(ctx context.Context, items store.Items, now time.Time) (ids []access.ApprovalID, err error) {
	for day := range 2 {
		pk, n := waiting(partition(now.AddDate(0, 0, -day))), 0
		for cursor := ""; ; {
			p, err := items.Query(ctx, store.Approvals, pk, "", cursor, 1000)
			if err != nil {
				return nil, fmt.Errorf("list approvals that wait: %w", err)
			}
			for _, it := range p.Items {
				if now.Before(it.Expires) {
					ids = append(ids, access.ApprovalID(it.SK))
				}
			}
			if n += len(p.Items); p.Cursor == "" || n >= maxAnnounced {
				break
			}
			cursor = p.Cursor
		}
	}
	return ids, nil
}

// older reads records that are not among the newest, but those that were seen to wait no more.
func (w *Waiting) older(ctx context.Context, items store.Items, ids []access.ApprovalID, now time.Time) ([]Record, error) {
	w.mu.Lock()
	ids = slices.DeleteFunc(ids, func(id access.ApprovalID) bool { return w.settled[id] })
	w.mu.Unlock()
	var mu sync.Mutex
	var out []Record
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(waitReaders)
	for _, id := range ids {
		g.Go(func() error {
			r, _, err := Get(ctx, items, id)
			if errors.Is(err, store.ErrNotFound) {
				return nil // about to be stored, or it never was
			}
			if err != nil {
				return err
			}
			if r.StatusAt(now) != Pending {
				w.settle(id)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, r)
			return nil
		})
	}
	return out, g.Wait()
}

func (w *Waiting) settle(id access.ApprovalID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.settled == nil || len(w.settled) >= maxSettled {
		w.settled = map[access.ApprovalID]bool{}
	}
	w.settled[id] = true
}
