package storetest

import (
	"context"
	"errors"
	"sync"

	"github.com/sallyport/sallyport/internal/store"
)

// ErrFault is what a faulty store answers.
var ErrFault = errors.New("injected fault")

// Fault is what happens to one call.
type Fault int

// The two ways in which a call can go wrong, and the one in which it does not.
const (
	None       Fault = iota
	NotApplied       // the error is the truth
	Applied          // it happened, but the answer was lost
)

// Faults wraps stores. Plan is asked before every call, with the call's name ("get", "put", "transact", "query", "since",
// "create", "open", "list", "load", "swap") and its table or blob name; nil plans nothing.
type Faults struct {
	mu   sync.Mutex
	Plan func(op, on string) Fault
}

// Set replaces the plan, also while calls are under way.
func (f *Faults) Set(plan func(op, on string) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Plan = plan
}

// Nth plans one fault at the n-th call (from 1) of op.
func Nth(op string, n int, fault Fault) func(string, string) Fault {
	count := 0
	return func(o, _ string) Fault {
		if o != op {
			return None
		}
		if count++; count == n {
			return fault
		}
		return None
	}
}

func (f *Faults) next(op, on string) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Plan == nil {
		return None
	}
	return f.Plan(op, on)
}

// Fails plans a call to something that is no store, such as a key.
func (f *Faults) Fails(op, on string) error {
	if f.next(op, on) != None {
		return ErrFault
	}
	return nil
}

func (f *Faults) do(op, on string, call func() error) error {
	switch f.next(op, on) {
	case NotApplied:
		return ErrFault
	case Applied:
		_ = call() // the answer is lost, whatever it was
		return ErrFault
	}
	return call()
}

// FaultyItems is a store.Items whose calls fail as planned.
type FaultyItems struct {
	*Faults
	store.Items
}

// Get implements store.Items.
func (s FaultyItems) Get(ctx context.Context, table string, k store.Key, strong bool) (it store.Item, err error) {
	if s.next("get", table) != None {
		return store.Item{}, ErrFault
	}
	return s.Items.Get(ctx, table, k, strong)
}

// Put implements store.Items.
func (s FaultyItems) Put(ctx context.Context, w store.Write) error {
	return s.do("put", w.Table, func() error { return s.Items.Put(ctx, w) })
}

// Transact implements store.Items.
func (s FaultyItems) Transact(ctx context.Context, a, b store.Write) error {
	return s.do("transact", a.Table, func() error { return s.Items.Transact(ctx, a, b) })
}

// Query implements store.Items.
func (s FaultyItems) Query(ctx context.Context, table, pk, prefix, cursor string, limit int) (store.Page, error) {
	if s.next("query", table) != None {
		return store.Page{}, ErrFault
	}
	return s.Items.Query(ctx, table, pk, prefix, cursor, limit)
}

// FaultyFeed is a store.Feed whose calls fail as planned.
type FaultyFeed struct {
	*Faults
	store.Feed
}

// Since implements store.Feed.
func (s FaultyFeed) Since(ctx context.Context, table, after string, limit int) ([]store.Item, string, error) {
	if s.next("since", table) != None {
		return nil, after, ErrFault
	}
	return s.Feed.Since(ctx, table, after, limit)
}

// FaultyBlobs is a store.Blobs whose calls fail as planned.
type FaultyBlobs struct {
	*Faults
	store.Blobs
}

// Create implements store.Blobs.
func (s FaultyBlobs) Create(ctx context.Context, name string, b []byte) error {
	return s.do("create", name, func() error { return s.Blobs.Create(ctx, name, b) })
}

// Open implements store.Blobs.
func (s FaultyBlobs) Open(ctx context.Context, name string) ([]byte, error) {
	if s.next("open", name) != None {
		return nil, ErrFault
	}
	return s.Blobs.Open(ctx, name)
}

// FaultyHeads is a store.Heads whose calls fail as planned.
type FaultyHeads struct {
	*Faults
	store.Heads
}

// Load implements store.Heads.
func (s FaultyHeads) Load(ctx context.Context, name string) ([]byte, error) {
	if s.next("load", name) != None {
		return nil, ErrFault
	}
	return s.Heads.Load(ctx, name)
}

// Swap implements store.Heads.
func (s FaultyHeads) Swap(ctx context.Context, name string, old, new []byte) error {
	return s.do("swap", name, func() error { return s.Heads.Swap(ctx, name, old, new) })
}
