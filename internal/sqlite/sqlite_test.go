package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "odd ?#%41 name.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestItems(t *testing.T) {
	storetest.Items(t, func(t *testing.T) store.Items { return open(t) })
}

func TestFeed(t *testing.T) {
	storetest.Feed(t, func(t *testing.T) (storetest.FedItems, func()) { return open(t), func() {} })
}

func TestAnsweredWritesSurviveReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	db, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	w := store.Write{Table: store.Audit, Item: store.Item{Key: store.Key{PK: "p", SK: "s"}, Body: []byte("kept")}}
	if err := db.Put(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	ro, err := sqlite.OpenReadOnly(path) // beside the writer
	if err != nil {
		t.Fatal(err)
	}
	if err := ro.Put(t.Context(), w); err == nil {
		t.Fatal("a read-only store took a write")
	}
	if err := errors.Join(ro.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	if err := db.Put(context.Background(), w); err == nil {
		t.Fatal("a closed store took a write")
	}
	if ro, err = sqlite.OpenReadOnly(path); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ro.Close() }()
	if it, err := ro.Get(t.Context(), store.Audit, w.Item.Key, true); err != nil || string(it.Body) != "kept" {
		t.Fatalf("got %q, %v", it.Body, err)
	}
}

func BenchmarkPut(b *testing.B) {
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			db := open(b)
			body := make([]byte, 1000)
			b.SetParallelism(writers)
			var mu sync.Mutex
			n := 0
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					mu.Lock()
					n++
					k := store.Key{PK: "2026-01-02T03:04#0", SK: fmt.Sprint(n)}
					mu.Unlock()
					if err := db.Put(context.Background(), store.Write{Table: store.Audit, Item: store.Item{Key: k, Body: body}}); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
