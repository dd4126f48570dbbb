//go:build aws

package secrets_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/kms"
	"github.com/sallyport/sallyport/internal/secrets"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
	"github.com/sallyport/sallyport/localstack/localaws"
)

var server string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	s, err := localaws.MiniStack(context.Background())
	if err != nil {
		return 1, err
	}
	defer s.Close()
	server = s.URL
	before := goleak.IgnoreCurrent()
	if code := m.Run(); code != 0 {
		return code, nil
	}
	return 0, goleak.Find(before)
}

type bench struct {
	items *sqlite.DB
	key   string
	load  func(items store.Items, key, name string) ([]byte, error)
}

func newBench(t *testing.T) *bench {
	t.Helper()
	items, err := sqlite.Open(filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = items.Close() })
	client, err := kms.NewClient(localaws.Config(server))
	if err != nil {
		t.Fatal(err)
	}
	key, err := localaws.Key(t.Context(), server, false)
	if err != nil {
		t.Fatal(err)
	}
	return &bench{items, key, func(items store.Items, key, name string) ([]byte, error) {
		return secrets.Load(context.Background(), items, client, key, name)
	}}
}

func TestEverybodyGetsTheSame(t *testing.T) {
	b := newBench(t)
	got := make([][]byte, 20)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = b.load(b.items, b.key, "state"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, s := range got {
		if len(s) != 32 || !bytes.Equal(s, got[0]) {
			t.Fatalf("%d bytes, or not the same", len(s))
		}
	}
	if other, err := b.load(b.items, b.key, "other"); err != nil || bytes.Equal(other, got[0]) {
		t.Fatalf("another name: %v", err)
	}
	it, err := b.items.Get(t.Context(), store.Registry, store.Key{PK: "secret", SK: "state"}, true)
	if err != nil || it.Version != 1 || bytes.Contains(it.Body, got[0]) {
		t.Fatalf("version %d, %v", it.Version, err)
	}
}

func TestWhatCannotBeOpenedIsNotReplaced(t *testing.T) {
	b := newBench(t)
	if _, err := b.load(b.items, b.key, "state"); err != nil {
		t.Fatal(err)
	}
	it, err := b.items.Get(t.Context(), store.Registry, store.Key{PK: "secret", SK: "state"}, true)
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{"copied": string(it.Body), "empty": "", "foreign": `{"ciphertext":"AAAA"}`, "more": `{"ciphertext":"AAAA","x":1}`} {
		if err := b.items.Put(t.Context(), store.Write{Table: store.Registry, Item: store.Item{Key: store.Key{PK: "secret", SK: name}, Body: []byte(body)}}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.load(b.items, b.key, name); err == nil {
			t.Errorf("%s: opened", name)
		}
		if it, err := b.items.Get(t.Context(), store.Registry, store.Key{PK: "secret", SK: name}, true); err != nil || it.Version != 1 {
			t.Errorf("%s: version %d, %v", name, it.Version, err)
		}
	}
	// That KMS also holds the ciphertext to the key that is named, MiniStack cannot show: it opens it with the key that made it.
}

func TestFaultsTwice(t *testing.T) {
	for _, op := range []string{"get", "put"} {
		for _, fault := range []storetest.Fault{storetest.NotApplied, storetest.Applied} {
			for n := 1; n <= 2; n++ {
				b := newBench(t)
				f := &storetest.Faults{Plan: storetest.Nth(op, n, fault)}
				first, err := b.load(storetest.FaultyItems{Faults: f, Items: b.items}, b.key, "state")
				if err != nil && !errors.Is(err, storetest.ErrFault) {
					t.Fatal(err)
				}
				second, err2 := b.load(b.items, b.key, "state")
				if err2 != nil || err == nil && !bytes.Equal(first, second) {
					t.Errorf("%s %d %d: %v then %v", op, fault, n, err, err2)
				}
			}
		}
	}
}
