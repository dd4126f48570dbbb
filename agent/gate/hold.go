package gate

import (
	"context"
	"errors"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

const (
	// holdGrace is how long after a hold's expiry a verdict is waited for: one that came in time is told a poll later, and clocks differ.
	holdGrace = 5 * time.Second
	// withdrawTries bounds a withdrawal, withdrawPause lies between them: an approval that stays by itself expires.
	withdrawTries = 3
	withdrawPause = time.Second
	// claimTries bounds a claim whose answer was lost: the broker answers the same claim again for a few seconds.
	claimTries = 3
	claimPause = 100 * time.Millisecond
)

// heldCommand is a stored command that waits for a reviewer. It keeps one reservation, and Close from returning.
type heldCommand struct {
	cmd      *access.Command
	digest   string
	decision *access.Decision
}

// hold waits for a reviewer, then uses the approval: exactly this command, once. It needs no turn: other commands of the session go on.
func (g *Gate) hold(ctx context.Context, h *heldCommand, held func(access.HeldCommand)) (*Permit, *access.Denied) {
	defer g.farther.Done()
	dec := h.decision
	verdict, stop := g.Verdicts.Watch(dec.Approval)
	defer stop()
	if held != nil {
		held(access.HeldCommand{Approval: dec.Approval, Name: dec.HoldName, Link: dec.Link, Expires: dec.Expires})
	}
	expiry := time.NewTimer(time.Until(dec.Expires) + holdGrace)
	defer expiry.Stop()
	var p *Permit
	d := &access.Denied{Code: access.CodeHeldExpired, Rule: api.RuleHoldExpired, Hint: "send the command again to ask anew"}
	select {
	case v := <-verdict:
		if v.Approval == dec.Approval && v.Status == "approved" {
			if p, d = g.claim(ctx, h); p != nil {
				return p, nil
			}
			break
		}
		d = answered(dec.Approval, v)
		g.Outcomes.Release(1)
	case <-expiry.C:
		g.giveUp(ctx, h)
	case <-ctx.Done():
		g.giveUp(ctx, h)
		d = given(ctx)
	case <-g.over:
		g.giveUp(ctx, h)
		d = noDecision("session-closed")
	}
	d.Approval, d.Command = dec.Approval, h.cmd.ID
	return nil, d
}

// giveUp withdraws a held command, of which there will be no outcome.
func (g *Gate) giveUp(ctx context.Context, h *heldCommand) {
	g.withdraw(ctx, h.cmd, h.decision.Approval)
	g.Outcomes.Release(1)
}

// answered is the denial for a verdict other than yes.
func answered(id access.ApprovalID, v api.Verdict) *access.Denied {
	switch {
	case v.Approval == id && v.Status == "denied":
		d := &access.Denied{Code: access.CodeHeldDenied, Rule: api.RuleHoldDenied, Hint: "ask the reviewer what would be accepted"}
		if v.Reason != "" {
			d.Hint = "the reviewer said: " + v.Reason
		}
		return d
	case v.Approval == id && v.Status == "expired":
		return &access.Denied{Code: access.CodeHeldExpired, Rule: api.RuleHoldExpired, Hint: "send the command again to ask anew"}
	case v.Approval == id && v.Status == "withdrawn":
		return &access.Denied{Code: access.CodeCancelled, Rule: api.RuleHoldWithdrawn, Retryable: true, Hint: "send the command again to ask anew"}
	}
	return noDecision("verdict-unknown")
}

// claim uses the approval, and the command's reservation. The broker judges the command again; its answer is held to the same echoes as any
// other.
func (g *Gate) claim(ctx context.Context, h *heldCommand) (*Permit, *access.Denied) {
	cmd, id := h.cmd, h.decision.Approval
	req := api.ClaimRequest{Session: g.Session, State: g.State, Approval: id, Command: *cmd}
	for i := range claimTries {
		if i > 0 && !pause(ctx, claimPause) {
			break
		}
		sent := time.Now()
		resp, err := g.claimOnce(ctx, req)
		if err != nil {
			if d := settled(err); d != nil {
				g.Outcomes.Release(1)
				return nil, d
			}
			continue
		}
		dec := resp.Decision
		if dec.Command != cmd.ID || dec.Seq != cmd.Seq || dec.Digest != h.digest || dec.Approval != id || dec.Outcome > access.Allow || dec.Outcome == access.Hold {
			break
		}
		if dec.Outcome != access.Allow {
			g.Outcomes.Release(1)
			return nil, refused(cmd, &dec)
		}
		return g.allow(cmd, &dec, sent)
	}
	// The approval may have been used up by a claim whose answer never came: it does not run, and the evidence is told so.
	g.unused(cmd)
	g.withdraw(ctx, cmd, id)
	d := noDecision("claim-no-answer")
	if ctx.Err() != nil {
		d = given(ctx)
	}
	return nil, d
}

func (g *Gate) claimOnce(ctx context.Context, req api.ClaimRequest) (api.ClaimResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, api.PermitLife)
	defer cancel()
	req.Agent = g.Batcher.agent
	return g.Claims.Claim(ctx, req)
}

// withdraw gives a held command up, off the client's path: ctx may have ended. Close waits for it.
func (g *Gate) withdraw(ctx context.Context, cmd *access.Command, id access.ApprovalID) {
	req := api.ClaimRequest{Session: g.Session, State: g.State, Approval: id, Command: *cmd, Withdraw: true}
	ctx = context.WithoutCancel(ctx)
	g.farther.Go(func() {
		for range withdrawTries {
			if _, err := g.claimOnce(ctx, req); err == nil || errors.As(err, new(*api.Error)) {
				return // done, or it is over anyhow
			}
			pause(ctx, withdrawPause)
		}
	})
}

// pause says whether the time went by before ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
