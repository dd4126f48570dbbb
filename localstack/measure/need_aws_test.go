//go:build aws

package measure_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/localstack/localaws"
	"github.com/sallyport/sallyport/localstack/measure"
)

// account asks DynamoDB itself what it charges.
type account struct {
	next http.Handler

	mu          sync.Mutex
	read, write float64
}

type copied struct {
	http.ResponseWriter
	body bytes.Buffer
}

func (c *copied) Write(b []byte) (int, error) { c.body.Write(b); return c.ResponseWriter.Write(b) }

func (a *account) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if _, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), "."); op == "GetItem" || op == "PutItem" || op == "TransactWriteItems" {
		body = append([]byte(`{"ReturnConsumedCapacity":"TOTAL",`), bytes.TrimPrefix(body, []byte("{"))...)
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	c := &copied{ResponseWriter: w}
	a.next.ServeHTTP(c, r)
	type capacity struct{ CapacityUnits float64 }
	var one struct{ ConsumedCapacity capacity }
	var many struct{ ConsumedCapacity []capacity }
	a.mu.Lock()
	defer a.mu.Unlock()
	switch _, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), "."); op {
	case "GetItem":
		_ = json.Unmarshal(c.body.Bytes(), &one) // an answer without it counts as nothing, which the test finds
		a.read += one.ConsumedCapacity.CapacityUnits
	case "PutItem":
		_ = json.Unmarshal(c.body.Bytes(), &one)
		a.write += one.ConsumedCapacity.CapacityUnits
	case "TransactWriteItems":
		_ = json.Unmarshal(c.body.Bytes(), &many)
		for _, u := range many.ConsumedCapacity {
			a.write += u.CapacityUnits / 2 // AWS documents two for each kilobyte in a transaction; DynamoDB Local says four
		}
	}
}

// split sends what is for DynamoDB there, and the rest to a twin.
type split struct{ dynamo, rest http.Handler }

func (s split) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.Header.Get("X-Amz-Target"), "DynamoDB_") {
		s.dynamo.ServeHTTP(w, r)
		return
	}
	s.rest.ServeHTTP(w, r)
}

// onDynamoDB is a world on DynamoDB Local.
func onDynamoDB(t testing.TB) (*measure.World, *measure.Meter, *account) {
	t.Helper()
	db, err := localaws.DynamoDB(t.Context())
	must(t, err)
	t.Cleanup(db.Close)
	proxy, err := measure.Proxy(db.URL)
	must(t, err)
	back, err := measure.OpenTwin(t.TempDir())
	must(t, err)
	books := &account{next: proxy}
	meter := measure.NewMeter(split{books, back})
	served, err := measure.Serve(meter)
	must(t, err)
	t.Cleanup(func() { must(t, served.Close()); must(t, back.Close()) })
	return world(t, served.URL), meter, books
}

// The same needs where DynamoDB is DynamoDB, as far as it runs here, and its own account of them.
func TestWhatADecisionNeedsOnDynamoDB(t *testing.T) {
	w, meter, books := onDynamoDB(t)
	needs(t, w, meter, books.charged)
}

func (a *account) charged() (read, write float64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	read, write = a.read, a.write
	a.read, a.write = 0, 0
	return read, write
}

func TestCrowdOnDynamoDB(t *testing.T) {
	w, meter, _ := onDynamoDB(t)
	crowded(t, w, meter)
}
