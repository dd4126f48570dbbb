package session

import (
	"context"
	"errors"
	"time"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/spool"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// reasonLost is the reason by which the broker knows a session whose end nobody saw.
const reasonLost = "lost"

// close tells the broker that a session is over, off the stream's path, until it has taken it. ctx may have ended.
func (s *Server) close(ctx context.Context, opened api.OpenResponse, head gate.Head, reason string) {
	req := api.CloseRequest{Agent: s.Agent, Session: opened.Session, State: opened.State, LastSeq: head.Seq, Prev: head.Prev, Reason: reason}
	if head.Prev == "" && head.Seq > 0 {
		req.Reason = reasonLost
	}
	s.keepClosing(ctx, req)
}

// CloseLeft closes what an earlier process of this agent left open.
func (s *Server) CloseLeft(ctx context.Context, left []spool.Session) {
	for _, l := range left {
		s.keepClosing(ctx, api.CloseRequest{Agent: s.Agent, Session: l.ID, State: l.State, Reason: reasonLost})
	}
}

// closers bounds the closes on their way: a restart may leave thousands.
const closers = 8

func (s *Server) keepClosing(ctx context.Context, req api.CloseRequest) {
	s.closing.Go(func() {
		wait := firstWait
		for !s.tryClose(ctx, req) {
			select {
			case <-s.live.stopping:
				s.tryClose(ctx, req) // the last time; else the next start does it
				return
			case <-time.After(wait):
			}
			wait = min(2*wait, lastWait)
		}
	})
}

// tryClose says whether the matter is over.
func (s *Server) tryClose(ctx context.Context, req api.CloseRequest) bool {
	s.live.closers <- struct{}{}
	defer func() { <-s.live.closers }()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastClose)
	defer cancel()
	err := s.Broker.Close(ctx, req)
	if e := (*api.Error)(nil); err != nil && (!errors.As(err, &e) || errors.Is(e, api.ErrUnavailable) || errors.Is(e, api.ErrInternal) || errors.Is(e, api.ErrBusy) || errors.Is(e, api.ErrLogin)) {
		s.Log.Warn("session not closed yet", "session", req.Session, "error", err)
		return false
	}
	if err != nil {
		s.Log.Warn("the broker does not close a session", "session", req.Session, "error", err)
	}
	s.Spool.Closed(req.Session)
	return true
}

// Wait waits for the closes on their way, each of which gets one last try. Poll and all streams must have ended.
func (s *Server) Wait() {
	close(s.live.stopping)
	s.closing.Wait()
}

// ended is the denial that a session ends with.
func ended(code, rule, hint string) *access.Denied {
	if code == "" {
		code = access.CodeRevoked
	}
	return &access.Denied{Code: code, Rule: rule, Hint: hint, Retryable: code == access.CodeNoDecision}
}
