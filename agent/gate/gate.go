package gate

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/token"
)

// Claims uses approvals, or gives them up: broker.Agent.
type Claims interface {
	Claim(ctx context.Context, r api.ClaimRequest) (api.ClaimResponse, error)
}

// Verdicts tells when a held command has been answered. Watch's channel delivers at most one verdict; stop must be called.
type Verdicts interface {
	Watch(id access.ApprovalID) (verdict <-chan api.Verdict, stop func())
}

// Outcomes keeps how permitted commands ended until the broker has it. Room is reserved before anything is asked, so that
// there is no command whose outcome finds no place.
type Outcomes interface {
	Reserve(n int) error // an error means that nothing may run now
	Release(n int)
	Put(o api.Outcome) // uses one reservation
}

// Config is one session's gate. All but Floor, Classes and Now are required.
type Config struct {
	Batcher  *Batcher
	Claims   Claims
	Verdicts Verdicts
	Outcomes Outcomes

	Session   access.SessionID
	Target    access.TargetName
	State     string // sealed by the broker: api.OpenResponse.State
	DigestKey []byte
	Classes   []access.Class // what the room can resolve to columns: an obligation on any other denies
	Rows      bool           // the room counts rows: where it does not, an obligation to bound them denies
	Floor     Floor
	Now       func() time.Time // for ids; nil: time.Now
}

// Gate asks for one session, one question at a time: the commands of a session are a chain. What waits for a reviewer does not wait in
// that chain's way. It satisfies protocol.Gate, and is safe for concurrent use.
type Gate struct {
	Config
	line    line           // of those who wait for the turn
	over    chan struct{}  // closed by Close: nothing is held any longer
	farther sync.WaitGroup // holds, withdrawals and questions of several askers
	running running
	turn    chan struct{} // capacity 1: who holds it owns the fields below

	seq      uint64    // of the last command that the broker stored
	prev     string    // audit.Link after it
	pending  *question // one that may or may not be stored; nothing is asked before that is known
	reserved int       // places at Outcomes that the present question holds
	closed   bool
}

