package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/internal/store"
)

// FedItems is a store whose audit table has a feed.
type FedItems interface {
	store.Items
	store.Feed
}

// Feed runs the suite for store.Feed on the audit table of an empty store. settle makes everything that was written so far old enough
// to be given.
func Feed(t *testing.T, open func(t *testing.T) (s FedItems, settle func())) {
	t.Run("once", func(t *testing.T) { testFeedOnce(t, open) })
	t.Run("cursor", func(t *testing.T) { testFeedCursor(t, open) })
}

// read takes everything after a cursor, in pages of limit.
func read(t *testing.T, s store.Feed, after string, limit int) (keys []store.Key, next string) {
	t.Helper()
	for {
		items, cursor, err := s.Since(t.Context(), store.Audit, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(items) > limit {
			t.Fatalf("%d items, limit %d", len(items), limit)
		}
		for _, it := range items {
			keys = append(keys, it.Key)
		}
		if after = cursor; len(items) < limit {
			return keys, after
		}
	}
}

// Whatever writers do side by side, each item is given once, and the order that was given once stays.
func testFeedOnce(t *testing.T, open func(t *testing.T) (FedItems, func())) {
	s, settle := open(t)
	var given []store.Key
	cursor := ""
	for round := range 4 {
		var wg sync.WaitGroup
		for i := range 25 {
			wg.Go(func() {
				w := store.Write{Table: store.Audit, Item: item(fmt.Sprint("p", i%3), fmt.Sprint(round, "-", i), "e")}
				err := s.Put(context.WithoutCancel(t.Context()), w)
				if i%5 == 0 { // together with an item of another table, as a verdict is
					w.Item.SK += "-verdict"
					err = s.Transact(context.WithoutCancel(t.Context()), w, store.Write{Table: store.Approvals, Item: w.Item})
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		var more []store.Key
		more, cursor = read(t, s, cursor, 7) // what is too young now comes later
		given = append(given, more...)
		settle()
	}
	more, cursor := read(t, s, cursor, 1)
	given = append(given, more...)
	if len(given) != 4*(25+5) {
		t.Fatalf("%d items, want %d", len(given), 4*(25+5))
	}
	all, last := read(t, s, "", 1000)
	if !slices.Equal(all, given) || last != cursor {
		t.Fatalf("the order has changed:\n%v\n%v", given, all)
	}
	if again, end := read(t, s, cursor, 3); len(again) != 0 || end != cursor {
		t.Fatalf("after the end: %v, cursor %q, was %q", again, end, cursor)
	}
}

func testFeedCursor(t *testing.T, open func(t *testing.T) (FedItems, func())) {
	s, settle := open(t)
	if keys, next := read(t, s, "", 10); len(keys) != 0 || next != "" {
		t.Fatalf("an empty store: %v, cursor %q", keys, next)
	}
	for i := range 5 {
		put(t, s, store.Write{Table: store.Audit, Item: item("p", fmt.Sprint(i), "e")})
	}
	settle()
	first, next, err := s.Since(t.Context(), store.Audit, "", 3)
	if err != nil || len(first) != 3 || string(first[0].Body) != "e" || first[0].Version != 1 {
		t.Fatalf("%+v %v", first, err)
	}
	// A shorter try begins with the same items, and its cursor leads to the same place.
	two, mid, err := s.Since(t.Context(), store.Audit, "", 2)
	if err != nil || len(two) != 2 || two[1].Key != first[1].Key {
		t.Fatalf("%+v %v", two, err)
	}
	if one, after, err := s.Since(t.Context(), store.Audit, mid, 1); err != nil || len(one) != 1 || one[0].Key != first[2].Key || after != next {
		t.Fatalf("%+v, cursor %q, %v", one, after, err)
	}
	for _, cursor := range []string{"x", "-1", "{}", next + "x"} {
		if _, _, err := s.Since(t.Context(), store.Audit, cursor, 3); err == nil {
			t.Errorf("cursor %q was taken", cursor)
		}
	}
	if _, _, err := s.Since(t.Context(), "no; such", "", 3); err == nil {
		t.Error("a feed of an unknown table")
	}
}
