package session

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openStore(t testing.TB) (storetest.FaultyItems, *storetest.Faults) {
	t.Helper()
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "s.db"))
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	f := &storetest.Faults{}
	return storetest.FaultyItems{Faults: f, Items: db}, f
}

func idAt(t time.Time, n byte) access.SessionID {
	var u ulid.ULID
	_ = u.SetTime(ulid.Timestamp(t))
	u[15] = n
	return access.SessionID(u.String())
}

func put(t testing.TB, items store.Items, id access.SessionID, agent access.AgentName) {
	t.Helper()
	w, err := Put(Record{ID: id, Agent: agent, Status: Open, Opened: noon, Expires: noon.Add(time.Hour)}, store.Cond{})
	must(t, err)
	must(t, items.Put(context.Background(), w))
}

func entry(n string) store.Write {
	return store.Write{Table: store.Audit, Item: store.Item{Key: store.Key{PK: "p", SK: n}, Body: []byte("[]")}}
}

func TestTime(t *testing.T) {
	good := string(idAt(noon, 1))
	if at, err := Time(good); err != nil || !at.Equal(noon) {
		t.Errorf("%s: %s, %v", good, at, err)
	}
	for _, id := range []string{"", "x", strings.ToLower(good), good + "0", good[:25], good[:25] + "#", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", strings.Repeat("0", 10_000)} {
		_, err := Time(id)
		if err == nil {
			t.Errorf("%q is taken for an id", clip(id))
		} else if len(err.Error()) > 200 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	}
	for d, ok := range map[time.Duration]bool{0: true, Skew: true, -Skew: true, Skew + time.Second: false, -Skew - time.Second: false} {
		if err := Fresh(good, noon.Add(d)); (err == nil) != ok {
			t.Errorf("%s away: %v", d, err)
		}
	}
}

func FuzzTime(f *testing.F) {
	f.Add(string(idAt(noon, 1)))
	f.Add("01an4z07by79ka1307sr9x4mv3")
	f.Fuzz(func(t *testing.T, s string) {
		at, err := Time(s)
		if err != nil {
			return
		}
		if u, err := ulid.ParseStrict(s); err != nil || u.String() != s || !ulid.Time(u.Time()).Equal(at) {
			t.Errorf("%q: %s, %v", s, at, err)
		}
		if k, err := Key(access.SessionID(s)); err != nil || strings.Contains(k.SK, "#") {
			t.Errorf("key %v, %v", k, err)
		}
	})
}

func TestCloseAndEnd(t *testing.T) {
	ctx := context.Background()
	items, _ := openStore(t)
	a, b := idAt(noon, 1), idAt(noon, 2)
	put(t, items, a, "agent-1")
	put(t, items, b, "agent-1")
	closing := Closing{Status: Closed, Reason: "left", LastSeq: 3, Now: noon}
	must(t, Close(ctx, items, a, closing, entry("a1")))
	must(t, Close(ctx, items, a, closing, entry("a2"))) // stores nothing
	must(t, End(ctx, items, a, "too late", noon))       // changes nothing
	if _, err := items.Get(ctx, store.Audit, store.Key{PK: "p", SK: "a2"}, true); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a second end was stored: %v", err)
	}
	r, _, err := Get(ctx, items, a)
	must(t, err)
	if r.Status != Closed || r.LastSeq != 3 || r.Reason != "left" {
		t.Errorf("%+v", r)
	}
	// An ended session still takes its agent's last word, and stays ended.
	must(t, End(ctx, items, b, "twice", noon))
	must(t, End(ctx, items, b, "again", noon))
	must(t, Close(ctx, items, b, closing, entry("b")))
	r, _, err = Get(ctx, items, b)
	must(t, err)
	if r.Status != Ended || r.Reason != "twice" || r.LastSeq != 3 || r.Closed.IsZero() || r.Ended.IsZero() {
		t.Errorf("%+v", r)
	}
	marks, err := Marks(ctx, items, "agent-1", []access.SessionID{a, b})
	must(t, err)
	if len(marks) != 1 || marks[b].Reason != "twice" {
		t.Errorf("marks %+v", marks)
	}
	if marks, err := Marks(ctx, items, "agent-2", []access.SessionID{a, b}); err != nil || len(marks) != 0 {
		t.Errorf("another agent's marks %+v, %v", marks, err)
	}
	if err := Close(ctx, items, idAt(noon, 9), closing, entry("c")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an unknown session: %v", err)
	}
}

func TestList(t *testing.T) {
	ctx := context.Background()
	items, _ := openStore(t)
	var want []access.SessionID
	for d := range 3 {
		for n := range 4 {
			id := idAt(noon.AddDate(0, 0, -d), byte(9-n))
			put(t, items, id, "agent-1")
			want = append(want, id)
		}
	}
	for _, tt := range []struct{ days, limit, want int }{{1, 10, 4}, {2, 10, 8}, {3, 100, 12}, {3, 6, 6}, {0, 5, 0}} {
		got, err := List(ctx, items, noon, tt.days, tt.limit)
		must(t, err)
		if len(got) != tt.want {
			t.Fatalf("%+v: %d sessions", tt, len(got))
		}
		for i, r := range got {
			if r.ID != want[i] {
				t.Errorf("%+v: %d is %s, want %s", tt, i, r.ID, want[i])
			}
		}
	}
}

func TestFaults(t *testing.T) {
	ctx := context.Background()
	for _, fault := range []storetest.Fault{storetest.NotApplied, storetest.Applied} {
		for n := 1; n <= 2; n++ {
			for name, act := range map[string]func(store.Items, access.SessionID) error{
				"close": func(items store.Items, id access.SessionID) error {
					return Close(ctx, items, id, Closing{Status: Lost, Now: noon}, entry("e"))
				},
				"end": func(items store.Items, id access.SessionID) error { return End(ctx, items, id, "x", noon) },
			} {
				items, f := openStore(t)
				id := idAt(noon, 1)
				put(t, items, id, "agent-1")
				count := 0
				f.Set(func(string, string) storetest.Fault {
					if count++; count == n {
						return fault
					}
					return storetest.None
				})
				if err := act(items, id); err == nil {
					t.Errorf("%s: fault %d was swallowed", name, n)
				}
				f.Set(nil)
				must(t, act(items, id))
				r, it, err := Get(ctx, items, id)
				must(t, err)
				if r.Status == Open || it.Version != 2 {
					t.Errorf("%s: %+v, version %d", name, r, it.Version)
				}
			}
		}
	}
}

func TestDecodeIsStrict(t *testing.T) {
	id := idAt(noon, 1)
	k, err := Key(id)
	must(t, err)
	for _, body := range []string{"", "{}", `{"id":"x"}`, `{"id":"` + string(id) + `","more":1}`} {
		if r, err := decode(store.Item{Key: k, Body: []byte(body)}); err == nil {
			t.Errorf("%q is %+v", body, r)
		}
	}
}
