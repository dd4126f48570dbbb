//go:build aws

package s3_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/s3"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
	"github.com/sallyport/sallyport/localstack/localaws"
)

var server string

var transport = http.DefaultTransport.(*http.Transport).Clone()

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
	code := m.Run()
	transport.CloseIdleConnections()
	if code == 0 {
		return code, goleak.Find(before)
	}
	return code, nil
}

// wire is a transport on which the n-th request of a method is lost: before it arrives, or its answer.
type wire struct {
	mu      sync.Mutex
	method  string
	n       int
	arrives bool
}

func (w *wire) set(method string, n int, arrives bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.method, w.n, w.arrives = method, n, arrives
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	hit := r.Method == w.method
	if hit {
		w.n--
	}
	hit = hit && w.n == 0
	w.mu.Unlock()
	if !hit {
		return transport.RoundTrip(r)
	}
	if w.arrives {
		resp, err := transport.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	return nil, fmt.Errorf("on the wire: %w", syscall.ECONNRESET)
}

func open(t *testing.T) (*s3.Bucket, *wire) {
	t.Helper()
	name, err := localaws.Bucket(context.Background(), server)
	if err != nil {
		t.Fatal(err)
	}
	x := &wire{}
	c := localaws.Config(server)
	c.HTTPClient = &http.Client{Transport: x}
	b, err := s3.New(s3.Config{AWS: c, Bucket: name, PathStyle: true})
	if err != nil {
		t.Fatal(err)
	}
	return b, x
}

func TestBlobs(t *testing.T) {
	storetest.Blobs(t, func(t *testing.T) store.Blobs { b, _ := open(t); return b })
}

func TestHeads(t *testing.T) {
	storetest.Heads(t, func(t *testing.T) store.Heads { b, _ := open(t); return b })
}

func TestListGoesOverPages(t *testing.T) {
	b, _ := open(t)
	var want []string
	for i := range 1003 {
		name := fmt.Sprintf("entries/%04d", i)
		want = append(want, name)
		if err := b.Create(t.Context(), name, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	got, err := b.List(t.Context(), "entries/")
	if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
		t.Fatalf("%d names, %v", len(got), err)
	}
}

func TestLostRequestsAndAnswers(t *testing.T) {
	for _, arrives := range []bool{false, true} {
		t.Run(fmt.Sprint("arrives=", arrives), func(t *testing.T) {
			b, x := open(t)
			x.set(http.MethodPut, 1, arrives)
			if err := b.Create(t.Context(), "a", []byte("one")); err != nil {
				t.Fatal(err)
			}
			x.set(http.MethodPut, 1, arrives)
			if err := b.Create(t.Context(), "a", []byte("two")); !errors.Is(err, store.ErrConflict) {
				t.Fatalf("other bytes: %v", err)
			}
			x.set(http.MethodPut, 1, arrives)
			if err := b.Swap(t.Context(), "head", nil, []byte("one")); err != nil {
				t.Fatal(err)
			}
			x.set(http.MethodPut, 1, arrives)
			if err := b.Swap(t.Context(), "head", []byte("one"), []byte("two")); err != nil {
				t.Fatal(err)
			}
			// Somebody else put there what this one wants there: it is a conflict all the same.
			x.set(http.MethodPut, 1, arrives)
			if err := b.Swap(t.Context(), "head", []byte("one"), []byte("two")); !errors.Is(err, store.ErrConflict) {
				t.Fatalf("swap of what is gone: %v", err)
			}
			x.set(http.MethodGet, 1, arrives)
			if got, err := b.Load(t.Context(), "head"); err != nil || string(got) != "two" {
				t.Fatalf("%q %v", got, err)
			}
		})
	}
}

func TestLargeBlobs(t *testing.T) {
	b, _ := open(t)
	data := make([]byte, 8<<20)
	_, _ = rand.Read(data)
	if err := b.Create(t.Context(), "large", data); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Open(t.Context(), "large"); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if err := b.Create(t.Context(), "too-large", make([]byte, s3.MaxBlob+1)); !errors.Is(err, store.ErrTooLarge) {
		t.Fatalf("%v", err)
	}
}
