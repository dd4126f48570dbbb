package run

import (
	"fmt"
	"sync"

	"github.com/sallyport/sallyport/client/endpoint"
	"github.com/sallyport/sallyport/client/process"
	"github.com/sallyport/sallyport/internal/api"
)

// caller is what must be known of a process that connects.
type caller interface {
	Ancestors() ([]process.ID, error)
	Mark() (process.Mark, error)
}

// tree knows the runs inside this one, and tells who speaks.
type tree struct {
	self process.ID
	mark process.Mark // of this run's processes
	uid  int          // whose processes they are

	mu     sync.Mutex
	nested []nested
}

// nested is a run inside this one, held by a pidfd so that its id cannot come to mean another process.
type nested struct {
	name string
	peer *process.Peer
}

// maxNested bounds the runs inside one run: each holds a descriptor.
const maxNested = 256

// admit says whether a process of user uid speaks as this run.
func (t *tree) admit(c caller, uid int) error {
	if uid != t.uid {
		return refused("run.user", "belongs to another user", "start it inside a `sallyport run` of its own user")
	}
	ids, err := c.Ancestors()
	if err != nil {
		return refused("run.gone", "cannot be told from others: "+err.Error(), "connect again")
	}
	for _, id := range ids {
		if id == t.self {
			return t.checkMark(c)
		}
		if name, ok := t.holds(id); ok {
			return refused("run.nested", fmt.Sprintf("belongs to the run %q", name), "use SALLYPORT_SOCK and the endpoints of the run that it is in")
		}
	}
	return refused("run.unknown", "was not started by this run, or what started it has ended", "start it inside a `sallyport run`")
}

// checkMark refuses who descends from this run but was started in another: its own run has died, and it was re-parented.
func (t *tree) checkMark(c caller) error {
	m, err := c.Mark()
	if err != nil {
		return refused("run.gone", "cannot be told from others: "+err.Error(), "connect again")
	}
	if m != t.mark {
		return refused("run.ended", "was started by a run that has ended", "start it again inside a `sallyport run`")
	}
	return nil
}

func refused(rule, why, hint string) error { return endpoint.RefusedCaller(rule, why, hint) }

// holds says whether id is a run inside this one. Those that have ended are let go: their processes are told apart by mark.
func (t *tree) holds(id process.ID) (name string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.nested {
		if n.peer.ID == id {
			return n.name, true
		}
	}
	return "", false
}

// add makes the process of p a run inside this one; the tree owns p from then on.
func (t *tree) add(name string, p *process.Peer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.nested[:0]
	for _, n := range t.nested {
		if n.peer.Alive() {
			kept = append(kept, n)
			continue
		}
		n.peer.Close()
	}
	clear(t.nested[len(kept):])
	t.nested = kept
	if len(t.nested) >= maxNested {
		return api.Because(api.ErrBusy, "let some of them end", "%d runs are inside this one already", maxNested)
	}
	t.nested = append(t.nested, nested{name: name, peer: p})
	return nil
}

func (t *tree) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.nested {
		n.peer.Close()
	}
	t.nested = nil
}
