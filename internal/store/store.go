// Package store defines what every engine asks of its stores: items under conditions, create-only blobs, a signing key.
// An adapter refuses what its condition forbids with ErrConflict, and everything it cannot promise with another error.
package store

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"time"
)

// Tables, split by trust (architecture section 9).
const (
	Grants    = "grants"    // roots, tokens, used nonces and jtis
	Approvals = "approvals" // held commands and their verdicts
	Registry  = "registry"  // targets, bundles, agents, sessions, seal's head
	Audit     = "audit"     // append only
)

var (
	// ErrNotFound means that there is no such item or blob.
	ErrNotFound = errors.New("not found")
	// ErrConflict means that the condition did not hold. Nothing was changed.
	ErrConflict = errors.New("condition does not hold")
	// ErrTooLarge means that an item is over MaxItem or a blob over the adapter's limit. Nothing was changed.
	ErrTooLarge = errors.New("too large")
)

// MaxItem is the largest Body in bytes: DynamoDB's 400 kB item limit, less room for the keys.
const MaxItem = 390_000

// Key names an item within its table.
type Key struct{ PK, SK string }

// Item is one row. Version counts from 1 and is kept by the store. Expires (zero: never) lets the store delete it some
// time later; no reader may rely on that, so every condition that cares about time says so (Cond.LiveAt).
type Item struct {
	Key
	Version int64
	Expires time.Time // whole seconds
	Body    []byte    // JSON
}

// Cond is the condition of a write. The zero value is "absent": a put never overwrites unless it says which version.
type Cond struct {
	// Version is the version that must be there; 0 means that no item may be there.
	Version int64
	// LiveAt, when not zero, also demands that the item's Expires is zero or after this instant.
	LiveAt time.Time
}

// Write is one conditional put.
type Write struct {
	Table string
	Item  Item // Version is ignored: the store sets Cond.Version+1
	Cond  Cond
}

// Page is one page of a query, in order of SK.
type Page struct {
	Items  []Item
	Cursor string // "" at the end
}

// Items is a set of tables. Every method is safe for concurrent use; a write that returns nil is durable.
type Items interface {
	// Get returns the item or ErrNotFound. strong=false may be stale.
	Get(ctx context.Context, table string, k Key, strong bool) (Item, error)
	// Put writes one item under its condition, or returns ErrConflict.
	Put(ctx context.Context, w Write) error
	// Transact writes both items or neither.
	Transact(ctx context.Context, a, b Write) error
	// Query lists a partition's items whose SK starts with prefix, strongly, at most limit (1 to 1000) a page.
	Query(ctx context.Context, table, pk, prefix, cursor string, limit int) (Page, error)
}

// Feed is a table's items, each once, in an order that never changes: the embedded store's row ids, or the minutes in which the
// items were written. after is "" at the beginning; the returned cursor, which only the same store can read, goes into the next
// call. Fewer than limit items mean that there are no more for now: a store may hold back what is too young to be in order, and a
// call that is repeated later begins with the same items.
type Feed interface {
	Since(ctx context.Context, table, after string, limit int) (items []Item, next string, err error)
}

// Blobs is a create-only object store.
type Blobs interface {
	// Create writes a new object. Writing equal bytes again is success; other bytes are ErrConflict.
	Create(ctx context.Context, name string, b []byte) error
	// Open returns the whole object or ErrNotFound.
	Open(ctx context.Context, name string) ([]byte, error)
	// List returns the names under a prefix, sorted.
	List(ctx context.Context, prefix string) ([]string, error)
}

// Uploads lets somebody outside write one object, once: what does not fit a call.
type Uploads interface {
	// Grant hands out the right to PUT exactly size bytes with this SHA-256 as a new object, for a while.
	Grant(ctx context.Context, name string, size int64, sha256 [32]byte, life time.Duration) (Upload, error)
	// Open returns the whole object or ErrNotFound.
	Open(ctx context.Context, name string) ([]byte, error)
}

// Upload is how to write an object from outside: a PUT to URL with exactly these headers. An answer of 412 says that it is there already.
type Upload struct {
	URL    string
	Header map[string]string
}

// Heads is the one mutable object that evidence needs: a named value replaced by compare-and-swap, for readers outside
// (the published checkpoint). old=nil means that it must not exist.
type Heads interface {
	// Load returns the value or ErrNotFound.
	Load(ctx context.Context, name string) ([]byte, error)
	// Swap replaces old by new, or returns ErrConflict.
	Swap(ctx context.Context, name string, old, new []byte) error
}

// Signer signs with a P-256 key that never leaves it: KMS, or a key file.
type Signer interface {
	Public() *ecdsa.PublicKey
	// Sign takes a SHA-256 digest and returns an ASN.1 DER signature.
	Sign(ctx context.Context, digest []byte) ([]byte, error)
}
