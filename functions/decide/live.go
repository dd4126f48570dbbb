package decide

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// maxLive is how many sessions this process remembers: some 5 kB each. One that was forgotten costs a read again.
const maxLive = 10_000

// recordLife is how long a session's record is believed to be open without looking again: what ends a session in another
// process is respected within it. What ends one in this process is respected at once.
const recordLife = time.Second

// seat is what this process knows of one session. Its fields belong to whoever holds it (enter … leave): commands of one
// session are decided one after the other, which makes its sequence numbers unique within this process; across processes
// the conditional put and the evidence's chain tell.
type seat struct {
	id    access.SessionID
	held  chan struct{} // capacity 1
	users int           // guarded by live.mu: holders and waiters

	last   uint64     // sequence of the last command known to be stored; 0: none known
	link   string     // audit.Link after it
	unsure *store.Key // an item whose put had no answer: it may be there
	looked time.Time  // when the record was last seen to be open
	over   string     // why the session is over; "" while it is not
}

// live is the bounded memory of sessions, the longest unused forgotten first.
type live struct {
	max int

	mu    sync.Mutex
	seats map[access.SessionID]*list.Element // of *kept
	order *list.List                         // front: used last
}

// kept is a seat with the state that its session last presented, both spellings, so that unsealing is not repeated.
type kept struct {
	seat  *seat
	raw   string
	state token.State
}

func newLive(maximum int) *live {
	return &live{max: maximum, seats: map[access.SessionID]*list.Element{}, order: list.New()}
}

// state is the opened state, where the same sealed bytes were opened before.
func (l *live) state(id access.SessionID, raw string) (token.State, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	el, ok := l.seats[id]
	if !ok || raw == "" {
		return token.State{}, false
	}
	k := el.Value.(*kept)
	return k.state, k.raw == raw
}

// enter waits for the session's seat. st must have come out of raw.
func (l *live) enter(ctx context.Context, st token.State, raw string) (*seat, error) {
	l.mu.Lock()
	el, ok := l.seats[st.Session]
	if !ok {
		el = l.order.PushFront(&kept{seat: &seat{id: st.Session, held: make(chan struct{}, 1)}})
		l.seats[st.Session] = el
	}
	l.order.MoveToFront(el)
	k := el.Value.(*kept)
	k.raw, k.state = raw, st
	s := k.seat
	s.users++
	l.forget()
	l.mu.Unlock()
	select {
	case s.held <- struct{}{}:
		return s, nil
	case <-ctx.Done():
		l.mu.Lock()
		s.users--
		l.mu.Unlock()
		return nil, ctx.Err()
	}
}

func (l *live) leave(s *seat) {
	<-s.held
	l.mu.Lock()
	s.users--
	l.mu.Unlock()
}

// forget drops the longest unused seats that nobody holds. The caller has the lock.
func (l *live) forget() {
	for el := l.order.Back(); el != nil && len(l.seats) > l.max; {
		next := el.Prev()
		if s := el.Value.(*kept).seat; s.users == 0 {
			delete(l.seats, s.id)
			l.order.Remove(el)
		}
		el = next
	}
}
