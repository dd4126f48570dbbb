// Package seal sequences new audit entries into the evidence log and signs its head.
// It refuses to sign a head that is not committed, and to take an entry into the log twice or out of it again.
package seal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
)

// Config says where entries come from and where evidence goes. All fields are required but Now (nil: time.Now).
type Config struct {
	Items  store.Items  // the head lies in its registry table
	Feed   store.Feed   // of the audit table
	Blobs  store.Blobs  // segments and tiles, create-only
	Heads  store.Heads  // the published checkpoint
	Signer store.Signer // of checkpoints, used for nothing else
	Origin string       // names the log, for example "sallyport.example.com/audit"
	Now    func() time.Time
}

// Sealer appends to one log. Several may run at once: a compare-and-swap on the head decides.
type Sealer struct {
	Config
	mu sync.Mutex
	at session.Position // how far CloseLost has looked
}

// New checks the configuration.
func New(c Config) (*Sealer, error) {
	if c.Items == nil || c.Feed == nil || c.Blobs == nil || c.Heads == nil || c.Signer == nil {
		return nil, errors.New("seal: stores and signer are required")
	}
	if _, err := audit.VerifierKey(c.Origin, c.Signer.Public()); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Sealer{Config: c}, nil
}

// Seal takes everything that the feed has into the log, and publishes a checkpoint after each step: a feed that grows as fast as it is read
// must not keep the log without one. Safe to call again after any failure, at once or by another process.
func (s *Sealer) Seal(ctx context.Context) (audit.Checkpoint, error) {
	for {
		h, version, err := s.load(ctx)
		if err != nil {
			return audit.Checkpoint{}, err
		}
		p, err := s.gather(ctx, h.Cursor)
		if err != nil {
			return audit.Checkpoint{}, fmt.Errorf("seal: %w", err)
		}
		if len(p.counts) > 0 {
			h, p.more, err = s.extend(ctx, h, version, p)
			if errors.Is(err, errAgain) {
				continue
			}
			if err != nil {
				return audit.Checkpoint{}, err
			}
		}
		c, err := s.publish(ctx, h)
		if err != nil || !p.more {
			return c, err
		}
	}
}

// pile is what one step takes into the log.
type pile struct {
	leaves [][]byte
	counts []int  // of leaves, by item
	next   string // the feed's cursor behind it
	more   bool   // the feed has, or may have, more than one step takes
}

// Limits of one step. A step costs a segment, some tiles and a head, each of them synced: the more it takes, the less an entry
// costs. How much it takes depends on nothing but the items, so that a step that is tried again takes at least what it took before.
const (
	perItem   = 64      // entries in one item, at the most: api.MaxBatch
	smallPage = 16      // items: what is left of audit.MaxSegment then is not worth a query
	maxBytes  = 8 << 20 // of entries, before the last page
)

// gather takes items off the feed, with at most audit.MaxSegment entries.
func (s *Sealer) gather(ctx context.Context, cursor string) (pile, error) {
	p, bytes := pile{next: cursor}, 0
	for {
		page := (audit.MaxSegment - len(p.leaves)) / perItem
		if page < smallPage || bytes > maxBytes {
			p.more = true
			return p, nil
		}
		items, next, err := s.Feed.Since(ctx, store.Audit, p.next, page)
		if err != nil {
			return pile{}, err
		}
		for _, it := range items {
			leaves, err := audit.Leaves(it)
			if err != nil {
				return pile{}, err
			}
			p.leaves, p.counts = append(p.leaves, leaves...), append(p.counts, len(leaves))
			bytes += len(it.Body)
		}
		if p.next = next; len(items) < page {
			return p, nil
		}
	}
}

// errAgain means that another sealer was faster: start over from its head.
var errAgain = errors.New("head moved")

func (s *Sealer) load(ctx context.Context) (audit.Head, int64, error) {
	it, err := s.Items.Get(ctx, store.Registry, audit.HeadKey, true)
	if errors.Is(err, store.ErrNotFound) {
		root, err := tlog.TreeHash(0, nil)
		return audit.Head{Root: root}, 0, err
	}
	if err != nil {
		return audit.Head{}, 0, fmt.Errorf("seal: read head: %w", err)
	}
	var h audit.Head
	if err := json.Unmarshal(it.Body, &h); err != nil {
		return audit.Head{}, 0, fmt.Errorf("seal: read head: %w", err)
	}
	return h, it.Version, nil
}

