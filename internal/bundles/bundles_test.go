package bundles

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type stores struct {
	items  storetest.FaultyItems
	blobs  storetest.FaultyBlobs
	faults *storetest.Faults
}

func open(t testing.TB) stores {
	t.Helper()
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "s.db"))
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	d, err := dir.Open(t.TempDir())
	must(t, err)
	t.Cleanup(func() { _ = d.Close() })
	f := &storetest.Faults{}
	return stores{storetest.FaultyItems{Faults: f, Items: db}, storetest.FaultyBlobs{Faults: f, Blobs: d}, f}
}

func bundle(t testing.TB, id string) *policy.Bundle {
	t.Helper()
	b, err := policy.Load(fstest.MapFS{
		"a.cedar":      {Data: []byte(`@id("` + id + `") permit(principal, action == Action::"read", resource in Target::"app");`)},
		"targets.yaml": {Data: []byte("targets:\n- name: app\n  protocol: postgres\n")},
	})
	must(t, err)
	return b
}

func TestPublish(t *testing.T) {
	ctx := context.Background()
	s := open(t)
	a, b := bundle(t, "a"), bundle(t, "b")
	source := NewSource(s.items, s.blobs, 0)
	if _, err := source.Active(ctx); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("before any: %v", err)
	}
	for _, want := range []*policy.Bundle{a, a, b, a} { // again, on, and back
		must(t, Publish(ctx, s.items, s.blobs, want))
		for _, src := range []*Source{source, NewSource(s.items, s.blobs, time.Hour)} {
			got, err := src.Active(ctx)
			must(t, err)
			if got.Address != want.Address {
				t.Errorf("active %s, want %s", got.Address, want.Address)
			}
		}
	}
	if same, err := source.Active(ctx); err != nil || same != source.active {
		t.Errorf("an unchanged bundle was loaded again: %v", err)
	}
}

func TestRefresh(t *testing.T) {
	ctx := context.Background()
	s := open(t)
	a, b := bundle(t, "a"), bundle(t, "b")
	must(t, Publish(ctx, s.items, s.blobs, a))
	slow := NewSource(s.items, s.blobs, time.Hour)
	if _, err := slow.Active(ctx); err != nil {
		t.Fatal(err)
	}
	must(t, Publish(ctx, s.items, s.blobs, b))
	if got, err := slow.Active(ctx); err != nil || got.Address != a.Address {
		t.Errorf("looked before its time: %v, %v", got, err)
	}
	// Without an answer there is no bundle, though there was one.
	quick := NewSource(s.items, s.blobs, 0)
	if _, err := quick.Active(ctx); err != nil {
		t.Fatal(err)
	}
	s.faults.Set(func(string, string) storetest.Fault { return storetest.NotApplied })
	if got, err := quick.Active(ctx); err == nil {
		t.Errorf("the stores are down, and %s is active", got.Address)
	}
	if _, err := slow.Active(ctx); err != nil {
		t.Errorf("a fresh look needs no store: %v", err)
	}
}

func TestForgedBundles(t *testing.T) {
	ctx := context.Background()
	a, b := bundle(t, "a"), bundle(t, "b")
	for name, forge := range map[string]func(s stores) error{
		"another bundle's bytes": func(s stores) error { return s.blobs.Create(ctx, blobName(a.Address), b.Archive()) },
		"no bundle at all":       func(s stores) error { return s.blobs.Create(ctx, blobName(a.Address), []byte("{}")) },
		"nothing":                func(stores) error { return nil },
	} {
		s := open(t)
		must(t, forge(s))
		must(t, s.items.Put(ctx, store.Write{Table: store.Registry, Item: store.Item{Key: pointerKey, Body: []byte(`{"address":"` + a.Address + `"}`)}}))
		if got, err := NewSource(s.items, s.blobs, 0).Active(ctx); err == nil {
			t.Errorf("%s: %s is active", name, got.Address)
		}
	}
	s := open(t)
	must(t, s.items.Put(ctx, store.Write{Table: store.Registry, Item: store.Item{Key: pointerKey, Body: []byte(`{"address":"x","more":1}`)}}))
	if _, err := NewSource(s.items, s.blobs, 0).Active(ctx); err == nil {
		t.Error("a pointer with an unknown field is believed")
	}
}

// TestPublishFaults: whatever call fails, the active bundle is the old one or the new one, and publishing again settles it.
func TestPublishFaults(t *testing.T) {
	ctx := context.Background()
	a, b := bundle(t, "a"), bundle(t, "b")
	for n := 1; n <= 3; n++ {
		for _, fault := range []storetest.Fault{storetest.NotApplied, storetest.Applied} {
			s := open(t)
			must(t, Publish(ctx, s.items, s.blobs, a))
			count := 0
			s.faults.Set(func(string, string) storetest.Fault {
				if count++; count == n {
					return fault
				}
				return storetest.None
			})
			if err := Publish(ctx, s.items, s.blobs, b); err == nil {
				t.Errorf("fault %d was swallowed", n)
			}
			s.faults.Set(nil)
			source := NewSource(s.items, s.blobs, 0)
			if got, err := source.Active(ctx); err != nil || got.Address != a.Address && got.Address != b.Address {
				t.Errorf("fault %d: %v, %v", n, got, err)
			}
			must(t, Publish(ctx, s.items, s.blobs, b))
			if got, err := source.Active(ctx); err != nil || got.Address != b.Address {
				t.Errorf("fault %d: %v, %v", n, got, err)
			}
		}
	}
}

func TestPublishAtOnce(t *testing.T) {
	ctx := context.Background()
	s := open(t)
	var wg sync.WaitGroup
	for i := range 4 {
		b := bundle(t, string(rune('a'+i)))
		wg.Go(func() {
			if err := Publish(ctx, s.items, s.blobs, b); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := NewSource(s.items, s.blobs, 0).Active(ctx); err != nil {
		t.Error(err)
	}
}
