//go:build aws

package dynamo_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

// what may happen to a request on its way.
const (
	cut      = "cut"      // it does not arrive
	lost     = "lost"     // it is applied, and its answer is lost
	throttle = "throttle" // it is refused for now
	broken   = "broken"   // the server says 500, having done nothing
	late     = "late"     // it is applied, and the server says 500 all the same
)

var mishaps = []string{cut, lost, throttle, broken, late}

// wire is a transport on which the requests of some operations meet with mishaps.
type wire struct {
	next http.RoundTripper
	mu   sync.Mutex
	plan func(op string) string
	sent map[string]int
}

func (w *wire) set(plan func(op string) string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.plan, w.sent = plan, map[string]int{}
}

// nth plans a mishap for the requests from to of an operation, counted from 1.
func nth(op string, from, to int, what string) func(string) string {
	n := 0
	return func(o string) string {
		if o != op {
			return ""
		}
		if n++; n >= from && n <= to {
			return what
		}
		return ""
	}
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	_, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	w.mu.Lock()
	what := ""
	if w.plan != nil {
		what = w.plan(op)
		w.sent[op]++
	}
	w.mu.Unlock()
	reset := fmt.Errorf("on the wire: %w", syscall.ECONNRESET)
	switch what {
	case cut:
		return nil, reset
	case throttle:
		return answer(r, http.StatusBadRequest, "ProvisionedThroughputExceededException"), nil
	case broken:
		return answer(r, http.StatusInternalServerError, "InternalServerError"), nil
	}
	resp, err := w.next.RoundTrip(r)
	if err != nil || what == "" {
		return resp, err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if what == lost {
		return nil, reset
	}
	return answer(r, http.StatusInternalServerError, "InternalServerError"), nil
}

func answer(r *http.Request, status int, code string) *http.Response {
	body := fmt.Sprintf(`{"__type":"com.amazonaws.dynamodb.v20120810#%s","message":"injected"}`, code)
	return &http.Response{StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r, ContentLength: int64(len(body)),
		Header: http.Header{"Content-Type": {"application/x-amz-json-1.0"}}, Body: io.NopCloser(strings.NewReader(body))}
}

func faulty(t *testing.T, server string) (*world, *wire) {
	x := &wire{}
	return open(t, server, func(rt http.RoundTripper) http.RoundTripper { x.next = rt; return x }), x
}

func item(pk, sk, body string) store.Item {
	return store.Item{Key: store.Key{PK: pk, SK: sk}, Body: []byte(body)}
}

// version is what is there, read without mishaps.
func (w *world) version(t *testing.T, x *wire, table, pk, sk string) (int64, string) {
	t.Helper()
	x.set(nil)
	it, err := w.Get(context.Background(), table, store.Key{PK: pk, SK: sk}, true)
	if errors.Is(err, store.ErrNotFound) {
		return 0, ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return it.Version, string(it.Body)
}

// A mishap that passes is nobody's business: the write is applied once, and its caller hears so.
func TestWritesOutliveMishaps(t *testing.T) {
	w, x := faulty(t, "dynamodb-local")
	n := 0
	for _, what := range mishaps {
		for _, requests := range []int{1, 2, 3} {
			t.Run(fmt.Sprint(what, requests), func(t *testing.T) {
				n++
				pk := fmt.Sprint("p", n)
				for version, body := range []string{"one", "two"} {
					x.set(nth("PutItem", 1, requests, what))
					if err := w.Put(t.Context(), store.Write{Table: store.Approvals, Item: item(pk, "s", body), Cond: store.Cond{Version: int64(version)}}); err != nil {
						t.Fatal(err)
					}
					if v, b := w.version(t, x, store.Approvals, pk, "s"); v != int64(version)+1 || b != body {
						t.Fatalf("version %d, %q", v, b)
					}
				}
				x.set(nth("TransactWriteItems", 1, requests, what))
				err := w.Transact(t.Context(), store.Write{Table: store.Approvals, Item: item(pk, "s", "three"), Cond: store.Cond{Version: 2}},
					store.Write{Table: store.Audit, Item: item(pk, "entry", "e")})
				if err != nil {
					t.Fatal(err)
				}
				if v, b := w.version(t, x, store.Approvals, pk, "s"); v != 3 || b != "three" {
					t.Fatalf("version %d, %q", v, b)
				}
				if v, _ := w.version(t, x, store.Audit, pk, "entry"); v != 1 {
					t.Fatalf("entry has version %d", v)
				}
			})
		}
	}
}

// One that does not pass is an error within bounds, never a conflict; whether it was applied, the next reader sees.
func TestMishapsThatStayAreErrors(t *testing.T) {
	w, x := faulty(t, "dynamodb-local")
	for _, what := range mishaps {
		t.Run(what, func(t *testing.T) {
			applied := what == lost || what == late
			for op, call := range map[string]func() error{
				"PutItem": func() error {
					return w.Put(t.Context(), store.Write{Table: store.Grants, Item: item(what, "PutItem", "")})
				},
				"TransactWriteItems": func() error {
					return w.Transact(t.Context(), store.Write{Table: store.Grants, Item: item(what, "TransactWriteItems", "")},
						store.Write{Table: store.Registry, Item: item(what, "b", "")})
				},
				"GetItem": func() error {
					_, err := w.Get(t.Context(), store.Grants, store.Key{PK: what, SK: "GetItem"}, true)
					return err
				},
				"Query": func() error {
					_, err := w.Query(t.Context(), store.Grants, what, "", "", 10)
					return err
				},
			} {
				x.set(nth(op, 1, 1000, what))
				err := call()
				if err == nil && strings.HasPrefix(op, "G") || err == nil && op == "Query" {
					t.Errorf("%s: no error", op)
				}
				if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
					t.Errorf("%s: %v", op, err)
				}
				if x.sent[op] > 4 {
					t.Errorf("%s: %d requests for one call", op, x.sent[op])
				}
				if v, _ := w.version(t, x, store.Grants, what, op); applied && strings.HasSuffix(op, "m") == (op == "PutItem") && op == "PutItem" && v != 1 || !applied && v != 0 {
					t.Errorf("%s: version %d", op, v)
				}
			}
		})
	}
}

// A try that did not arrive has lost when somebody else was faster, also with the very same bytes: a nonce is used once.
func TestARetryThatLostTheRaceConflicts(t *testing.T) {
	for _, what := range mishaps {
		w, x := faulty(t, "dynamodb-local")
		quiet := open(t, "dynamodb-local", nil)
		quiet.c.Tables = w.c.Tables
		quiet.again(t, nil)
		used := store.Write{Table: store.Grants, Item: item("jti", "x", "same")}
		x.set(func(op string) string {
			if x.sent["PutItem"] != 0 {
				return ""
			}
			if what == cut || what == throttle || what == broken {
				if err := quiet.Put(context.Background(), used); err != nil {
					t.Error(err)
				}
			}
			return what
		})
		err := w.Put(t.Context(), used)
		if applied := what == lost || what == late; applied && err != nil || !applied && !errors.Is(err, store.ErrConflict) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Where an applied try was overwritten before its retry, nothing can tell: that is said, and is no conflict.
func TestAnAppliedTryThatWasOverwrittenIsNotAConflict(t *testing.T) {
	w, x := faulty(t, "dynamodb-local")
	quiet := open(t, "dynamodb-local", nil)
	quiet.c.Tables = w.c.Tables
	quiet.again(t, nil)
	x.set(func(op string) string {
		if x.sent[op] == 0 {
			return lost
		}
		err := quiet.Put(context.Background(), store.Write{Table: store.Grants, Item: item("a", "b", "theirs"), Cond: store.Cond{Version: 1}})
		if err != nil {
			t.Error(err)
		}
		return ""
	})
	err := w.Put(t.Context(), store.Write{Table: store.Grants, Item: item("a", "b", "ours")})
	if err == nil || errors.Is(err, store.ErrConflict) {
		t.Fatalf("%v", err)
	}
	// Without a lost answer the same is a conflict.
	x.set(nil)
	if err := w.Put(t.Context(), store.Write{Table: store.Grants, Item: item("a", "b", "ours")}); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("%v", err)
	}
}

// The faults that components are tested with tell the truth about this store, too.
func TestFaultsTwice(t *testing.T) {
	w := open(t, "dynamodb-local", nil)
	for _, fault := range []storetest.Fault{storetest.NotApplied, storetest.Applied} {
		for op, call := range map[string]func(s store.Items, pk string) error{
			"put": func(s store.Items, pk string) error {
				return s.Put(t.Context(), store.Write{Table: store.Audit, Item: item(pk, "a", "x")})
			},
			"transact": func(s store.Items, pk string) error {
				return s.Transact(t.Context(), store.Write{Table: store.Audit, Item: item(pk, "a", "x")}, store.Write{Table: store.Registry, Item: item(pk, "a", "x")})
			},
			"get": func(s store.Items, pk string) error {
				_, err := s.Get(t.Context(), store.Audit, store.Key{PK: pk, SK: "a"}, true)
				return err
			},
			"query": func(s store.Items, pk string) error {
				_, err := s.Query(t.Context(), store.Audit, pk, "", "", 1)
				return err
			},
		} {
			f := &storetest.Faults{Plan: storetest.Nth(op, 1, fault)}
			s := storetest.FaultyItems{Faults: f, Items: w.Tables}
			pk := fmt.Sprint(op, fault)
			if err := call(s, pk); !errors.Is(err, storetest.ErrFault) {
				t.Errorf("%s: %v", pk, err)
			}
			err := call(s, pk) // the caller's own second try is another call: it meets its condition
			write := op == "put" || op == "transact"
			if write && fault == storetest.Applied && !errors.Is(err, store.ErrConflict) || write && fault == storetest.NotApplied && err != nil {
				t.Errorf("%s again: %v", pk, err)
			}
		}
	}
}

// bodies keeps what was asked, by operation.
type bodies struct {
	next http.RoundTripper
	mu   sync.Mutex
	last map[string]string
}

func (b *bodies) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	_, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	b.mu.Lock()
	b.last[op] = string(body)
	b.mu.Unlock()
	return b.next.RoundTrip(r)
}

// No emulator is ever stale: that strong reads are asked for shows on the wire alone. So does that no write goes without a condition.
func TestWhatIsAskedOnTheWire(t *testing.T) {
	b := &bodies{last: map[string]string{}}
	w := open(t, "ministack", func(rt http.RoundTripper) http.RoundTripper { b.next = rt; return b })
	write := store.Write{Table: store.Grants, Item: item("p", "s", "x")}
	if err := w.Put(t.Context(), write); err != nil {
		t.Fatal(err)
	}
	for _, strong := range []bool{true, false} {
		if _, err := w.Get(t.Context(), store.Grants, write.Item.Key, strong); err != nil {
			t.Fatal(err)
		}
		if got := b.last["GetItem"]; !strings.Contains(got, fmt.Sprintf(`"ConsistentRead":%v`, strong)) {
			t.Errorf("strong=%v: %s", strong, got)
		}
	}
	if _, err := w.Query(t.Context(), store.Grants, "p", "", "", 1); err != nil {
		t.Fatal(err)
	}
	write.Cond.Version = 1
	if err := w.Transact(t.Context(), write, store.Write{Table: store.Audit, Item: item("p", "s", "x")}); err != nil {
		t.Fatal(err)
	}
	for op, want := range map[string][]string{
		"Query":              {`"ConsistentRead":true`},
		"PutItem":            {`"ConditionExpression":"attribute_not_exists(pk)"`}, // the index's, too
		"TransactWriteItems": {`"ConditionExpression":"version = :version"`, `"ConditionExpression":"attribute_not_exists(pk)"`, `"ClientRequestToken"`},
	} {
		for _, part := range want {
			if !strings.Contains(b.last[op], part) {
				t.Errorf("%s without %s: %s", op, part, b.last[op])
			}
		}
	}
}
