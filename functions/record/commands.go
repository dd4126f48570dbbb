package record

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
)

// commands finds decided commands of one session for one call, and remembers what it saw on the way.
type commands struct {
	items   store.Items
	session access.SessionID

	known map[access.CommandID]decided
	read  map[store.Key]bool // blocks that were read: PK and prefix
}

type decided struct {
	seq     uint64
	outcome access.Outcome
}

// allowed says whether the command was stored with an allow, or held and then claimed with one.
func (c *commands) allowed(ctx context.Context, o *api.Outcome) (bool, error) {
	d, ok, err := c.find(ctx, o)
	if err != nil || !ok || d.seq != o.Seq {
		return false, err
	}
	switch d.outcome {
	case access.Allow:
		return true, nil
	case access.Hold:
		return c.claimed(ctx, o)
	}
	return false, nil
}

func (c *commands) claimed(ctx context.Context, o *api.Outcome) (bool, error) {
	k, err := audit.Key(audit.Entry{Kind: audit.KindClaim, ID: string(o.Command), Session: c.session, Seq: o.Seq})
	if err != nil {
		return false, err
	}
	it, err := c.items.Get(ctx, store.Audit, k, true)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	entries, err := audit.Decode(it)
	if err != nil {
		return false, err
	}
	e := entries[0]
	return e.Kind == audit.KindClaim && e.ID == string(o.Command) && e.Decision != nil && e.Decision.Outcome == access.Allow, nil
}

// blockBits: items are looked for in blocks of 16 sequence numbers, so that a page of the largest items stays near 6 MB.
const blockBits = 4

// find looks where most commands lie, under their own sequence; then through the places where the batch may begin that it
// was decided in: up to api.MaxBatch-1 before it, perhaps in the minute before.
func (c *commands) find(ctx context.Context, o *api.Outcome) (decided, bool, error) {
	if d, ok := c.known[o.Command]; ok {
		return d, true, nil
	}
	own, err := audit.Key(audit.Entry{Kind: audit.KindCommand, ID: string(o.Command), Session: c.session, Seq: o.Seq})
	if err != nil {
		return decided{}, false, err
	}
	it, err := c.items.Get(ctx, store.Audit, own, true)
	if err == nil {
		err = c.learn(it)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return decided{}, false, err
	}
	if d, ok := c.known[o.Command]; ok {
		return d, true, nil
	}
	made, err := session.Time(string(o.Command))
	if err != nil {
		return decided{}, false, err
	}
	earliest := uint64(1)
	if o.Seq > api.MaxBatch {
		earliest = o.Seq - api.MaxBatch + 1
	}
	for _, minute := range []string{own.PK, audit.MinuteOf(made.Add(-time.Minute))} {
		for block := o.Seq >> blockBits; ; block-- {
			if err := c.block(ctx, minute, block); err != nil {
				return decided{}, false, err
			}
			if d, ok := c.known[o.Command]; ok {
				return d, true, nil
			}
			if block <= earliest>>blockBits {
				break
			}
		}
	}
	return decided{}, false, nil
}

// block learns the commands that begin in a block of sequence numbers, once.
func (c *commands) block(ctx context.Context, minute string, block uint64) error {
	prefix := fmt.Sprintf("%s#%015x", c.session, block)
	k := store.Key{PK: minute, SK: prefix}
	if c.read[k] {
		return nil
	}
	for cursor := ""; ; {
		p, err := c.items.Query(ctx, store.Audit, minute, prefix, cursor, 1<<blockBits)
		if err != nil {
			return err
		}
		for _, it := range p.Items {
			if !strings.HasSuffix(it.SK, "#c") {
				continue
			}
			if err := c.learn(it); err != nil {
				return err
			}
		}
		if cursor = p.Cursor; cursor == "" {
			break
		}
	}
	if c.read == nil {
		c.read = map[store.Key]bool{}
	}
	c.read[k] = true
	return nil
}

// line is the little of an entry that tells whether its command was allowed. The rest was decoded when it was stored, and is again
// when it is sealed.
type line struct {
	Kind     audit.Kind       `json:"kind"`
	ID       access.CommandID `json:"id"`
	Session  access.SessionID `json:"session"`
	Seq      uint64           `json:"seq"`
	Decision *struct {
		Outcome access.Outcome `json:"outcome"`
	} `json:"decision"`
}

func (c *commands) learn(it store.Item) error {
	var lines []line
	if err := json.Unmarshal(it.Body, &lines); err != nil {
		return fmt.Errorf("decode audit item %s %s: %w", it.PK, it.SK, err)
	}
	if c.known == nil {
		c.known = map[access.CommandID]decided{}
	}
	for _, l := range lines {
		if l.Kind == audit.KindCommand && l.Session == c.session && l.Decision != nil {
			c.known[l.ID] = decided{seq: l.Seq, outcome: l.Decision.Outcome}
		}
	}
	return nil
}
