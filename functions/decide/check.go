package decide

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/telemetry"
	"github.com/sallyport/sallyport/internal/token"
)

// check decides commands of several sessions at once: one strong read per login, and per session one conditional put. The
// puts run side by side, so that a store with group commit pays one fsync for all of them.
func (d *decider) check(ctx context.Context, agent token.Agent, req *api.CheckRequest) (api.CheckResponse, error) {
	if err := checkShape(req); err != nil {
		return api.CheckResponse{}, err
	}
	bundle, err := d.Bundles.Active(ctx)
	if err != nil {
		return api.CheckResponse{}, d.noDecision(ctx, "the policy", err)
	}
	c := &checking{decider: d, agent: agent, bundle: bundle, roots: roots{items: d.Items}, now: d.now()}
	answers := make([]api.Answer, len(req.Asks))
	if len(req.Asks) == 1 {
		answers[0] = c.answer(ctx, &req.Asks[0])
		return api.CheckResponse{Answers: answers}, nil
	}
	var wg sync.WaitGroup
	for i := range req.Asks {
		wg.Go(func() { answers[i] = c.answer(ctx, &req.Asks[i]) })
	}
	wg.Wait()
	return api.CheckResponse{Answers: answers}, nil
}

func checkShape(req *api.CheckRequest) error {
	n := 0
	seen := make(map[access.SessionID]bool, len(req.Asks))
	for i := range req.Asks {
		a := &req.Asks[i]
		if (len(a.Commands) == 0) == (a.Uploaded == nil) {
			return api.Because(api.ErrBadRequest, "", "an ask has no commands, or has them in two places")
		}
		if seen[a.Session] {
			return api.Because(api.ErrBadRequest, "", "two asks for one session")
		}
		seen[a.Session] = true
		n += max(len(a.Commands), 1)
	}
	if n == 0 || n > api.MaxBatch {
		return api.Because(api.ErrBadRequest, "", "%d commands, want 1 to %d", n, api.MaxBatch)
	}
	return nil
}

// checking is one call of check.
type checking struct {
	*decider
	agent  token.Agent
	bundle *policy.Bundle
	roots  roots
	now    time.Time
}

