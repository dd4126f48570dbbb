package storetest

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/sallyport/sallyport/internal/store"
)

// Blobs runs the suite for store.Blobs on an empty store.
func Blobs(t *testing.T, open func(t *testing.T) store.Blobs) {
	s := open(t)
	if _, err := s.Open(t.Context(), "tile/0/000"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("open of nothing: %v, want ErrNotFound", err)
	}
	for range 2 { // equal bytes again are success
		if err := s.Create(t.Context(), "tile/0/000", []byte("hash")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Create(t.Context(), "tile/0/000", []byte("other")); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("overwrite: %v, want ErrConflict", err)
	}
	if b, err := s.Open(t.Context(), "tile/0/000"); err != nil || string(b) != "hash" {
		t.Fatalf("got %q, %v", b, err)
	}
	for _, name := range []string{"tile/0/001", "entries/0"} {
		if err := s.Create(t.Context(), name, nil); err != nil {
			t.Fatal(err)
		}
	}
	names, err := s.List(t.Context(), "tile/")
	if err != nil || !slices.Equal(names, []string{"tile/0/000", "tile/0/001"}) {
		t.Fatalf("list: %q, %v", names, err)
	}
	for _, name := range []string{"", "/etc/x", "../x", "a/../../x", "a//b", "."} {
		if err := s.Create(t.Context(), name, nil); err == nil {
			t.Fatalf("name %q was taken", name)
		}
	}
}

// Heads runs the suite for store.Heads on an empty store.
func Heads(t *testing.T, open func(t *testing.T) store.Heads) {
	s := open(t)
	if _, err := s.Load(t.Context(), "checkpoint"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("load of nothing: %v, want ErrNotFound", err)
	}
	if err := s.Swap(t.Context(), "checkpoint", []byte("x"), []byte("one")); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("swap of nothing: %v, want ErrConflict", err)
	}
	if err := s.Swap(t.Context(), "checkpoint", nil, []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := s.Swap(t.Context(), "checkpoint", nil, []byte("two")); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("second first swap: %v, want ErrConflict", err)
	}
	var won, lost atomic.Int32
	race(func(i int) {
		count(t, s.Swap(t.Context(), "checkpoint", []byte("one"), []byte{'n', byte(i)}), &won, &lost)
	})
	if won.Load() != 1 {
		t.Fatalf("%d swaps won, want 1", won.Load())
	}
}
