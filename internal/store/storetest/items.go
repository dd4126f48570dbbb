// Package storetest holds every implementation of the store interfaces to the same behaviour, and wraps them with faults.
// It accepts no difference between the embedded twins and AWS that a caller could see.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/store"
)

// racers is how many writers race for one item: exactly one may win.
const racers = 100

// Items runs the suite for store.Items. open returns an empty store, closed by the test's cleanup.
func Items(t *testing.T, open func(t *testing.T) store.Items) {
	t.Run("absent", func(t *testing.T) { testAbsent(t, open(t)) })
	t.Run("versions", func(t *testing.T) { testVersions(t, open(t)) })
	t.Run("live", func(t *testing.T) { testLive(t, open(t)) })
	t.Run("transact", func(t *testing.T) { testTransact(t, open(t)) })
	t.Run("query", func(t *testing.T) { testQuery(t, open(t)) })
	t.Run("newest", func(t *testing.T) { testNewest(t, open(t)) })
	t.Run("limits", func(t *testing.T) { testLimits(t, open(t)) })
	t.Run("race", func(t *testing.T) { testRace(t, open(t)) })
	t.Run("race-transact", func(t *testing.T) { testRaceTransact(t, open(t)) })
	t.Run("tables", func(t *testing.T) { testTables(t, open(t)) })
}

func item(pk, sk, body string) store.Item {
	return store.Item{Key: store.Key{PK: pk, SK: sk}, Body: []byte(body)}
}

func put(t *testing.T, s store.Items, w store.Write) {
	t.Helper()
	if err := s.Put(t.Context(), w); err != nil {
		t.Fatalf("put %+v: %v", w, err)
	}
}

func wantConflict(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, store.ErrConflict) {
		t.Fatalf("got %v, want ErrConflict", err)
	}
}

func get(t *testing.T, s store.Items, table, pk, sk string) store.Item {
	t.Helper()
	it, err := s.Get(t.Context(), table, store.Key{PK: pk, SK: sk}, true)
	if err != nil {
		t.Fatalf("get %s %s: %v", pk, sk, err)
	}
	return it
}

func testAbsent(t *testing.T, s store.Items) {
	_, err := s.Get(t.Context(), store.Audit, store.Key{PK: "a", SK: "b"}, true)
	if !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("get of nothing: %v, want ErrNotFound", err)
	}
	put(t, s, store.Write{Table: store.Audit, Item: item("a", "b", "one")})
	wantConflict(t, s.Put(t.Context(), store.Write{Table: store.Audit, Item: item("a", "b", "two")}))
	if it := get(t, s, store.Audit, "a", "b"); string(it.Body) != "one" || it.Version != 1 {
		t.Fatalf("after a refused put: %q version %d", it.Body, it.Version)
	}
}

func testVersions(t *testing.T, s store.Items) {
	wantConflict(t, s.Put(t.Context(), store.Write{Table: store.Grants, Item: item("a", "b", "x"), Cond: store.Cond{Version: 1}}))
	put(t, s, store.Write{Table: store.Grants, Item: item("a", "b", "one")})
	put(t, s, store.Write{Table: store.Grants, Item: item("a", "b", "two"), Cond: store.Cond{Version: 1}})
	wantConflict(t, s.Put(t.Context(), store.Write{Table: store.Grants, Item: item("a", "b", "x"), Cond: store.Cond{Version: 1}}))
	if it := get(t, s, store.Grants, "a", "b"); string(it.Body) != "two" || it.Version != 2 {
		t.Fatalf("got %q version %d", it.Body, it.Version)
	}
}

func testLive(t *testing.T, s store.Items) {
	now := time.Now().Truncate(time.Second)
	w := store.Write{Table: store.Approvals, Item: item("a", "b", "held")}
	w.Item.Expires = now
	put(t, s, w)
	if it := get(t, s, store.Approvals, "a", "b"); !it.Expires.Equal(now) {
		t.Fatalf("expires %v, want %v", it.Expires, now)
	}
	next := store.Write{Table: store.Approvals, Item: item("a", "b", "claimed"), Cond: store.Cond{Version: 1, LiveAt: now}}
	wantConflict(t, s.Put(t.Context(), next)) // expires exactly now: no longer live
	next.Cond.LiveAt = now.Add(-time.Second)
	put(t, s, next)
	if it := get(t, s, store.Approvals, "a", "b"); !it.Expires.IsZero() {
		t.Fatalf("expires %v, want never", it.Expires)
	}
}

func testTransact(t *testing.T, s store.Items) {
	put(t, s, store.Write{Table: store.Approvals, Item: item("p", "taken", "x")})
	a := store.Write{Table: store.Audit, Item: item("t", "entry", "e")}
	b := store.Write{Table: store.Approvals, Item: item("p", "taken", "y")}
	wantConflict(t, s.Transact(t.Context(), a, b))
	if _, err := s.Get(t.Context(), store.Audit, a.Item.Key, true); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("half of a refused transaction is there: %v", err)
	}
	wantConflict(t, s.Transact(t.Context(), b, a))
	b.Cond.Version = 1
	if err := s.Transact(t.Context(), a, b); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, store.Approvals, "p", "taken"); string(got.Body) != "y" {
		t.Fatalf("got %q", got.Body)
	}
	get(t, s, store.Audit, "t", "entry")
	if err := s.Transact(t.Context(), a, a); err == nil {
		t.Fatal("the same item twice in a transaction was taken")
	}
}

