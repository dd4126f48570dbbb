package decide

import (
	"context"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// ReasonLost is the reason by which an agent closes what a crash or a broken connection left behind.
const ReasonLost = "lost"

const maxCloseReason = 200

// close stores a session's last entry. Its lineage may be dead, its time over: an end is always taken.
func (d *decider) close(ctx context.Context, agent token.Agent, req *api.CloseRequest) (struct{}, error) {
	if err := isCaller(agent, req.Agent); err != nil {
		return struct{}{}, err
	}
	st, err := d.state(agent, req.Session, req.State)
	if err != nil {
		return struct{}{}, err
	}
	if len(req.Reason) > maxCloseReason || len(req.Prev) > len(audit.FirstLink("")) {
		return struct{}{}, api.Because(api.ErrBadRequest, "", "the reason is over %d bytes, or prev is not a link", maxCloseReason)
	}
	seat, err := d.live.enter(ctx, st, req.State)
	if err != nil {
		return struct{}{}, d.noDecision("the session's turn", err)
	}
	defer d.live.leave(seat)
	now := d.now()
	id, err := token.NewID(now)
	if err != nil {
		return struct{}{}, fmt.Errorf("close: %w", err)
	}
	entry, err := audit.Put(audit.Entry{V: 1, Kind: audit.KindClose, ID: id, Time: now, Agent: agent.Name, Session: st.Session,
		Seq: req.LastSeq, Prev: req.Prev, Target: st.Target, Lineage: &st.Lineage, Note: map[string]string{"reason": req.Reason}})
	if err != nil {
		return struct{}{}, fmt.Errorf("close: %w", err)
	}
	closing := session.Closing{Status: session.Closed, Reason: req.Reason, LastSeq: req.LastSeq, Now: now}
	if req.Reason == ReasonLost {
		closing.Status = session.Lost
	}
	err = session.Close(ctx, d.Items, st.Session, closing, entry)
	if errors.Is(err, store.ErrNotFound) {
		return struct{}{}, api.Because(api.ErrNotFound, "", "session %s is not known", st.Session)
	}
	if err != nil {
		return struct{}{}, d.noDecision("the session's record", err)
	}
	seat.over = "it was closed"
	return struct{}{}, nil
}
