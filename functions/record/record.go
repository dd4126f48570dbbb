package record

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/agents"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// Config is what New needs. All but Now and Log are required.
type Config struct {
	Items    store.Items
	Blobs    store.Blobs       // of the evidence: the chunks of recordings
	CA       *x509.Certificate // signs agents' certificates
	StateKey []byte            // 32 bytes; sessions are known by their records, so that an agent may report after a restart
	Now      func() time.Time  // nil: time.Now
	Log      *slog.Logger      // nil: nothing is logged
}

// maxOutcomes is how many outcomes one call may carry.
const maxOutcomes = 500

// writers bounds the writes under way for one call: enough for a store with group commit to put them under one fsync.
const writers = 64

// readers bounds the sessions that are looked up side by side.
const readers = 8

// Limits of what a result may say.
const (
	maxTag    = 256
	maxError  = 64
	maxMasked = 64
	maxClass  = 128
)

type handler struct {
	Config
	agents *agents.Guard
}

// New serves PathRecord and PathChunks.
func New(c Config) (http.Handler, error) {
	switch {
	case c.Items == nil, c.Blobs == nil, c.CA == nil:
		return nil, errors.New("record: Items, Blobs and CA are required")
	case len(c.StateKey) != 32:
		return nil, fmt.Errorf("record: the state key has %d bytes, want 32", len(c.StateKey))
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	h := &handler{Config: c, agents: agents.NewGuard(c.Items, c.Now)}
	mux := http.NewServeMux()
	door := agents.Door{CA: c.CA, Guard: h.agents, Now: c.Now, Log: c.Log, Again: "send them again"}
	mux.HandleFunc("POST "+api.PathRecord, agents.Signed(door, h.record))
	mux.HandleFunc("POST "+api.PathChunks, agents.Signed(door, h.chunks))
	return mux, nil
}

// record stores what it may and answers nil once all of that is durable. An outcome that it must not store is dropped and
// logged: the same outcome would be refused for ever, and what came after it would never arrive.
func (h *handler) record(ctx context.Context, agent token.Agent, req *api.RecordRequest) (struct{}, error) {
	now := h.Now().UTC()
	if len(req.Outcomes) > maxOutcomes {
		return struct{}{}, api.Because(api.ErrTooLarge, "send them in turns", "more than %d outcomes", maxOutcomes)
	}
	bySession := map[access.SessionID][]*api.Outcome{}
	for i := range req.Outcomes {
		o := &req.Outcomes[i]
		bySession[o.Session] = append(bySession[o.Session], o)
	}
	writes, wctx := errgroup.WithContext(ctx)
	writes.SetLimit(writers)
	lookups, lctx := errgroup.WithContext(ctx)
	lookups.SetLimit(readers)
	for id, outcomes := range bySession {
		lookups.Go(func() error {
			return h.session(lctx, agent, id, outcomes, now, func(w store.Write) {
				writes.Go(func() error {
					err := h.Items.Put(wctx, w)
					if errors.Is(err, store.ErrConflict) {
						return nil // the same outcome, sent again: the first one counts
					}
					return err
				})
			})
		})
	}
	err := lookups.Wait()
	return struct{}{}, errors.Join(err, writes.Wait())
}

// session hands over the writes for one session's outcomes, in order of their commands.
func (h *handler) session(ctx context.Context, agent token.Agent, id access.SessionID, outcomes []*api.Outcome, now time.Time, put func(store.Write)) error {
	refuse := func(o *api.Outcome, why string) {
		h.Log.Warn("outcome refused", "agent", agent.Name, "session", o.Session, "command", o.Command, "reason", why)
	}
	var rec session.Record
	_, err := session.Time(string(id))
	if err == nil {
		if rec, _, err = session.Get(ctx, h.Items, id); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	if err != nil || rec.Agent != agent.Name {
		for _, o := range outcomes {
			refuse(o, "not a session of this agent")
		}
		return nil
	}
	slices.SortFunc(outcomes, func(a, b *api.Outcome) int { return cmp.Compare(a.Seq, b.Seq) })
	c := commands{items: h.Items, session: id}
	for _, o := range outcomes {
		if why := malformed(o); why != "" {
			refuse(o, why)
			continue
		}
		allowed, err := c.allowed(ctx, o)
		if err != nil {
			return err
		}
		if !allowed {
			refuse(o, "nothing allowed the command")
			continue
		}
		w, err := audit.Put(audit.Entry{V: 1, Kind: audit.KindOutcome, ID: string(o.Command), Time: now, Agent: agent.Name, Session: id,
			Seq: o.Seq, Target: rec.Target, Lineage: &rec.Lineage, Result: &o.Result,
			Note: map[string]string{"ended": o.Time.UTC().Format(time.RFC3339Nano)}})
		if err != nil {
			return err
		}
		put(w)
	}
	return nil
}

// malformed says what is wrong with an outcome by itself; "" is nothing.
func malformed(o *api.Outcome) string {
	if _, err := session.Time(string(o.Command)); err != nil {
		return "command " + err.Error()
	}
	r := o.Result
	switch r.Status {
	case access.StatusUnknown, access.StatusOK, access.StatusError, access.StatusCancelled, access.StatusLost, access.StatusUnused:
	default:
		return "the status is not known"
	}
	if len(r.Tag) > maxTag || len(r.Error) > maxError || len(r.Masked) > maxMasked {
		return "the result is too large"
	}
	for class := range r.Masked {
		if len(class) > maxClass {
			return "the result is too large"
		}
	}
	return ""
}
