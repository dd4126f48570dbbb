//go:build aws

package dynamo_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/store"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func partition(t time.Time) string { return t.Format("2006-01-02T15:04") + "#0" }

// feed reads everything after a cursor in pages of limit.
func feed(t *testing.T, w *world, after string, limit int) (sks []string, next string) {
	t.Helper()
	for {
		items, cursor, err := w.Since(t.Context(), store.Audit, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range items {
			sks = append(sks, it.SK)
		}
		if len(items) < limit {
			return sks, cursor
		}
		after = cursor
	}
}

func (w *world) entry(t *testing.T, pk, sk string) {
	t.Helper()
	if err := w.Put(t.Context(), store.Write{Table: store.Audit, Item: item(pk, sk, sk)}); err != nil {
		t.Fatal(err)
	}
}

func wantFeed(t *testing.T, got []string, want ...string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestFeedGivesMinutesWhenTheyAreOver(t *testing.T) {
	for server := range servers {
		t.Run(server, func(t *testing.T) {
			w := open(t, server, nil)
			got, start := feed(t, w, "", 7)
			wantFeed(t, got)
			if start != "" {
				t.Fatalf("cursor %q of an empty feed", start)
			}
			w.set(noon.Add(30 * time.Second))
			w.entry(t, partition(noon), "c")
			w.set(noon.Add(31 * time.Second))
			w.entry(t, partition(noon.Add(-time.Minute)), "b") // an id of a clock that is behind
			w.entry(t, partition(noon.Add(time.Minute)), "a")  // and of one that is ahead
			w.set(noon.Add(61 * time.Second))
			w.entry(t, partition(noon), "d") // the next minute, the same partition
			w.set(noon.Add(89 * time.Second))
			if got, _ = feed(t, w, "", 7); len(got) != 0 {
				t.Fatalf("a minute that a write may still reach: %q", got)
			}
			w.set(noon.Add(90 * time.Second))
			got, next := feed(t, w, "", 2)
			wantFeed(t, got, "c", "b", "a")
			// Three hours later an outcome comes, twice, and a reviewer's verdict.
			w.set(noon.Add(3 * time.Hour))
			w.entry(t, partition(noon), "late")
			w.set(noon.Add(3*time.Hour + 2*time.Minute))
			if err := w.Put(t.Context(), store.Write{Table: store.Audit, Item: item(partition(noon), "late", "late")}); !errors.Is(err, store.ErrConflict) {
				t.Fatal(err)
			}
			w.entry(t, partition(noon.Add(3*time.Hour+2*time.Minute)), "e")
			w.set(noon.AddDate(0, 0, 40)) // seal was away, and nobody wrote
			w.entry(t, partition(noon.AddDate(0, 0, 40)), "f")
			w.set(noon.AddDate(0, 0, 41))
			got, last := feed(t, w, next, 2)
			wantFeed(t, got, "d", "late", "e", "f")
			w.again(t, nil)
			got, _ = feed(t, w, "", 1)
			wantFeed(t, got, "c", "b", "a", "d", "late", "e", "f")
			if got, again := feed(t, w, last, 3); len(got) != 0 || again != last {
				t.Fatalf("after the end: %q, cursor %q", got, again)
			}
		})
	}
}

// Many processes write; whatever they write is given once, in an order that no later call changes.
func TestFeedIsOneOrder(t *testing.T) {
	w := open(t, "ministack", nil)
	r := rand.New(rand.NewPCG(1, 2))
	now := noon.Add(-12*time.Hour - 3*time.Minute) // over a day's end
	written, given, next := map[string]bool{}, []string{}, ""
	for n := range 400 {
		if n%20 == 0 {
			w.again(t, nil)
		}
		now = now.Add(time.Duration(r.IntN(4000)) * time.Millisecond)
		w.set(now)
		at := now.Add(time.Duration(r.IntN(120)-60) * time.Second)
		if r.IntN(10) == 0 {
			at = now.Add(-time.Duration(r.IntN(100)) * time.Minute)
		}
		sk := fmt.Sprint(n)
		w.entry(t, partition(at), sk)
		written[sk] = true
		if r.IntN(8) == 0 {
			var more []string
			more, next = feed(t, w, next, 1+r.IntN(9))
			given = append(given, more...)
		}
	}
	if len(given) == 0 || len(given) == 400 {
		t.Fatalf("%d given on the way", len(given))
	}
	w.set(now.Add(time.Hour))
	more, _ := feed(t, w, next, 50)
	given = append(given, more...)
	all, _ := feed(t, w, "", 1000)
	wantFeed(t, given, all...)
	for _, sk := range all {
		if !written[sk] {
			t.Errorf("%s twice, or never written", sk)
		}
		delete(written, sk)
	}
	if len(written) > 0 {
		t.Errorf("never given: %v", written)
	}
}

// What cannot be entered into the index is not written: an item that the feed would never give is no evidence.
func TestNothingIsWrittenBesideTheIndex(t *testing.T) {
	for n := 1; n <= 2; n++ {
		for _, what := range mishaps {
			w, x := faulty(t, "ministack")
			x.set(nth("PutItem", 1+4*(n-1), 4*n, what)) // every try of the day's entry, or of the minute's
			if n == 2 {
				x.set(nth("PutItem", 2, 5, what))
			}
			err := w.Put(t.Context(), store.Write{Table: store.Audit, Item: item(partition(time.Now().UTC()), "x", "")})
			v, _ := w.version(t, x, store.Audit, partition(time.Now().UTC()), "x")
			if applied := what == lost || what == late; !applied && (err == nil || v != 0) {
				t.Errorf("%s of index entry %d: %v, version %d", what, n, err, v)
			}
		}
	}
}

func TestFeedRefuses(t *testing.T) {
	w := open(t, "ministack", nil)
	w.set(noon)
	for _, cursor := range []string{"7", "x", `{"minute":"noon"}`, `{"minute":"2026-01-02T03:04","other":1}`, `{"minute":"2026-01-02T12:00","pk":"a","sk":"b"}`} {
		if _, _, err := w.Since(t.Context(), store.Audit, cursor, 10); err == nil {
			t.Errorf("cursor %s was taken", cursor)
		}
	}
	if _, _, err := w.Since(t.Context(), store.Grants, "", 10); err == nil {
		t.Error("a feed of another table")
	}
	if err := w.Put(t.Context(), store.Write{Table: store.Audit, Item: item("~days", "2026-01-02", "")}); err == nil {
		t.Error("an entry in the place of the index")
	}
}