// answer decides one Ask. A panic on the way answers with an error like everything else that is not a decision.
func (c *checking) answer(ctx context.Context, a *api.Ask) (ans api.Answer) {
	if len(a.Commands) > 0 {
		ctx = telemetry.InCommand(ctx, string(a.Session), string(a.Commands[0].ID))
	}
	defer func() { count(ctx, ans) }()
	defer func() {
		if p := recover(); p != nil {
			c.Log.ErrorContext(ctx, "panic while deciding", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			ans = api.Answer{Session: a.Session, Error: api.Because(api.ErrInternal, "the broker's log has the reason", "internal error")}
		}
	}()
	decisions, err := c.ask(ctx, a)
	if err != nil {
		return api.Answer{Session: a.Session, Error: c.refusal(ctx, "the broker", err)}
	}
	return api.Answer{Session: a.Session, Decisions: decisions}
}

// count adds an answer to the call's figures. An ask without decisions was refused whole.
func count(ctx context.Context, ans api.Answer) {
	for _, d := range ans.Decisions {
		telemetry.Add(ctx, telemetry.Decisions, 1)
		switch d.Outcome {
		case access.Allow:
		case access.Hold:
			telemetry.Add(ctx, telemetry.HeldCommands, 1)
		default:
			telemetry.Add(ctx, telemetry.Denials, 1)
		}
	}
}

// ask: who asks and is it still alive; what does policy say; store that; answer.
func (c *checking) ask(ctx context.Context, a *api.Ask) ([]access.Decision, error) {
	st, err := c.state(c.agent, a.Session, a.State)
	if err != nil {
		return nil, err
	}
	leave, err := c.large(ctx, a)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := c.fetch(ctx, a, c.now); err != nil {
		return nil, err
	}
	if err := checkCommands(a, c.now); err != nil {
		return nil, err
	}
	seat, err := c.live.enter(ctx, st, a.State)
	if err != nil {
		return nil, c.noDecision(ctx, "the session's turn", err)
	}
	defer c.live.leave(seat)
	if err := c.stillOpen(ctx, seat); err != nil {
		return nil, err
	}
	standing, err := c.standing(ctx, st)
	if err != nil {
		return nil, err
	}
	p := &plan{checking: c, ask: a, state: st, seat: seat, standing: standing}
	if p.key, err = audit.Key(audit.Entry{Kind: audit.KindCommand, ID: string(a.Commands[0].ID), Session: a.Session, Seq: a.Commands[0].Seq}); err != nil {
		return nil, api.Because(api.ErrBadRequest, "", "%v", err)
	}
	repeated, err := p.sequence(ctx)
	if err != nil {
		return nil, err
	}
	if repeated {
		return p.again(ctx)
	}
	return p.decide(ctx)
}

// stillOpen refuses sessions that are over.
func (c *checking) stillOpen(ctx context.Context, s *seat) error {
	if s.over == "" && c.now.Sub(s.looked) > recordLife {
		rec, _, err := session.Get(ctx, c.Items, s.id)
		switch {
		case errors.Is(err, store.ErrNotFound):
			s.over = "the broker has no record of it"
		case err != nil:
			return c.noDecision(ctx, "the session's record", err)
		case rec.Status != session.Open:
			s.over = fmt.Sprintf("it is %s: %s", rec.Status, rec.Reason)
		default:
			s.looked = c.now
		}
	}
	if s.over != "" {
		return api.Because(api.ErrRevoked, "connect again", "session %s is over: %s", s.id, s.over).By(api.RuleSessionOver)
	}
	return nil
}

// end ends the session for good, in this process at once and for others by its record. What could not be written is
// logged: the caller refuses either way, and this process goes on refusing.
func (d *decider) end(ctx context.Context, s *seat, reason string) error {
	s.over = reason
	if err := session.End(ctx, d.Items, s.id, reason, d.now()); err != nil {
		d.Log.ErrorContext(ctx, "session could not be marked as ended", "session", s.id, "error", err)
	}
	return api.Because(api.ErrRevoked, "connect again", "session %s is over: %s", s.id, reason).By(api.RuleSessionOver)
}

// standing is a refusal that holds for every command of a session, whatever it is. Zero: there is none.
type standing struct{ code, rule, reason, hint string }

// standing looks at the lineage (strongly), the session's own time and its view of the data.
func (c *checking) standing(ctx context.Context, st token.State) (standing, error) {
	if dead, err := c.roots.dead(ctx, st.Lineage, c.now); err != nil {
		return standing{}, c.noDecision(ctx, "the lineage", err)
	} else if dead.rule != "" {
		return dead, nil
	}
	switch {
	case !c.now.Before(st.Expires):
		return standing{access.CodeRevoked, api.RuleExpired, "the session ended at " + st.Expires.UTC().Format(time.RFC3339), "connect again"}, nil
	case !c.classes.same(st.Bundle, c.bundle):
		return standing{access.CodeRevoked, api.RulePolicyChanged, "the classes of data changed since the session was opened", "connect again"}, nil
	}
	return standing{}, nil
}

// roots reads each login's root item at most once a call, strongly.
type roots struct {
	items store.Items
	mu    sync.Mutex
	reads map[access.ActorID]func() (token.Root, error)
}

// dead says why a lineage may not act any more; the zero standing says that it may. An error is no answer.
func (r *roots) dead(ctx context.Context, l access.Lineage, now time.Time) (standing, error) {
	root, err := r.read(ctx, l.Root())
	if err == nil {
		err = root.Alive(l, now)
	}
	e := (*api.Error)(nil)
	switch {
	case err == nil:
		return standing{}, nil
	case errors.As(err, &e) && errors.Is(e, api.ErrRevoked):
		return standing{access.CodeRevoked, api.RuleRevoked, e.Message, e.Hint}, nil
	case errors.As(err, &e) && errors.Is(e, api.ErrLogin):
		return standing{access.CodeRevoked, api.RuleLoginExpired, e.Message, e.Hint}, nil
	}
	return standing{}, err
}

func (r *roots) read(ctx context.Context, id access.ActorID) (token.Root, error) {
	r.mu.Lock()
	read, ok := r.reads[id]
	if !ok {
		read = sync.OnceValues(func() (token.Root, error) {
			root, _, err := token.GetRoot(ctx, r.items, id, true)
			return root, err
		})
		if r.reads == nil {
			r.reads = map[access.ActorID]func() (token.Root, error){}
		}
		r.reads[id] = read
	}
	r.mu.Unlock()
	return read()
}

// Limits of what a command may say beside its text and parameters, which the size of an entry bounds.
const (
	maxVerb      = 64
	maxStateText = 4 << 10
)

// checkCommands looks at what can be seen without any store: ids, order, the chain's beginning.
func checkCommands(a *api.Ask, now time.Time) error {
	bad := func(i int, format string, args ...any) error {
		return api.Because(api.ErrBadRequest, "", "command %d: %s", i, fmt.Sprintf(format, args...))
	}
	first := a.Commands[0].Seq
	ids := make(map[access.CommandID]bool, len(a.Commands))
	for i := range a.Commands {
		cmd := &a.Commands[i]
		if err := session.Fresh(string(cmd.ID), now); err != nil {
			return api.Because(api.ErrBadRequest, "set the clock of the agent's machine", "command %d: %v", i, err).By(api.RuleClock)
		}
		switch {
		case ids[cmd.ID]:
			return bad(i, "id %s is there twice", cmd.ID)
		case cmd.Session != a.Session:
			return bad(i, "session %q in an ask of session %q", cmd.Session, a.Session)
		case cmd.Seq == 0 || cmd.Seq != first+uint64(i):
			return bad(i, "sequence %d, want %d", cmd.Seq, max(first+uint64(i), 1))
		case len(cmd.Verb) > maxVerb:
			return bad(i, "verb of %d bytes", len(cmd.Verb))
		case len(cmd.State.Database)+len(cmd.State.Role)+len(cmd.State.SearchPath) > maxStateText:
			return bad(i, "session state over %d bytes", maxStateText)
		}
		ids[cmd.ID] = true
	}
	if want := audit.FirstLink(a.Session); first == 1 && a.Prev != want {
		return bad(0, "the chain does not begin at the session")
	}
	if len(a.Prev) != len(audit.FirstLink("")) {
		return bad(0, "prev is not a link")
	}
	return nil
}
