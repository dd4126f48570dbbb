package decide

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// claimTries bounds the compare-and-swap: a verdict, a claim and a withdrawal may compete for one record.
const claimTries = 8

// claimAgain is how long after a claim its lost answer may be asked for again: past it the permit that it gave is dead, and
// saying yes a second time would only serve somebody else.
const claimAgain = 2 * api.PermitLife

// claim uses an approval, exactly once, for exactly the command that was held; or gives it up.
func (d *decider) claim(ctx context.Context, agent token.Agent, req *api.ClaimRequest) (api.ClaimResponse, error) {
	st, err := d.state(agent, req.Session, req.State)
	if err != nil {
		return api.ClaimResponse{}, err
	}
	cmd := &req.Command
	if _, err := session.Time(string(cmd.ID)); err != nil || cmd.Session != req.Session || cmd.Seq == 0 {
		return api.ClaimResponse{}, api.Because(api.ErrBadRequest, "", "the command is not one of session %s", req.Session)
	}
	bundle, err := d.Bundles.Active(ctx)
	if err != nil {
		return api.ClaimResponse{}, d.noDecision(ctx, "the policy", err)
	}
	now := d.now()
	c := &claiming{checking: &checking{decider: d, agent: agent, bundle: bundle, roots: roots{items: d.Items}, now: now}, req: req, state: st,
		digest: access.Digest(st.DigestKey, st.Target, *cmd)}
	if !req.Withdraw {
		if err := c.mayRun(ctx); err != nil {
			return api.ClaimResponse{}, err
		}
	}
	for range claimTries {
		dec, err := c.try(ctx)
		if errors.Is(err, store.ErrConflict) {
			continue // somebody was faster: look again at what is there now
		}
		if err != nil {
			return api.ClaimResponse{}, c.refusal(ctx, "the approvals", err)
		}
		return api.ClaimResponse{Decision: dec}, nil
	}
	return api.ClaimResponse{}, api.Because(api.ErrUnavailable, "ask again", "approval %s is being changed by others", req.Approval)
}

// claiming is one call of claim.
type claiming struct {
	*checking
	req      *api.ClaimRequest
	state    token.State
	digest   string
	standing standing
}

// mayRun looks at everything but the approval: the session is open, and nothing stands against all of its commands.
func (c *claiming) mayRun(ctx context.Context) error {
	seat, err := c.live.enter(ctx, c.state, c.req.State)
	if err != nil {
		return c.noDecision(ctx, "the session's turn", err)
	}
	defer c.live.leave(seat)
	if err := c.stillOpen(ctx, seat); err != nil {
		return err
	}
	c.standing, err = c.checking.standing(ctx, c.state)
	return err
}

// try reads the approval and does what its status calls for; store.ErrConflict means that it changed meanwhile.
func (c *claiming) try(ctx context.Context) (access.Decision, error) {
	rec, it, err := approval.Get(ctx, c.Items, c.req.Approval)
	if errors.Is(err, store.ErrNotFound) || err == nil && (rec.Session != c.state.Session || rec.Agent != c.agent.Name) {
		return access.Decision{}, api.Because(api.ErrNotFound, "", "no approval %q in this session", c.req.Approval)
	}
	if err != nil {
		return access.Decision{}, c.noDecision(ctx, "the approvals", err)
	}
	cmd := &c.req.Command
	if rec.Command != cmd.ID || rec.Seq != cmd.Seq || rec.Digest != c.digest || rec.Target != c.state.Target || !sameTouches(rec.Touches, cmd.Touches) {
		return access.Decision{}, api.Because(api.ErrDenied, "send the exact command that was approved, once",
			"rule %q: approval %s is for another command", api.RuleHoldMismatch, rec.ID)
	}
	if c.req.Withdraw {
		return access.Decision{}, c.withdraw(ctx, rec, it)
	}
	switch rec.StatusAt(c.now) {
	case approval.Approved:
		return c.use(ctx, rec, it)
	case approval.Claimed:
		return c.claimed(ctx, rec)
	case approval.Pending:
		if c.standing.rule != "" {
			return c.giveUp(ctx, rec, it, c.deny(c.standing))
		}
		return access.Decision{}, api.Because(api.ErrConflict, "wait for a reviewer", "approval %s has not been answered", rec.ID)
	case approval.Denied:
		return c.over(ctx, rec, standing{access.CodeHeldDenied, api.RuleHoldDenied, rec.Reason, "ask the reviewer what would be accepted"})
	case approval.Expired:
		return c.over(ctx, rec, standing{access.CodeHeldExpired, api.RuleHoldExpired, "", "send the command again to ask anew"})
	}
	return c.over(ctx, rec, standing{access.CodeCancelled, api.RuleHoldWithdrawn, rec.Reason, "send the command again to ask anew"})
}

// sameTouches compares what the reviewer saw with what the agent says now: the digest covers the bytes, not the facts.
func sameTouches(a, b []access.Touch) bool {
	return slices.EqualFunc(a, b, func(x, y access.Touch) bool {
		return x.Effect == y.Effect && x.Resource.Kind == y.Resource.Kind && x.Resource.Name == y.Resource.Name &&
			slices.Equal(x.Resource.Columns, y.Resource.Columns)
	})
}

