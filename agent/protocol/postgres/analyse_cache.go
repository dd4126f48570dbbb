package postgres

import (
	"container/list"
	"sync"
)

// The cache of facts is bounded twice: by entries, because OLTP clients repeat a few hundred texts, and by bytes of text, because one
// text may be 1 MiB. Texts over maxCachedText are scripts, not worth keeping.
const (
	maxCachedFacts = 1024
	maxCachedBytes = 4 << 20
	maxCachedText  = 64 << 10
)

// factKey is all that facts depend on beside the catalogue, which owns the cache.
type factKey struct {
	text, database, role, searchPath string
	loose                            bool
}

type factCache struct {
	mu    sync.Mutex
	byKey map[factKey]*list.Element
	used  list.List // front is the most recent
	bytes int
}

type cached struct {
	key   factKey
	facts *facts
}

func newFactCache() *factCache { return &factCache{byKey: map[factKey]*list.Element{}} }

func (c *factCache) get(k factKey) *facts {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byKey[k]
	if e == nil {
		return nil
	}
	c.used.MoveToFront(e)
	return e.Value.(*cached).facts
}

func (c *factCache) put(k factKey, f *facts) {
	if len(k.text) > maxCachedText {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byKey[k] != nil {
		return
	}
	c.byKey[k] = c.used.PushFront(&cached{k, f})
	c.bytes += kept(k, f)
	for c.used.Len() > maxCachedFacts || c.bytes > maxCachedBytes {
		e := c.used.Back()
		old := c.used.Remove(e).(*cached)
		delete(c.byKey, old.key)
		c.bytes -= kept(old.key, old.facts)
	}
}

// kept is how many bytes of text an entry holds.
func kept(k factKey, f *facts) int { return len(k.text) + len(f.command.Masked) }
