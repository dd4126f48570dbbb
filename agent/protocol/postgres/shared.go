package postgres

import (
	"context"
	"fmt"
	"sync"

	"github.com/sallyport/sallyport/internal/access"
)

// maxShared is how many snapshots of catalogues a room keeps for sessions to come.
const maxShared = 16

// snapshotOf is whose snapshots are alike, given the mark of the catalogue that they are of.
type snapshotOf struct {
	target         access.TargetName
	database, role string
	classes        string
}

// snapshots lets sessions on the same database share one snapshot of its catalogue: a pool that opens fifty connections at once makes one,
// and not fifty. Sessions with temporary tables of their own, and transactions that have changed something, see a catalogue of their own and
// take no part.
type snapshots struct {
	mu      sync.Mutex
	latest  map[snapshotOf]snapshot
	loading map[snapshotOf]chan struct{} // capacity 1: who holds it loads
}

type snapshot struct {
	mark string
	cat  *catalogue
}

func newSnapshots() *snapshots {
	return &snapshots{latest: make(map[snapshotOf]snapshot), loading: make(map[snapshotOf]chan struct{})}
}

func (s *snapshots) get(k snapshotOf, mark string) *catalogue {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.latest[k]; l.mark == mark {
		return l.cat
	}
	return nil
}

func (s *snapshots) put(k snapshotOf, mark string, cat *catalogue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.latest[k]; !known && len(s.latest) >= maxShared {
		for old := range s.latest { // any: what is used comes back at once
			delete(s.latest, old)
			delete(s.loading, old)
			break
		}
	}
	s.latest[k] = snapshot{mark, cat}
}

// turn waits until nobody else loads a snapshot of k; done gives the turn back.
func (s *snapshots) turn(ctx context.Context, k snapshotOf) (done func(), err error) {
	s.mu.Lock()
	c := s.loading[k]
	if c == nil {
		c = make(chan struct{}, 1)
		s.loading[k] = c
	}
	s.mu.Unlock()
	select {
	case c <- struct{}{}:
		return func() { <-c }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// snapshot finds or takes a snapshot of the catalogue that has the mark.
func (f *front) snapshot(ctx context.Context, mark string) (*catalogue, error) {
	load := func() (*catalogue, error) {
		cat, err := loadCatalogue(func(sql string) ([][]string, error) { return f.ask(ctx, sql) }, f.s.Classes)
		if err == nil {
			cat.parser, cat.turn = f.parser, f.ration.turn
		}
		return cat, err
	}
	if _, _, status, _ := f.q.state(); status != statusIdle || f.temporary {
		return load()
	}
	k := snapshotOf{target: f.s.Target, database: f.st.database, role: f.st.role, classes: fmt.Sprint(f.s.Classes)}
	if cat := f.shared.get(k, mark); cat != nil {
		return cat, nil
	}
	done, err := f.shared.turn(ctx, k)
	if err != nil {
		return nil, err
	}
	defer done()
	if cat := f.shared.get(k, mark); cat != nil {
		return cat, nil
	}
	cat, err := load()
	if err != nil {
		return nil, err
	}
	if !cat.unread {
		f.shared.put(k, mark, cat)
	}
	return cat, nil
}