// New makes the gate of a session that was just opened.
func New(c Config) (*Gate, error) {
	switch {
	case c.Batcher == nil, c.Claims == nil, c.Verdicts == nil, c.Outcomes == nil:
		return nil, errors.New("gate: Batcher, Claims, Verdicts and Outcomes are required")
	case c.Session == "", c.Target == "", c.State == "", len(c.DigestKey) != 32:
		return nil, errors.New("gate: a session needs an id, a target, its state and a digest key of 32 bytes")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Gate{Config: c, turn: make(chan struct{}, 1), over: make(chan struct{}), prev: audit.FirstLink(c.Session)}, nil
}

// Check asks for commands in order and returns a permit for each that may run. On error, which is always *access.Denied, the
// permits are those of the commands before Index: they stay valid, and want Done. held is told of each command that waits for a
// reviewer; Check then blocks until the verdict, the hold's expiry or the end of ctx, which withdraws the command. A permit from
// before such a wait may be late: its Use says so. Nothing of what Check refuses may run. Others of the session are asked for meanwhile.
func (g *Gate) Check(ctx context.Context, cmds []access.Command, held func(access.HeldCommand)) ([]*Permit, error) {
	permits := make([]*Permit, 0, len(cmds))
	for len(permits) < len(cmds) {
		rest := cmds[len(permits):]
		r := g.next(ctx, rest[:min(len(rest), api.MaxBatch)])
		permits = append(permits, r.permits...)
		if r.held != nil {
			var p *Permit
			if p, r.denied = g.hold(ctx, r.held, held); p != nil {
				permits = append(permits, p)
			}
		}
		if r.denied != nil {
			r.denied.Index = len(permits)
			return permits, r.denied
		}
	}
	return permits, nil
}

// Head is where a session's chain ends. Prev is empty where the agent cannot know it.
type Head struct {
	Seq  uint64
	Prev string
}

// Close ends the gate: it settles what is still unknown, gives up what is held, waits for withdrawals, and refuses from then on. ctx
// bounds it.
func (g *Gate) Close(ctx context.Context) Head {
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	if !g.closed {
		g.closed = true
		close(g.over)
	}
	d := g.settle(ctx)
	g.farther.Wait()
	if d != nil {
		g.free()
		return Head{Seq: g.seq}
	}
	return Head{Seq: g.seq, Prev: g.prev}
}

// reply is what asking once comes to for one asker: permits for a beginning of the commands, and what stopped there.
type reply struct {
	permits []*Permit
	held    *heldCommand
	denied  *access.Denied
	again   bool // nothing of it was stored: others' commands stood before it
	alone   bool // of again: without others
}

// round asks once, for the beginnings of several askers' commands in one question: reserve, ask, keep the chain, permit. The caller has the
// turn.
func (g *Gate) round(ctx context.Context, parts ...[]access.Command) []reply {
	replies := make([]reply, len(parts))
	q, ans, d := g.inquire(ctx, slices.Concat(parts...))
	if d != nil {
		apart := len(parts) > 1 && q != nil && g.pending == nil // the broker stored nothing, for the sake of one of them
		for i := range replies {
			own := *d
			replies[i] = reply{denied: &own, again: apart, alone: apart}
		}
		if g.pending == nil {
			g.free()
		}
		return replies
	}
	from := 0
	for i, part := range parts {
		if from >= len(ans.stored) {
			replies[i] = reply{again: true}
			continue
		}
		replies[i] = g.permit(ctx, q, ans, from, min(from+len(part), len(ans.stored)))
		from += len(part)
	}
	g.free()
	return replies
}

// inquire reserves and asks; the question is nil where none was asked.
func (g *Gate) inquire(ctx context.Context, cmds []access.Command) (*question, answer, *access.Denied) {
	if g.closed {
		return nil, answer{}, noDecision("session-closed")
	}
	if d := g.settle(ctx); d != nil {
		return nil, answer{}, d
	}
	q, d := g.question(cmds)
	if d != nil {
		return nil, answer{}, d
	}
	if err := g.Outcomes.Reserve(len(cmds)); err != nil {
		return nil, answer{}, &access.Denied{Code: access.CodeBusy, Rule: "spool-full", Retryable: true,
			Hint: "the agent cannot keep the outcomes of more commands until the broker has taken those that wait: try again later"}
	}
	g.reserved = len(cmds)
	ans, d := g.ask(ctx, q)
	return q, ans, d
}

// free gives back the places that the present question did not need.
func (g *Gate) free() {
	g.Outcomes.Release(g.reserved)
	g.reserved, g.pending = 0, nil
}

// permit turns the decisions on the commands from one on, before another, into permits, and whatever stops them into a denial or a hold.
func (g *Gate) permit(ctx context.Context, q *question, ans answer, from, to int) (r reply) {
	for i := from; i < to; i++ {
		cmd, dec := &q.ask.Commands[i], &ans.stored[i]
		g.advance(cmd, q.digests[i])
		switch dec.Outcome {
		case access.Allow:
			g.reserved--
			p, d := g.allow(cmd, dec, ans.sent)
			if d != nil {
				d.Command = cmd.ID
				g.abandon(ctx, q, ans, i+1, to)
				return reply{permits: r.permits, denied: d}
			}
			r.permits = append(r.permits, p)
		case access.Hold: // the last that was stored
			g.reserved--
			g.farther.Add(1)
			r.held = &heldCommand{cmd: cmd, digest: q.digests[i], decision: dec}
		default:
			r.denied = refused(cmd, dec)
			r.denied.Command = cmd.ID
		}
	}
	return r
}

// advance moves the chain behind a command that the broker stored.
func (g *Gate) advance(cmd *access.Command, digest string) {
	g.prev = audit.Link(g.prev, cmd.ID, cmd.Seq, digest)
	g.seq = cmd.Seq
}

// allow makes the permit of an allowed command, if every obligation is understood. What the agent itself refuses stays refused. Either way
// it uses one reservation.
func (g *Gate) allow(cmd *access.Command, dec *access.Decision, sent time.Time) (*Permit, *access.Denied) {
	if r := cmd.Refused; r != nil {
		g.unused(cmd)
		return nil, &access.Denied{Code: access.CodeDenied, Rule: r.Rule, Hint: r.Hint}
	}
	p := &Permit{command: cmd.ID, asked: sent, state: permitIssued, masks: g.Floor.classes()}
	if rule := p.oblige(dec.Obligations, g.Classes, g.Rows); rule != "" {
		g.unused(cmd)
		return nil, &access.Denied{Code: access.CodeNoDecision, Rule: rule, Hint: "the agent does not understand what the policy asks of it: upgrade the agent"}
	}
	g.running.begin(cmd.ID, cmd.Seq)
	p.done = func(r access.Result) {
		g.running.end(cmd.ID)
		g.report(cmd, r)
	}
	return p, nil
}

// unused reports a command that was allowed and does not run: that uses its reservation.
func (g *Gate) unused(cmd *access.Command) {
	g.report(cmd, access.Result{Status: access.StatusUnused})
}

func (g *Gate) report(cmd *access.Command, r access.Result) {
	g.Outcomes.Put(api.Outcome{Session: g.Session, Command: cmd.ID, Seq: cmd.Seq, Time: g.Now().UTC(), Result: r})
}

// question gives commands their ids and numbers, and lets the floor speak.
func (g *Gate) question(cmds []access.Command) (*question, *access.Denied) {
	q := &question{ask: api.Ask{Session: g.Session, State: g.State, Prev: g.prev, Commands: make([]access.Command, len(cmds))},
		digests: make([]string, len(cmds)), made: time.Now(), done: make(chan result, 1)}
	for i, c := range cmds {
		id, err := token.NewID(g.Now())
		if err != nil {
			return nil, noDecision("command-id")
		}
		c.ID, c.Session, c.Seq = access.CommandID(id), g.Session, g.seq+1+uint64(i)
		if c.Refused == nil {
			c.Refused = g.Floor.refuses(&c)
		}
		q.ask.Commands[i], q.digests[i] = c, access.Digest(g.DigestKey, g.Target, c)
		q.bytes += size(&c)
	}
	return q, nil
}
