package decide

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/access"
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
	st, err := d.state(agent, req.Session, req.State)
	if err != nil {
		return struct{}{}, err
	}
	if len(req.Reason) > maxCloseReason || len(req.Prev) > len(audit.FirstLink("")) {
		return struct{}{}, api.Because(api.ErrBadRequest, "", "the reason is over %d bytes, or prev is not a link", maxCloseReason)
	}
	seat, err := d.live.enter(ctx, st, req.State)
	if err != nil {
		return struct{}{}, d.noDecision(ctx, "the session's turn", err)
	}
	defer d.live.leave(seat)
	now := d.now()
	last, note, err := d.lastStored(ctx, seat, st, req, now)
	if err != nil {
		return struct{}{}, d.noDecision(ctx, "the evidence", err)
	}
	id, err := token.NewID(now)
	if err != nil {
		return struct{}{}, fmt.Errorf("close: %w", err)
	}
	entry, err := audit.Put(audit.Entry{V: 1, Kind: audit.KindClose, ID: id, Time: now, Agent: agent.Name, Session: st.Session,
		Seq: last.seq, Prev: last.link, Target: st.Target, Lineage: &st.Lineage, Note: note})
	if err != nil {
		return struct{}{}, fmt.Errorf("close: %w", err)
	}
	closing := session.Closing{Status: session.Closed, Reason: req.Reason, LastSeq: last.seq, Now: now}
	if req.Reason == ReasonLost {
		closing.Status = session.Lost
	}
	err = session.Close(ctx, d.Items, st.Session, closing, entry)
	if errors.Is(err, store.ErrNotFound) {
		return struct{}{}, api.Because(api.ErrNotFound, "", "session %s is not known", st.Session)
	}
	if err != nil {
		return struct{}{}, d.noDecision(ctx, "the session's record", err)
	}
	seat.over = "it was closed"
	return struct{}{}, nil
}

// end is where a session's chain ends.
type end struct {
	seq  uint64
	link string
}

// lastStored is the end of the chain: the agent's word, unless the broker knows of later commands (their answers were lost), or
// the agent says that it cannot know (no Prev). note says so where they differ.
func (d *decider) lastStored(ctx context.Context, s *seat, st token.State, req *api.CloseRequest, now time.Time) (end, map[string]string, error) {
	note := map[string]string{"reason": req.Reason}
	agents := end{req.LastSeq, req.Prev}
	if err := d.resolve(ctx, s); err != nil {
		return end{}, nil, err
	}
	ours := end{s.last, s.link}
	if req.Prev == "" && s.last == 0 {
		var err error
		if ours, err = d.scan(ctx, st, now); err != nil {
			return end{}, nil, err
		}
	}
	if ours.seq < agents.seq || ours.seq == agents.seq && agents.link != "" {
		return agents, note, nil
	}
	if ours.seq != agents.seq {
		note["agent_last_seq"] = strconv.FormatUint(agents.seq, 10)
	}
	return ours, note, nil
}

// scan looks for a session's last command in the evidence itself, newest minute first: for sessions whose agent crashed, or was
// served by another process. It reads one partition per minute of the session's life until it finds the last one that was in use.
func (d *decider) scan(ctx context.Context, st token.State, now time.Time) (end, error) {
	last := end{0, audit.FirstLink(st.Session)}
	from := now.Add(session.Skew)
	if limit := st.Expires.Add(session.Skew); limit.Before(from) {
		from = limit
	}
	stop := st.Opened.Add(-session.Skew - time.Minute)
	found := 0
	for m := from; m.After(stop); m = m.Add(-time.Minute) {
		if err := d.scanMinute(ctx, st.Session, audit.MinuteOf(m), &last); err != nil {
			return end{}, err
		}
		if last.seq > 0 {
			if found++; found > 2 {
				break // ids of one session may be out of order by no more than two minutes
			}
		}
	}
	return last, nil
}

func (d *decider) scanMinute(ctx context.Context, id access.SessionID, minute string, last *end) error {
	for cursor := ""; ; {
		p, err := d.Items.Query(ctx, store.Audit, minute, string(id)+"#", cursor, 200)
		if err != nil {
			return err
		}
		for _, it := range p.Items {
			if !strings.HasSuffix(it.SK, "#c") {
				continue
			}
			entries, err := decided(it)
			if err != nil {
				return err
			}
			if seq, link := chainEnd(entries); seq > last.seq {
				*last = end{seq, link}
			}
		}
		if cursor = p.Cursor; cursor == "" {
			return nil
		}
	}
}
