package gate

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// answer is what a question came to, once every echo has been compared: the decisions on the commands that the broker stored.
type answer struct {
	sent   time.Time // monotonic: right before the question left
	stored []access.Decision
}

// askTries is how often one question is sent while its client waits: the second time finds a broker that restarted, or a
// connection that was closed meanwhile. The same question twice is stored once.
const askTries = 2

// ask sends a question and judges the answer. A question that may have been stored without an answer becomes g.pending.
func (g *Gate) ask(ctx context.Context, q *question) (answer, *access.Denied) {
	wait := time.NewTimer(api.PermitLife) // a permit that comes later is of no use
	defer wait.Stop()
	for range askTries {
		if !g.Batcher.submit(q) {
			return answer{}, &access.Denied{Code: access.CodeBusy, Rule: "gate-busy", Retryable: true,
				Hint: "too many commands of this agent wait for decisions: try again later"}
		}
		g.pending = q
		r, d := g.await(ctx, q, wait.C)
		if d != nil {
			return answer{}, d
		}
		ans, err := judge(q, r)
		if err == nil {
			g.pending = nil
			return ans, nil
		}
		if d := settled(err); d != nil {
			g.pending = nil
			return answer{}, d
		}
		q.alone = true // what went wrong may be another question's fault
	}
	return answer{}, noDecision("no-answer")
}

// await waits for the result of a question that was submitted. One that had not left yet is taken back, and leaves nothing pending.
func (g *Gate) await(ctx context.Context, q *question, wait <-chan time.Time) (result, *access.Denied) {
	var d *access.Denied
	select {
	case r := <-q.done:
		q.away = false
		return r, nil
	case <-ctx.Done():
		d = given(ctx)
	case <-wait:
		d = noDecision("no-answer")
	}
	if g.Batcher.withdraw(q) && !q.sent {
		g.pending = nil
	}
	return result{}, d
}

// stale is when the ids of a pending question are too old for the broker (api.OpenRequest: 60 s): it is given up, and the next question takes
// its number. Where it was stored after all, the broker sees a number twice and ends the session.
const stale = 50 * time.Second

// settle finds out what became of a pending question: it asks again, with the same ids, which stores nothing twice. What was
// allowed meanwhile does not run any more, what was held is withdrawn.
func (g *Gate) settle(ctx context.Context) *access.Denied {
	q := g.pending
	if q == nil {
		return nil
	}
	if q.away { // it has left, so that it cannot be taken back
		wait := time.NewTimer(api.PermitLife)
		defer wait.Stop()
		r, d := g.await(ctx, q, wait.C)
		if d != nil {
			return d
		}
		if ans, err := judge(q, r); err == nil {
			g.abandon(ctx, q, ans, 0, len(ans.stored))
			g.free()
			return nil
		} else if settled(err) != nil {
			g.free()
			return nil
		}
	}
	if time.Since(q.made) > stale {
		g.free()
		return nil
	}
	ans, d := g.ask(ctx, q)
	if d == nil {
		g.abandon(ctx, q, ans, 0, len(ans.stored))
	}
	if g.pending == nil {
		g.free()
	}
	return d
}

// abandon keeps the chain over the commands from one on, before another, of which none will run: their client has been refused.
func (g *Gate) abandon(ctx context.Context, q *question, ans answer, from, to int) {
	for i := from; i < to; i++ {
		cmd, dec := &q.ask.Commands[i], &ans.stored[i]
		g.advance(cmd, q.digests[i])
		switch dec.Outcome {
		case access.Allow:
			g.reserved--
			g.unused(cmd)
		case access.Hold:
			g.withdraw(ctx, cmd, dec.Approval)
		}
	}
}

var errMismatch = errors.New("the answer does not belong to the question")

// judge compares an answer with its question: session, number of decisions, and for each command its id, sequence and digest. It
// accepts a run of decisions that the broker stored, of which only the last may be other than allow, then the rest as not stored.
func judge(q *question, r result) (answer, error) {
	if r.err != nil {
		return answer{}, r.err
	}
	switch a := r.answer; {
	case a.Session != q.ask.Session:
		return answer{}, errMismatch
	case a.Error != nil:
		return answer{}, a.Error
	case len(a.Decisions) != len(q.ask.Commands):
		return answer{}, errMismatch
	}
	stored, over := 0, false
	for i, dec := range r.answer.Decisions {
		cmd := &q.ask.Commands[i]
		if dec.Command != cmd.ID || dec.Seq != cmd.Seq || dec.Digest != q.digests[i] {
			return answer{}, errMismatch
		}
		skipped := dec.Outcome == access.Deny && dec.Rule == api.RuleBatchStopped
		switch {
		case skipped && i == 0, over && !skipped, dec.Outcome > access.Allow, dec.Outcome == access.Hold && dec.Approval == "":
			return answer{}, errMismatch
		case skipped:
			over = true
			continue
		}
		stored, over = i+1, dec.Outcome != access.Allow
	}
	return answer{sent: r.sent, stored: r.answer.Decisions[:stored]}, nil
}

// settled is the denial for an error by which the broker says that it stored nothing; nil where that is not known.
func settled(err error) *access.Denied {
	e := (*api.Error)(nil)
	if !errors.As(err, &e) || errors.Is(e, api.ErrUnavailable) || errors.Is(e, api.ErrInternal) || errors.Is(e, api.ErrBusy) {
		return nil
	}
	d := &access.Denied{Code: access.CodeNoDecision, Rule: cmp.Or(e.Narrow(), "broker-refused"), Hint: e.Hint}
	switch {
	case errors.Is(e, api.ErrRevoked):
		d.Code, d.Rule = access.CodeRevoked, cmp.Or(e.Narrow(), api.RuleRevoked)
	case errors.Is(e, api.ErrTooLarge):
		d.Code, d.Rule = access.CodeDenied, api.RuleTooLarge
	}
	if d.Hint == "" {
		d.Hint = e.Message
	}
	return d
}

// refused is a denial by the broker, in the words of the agent where it was the agent's own.
func refused(cmd *access.Command, dec *access.Decision) *access.Denied {
	d := &access.Denied{Code: dec.Code, Rule: dec.Rule, Approval: dec.Approval, Hint: dec.Hint}
	switch dec.Code {
	case access.CodeBusy, access.CodeNoDecision:
		d.Retryable = true
	case access.CodeHeldDenied, access.CodeHeldExpired, access.CodeCancelled, access.CodeRevoked, access.CodeUnsupported, access.CodeNotMaskable:
	default:
		d.Code = access.CodeDenied
	}
	if cmd.Refused != nil && d.Rule == cmd.Refused.Rule && d.Hint == "" {
		d.Hint = cmd.Refused.Hint
	}
	return d
}

// given is the denial of a command whose asker gave up, or whose session ended: then the session's own reason.
func given(ctx context.Context) *access.Denied {
	if d := (*access.Denied)(nil); errors.As(context.Cause(ctx), &d) {
		own := *d
		own.Index = 0
		return &own
	}
	return &access.Denied{Code: access.CodeCancelled, Rule: "cancelled", Retryable: true, Hint: "the command was cancelled before it ran; send it again"}
}
