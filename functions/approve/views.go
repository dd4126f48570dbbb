package approve

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// scope is what somebody may see: everything, or one principal's, or one actor's and what is under it.
type scope struct {
	all       bool
	principal string
	actor     access.ActorID // "" for a principal in a browser: all logins of that person
}

func (s scope) sees(l access.Lineage) bool {
	if s.all {
		return true
	}
	if s.principal == "" || l.Principal != s.principal {
		return false
	}
	return s.actor == "" || slices.ContainsFunc(l.Path, func(n access.Node) bool { return n.ID == s.actor })
}

// Bounds of what one answer shows.
const (
	listDays     = 2 // a login lives half a day at most
	maxSessions  = 500
	maxRoots     = 500
	maxActors    = 500
	maxCommands  = 2000
	denialWindow = 15 * time.Minute
	maxDenials   = 30
)

func (p *pages) approvalView(rec approval.Record) api.ApprovalView {
	return api.ApprovalView{ID: rec.ID, Status: string(rec.StatusAt(p.Now())), Hold: rec.Hold, Session: rec.Session, Command: rec.Command, Digest: rec.Digest,
		Target: rec.Target, State: rec.State, Text: rec.Text, Params: rec.Params, Touches: rec.Touches, Lineage: rec.Lineage, Created: rec.Created,
		Expires: rec.Expires, By: rec.By, DecidedAt: rec.DecidedAt, Reason: rec.Reason, Link: p.Base + "/approve/" + string(rec.ID)}
}

func (p *pages) approvals(ctx context.Context, sees func(approval.Record) bool, status string) ([]api.ApprovalView, error) {
	recs, err := approval.List(ctx, p.Items, p.Now(), listDays)
	if err != nil {
		return nil, err
	}
	out := []api.ApprovalView{}
	for _, rec := range recs {
		if v := p.approvalView(rec); sees(rec) && (status == "" || v.Status == status) {
			out = append(out, v)
		}
	}
	return out, nil
}

func sessionView(rec session.Record) api.SessionView {
	closed := rec.Closed
	if closed.IsZero() {
		closed = rec.Ended
	}
	return api.SessionView{ID: rec.ID, Target: rec.Target, Agent: rec.Agent, Lineage: rec.Lineage, Opened: rec.Opened, Closed: closed,
		Status: string(rec.Status), Client: rec.Client, Count: int(min(rec.LastSeq, 1<<31-1))}
}

func (p *pages) sessions(ctx context.Context, s scope, limit int) ([]api.SessionView, error) {
	recs, err := session.List(ctx, p.Items, p.Now(), listDays, maxSessions)
	if err != nil {
		return nil, err
	}
	out := []api.SessionView{}
	for _, rec := range recs {
		if s.sees(rec.Lineage) && len(out) < limit {
			out = append(out, sessionView(rec))
		}
	}
	return out, nil
}

// session assembles one session from the evidence: its entries lie in the minutes between its opening and its end.
func (p *pages) session(ctx context.Context, s scope, id access.SessionID) (api.SessionView, error) {
	none := api.Because(api.ErrNotFound, "list yours: sallyport sessions ls", "there is no such session for you")
	if _, err := session.Time(string(id)); err != nil {
		return api.SessionView{}, none
	}
	rec, _, err := session.Get(ctx, p.Items, id)
	if errors.Is(err, store.ErrNotFound) || err == nil && !s.sees(rec.Lineage) {
		return api.SessionView{}, none
	}
	if err != nil {
		return api.SessionView{}, err
	}
	st, err := token.OpenState(p.StateKey, rec.State)
	if err != nil {
		return api.SessionView{}, fmt.Errorf("session %s: %w", id, err)
	}
	v := sessionView(rec)
	if err := p.commands(ctx, rec, st.DataKey, &v); err != nil {
		return api.SessionView{}, err
	}
	v.Count = max(v.Count, len(v.Commands))
	return v, nil
}

func (p *pages) commands(ctx context.Context, rec session.Record, key []byte, v *api.SessionView) error {
	end := p.Now()
	if !v.Closed.IsZero() {
		end = v.Closed
	}
	at := map[access.CommandID]int{}
	// A minute of slack either way: command ids carry the agent's clock.
	for t := rec.Opened.Add(-time.Minute); !t.After(end.Add(2*time.Minute)) && len(v.Commands) < maxCommands; t = t.Add(time.Minute) {
		for cursor := ""; ; {
			page, err := p.Items.Query(ctx, store.Audit, audit.MinuteOf(t), string(rec.ID)+"#", cursor, 1000)
			if err != nil {
				return fmt.Errorf("session %s: %w", rec.ID, err)
			}
			for _, it := range page.Items {
				if err := p.addEntries(ctx, it, key, v, at); err != nil {
					return err
				}
			}
			if cursor = page.Cursor; cursor == "" {
				break
			}
		}
	}
	slices.SortFunc(v.Commands, func(a, b api.CommandView) int { return int(min(max(int64(a.Seq)-int64(b.Seq), -1), 1)) })
	return nil
}

func (p *pages) addEntries(ctx context.Context, it store.Item, key []byte, v *api.SessionView, at map[access.CommandID]int) error {
	entries, err := audit.Decode(it)
	if err != nil {
		return err
	}
	for _, e := range entries {
		id := access.CommandID(e.ID)
		switch {
		case e.Kind == audit.KindCommand && e.Command != nil && e.Decision != nil:
			c, err := p.commandView(ctx, e, key)
			if err != nil {
				return err
			}
			at[id] = len(v.Commands)
			v.Commands = append(v.Commands, c)
		case e.Kind == audit.KindOutcome && e.Result != nil:
			if i, ok := at[id]; ok { // "#c" sorts before "#o"
				v.Commands[i].Result = e.Result
			}
		}
	}
	return nil
}

