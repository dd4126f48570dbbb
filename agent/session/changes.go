package session

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

const (
	pollEvery   = time.Second // a revocation ends sessions within two
	pollTimeout = 5 * time.Second
	// silence is how long sessions go on without word of the broker: it may be trying to say that they must end.
	silence = 30 * time.Second
	// maxAsked is how many sessions and approvals one call may name (api.ChangesRequest).
	maxAsked = 1000
)

// live are the sessions that are open, and the approvals that they wait for. It satisfies gate.Verdicts.
type live struct {
	wake     chan struct{} // capacity 1: somebody waits for a verdict
	stopping chan struct{} // closed when no close may be waited for any more
	closers  chan struct{} // a slot for each close on its way

	mu       sync.Mutex
	sessions map[access.SessionID]*liveSession
	watched  map[access.ApprovalID]chan api.Verdict
	heard    time.Time // when the broker last answered; monotonic
}

type liveSession struct {
	state string
	end   context.CancelCauseFunc
}

func newLive() live {
	return live{wake: make(chan struct{}, 1), stopping: make(chan struct{}), closers: make(chan struct{}, closers),
		sessions: map[access.SessionID]*liveSession{}, watched: map[access.ApprovalID]chan api.Verdict{}}
}

// enter makes a session one that changes may end.
func (l *live) enter(id access.SessionID, state string, end context.CancelCauseFunc) (leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sessions) == 0 {
		l.heard = time.Now()
	}
	l.sessions[id] = &liveSession{state, end}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.sessions, id)
	}
}

// Watch tells when an approval has been answered.
func (l *live) Watch(id access.ApprovalID) (<-chan api.Verdict, func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := make(chan api.Verdict, 1)
	l.watched[id] = c
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return c, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watched, id)
	}
}

// Poll asks the broker every second, while there are sessions or something waits in the spool, what has become of them. It returns when ctx ends.
func (s *Server) Poll(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.live.wake:
		}
		s.poll(ctx)
	}
}

// tellEvery is how often what waits in the spool is told: figures are by the minute.
const tellEvery = 20 * time.Second

// undelivered is what waits, when it is time to tell; nil otherwise. It is also told once that nothing waits any more.
func (s *Server) undelivered() *api.Spool {
	if s.Undelivered == nil || !s.told.IsZero() && time.Since(s.told) < tellEvery {
		return nil
	}
	now := s.Undelivered()
	if now.Bytes == 0 && s.clear {
		return nil
	}
	s.told, s.clear = time.Now(), now.Bytes == 0
	return &now
}

func (s *Server) poll(ctx context.Context) {
	reqs := s.live.requests(s.Agent)
	if waits := s.undelivered(); waits != nil {
		if len(reqs) == 0 {
			reqs = []api.ChangesRequest{{Agent: s.Agent}}
		}
		reqs[0].Spool = waits
	}
	for _, req := range reqs {
		if err := s.changes(ctx, req); err != nil {
			s.unheard(ctx, err)
			return
		}
	}
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	s.live.heard = time.Now()
}

// unheard is what a poll comes to that has no answer. A broker that does not know this agent any more has answered: its sessions end at once, and
// the log says what whoever runs the agent must do.
func (s *Server) unheard(ctx context.Context, err error) {
	e := (*api.Error)(nil)
	if errors.As(err, &e) && (errors.Is(e, api.ErrRevoked) || errors.Is(e, api.ErrLogin)) {
		s.Log.Error("the broker does not accept this agent: its sessions end", "rule", e.Rule, "error", err, "next", e.Hint)
		s.live.endAll(ended(access.CodeRevoked, e.Rule, "the agent is not accepted by the broker any more: whoever runs it finds in its log what to do"))
		return
	}
	if ctx.Err() == nil {
		s.Log.Warn("no word of the broker", "error", err)
	}
	s.live.endIfSilent()
}

func (s *Server) changes(ctx context.Context, req api.ChangesRequest) error {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	resp, err := s.Broker.Changes(ctx, req)
	if err != nil {
		return err
	}
	s.live.apply(resp)
	return nil
}

// requests ask for everything that is live, at most maxAsked a call. An approval is asked for together with all sessions where these fit one
// call; else every call carries every approval, because only that of its own session answers.
func (l *live) requests(agent access.AgentName) []api.ChangesRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	var approvals []access.ApprovalID
	for id := range l.watched {
		if len(approvals) < maxAsked {
			approvals = append(approvals, id)
		}
	}
	var all []api.ChangesRequest
	for id, s := range l.sessions {
		if len(all) == 0 || len(all[len(all)-1].Sessions) == maxAsked {
			all = append(all, api.ChangesRequest{Agent: agent, Approvals: approvals})
		}
		last := &all[len(all)-1]
		last.Sessions = append(last.Sessions, api.LiveSession{Session: id, State: s.state})
	}
	return all
}

func (l *live) apply(resp api.ChangesResponse) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range resp.Ended {
		if s := l.sessions[e.Session]; s != nil {
			s.end(ended(e.Code, api.RuleRevoked, e.Hint))
		}
	}
	for _, v := range resp.Verdicts {
		if c := l.watched[v.Approval]; c != nil {
			c <- v
			delete(l.watched, v.Approval) // one verdict each: the channel has room for it
		}
	}
}

// endAll ends every session.
func (l *live) endAll(why *access.Denied) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sessions {
		own := *why
		s.end(&own)
	}
}

// endIfSilent ends every session once the broker has been silent for too long.
func (l *live) endIfSilent() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.heard) < silence {
		return
	}
	for _, s := range l.sessions {
		s.end(ended(access.CodeNoDecision, "broker-silent", "the broker has not answered for too long: connect again"))
	}
}
