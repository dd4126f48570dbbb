package approve

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// Bounds of one session view. A session's entries lie in the minutes of its commands' ids, and nothing tells which: so every minute
// between its opening and its end is asked for, 720 of them in the longest session that there can be, some at a time. A page asks for
// an hour of them; a closed session is known to be complete once its last command has been seen.
const (
	minute       = time.Minute
	pageSpan     = time.Hour
	minutesAtime = 16
	queriesAtime = 8
	evidencePage = 100     // items a query
	maxCommands  = 2000    // of one view
	maxViewBytes = 4 << 20 // of their texts: an answer of the API may have api.MaxBody
)

// span is a run of whole minutes, from the first to the one before to.
type span struct{ from, to time.Time }

// spanOf is where a session's entries can be: command ids carry the agent's clock, session.Skew off at most.
func (p *pages) spanOf(rec session.Record) span {
	end := rec.Closed
	if end.IsZero() {
		end = rec.Ended // its agent's last words may come a little later
	}
	if now := p.Now(); end.IsZero() || now.Before(end) {
		end = now
	}
	if end.After(rec.Expires) && rec.Expires.After(rec.Opened) {
		end = rec.Expires
	}
	return span{rec.Opened.Add(-session.Skew).UTC().Truncate(minute), end.Add(2*session.Skew + minute).UTC().Truncate(minute)}
}

func (p *pages) sessionRecord(ctx context.Context, s scope, id access.SessionID) (session.Record, error) {
	none := api.Because(api.ErrNotFound, "list yours: sallyport sessions ls", "there is no such session for you")
	if _, err := session.Time(string(id)); err != nil {
		return session.Record{}, none
	}
	rec, _, err := session.Get(ctx, p.Items, id)
	if errors.Is(err, store.ErrNotFound) || err == nil && !s.sees(rec.Lineage) {
		return session.Record{}, none
	}
	return rec, err
}

// session assembles one session, or a part of it, from the evidence.
func (p *pages) session(ctx context.Context, rec session.Record, part span) (api.SessionView, error) {
	var key []byte
	if st, err := token.OpenState(p.StateKey, rec.State); err == nil {
		key = st.DataKey
	} else { // shredded: the normalised texts are left
		p.Log.Info("a session's texts cannot be opened", "session", rec.ID, "error", err)
	}
	t := telling{p: p, rec: rec, key: key, view: sessionView(rec), at: map[place]int{}}
	for from := part.from; from.Before(part.to) && !t.done(); from = from.Add(minutesAtime * minute) {
		to := from.Add(minutesAtime * minute)
		if to.After(part.to) {
			to = part.to
		}
		if err := t.read(ctx, span{from, to}); err != nil {
			return api.SessionView{}, fmt.Errorf("session %s: %w", rec.ID, err)
		}
	}
	v := t.view
	slices.SortFunc(v.Commands, func(a, b api.CommandView) int { return int(min(max(int64(a.Seq)-int64(b.Seq), -1), 1)) })
	for _, c := range v.Commands {
		if a := c.Approval; a != nil && !p.Now().Before(a.Expires) && (a.Status == string(approval.Pending) || a.Status == string(approval.Approved)) {
			a.Status = string(approval.Expired)
		}
	}
	v.Count = max(v.Count, len(v.Commands))
	return v, nil
}

// telling is a session that is being put together.
type telling struct {
	p    *pages
	rec  session.Record
	key  []byte
	view api.SessionView
	at   map[place]int
	size int
}

// place is which command of a session something is about. The id alone does not say: its agent made it, and may have made it twice.
type place struct {
	seq uint64
	id  string
}

// done says that there is nothing more to find, or no more room.
func (t *telling) done() bool {
	if len(t.view.Commands) >= maxCommands || t.size >= maxViewBytes {
		t.view.Partial = true
	}
	return t.view.Partial || !t.rec.Closed.IsZero() && uint64(len(t.view.Commands)) >= t.rec.LastSeq
}

// read asks for some minutes at once and takes what they hold in order.
func (t *telling) read(ctx context.Context, part span) error {
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(queriesAtime)
	var mu sync.Mutex
	first := map[time.Time]store.Page{}
	for m := part.from; m.Before(part.to); m = m.Add(minute) {
		group.Go(func() error {
			page, err := t.query(asking, m, "")
			mu.Lock()
			defer mu.Unlock()
			first[m] = page
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for m := part.from; m.Before(part.to); m = m.Add(minute) {
		if err := t.minute(ctx, m, first[m]); err != nil {
			return err
		}
	}
	return nil
}

func (t *telling) query(ctx context.Context, m time.Time, cursor string) (store.Page, error) {
	return t.p.Items.Query(ctx, store.Audit, audit.MinuteOf(m), string(t.rec.ID)+"#", cursor, evidencePage)
}

func (t *telling) minute(ctx context.Context, m time.Time, page store.Page) error {
	for {
		for _, it := range page.Items {
			if t.done() && t.view.Partial {
				return nil
			}
			entries, err := audit.Decode(it)
			if err != nil {
				return err
			}
			for _, e := range entries {
				t.add(e)
			}
		}
		if page.Cursor == "" {
			return nil
		}
		var err error
		if page, err = t.query(ctx, m, page.Cursor); err != nil {
			return err
		}
	}
}

// add takes one entry. In order of SK a command comes before its verdict, claim and outcome.
func (t *telling) add(e audit.Entry) {
	id := place{e.Seq, e.ID}
	i, known := t.at[id]
	switch {
	case e.Kind == audit.KindCommand && e.Command != nil && e.Decision != nil && !known:
		t.at[id] = len(t.view.Commands)
		t.view.Commands = append(t.view.Commands, t.command(e))
	case !known:
	case e.Kind == audit.KindOutcome && e.Result != nil:
		t.view.Commands[i].Result = e.Result
	case e.Approval == nil || t.view.Commands[i].Approval == nil:
	case e.Kind == audit.KindVerdict:
		a := t.view.Commands[i].Approval
		a.Status, a.By, a.Reason, a.DecidedAt = e.Approval.Status, e.Approval.By, e.Approval.Reason, e.Time
	case e.Kind == audit.KindClaim || e.Kind == audit.KindWithdraw:
		t.view.Commands[i].Approval.Status = e.Approval.Status
	}
}

func (t *telling) command(e audit.Entry) api.CommandView {
	c := api.CommandView{ID: access.CommandID(e.ID), Seq: e.Seq, Time: e.Time, Verb: e.Command.Verb, Text: e.Command.Normalised, Touches: e.Command.Touches, Decision: *e.Decision}
	if body, err := audit.OpenBody(e.Command, c.ID, t.key); err == nil { // shredded: the normalised text stays
		c.Text, c.Masked, c.Params, c.Prepared = body.Text, body.Masked, body.Params, body.Prepared
	}
	c.Large = e.Command.Large != nil // its text is elsewhere: this is the beginning of it, without literals
	t.size += len(c.Text) + len(c.Masked) + len(c.Prepared) + 256
	for _, v := range c.Params {
		t.size += 2 * len(v.Value)
	}
	if d := e.Decision; d.Approval != "" { // what became of it is in the evidence; its text is the command's
		c.Approval = &api.ApprovalView{ID: d.Approval, Status: string(approval.Pending), Hold: d.HoldName, Session: t.rec.ID, Command: c.ID, Digest: d.Digest,
			Target: t.rec.Target, State: e.Command.State, Lineage: t.rec.Lineage, Created: e.Time, Expires: d.Expires, Link: t.p.Base + "/approve/" + string(d.Approval)}
	}
	return c
}
