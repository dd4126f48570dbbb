package changes

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/agents"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/telemetry"
	"github.com/sallyport/sallyport/internal/token"
)

// Bundles finds the active policy bundle.
type Bundles interface {
	Active(ctx context.Context) (*policy.Bundle, error)
}

// Config is what New needs. All but Now and Log are required.
type Config struct {
	Items    store.Items
	CA       *x509.Certificate // signs agents' certificates
	StateKey []byte            // 32 bytes: opens session state
	Bundles  Bundles
	Now      func() time.Time // nil: time.Now
	Log      *slog.Logger     // nil: nothing is logged
}

// Limits of one call; an agent with more asks in turns.
const (
	maxSessions  = 1000
	maxApprovals = 1000
)

// readers bounds the reads under way for one call: enough to hide a store's latency, not enough to crowd out decisions.
const readers = 16

type handler struct {
	Config
	agents *agents.Guard
}

// New serves PathChanges.
func New(c Config) (http.Handler, error) {
	switch {
	case c.Items == nil, c.CA == nil, c.Bundles == nil:
		return nil, errors.New("changes: Items, CA and Bundles are required")
	case len(c.StateKey) != 32:
		return nil, fmt.Errorf("changes: the state key has %d bytes, want 32", len(c.StateKey))
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	h := &handler{Config: c, agents: agents.NewGuard(c.Items, c.Now)}
	mux := http.NewServeMux()
	door := agents.Door{CA: c.CA, Guard: h.agents, Now: c.Now, Log: c.Log, Again: "ask again"}
	mux.HandleFunc("POST "+api.PathChanges, agents.Signed(door, h.changes))
	return mux, nil
}

// changes answers completely or not at all: an agent that gets no answer for long ends its sessions by itself.
func (h *handler) changes(ctx context.Context, agent token.Agent, req *api.ChangesRequest) (api.ChangesResponse, error) {
	now := h.Now().UTC()
	if len(req.Sessions) > maxSessions || len(req.Approvals) > maxApprovals {
		return api.ChangesResponse{}, api.Because(api.ErrTooLarge, "ask in turns", "more than %d sessions or %d approvals", maxSessions, maxApprovals)
	}
	if s := req.Spool; s != nil {
		telemetry.Most(ctx, telemetry.SpoolBytes, float64(s.Bytes))
		telemetry.Most(ctx, telemetry.SpoolOldestSeconds, s.OldestSeconds)
	}
	bundle, err := h.Bundles.Active(ctx)
	if err != nil {
		return api.ChangesResponse{}, err
	}
	resp := api.ChangesResponse{Bundle: bundle.Address}
	mine := make(map[access.SessionID]token.State, len(req.Sessions))
	for _, s := range req.Sessions {
		st, err := token.OpenState(h.StateKey, s.State)
		if err != nil || st.Session != s.Session || st.Agent != agent.Name || !agent.Serves(st.Target) {
			resp.Ended = append(resp.Ended, ended(s.Session, "the session's state is not the broker's, or not of this agent and its targets"))
			continue
		}
		mine[s.Session] = st
	}
	over, err := h.ended(ctx, agent, mine, now)
	if err != nil {
		return api.ChangesResponse{}, err
	}
	resp.Ended = append(resp.Ended, over...)
	resp.Verdicts, err = h.verdicts(ctx, agent, mine, req.Approvals, now)
	if err != nil {
		return api.ChangesResponse{}, err
	}
	return resp, nil
}

func ended(id access.SessionID, hint string) api.EndedSession {
	return api.EndedSession{Session: id, Code: access.CodeRevoked, Hint: hint}
}

// ended finds the sessions that must end: one read per login, one query per day of sessions.
func (h *handler) ended(ctx context.Context, agent token.Agent, mine map[access.SessionID]token.State, now time.Time) ([]api.EndedSession, error) {
	ids := make([]access.SessionID, 0, len(mine))
	logins := map[access.ActorID]token.Root{}
	gone := map[access.ActorID]bool{}
	for id, st := range mine {
		ids = append(ids, id)
		logins[st.Lineage.Root()] = token.Root{}
	}
	marks, err := session.Marks(ctx, h.Items, agent.Name, ids)
	if err != nil {
		return nil, err
	}
	if err := h.readRoots(ctx, logins, gone); err != nil {
		return nil, err
	}
	var out []api.EndedSession
	for id, st := range mine {
		root := st.Lineage.Root()
		if m, ok := marks[id]; ok {
			out = append(out, ended(id, m.Reason))
		} else if !now.Before(st.Expires) {
			out = append(out, ended(id, "the session's time is over: connect again"))
		} else if gone[root] {
			out = append(out, ended(id, "the login is gone: log in again"))
		} else if err := logins[root].Alive(st.Lineage, now); err != nil {
			hint := "log in again"
			if e := (*api.Error)(nil); errors.As(err, &e) {
				hint = e.Message
			}
			out = append(out, ended(id, hint))
		}
	}
	return out, nil
}

// readRoots fills in the logins, strongly, and names those that are not there.
func (h *handler) readRoots(ctx context.Context, logins map[access.ActorID]token.Root, gone map[access.ActorID]bool) error {
	ids := make([]access.ActorID, 0, len(logins))
	for id := range logins {
		ids = append(ids, id)
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for _, id := range ids {
		g.Go(func() error {
			root, _, err := token.GetRoot(ctx, h.Items, id, true)
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(err, api.ErrLogin) {
				gone[id] = true
				return nil
			}
			logins[id] = root
			return err
		})
	}
	return g.Wait()
}

// verdicts reports what is not pending any more, of approvals that belong to the sessions that the agent showed.
func (h *handler) verdicts(ctx context.Context, agent token.Agent, mine map[access.SessionID]token.State, ids []access.ApprovalID, now time.Time) ([]api.Verdict, error) {
	found := make([]api.Verdict, len(ids))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for i, id := range ids {
		g.Go(func() error {
			rec, _, err := approval.Get(ctx, h.Items, id)
			if errors.Is(err, store.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			if _, ok := mine[rec.Session]; !ok || rec.Agent != agent.Name {
				return nil
			}
			status := rec.StatusAt(now)
			if status == approval.Pending {
				return nil
			}
			if status == approval.Claimed {
				status = approval.Approved // whoever still asks did not get its claim's answer: claim says whether it may have it
			}
			found[i] = api.Verdict{Approval: id, Status: string(status), Reason: rec.Reason}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []api.Verdict
	for _, v := range found {
		if v.Approval != "" {
			out = append(out, v)
		}
	}
	return out, nil
}
