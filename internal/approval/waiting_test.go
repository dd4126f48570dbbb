package approval

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/store"
)

type counting struct {
	store.Items
	mu   sync.Mutex
	gets int
}

func (c *counting) Get(ctx context.Context, table string, k store.Key, strong bool) (store.Item, error) {
	c.mu.Lock()
	c.gets++
	c.mu.Unlock()
	return c.Items.Get(ctx, table, k, strong)
}

// One who has commands held and gives them up, again and again, does not bury those that wait: not by their number, not by their size.
func TestAFloodDoesNotBuryTheOneThatMatters(t *testing.T) {
	for name, flood := range map[string]struct {
		n    int
		text string
	}{"many": {MaxListed + 50, "x"}, "large": {100, strings.Repeat("x", 380_000)}} {
		t.Run(name, func(t *testing.T) {
			db, err := sqlite.Open(filepath.Join(t.TempDir(), "s.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			now := time.Now().UTC()
			put := func(at time.Time, status Status, text string) (access.ApprovalID, error) {
				id := access.ApprovalID(ulid.MustNewDefault(at).String())
				if err := Announce(t.Context(), db, id, now.Add(time.Hour)); err != nil {
					return "", err
				}
				w, err := Put(Record{ID: id, Status: status, Text: text, Created: at, Expires: now.Add(time.Hour)}, store.Cond{})
				if err != nil {
					return "", err
				}
				return id, db.Put(t.Context(), w)
			}
			matters, err := put(now.Add(-time.Minute), Pending, "the one that matters")
			if err != nil {
				t.Fatal(err)
			}
			var g errgroup.Group
			g.SetLimit(64)
			for i := range flood.n {
				g.Go(func() error {
					_, err := put(now.Add(-time.Duration(i)*time.Millisecond), Withdrawn, flood.text)
					return err
				})
			}
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
			items, w := &counting{Items: db}, &Waiting{}
			for look := range 2 {
				items.gets = 0
				all, err := w.List(t.Context(), items, now)
				if err != nil || len(all) != 1 || all[0].ID != matters {
					t.Fatalf("look %d: %d wait, %v", look, len(all), err)
				}
			}
			if items.gets != 1 {
				t.Errorf("the second look read %d records one by one", items.gets)
			}
		})
	}
}

func TestAnnouncedAndNeverStored(t *testing.T) {
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "s.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	id := access.ApprovalID(ulid.Make().String())
	for range 2 {
		if err := Announce(t.Context(), db, id, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := new(Waiting).List(t.Context(), db, time.Now()); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
	if err := Announce(t.Context(), db, "x", time.Now()); err == nil {
		t.Error("no id")
	}
}

// failing is a store that does not answer one kind of call: Put, Get, or Query of what begins so.
type failing struct {
	store.Items
	op string
}

var errThrottled = errors.New("throttled")

func (f failing) Put(ctx context.Context, w store.Write) error {
	if f.op == "put" {
		return errThrottled
	}
	return f.Items.Put(ctx, w)
}

func (f failing) Get(ctx context.Context, table string, k store.Key, strong bool) (store.Item, error) {
	if f.op == "get" {
		return store.Item{}, errThrottled
	}
	return f.Items.Get(ctx, table, k, strong)
}

func (f failing) Query(ctx context.Context, table, pk, prefix, cursor string, limit int) (store.Page, error) {
	if f.op != "" && strings.HasPrefix(pk, f.op) {
		return store.Page{}, errThrottled
	}
	return f.Items.Query(ctx, table, pk, prefix, cursor, limit)
}

// A store that does not answer is no empty list, whichever call it is.
func TestWaitingOfAStoreThatDoesNotAnswer(t *testing.T) {
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "s.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	now := time.Now().UTC()
	id := access.ApprovalID(ulid.MustNewDefault(now.Add(-time.Minute)).String())
	if err := Announce(t.Context(), failing{db, "put"}, id, now.Add(time.Hour)); !errors.Is(err, errThrottled) {
		t.Errorf("announced: %v", err)
	}
	if err := Announce(t.Context(), db, id, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{"waiting#", "get"} {
		if got, err := new(Waiting).List(t.Context(), failing{db, op}, now); !errors.Is(err, errThrottled) {
			t.Errorf("%s: %v, %v", op, got, err)
		}
	}
	if got, err := new(Waiting).List(t.Context(), failing{db, ""}, now); err != nil || len(got) != 0 {
		t.Errorf("a line without a record: %v, %v", got, err)
	}
}
