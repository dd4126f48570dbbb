package approve

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// scope is what somebody may see: everything, or one principal's, or one actor's and what is under it.
type scope struct {
	all       bool
	principal string
	actor     access.ActorID  // "" for a principal: all logins of that person
	admin     bool            // an administrator in person
	lineage   *access.Lineage // of a caller with a token; nil in a browser
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

// Bounds of what one answer is made from: the newest of each.
const (
	listDays    = 2 // a login lives half a day at most
	maxSessions = 500
	maxRoots    = 200
	maxActors   = 500
)

func (p *pages) approvalView(rec approval.Record) api.ApprovalView {
	return api.ApprovalView{ID: rec.ID, Status: string(rec.StatusAt(p.Now())), Hold: rec.Hold, Session: rec.Session, Command: rec.Command, Digest: rec.Digest,
		Target: rec.Target, State: rec.State, Text: rec.Text, Masked: rec.Masked, Params: rec.Params, Touches: rec.Touches, Lineage: rec.Lineage, Created: rec.Created,
		Expires: rec.Expires, By: rec.By, DecidedAt: rec.DecidedAt, Reason: rec.Reason, Link: p.Base + "/approve/" + string(rec.ID)}
}

// approvals are the newest that s may see, as many as an answer of the API has room for.
func (p *pages) approvals(ctx context.Context, s scope, status string) ([]api.ApprovalView, error) {
	list := func() ([]approval.Record, error) { return approval.List(ctx, p.Items, p.Now(), listDays) }
	if status == string(approval.Pending) {
		list = func() ([]approval.Record, error) { return p.watch.waiting.List(ctx, p.Items, p.Now()) }
	}
	recs, err := list()
	if err != nil {
		return nil, err
	}
	out, size := []api.ApprovalView{}, 0
	for _, rec := range recs {
		v := p.approvalView(rec)
		if !s.sees(rec.Lineage) || status != "" && v.Status != status {
			continue
		}
		size += len(rec.Text) + len(rec.State.Prepared) + 2*len(rec.Normalised) + 512
		for _, x := range rec.Params {
			size += 2 * len(x.Value)
		}
		if size > maxViewBytes && len(out) > 0 {
			break
		}
		out = append(out, v)
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

// actors is the live tree: persons, the actors under them, and what each has open.
func (p *pages) actors(ctx context.Context, s scope) ([]api.ActorView, error) {
	recs, err := session.List(ctx, p.Items, p.Now(), listDays, maxSessions)
	if err != nil {
		return nil, err
	}
	trees, _, err := p.trees(ctx, s, recs)
	if err != nil {
		return nil, err
	}
	out := []api.ActorView{}
	for _, t := range trees {
		out = append(out, below(t, s)...)
	}
	return out, nil
}

// trees grows a tree for each login that s may see, the newest first. more says that there were too many logins to look at.
func (p *pages) trees(ctx context.Context, s scope, recs []session.Record) (out []api.ActorView, more bool, err error) {
	now := p.Now()
	by := map[access.ActorID][]api.SessionView{}
	for _, rec := range recs {
		if rec.Status == session.Open && now.Before(rec.Expires) {
			id := rec.Lineage.Actor().ID
			by[id] = append(by[id], sessionView(rec))
		}
	}
	looked := 0
	for day := range listDays {
		pk := token.DayKey("", now.UTC().AddDate(0, 0, -day)).PK
		if looked >= maxRoots {
			return out, true, nil
		}
		lines, err := store.Newest(ctx, p.Items, store.Grants, pk, now.Add(time.Hour), maxRoots-looked)
		if err != nil {
			return nil, false, fmt.Errorf("list logins: %w", err)
		}
		looked += len(lines)
		for _, line := range lines {
			r, _, err := token.GetRoot(ctx, p.Items, access.ActorID(line.SK), true)
			if errors.Is(err, api.ErrLogin) { // expired and deleted: the index line may live longer
				continue
			}
			if err != nil {
				return nil, false, err
			}
			if !s.all && r.Principal != s.principal || !now.Before(r.End()) {
				continue
			}
			t, err := p.tree(ctx, r, by)
			if err != nil {
				return nil, false, err
			}
			out = append(out, t)
		}
	}
	return out, looked >= maxRoots, nil
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
