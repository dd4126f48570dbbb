//go:build aws

package dynamo_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/dynamo"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
	"github.com/sallyport/sallyport/localstack/localaws"
)

// servers are DynamoDB Local, the oracle, and MiniStack's DynamoDB, the emulator that stories run on.
var servers = map[string]string{}

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
	for name, start := range map[string]func(context.Context) (*localaws.Server, error){"dynamodb-local": localaws.DynamoDB, "ministack": localaws.MiniStack} {
		s, err := start(context.Background())
		if err != nil {
			return 1, err
		}
		defer s.Close()
		servers[name] = s.URL
	}
	transport.MaxIdleConnsPerHost = 64
	before := goleak.IgnoreCurrent()
	code := m.Run()
	transport.CloseIdleConnections()
	if code == 0 {
		return code, goleak.Find(before)
	}
	return code, nil
}

type world struct {
	*dynamo.Tables
	c   dynamo.Config
	mu  sync.Mutex
	now time.Time // zero: the real one
}

func (w *world) set(t time.Time) { w.mu.Lock(); defer w.mu.Unlock(); w.now = t }

// open makes four empty tables. through changes how the client gets there.
func open(t *testing.T, server string, through func(http.RoundTripper) http.RoundTripper) *world {
	t.Helper()
	names, err := localaws.Tables(context.Background(), servers[server])
	if err != nil {
		t.Fatal(err)
	}
	w := &world{c: dynamo.Config{AWS: localaws.Config(servers[server]), Tables: names}}
	w.c.Now = func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.now.IsZero() {
			return time.Now()
		}
		return w.now
	}
	w.again(t, through)
	return w
}

// again is another process on the same tables.
func (w *world) again(t *testing.T, through func(http.RoundTripper) http.RoundTripper) {
	t.Helper()
	rt := http.RoundTripper(transport)
	if through != nil {
		rt = through(rt)
	}
	w.c.AWS.HTTPClient = &http.Client{Transport: rt, Timeout: 2 * time.Second}
	var err error
	if w.Tables, err = dynamo.New(w.c); err != nil {
		t.Fatal(err)
	}
}

func TestFeed(t *testing.T) {
	for name := range servers {
		t.Run(name, func(t *testing.T) {
			storetest.Feed(t, func(t *testing.T) (storetest.FedItems, func()) {
				w := open(t, name, nil)
				w.set(noon)
				return w.Tables, func() { w.set(w.c.Now().Add(2 * time.Minute)) }
			})
		})
	}
}

func TestItems(t *testing.T) {
	for name := range servers {
		t.Run(name, func(t *testing.T) {
			storetest.Items(t, func(t *testing.T) store.Items { return open(t, name, nil).Tables })
		})
	}
}