func (p *pages) commandView(ctx context.Context, e audit.Entry, key []byte) (api.CommandView, error) {
	c := api.CommandView{ID: access.CommandID(e.ID), Seq: e.Seq, Time: e.Time, Verb: e.Command.Verb, Text: e.Command.Normalised, Touches: e.Command.Touches, Decision: *e.Decision}
	if body, err := audit.OpenBody(e.Command, c.ID, key); err == nil { // shredded: the normalised text stays
		c.Text, c.Params = body.Text, body.Params
	}
	if e.Decision.Approval == "" {
		return c, nil
	}
	rec, _, err := approval.Get(ctx, p.Items, e.Decision.Approval)
	if err != nil {
		return c, err
	}
	v := p.approvalView(rec)
	c.Approval = &v
	return c, nil
}

// actors is the live tree: persons, the actors under them, and what each has open.
func (p *pages) actors(ctx context.Context, s scope) ([]api.ActorView, error) {
	open, err := session.List(ctx, p.Items, p.Now(), listDays, maxSessions)
	if err != nil {
		return nil, err
	}
	by := map[access.ActorID][]api.SessionView{}
	for _, rec := range open {
		if rec.Status == session.Open && p.Now().Before(rec.Expires) {
			id := rec.Lineage.Actor().ID
			by[id] = append(by[id], sessionView(rec))
		}
	}
	out := []api.ActorView{}
	for day := range listDays {
		roots, err := token.Roots(ctx, p.Items, p.Now().UTC().AddDate(0, 0, -day), maxRoots)
		if err != nil {
			return nil, err
		}
		for _, r := range roots {
			if !s.all && r.Principal != s.principal || !p.Now().Before(r.End()) {
				continue
			}
			tree, err := p.tree(ctx, r, by)
			if err != nil {
				return nil, err
			}
			out = append(out, below(tree, s)...)
		}
	}
	return out, nil
}

// below cuts a tree to what an actor may see: itself and what is under it.
func below(v api.ActorView, s scope) []api.ActorView {
	if s.all || s.actor == "" || v.Node.ID == s.actor {
		return []api.ActorView{v}
	}
	for _, c := range v.Children {
		if found := below(c, s); found != nil {
			return found
		}
	}
	return nil
}

func (p *pages) tree(ctx context.Context, r token.Root, by map[access.ActorID][]api.SessionView) (api.ActorView, error) {
	recs, err := token.Actors(ctx, p.Items, r.ID, maxActors)
	if err != nil {
		return api.ActorView{}, err
	}
	under := map[access.ActorID][]token.ActorRecord{}
	for _, a := range recs {
		under[a.Parent] = append(under[a.Parent], a)
	}
	var grow func(n access.Node, path []access.Node, expires time.Time) api.ActorView
	grow = func(n access.Node, path []access.Node, expires time.Time) api.ActorView {
		path = append(slices.Clone(path), n)
		v := api.ActorView{Node: n, Expires: expires, Sessions: by[n.ID], Status: p.lifeOf(r, path, expires)}
		for _, a := range under[n.ID] {
			if p.Now().Before(a.Expires) && len(path) <= token.MaxDepth {
				v.Children = append(v.Children, grow(a.Node, path, a.Expires))
			}
		}
		return v
	}
	return grow(access.Node{ID: r.ID, Name: r.Principal}, nil, r.End()), nil
}

func (p *pages) lifeOf(r token.Root, path []access.Node, expires time.Time) string {
	switch err := r.Alive(access.Lineage{Principal: r.Principal, Path: path}, p.Now()); {
	case err == nil && p.Now().Before(expires):
		return "live"
	case errors.Is(err, api.ErrRevoked):
		return "revoked"
	}
	return "expired"
}

// denial is one refused command, for the live page.
type denial struct {
	Time                time.Time
	Chain, Target, Rule string
	Normalised          string
	Session             access.SessionID
}

// denials are the newest refusals, newest first: the last minutes of the evidence.
func (p *pages) denials(ctx context.Context, s scope) ([]denial, error) {
	var out []denial
	for t := p.Now(); p.Now().Sub(t) < denialWindow && len(out) < maxDenials; t = t.Add(-time.Minute) {
		for cursor := ""; ; {
			page, err := p.Items.Query(ctx, store.Audit, audit.MinuteOf(t), "", cursor, 1000)
			if err != nil {
				return nil, fmt.Errorf("recent denials: %w", err)
			}
			for _, it := range page.Items {
				if !strings.HasSuffix(it.SK, "#c") {
					continue
				}
				entries, err := audit.Decode(it)
				if err != nil {
					return nil, err
				}
				for _, e := range entries {
					if e.Decision != nil && e.Decision.Outcome == access.Deny && e.Command != nil && e.Lineage != nil && s.sees(*e.Lineage) {
						out = append(out, denial{e.Time, e.Lineage.Chain(), string(e.Target), e.Decision.Rule, e.Command.Normalised, e.Session})
					}
				}
			}
			if cursor = page.Cursor; cursor == "" {
				break
			}
		}
	}
	slices.SortFunc(out, func(a, b denial) int { return b.Time.Compare(a.Time) })
	return out[:min(len(out), maxDenials)], nil
}