// use decides an approved command anew, with its hold lifted, and uses the approval up: for the command, or for nothing.
func (c *claiming) use(ctx context.Context, rec approval.Record, it store.Item) (access.Decision, error) {
	if c.standing.rule != "" {
		return c.giveUp(ctx, rec, it, c.deny(c.standing))
	}
	if h, ok := c.bundle.Hold(rec.Hold); ok && !rec.StillReviewed(h.Reviewers) {
		return c.giveUp(ctx, rec, it, c.deny(standing{access.CodeDenied, api.RuleHoldReviewer,
			"the groups of who approved it do not review " + rec.Hold + " any more", "send the command again to ask anew"}))
	}
	v := policy.Decide(c.bundle, policy.Request{
		Command: c.req.Command, Target: c.state.Target, Agent: c.state.Agent, Lineage: c.state.Lineage,
		Capability: c.state.Capability, Approved: []string{rec.Hold}, Now: c.now,
	})
	dec := decision(&c.req.Command, c.digest, v)
	dec.Approval, dec.HoldName = rec.ID, rec.Hold
	if dec.Outcome != access.Allow {
		dec.Outcome, dec.Obligations = access.Deny, nil // also where another hold asks for another approval
		return c.giveUp(ctx, rec, it, dec)
	}
	used, err := rec.Claim(c.digest, c.now)
	if err != nil {
		return access.Decision{}, err
	}
	return dec, c.store(ctx, used, it, c.entry(audit.KindClaim, used, &dec))
}

// giveUp uses an approval up without running its command.
func (c *claiming) giveUp(ctx context.Context, rec approval.Record, it store.Item, dec access.Decision) (access.Decision, error) {
	gone, err := rec.Withdraw("refused when it was claimed: "+dec.Rule, c.now)
	if err != nil {
		return access.Decision{}, err
	}
	return dec, c.store(ctx, gone, it, c.entry(audit.KindWithdraw, gone, &dec))
}

// withdraw ends the wait of a client that gave up. What is over without having been used stays as it is.
func (c *claiming) withdraw(ctx context.Context, rec approval.Record, it store.Item) error {
	switch rec.StatusAt(c.now) {
	case approval.Withdrawn, approval.Denied, approval.Expired:
		return nil
	}
	gone, err := rec.Withdraw("the client gave up", c.now)
	if err != nil {
		return err
	}
	return c.store(ctx, gone, it, c.entry(audit.KindWithdraw, gone, nil))
}

func (c *claiming) store(ctx context.Context, rec approval.Record, it store.Item, e audit.Entry) error {
	hold, err := approval.Put(rec, store.Cond{Version: it.Version})
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	w, err := audit.Put(e)
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	err = c.Items.Transact(ctx, hold, w)
	if err == nil || errors.Is(err, store.ErrConflict) {
		return err
	}
	return c.noDecision(ctx, "the approvals", err)
}

// claimed answers a claim whose approval was used already: the same claim again, soon enough, gets the stored decision.
func (c *claiming) claimed(ctx context.Context, rec approval.Record) (access.Decision, error) {
	used := standing{access.CodeDenied, api.RuleHoldUsed, "", "send the command again to ask anew"}
	if c.standing.rule != "" {
		return c.deny(c.standing), nil
	}
	if c.now.Sub(rec.UsedAt).Abs() > claimAgain {
		return c.deny(used), nil
	}
	stored, err := c.stored(ctx, rec)
	if err != nil {
		return access.Decision{}, c.noDecision(ctx, "the evidence", err)
	}
	a, dec := stored.Approval, stored.Decision
	if stored.Kind != audit.KindClaim || a == nil || dec == nil || stored.ID != string(c.req.Command.ID) || a.ID != rec.ID || a.Digest != c.digest {
		return c.deny(used), nil
	}
	return *dec, nil
}

// stored reads the entry of a used approval.
func (c *claiming) stored(ctx context.Context, rec approval.Record) (audit.Entry, error) {
	k, err := audit.Key(c.entry(audit.KindClaim, rec, nil))
	if err != nil {
		return audit.Entry{}, err
	}
	it, err := c.Items.Get(ctx, store.Audit, k, true)
	if err != nil {
		return audit.Entry{}, err
	}
	entries, err := audit.Decode(it)
	if err != nil {
		return audit.Entry{}, err
	}
	return entries[0], nil
}

// over answers for an approval that cannot be used any more, and stores that it was asked for, once.
func (c *claiming) over(ctx context.Context, rec approval.Record, why standing) (access.Decision, error) {
	dec := c.deny(why)
	e := c.entry(audit.KindWithdraw, rec, &dec)
	e.Approval.Status = string(rec.StatusAt(c.now))
	w, err := audit.Put(e)
	if err != nil {
		return access.Decision{}, fmt.Errorf("claim: %w", err)
	}
	if err := c.Items.Put(ctx, w); err != nil && !errors.Is(err, store.ErrConflict) {
		return access.Decision{}, c.noDecision(ctx, "the evidence", err)
	}
	return dec, nil
}

func (c *claiming) deny(s standing) access.Decision {
	dec := access.Decision{Command: c.req.Command.ID, Seq: c.req.Command.Seq, Digest: c.digest, Code: s.code, Rule: s.rule,
		Hint: s.hint, Approval: c.req.Approval}
	if s.reason != "" {
		dec.Reasons = []string{s.reason}
	}
	return dec
}

// entry carries the command's id, so that it lies beside the command.
func (c *claiming) entry(kind audit.Kind, rec approval.Record, dec *access.Decision) audit.Entry {
	return audit.Entry{V: 1, Kind: kind, ID: string(rec.Command), Time: c.now, Agent: c.agent.Name, Session: rec.Session, Seq: rec.Seq,
		Target: rec.Target, Lineage: &c.state.Lineage, Decision: dec,
		Approval: &audit.Approval{ID: rec.ID, Command: rec.Command, Digest: rec.Digest, Hold: rec.Hold, Status: string(rec.Status),
			By: rec.By, Reason: rec.Reason, Auth: rec.AuthTime}}
}
