package policy

import (
	"encoding/binary"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/sallyport/sallyport/internal/access"
)

// memo keeps what equal requests have in common as Cedar wants it: Cedar hashes every record and set as it is made, which is most of what a
// decision would cost. It changes no verdict: a key holds all that its value is made of. The zero memo remembers nothing yet.
type memo struct {
	askers    remembered[*asker]
	resources remembered[*placed]
	records   remembered[types.Record]
	contexts  remembered[types.Record]
}

// maxRemembered bounds each kind; what comes when it is full begins anew.
const maxRemembered = 1024

// remembered is a bounded map from what a value is made of to the value, which nobody changes.
type remembered[T any] struct {
	mu  sync.RWMutex
	all map[string]T
}

func (m *remembered[T]) of(k key, made func() T) T {
	m.mu.RLock()
	v, ok := m.all[string(k)]
	m.mu.RUnlock()
	if ok {
		return v
	}
	v = made()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all == nil || len(m.all) >= maxRemembered {
		m.all = make(map[string]T)
	}
	m.all[string(k)] = v
	return v
}

// key is unambiguous: every part has its length before it.
type key []byte

func (k key) text(s string) key { return append(k.number(int64(len(s))), s...) }

func (k key) texts(ss []string) key {
	k = k.number(int64(len(ss)))
	for _, s := range ss {
		k = k.text(s)
	}
	return k
}

func (k key) number(n int64) key { return binary.AppendVarint(k, n) }

func (k key) time(t time.Time) key {
	if t.IsZero() {
		return k.number(0)
	}
	return k.number(1).number(t.Unix()).number(int64(t.Nanosecond()))
}

func (k key) flags(flags ...bool) key {
	for _, f := range flags {
		if f {
			k = append(k, 1)
		} else {
			k = append(k, 0)
		}
	}
	return k
}

func (k key) target(t *Target) key {
	k = k.text(string(t.Name)).number(int64(len(t.Labels)))
	for _, label := range slices.Sorted(maps.Keys(t.Labels)) {
		k = k.text(label).text(t.Labels[label])
	}
	return k
}

func (k key) lineage(l *access.Lineage) key {
	k = k.text(l.Principal).texts(l.Groups).number(int64(l.Assurance)).time(l.AuthTime).number(int64(len(l.Path)))
	for _, n := range l.Path {
		k = k.text(string(n.ID)).text(n.Name).text(n.Purpose)
	}
	return k
}

func (k key) facts(c *access.Command) key {
	f := &c.Facts
	return k.flags(c.Complete, f.Deletes, f.HasWhere, f.InTxn, f.Locks, c.Prepare).number(f.RowLimit).number(int64(f.Statement)).texts(f.Functions)
}

func (k key) state(s *access.State) key { return k.text(s.Database).text(s.Role).text(s.SearchPath) }
