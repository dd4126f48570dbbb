package storetest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sallyport/sallyport/internal/store"
)

// counted counts queries and the items that they return.
type counted struct {
	store.Items
	queries, items int
}

func (c *counted) Query(ctx context.Context, table, pk, prefix, cursor string, limit int) (store.Page, error) {
	p, err := c.Items.Query(ctx, table, pk, prefix, cursor, limit)
	c.queries, c.items = c.queries+1, c.items+len(p.Items)
	return p, err
}

// testNewest fills a partition unevenly, some keys within one millisecond, and reads it from its end.
func testNewest(t *testing.T, s store.Items) {
	now := time.Date(2026, 1, 7, 12, 0, 0, 0, time.UTC)
	var keys []string
	add := func(at time.Time, n byte, body string) {
		u := ulid.ULID{15: n}
		if err := u.SetTime(ulid.Timestamp(at)); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, u.String())
		put(t, s, store.Write{Table: store.Registry, Item: item("p", u.String(), body)})
	}
	if got, err := store.Newest(t.Context(), s, store.Registry, "p", now, 10); err != nil || len(got) != 0 {
		t.Fatalf("%v, %v", got, err)
	}
	for i := range 150 {
		add(now.Add(-11*time.Hour+time.Duration(i)*time.Second), 0, `{}`)
	}
	for i := range 120 {
		add(now.Add(-time.Minute+time.Duration(i/40)*time.Millisecond), byte(i), `{}`)
	}
	add(now, 1, `{}`)
	slices.Sort(keys)
	slices.Reverse(keys)
	for _, limit := range []int{1, 2, 30, 110, 121, 122, 200, 271, 1000} {
		c := &counted{Items: s}
		got, err := store.Newest(t.Context(), c, store.Registry, "p", now, limit)
		if err != nil || len(got) != min(limit, len(keys)) {
			t.Fatalf("limit %d: %v, %d items", limit, err, len(got))
		}
		for i, it := range got {
			if it.SK != keys[i] {
				t.Fatalf("limit %d: item %d is %s, want %s", limit, i, it.SK, keys[i])
			}
		}
		if c.queries > 26*32 || c.items > 26*(limit+100) {
			t.Errorf("limit %d: %d queries that read %d items", limit, c.queries, c.items)
		}
	}
	if _, err := store.Newest(t.Context(), broken{s}, store.Registry, "p", now, 3); err == nil {
		t.Error("a store that does not answer is an empty list")
	}
	for i := range 100 {
		add(now, byte(100+i), `"`+strings.Repeat("x", store.MaxItem-2)+`"`)
	}
	got, err := store.Newest(t.Context(), s, store.Registry, "p", now, 1000)
	if size := len(got) * store.MaxItem; err != nil || size < 32<<20 || size > 32<<20+store.MaxItem {
		t.Errorf("%v, %d large items", err, len(got))
	}
}

type broken struct{ store.Items }

func (broken) Query(context.Context, string, string, string, string, int) (store.Page, error) {
	return store.Page{}, errors.New("throttled")
}