// extend appends a pile: segment, tiles, then the head, which it returns, and whether there is more to append. A crash between leaves
// blobs that the next try finds.
func (s *Sealer) extend(ctx context.Context, h audit.Head, version int64, p pile) (next audit.Head, more bool, err error) {
	leaves, cursor := p.leaves, p.next
	more = p.more
	name := audit.SegmentName(h.Size)
	switch err := s.Blobs.Create(ctx, name, audit.Segment(leaves)); {
	case errors.Is(err, store.ErrConflict):
		// An earlier try, or another sealer, wrote this segment when the feed was shorter or longer: adopt what is there.
		n, took, err := s.adopt(ctx, name, leaves, p.counts)
		if err != nil {
			return audit.Head{}, false, err
		}
		more = more || n < len(leaves)
		leaves, cursor = leaves[:n], h.Cursor
		for took > 0 {
			items, after, err := s.Feed.Since(ctx, store.Audit, cursor, min(took, perItem))
			if err == nil && len(items) == 0 {
				err = fmt.Errorf("the feed ends before %s does", name)
			}
			if err != nil {
				return audit.Head{}, false, fmt.Errorf("seal: %w", err)
			}
			took, cursor = took-len(items), after
		}
	case err != nil:
		return audit.Head{}, false, fmt.Errorf("seal: write %s: %w", name, err)
	}
	root, err := audit.Tree{Blobs: s.Blobs, Size: h.Size}.Append(ctx, leaves)
	if err != nil {
		return audit.Head{}, false, fmt.Errorf("seal: %w", err)
	}
	next = audit.Head{Size: h.Size + int64(len(leaves)), Root: root, Cursor: cursor}
	body, err := json.Marshal(next)
	if err != nil {
		return audit.Head{}, false, fmt.Errorf("seal: encode head: %w", err)
	}
	err = s.Items.Put(ctx, store.Write{Table: store.Registry, Item: store.Item{Key: audit.HeadKey, Body: body}, Cond: store.Cond{Version: version}})
	if errors.Is(err, store.ErrConflict) {
		return audit.Head{}, false, errAgain
	}
	if err != nil {
		return audit.Head{}, false, fmt.Errorf("seal: commit head: %w", err)
	}
	return next, more, nil
}

// adopt finds how many leaves, and items, an existing segment holds. It must be a beginning of what the feed says.
func (s *Sealer) adopt(ctx context.Context, name string, leaves [][]byte, counts []int) (n, took int, err error) {
	b, err := s.Blobs.Open(ctx, name)
	if err != nil {
		return 0, 0, fmt.Errorf("seal: read %s: %w", name, err)
	}
	there, err := audit.SplitSegment(b)
	if err != nil {
		return 0, 0, fmt.Errorf("seal: read %s: %w", name, err)
	}
	for _, c := range counts {
		if n == len(there) {
			break
		}
		n, took = n+c, took+1
	}
	if n != len(there) {
		// Longer than this batch of the feed, or cut within an item: the other sealer saw more. Its head will come, or ours fails loudly.
		return 0, 0, fmt.Errorf("seal: %s holds %d entries, the feed has %d: %w", name, len(there), len(leaves), store.ErrConflict)
	}
	for i := range there {
		if !bytes.Equal(there[i], leaves[i]) {
			return 0, 0, fmt.Errorf("seal: %s entry %d is not what the feed has: %w", name, i, store.ErrConflict)
		}
	}
	return n, took, nil
}

// publish signs the committed head, unless the published checkpoint is already over it.
func (s *Sealer) publish(ctx context.Context, h audit.Head) (audit.Checkpoint, error) {
	key, err := audit.VerifierKey(s.Origin, s.Signer.Public())
	if err != nil {
		return audit.Checkpoint{}, fmt.Errorf("seal: %w", err)
	}
	old, err := s.Heads.Load(ctx, audit.CheckpointName)
	switch {
	case errors.Is(err, store.ErrNotFound):
		old = nil
	case err != nil:
		return audit.Checkpoint{}, fmt.Errorf("seal: read checkpoint: %w", err)
	default:
		c, err := audit.OpenCheckpoint(old, key)
		if err != nil {
			return audit.Checkpoint{}, fmt.Errorf("seal: published checkpoint: %w", err)
		}
		if c.Size > h.Size {
			return c, nil // another sealer is ahead
		}
		if c.Size == h.Size {
			if c.Root != h.Root {
				return audit.Checkpoint{}, fmt.Errorf("seal: the published checkpoint over %d entries has another root than the head", c.Size)
			}
			return c, nil
		}
	}
	c := audit.Checkpoint{Origin: s.Origin, Size: h.Size, Root: h.Root, Time: s.Now()}
	signed, err := audit.SignCheckpoint(ctx, c, s.Signer)
	if err != nil {
		return audit.Checkpoint{}, fmt.Errorf("seal: %w", err)
	}
	if err := s.Heads.Swap(ctx, audit.CheckpointName, old, signed); err != nil && !errors.Is(err, store.ErrConflict) {
		return audit.Checkpoint{}, fmt.Errorf("seal: publish checkpoint: %w", err)
	}
	return c, nil
}
