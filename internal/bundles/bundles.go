package bundles

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/store"
)

// pointer is the registry item that names the active bundle.
type pointer struct {
	Address string `json:"address"`
}

var pointerKey = store.Key{PK: "bundle", SK: "active"}

func blobName(address string) string { return "bundles/" + address }

// publishTries bounds the compare-and-swap: publishers are people and CI jobs, rarely two at once.
const publishTries = 8

// Publish stores a bundle and makes it the active one. Publishing the active one again changes nothing; publishing an older
// one is the way back.
func Publish(ctx context.Context, items store.Items, blobs store.Blobs, b *policy.Bundle) error {
	if err := blobs.Create(ctx, blobName(b.Address), b.Archive()); err != nil {
		return fmt.Errorf("publish bundle %s: %w", b.Address, err)
	}
	body, err := json.Marshal(pointer{Address: b.Address})
	if err != nil {
		return fmt.Errorf("publish bundle: %w", err)
	}
	for range publishTries {
		p, version, err := load(ctx, items)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("publish bundle: %w", err)
		}
		if p.Address == b.Address {
			return nil
		}
		err = items.Put(ctx, store.Write{Table: store.Registry,
			Item: store.Item{Key: pointerKey, Body: body}, Cond: store.Cond{Version: version}})
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return fmt.Errorf("publish bundle %s: %w", b.Address, err)
		}
		return nil
	}
	return fmt.Errorf("publish bundle %s: somebody else is publishing: %w", b.Address, store.ErrConflict)
}

func load(ctx context.Context, items store.Items) (pointer, int64, error) {
	it, err := items.Get(ctx, store.Registry, pointerKey, true)
	if err != nil {
		return pointer{}, 0, fmt.Errorf("active bundle: %w", err)
	}
	var p pointer
	d := json.NewDecoder(bytes.NewReader(it.Body))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return pointer{}, 0, fmt.Errorf("active bundle: %w", err)
	}
	return p, it.Version, nil
}

// Source finds the active bundle. It is safe for concurrent use.
type Source struct {
	items   store.Items
	blobs   store.Blobs
	refresh time.Duration

	mu     sync.Mutex // held while reading: callers that need a look at the pointer wait for one answer
	active *policy.Bundle
	looked time.Time // monotonic: when the pointer was last read
}

// NewSource looks at the pointer again when the last look is older than refresh; 0 means at every call.
func NewSource(items store.Items, blobs store.Blobs, refresh time.Duration) *Source {
	return &Source{items: items, blobs: blobs, refresh: refresh}
}

// Active returns the active bundle: never one that was replaced longer than refresh ago. Without an answer from the stores
// it is an error, whatever was active before.
func (s *Source) Active(ctx context.Context) (*policy.Bundle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.active != nil && now.Sub(s.looked) < s.refresh {
		return s.active, nil
	}
	p, _, err := load(ctx, s.items)
	if err != nil {
		return nil, err
	}
	if s.active == nil || s.active.Address != p.Address {
		archive, err := s.blobs.Open(ctx, blobName(p.Address))
		if err != nil {
			return nil, fmt.Errorf("active bundle: %w", err)
		}
		b, err := policy.FromArchive(archive)
		if err != nil {
			return nil, fmt.Errorf("active bundle %s: %w", p.Address, err)
		}
		if b.Address != p.Address {
			return nil, fmt.Errorf("active bundle: the bytes of %s have the address %s", p.Address, b.Address)
		}
		s.active = b
	}
	s.looked = now
	return s.active, nil
}