func testQuery(t *testing.T, s store.Items) {
	for _, sk := range []string{"a#2", "a#1", "b#1", "a#", "a$", "ä#1"} {
		put(t, s, store.Write{Table: store.Registry, Item: item("p", sk, sk)})
	}
	put(t, s, store.Write{Table: store.Registry, Item: item("other", "a#9", "")})
	var got []string
	cursor, pages := "", 0
	for {
		p, err := s.Query(t.Context(), store.Registry, "p", "a#", cursor, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range p.Items {
			got = append(got, it.SK)
		}
		pages++
		if cursor = p.Cursor; cursor == "" {
			break
		}
	}
	if strings.Join(got, " ") != "a# a#1 a#2" || pages != 2 {
		t.Fatalf("got %q in %d pages", got, pages)
	}
	all, err := s.Query(t.Context(), store.Registry, "p", "", "", 1000)
	if err != nil || len(all.Items) != 6 {
		t.Fatalf("whole partition: %d items, %v", len(all.Items), err)
	}
	if none, err := s.Query(t.Context(), store.Registry, "nobody", "", "", 10); err != nil || len(none.Items) != 0 || none.Cursor != "" {
		t.Fatalf("empty partition: %+v, %v", none, err)
	}
	for _, limit := range []int{0, -1, 1001} {
		if _, err := s.Query(t.Context(), store.Registry, "p", "", "", limit); err == nil {
			t.Fatalf("limit %d was taken", limit)
		}
	}
}

func testLimits(t *testing.T, s store.Items) {
	big := store.Write{Table: store.Audit, Item: store.Item{Key: store.Key{PK: "a", SK: "big"}, Body: bytes.Repeat([]byte("x"), store.MaxItem+1)}}
	if err := s.Put(t.Context(), big); !errors.Is(err, store.ErrTooLarge) {
		t.Fatalf("over MaxItem: %v, want ErrTooLarge", err)
	}
	big.Item.Body = big.Item.Body[:store.MaxItem]
	put(t, s, big)
	put(t, s, store.Write{Table: store.Audit, Item: store.Item{Key: store.Key{PK: "a", SK: "empty"}}})
	if it := get(t, s, store.Audit, "a", "empty"); len(it.Body) != 0 {
		t.Fatalf("empty body came back as %q", it.Body)
	}
	for _, k := range []store.Key{{PK: "", SK: "x"}, {PK: "x", SK: ""}} {
		if err := s.Put(t.Context(), store.Write{Table: store.Audit, Item: store.Item{Key: k}}); err == nil {
			t.Fatalf("key %+v was taken", k)
		}
	}
}

func testRace(t *testing.T, s store.Items) {
	put(t, s, store.Write{Table: store.Approvals, Item: item("a", "claim", "approved")})
	var won, lost atomic.Int32
	race(func(i int) {
		err := s.Put(context.WithoutCancel(t.Context()), store.Write{Table: store.Approvals,
			Item: item("a", "claim", fmt.Sprint(i)), Cond: store.Cond{Version: 1}})
		count(t, err, &won, &lost)
	})
	if won.Load() != 1 || lost.Load() != racers-1 {
		t.Fatalf("%d won, %d lost; want exactly one winner of %d", won.Load(), lost.Load(), racers)
	}
}

func testRaceTransact(t *testing.T, s store.Items) {
	put(t, s, store.Write{Table: store.Approvals, Item: item("a", "claim", "approved")})
	var won, lost atomic.Int32
	race(func(i int) {
		err := s.Transact(context.WithoutCancel(t.Context()),
			store.Write{Table: store.Approvals, Item: item("a", "claim", fmt.Sprint(i)), Cond: store.Cond{Version: 1}},
			store.Write{Table: store.Audit, Item: item("entry", fmt.Sprint(i), "")})
		count(t, err, &won, &lost)
	})
	p, err := s.Query(t.Context(), store.Audit, "entry", "", "", 1000)
	if won.Load() != 1 || err != nil || len(p.Items) != 1 {
		t.Fatalf("%d won with %d entries (%v); want one of each", won.Load(), len(p.Items), err)
	}
}

func race(f func(i int)) {
	var start, done sync.WaitGroup
	start.Add(1)
	for i := range racers {
		done.Go(func() { start.Wait(); f(i) })
	}
	start.Done()
	done.Wait()
}

func count(t *testing.T, err error, won, lost *atomic.Int32) {
	switch {
	case err == nil:
		won.Add(1)
	case errors.Is(err, store.ErrConflict):
		lost.Add(1)
	default:
		t.Errorf("racing write: %v", err)
	}
}

func testTables(t *testing.T, s store.Items) {
	for _, table := range []string{store.Grants, store.Approvals, store.Registry, store.Audit} {
		put(t, s, store.Write{Table: table, Item: item("same", "key", table)})
	}
	if it := get(t, s, store.Registry, "same", "key"); string(it.Body) != store.Registry {
		t.Fatalf("tables are not apart: %q", it.Body)
	}
	if err := s.Put(t.Context(), store.Write{Table: "no; such", Item: item("a", "b", "")}); err == nil {
		t.Fatal("an unknown table was taken")
	}
}
