package enroll

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/agents"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/idtoken"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// maxReason bounds what an administrator says of a revocation, in bytes.
const maxReason = 200

// Bounds of ending a revoked agent's sessions: those of today and yesterday, which is as long as a session may last. What is beyond is
// refused all the same, since its agent is, and closed as lost in time.
const (
	sessionDays = 2
	maxSessions = 1000
	enders      = 16
)

// revoke ends an agent for good, as far as what it holds now goes. Asking again does no harm, and goes on where an earlier call stopped.
func (f *function) revoke(r *http.Request) (any, error) {
	now := f.Now()
	c, _, err := f.administrator(r, now, "revoke agents")
	if err != nil {
		return nil, err
	}
	var in api.RevokeAgentRequest
	if err := api.Read(r, &in); err != nil {
		return nil, err
	}
	if err := access.CheckName("agent", string(in.Agent)); err != nil {
		return nil, api.Because(api.ErrBadRequest, "", "%v", err)
	}
	if in.Reason != "" && !idtoken.PlainText(in.Reason, maxReason) {
		return nil, api.Because(api.ErrBadRequest, "", "reason: want at most %d bytes of plain text", maxReason)
	}
	lineage := c.Lineage()
	rec, err := agents.Revoke(r.Context(), f.Items, agents.Revocation{Agent: in.Agent, By: c.Principal, Reason: in.Reason, Now: now}, func(before time.Time) (store.Write, error) {
		id, err := token.NewID(now)
		if err != nil {
			return store.Write{}, err
		}
		return audit.Put(audit.Entry{V: 1, Kind: audit.KindRevoke, ID: id, Time: now.UTC(), Agent: in.Agent, Lineage: &lineage,
			Note: map[string]string{"what": "agent", "before": before.Format(time.RFC3339), "reason": in.Reason}})
	})
	if err != nil {
		return nil, unavailable(err)
	}
	f.Log.Info("revoke agent", "principal", c.Principal, "agent", in.Agent)
	if err := agents.List(r.Context(), f.Items, rec, now); err != nil {
		return nil, fmt.Errorf("%w: %w", api.Because(api.ErrUnavailable, "revoke it again", "the agent is revoked, but clients are not told yet"), err)
	}
	n, err := f.endSessions(r.Context(), in.Agent, now)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", api.Because(api.ErrUnavailable, "revoke it again", "the agent is revoked, but not all of its sessions are marked as ended"), err)
	}
	return api.RevokeAgentResponse{Before: rec.RevokedBefore, Sessions: n}, nil
}

// endSessions marks the agent's open sessions as ended.
func (f *function) endSessions(ctx context.Context, agent access.AgentName, now time.Time) (int, error) {
	all, err := session.List(ctx, f.Items, now, sessionDays, maxSessions)
	if err != nil {
		return 0, err
	}
	n := 0
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(enders)
	for _, s := range all {
		if s.Agent != agent || s.Status != session.Open {
			continue
		}
		n++
		g.Go(func() error { return session.End(ctx, f.Items, s.ID, "its agent was revoked", now) })
	}
	return n, g.Wait()
}
