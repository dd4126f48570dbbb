package prototest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// Marks that make the broker decide; anything else is allowed, with every class masked.
const (
	denyMark = "prototestdeny"
	holdMark = "prototesthold"
	denyRule = "prototest-deny"
	denyHint = "ask the one who wrote the test"
)

var digestKey = bytes.Repeat([]byte("d"), 32)

// broker is scripted; the gate in front of it is the real one.
type broker struct {
	classes []string
	bare    bool                                                               // nothing is masked
	onStore func(c access.Command)                                             // right before the entry is stored
	fail    func(context.Context, api.CheckRequest) (api.CheckResponse, error) // instead of deciding

	mu        sync.Mutex
	held      chan struct{} // receives when a command waits
	withdrawn int
	outcomes  []api.Outcome
}

func (b *broker) Check(ctx context.Context, r api.CheckRequest) (resp api.CheckResponse, err error) {
	if b.fail != nil {
		return b.fail(ctx, r)
	}
	for _, ask := range r.Asks {
		ans, over := api.Answer{Session: ask.Session}, false
		for _, c := range ask.Commands {
			d := access.Decision{Command: c.ID, Seq: c.Seq, Digest: access.Digest(digestKey, "target", c), Rule: api.RuleBatchStopped}
			if !over {
				b.decide(c, &d)
				over = d.Outcome != access.Allow
			}
			ans.Decisions = append(ans.Decisions, d)
		}
		resp.Answers = append(resp.Answers, ans)
	}
	return resp, nil
}

func (b *broker) decide(c access.Command, d *access.Decision) {
	if b.onStore != nil {
		b.onStore(c)
	}
	d.Rule = "prototest-allow"
	switch {
	case c.Refused != nil:
		d.Rule, d.Hint = c.Refused.Rule, c.Refused.Hint
	case strings.Contains(c.Text, denyMark):
		d.Rule, d.Hint = denyRule, denyHint
	case !b.bare && derived(c):
		d.Code, d.Rule, d.Hint = access.CodeNotMaskable, "not-maskable", "select the plain column"
	case strings.Contains(c.Text, holdMark) && !c.Prepare:
		d.Outcome, d.HoldName, d.Approval, d.Link, d.Expires = access.Hold, "prototest", "APPROVAL", "https://console/approve/APPROVAL", time.Now().Add(time.Hour)
	default:
		d.Outcome = access.Allow
		if !b.bare && len(b.classes) > 0 {
			d.Obligations = []access.Obligation{{Kind: access.ObligeMask, Classes: b.classes}}
		}
	}
}

// derived is policy's rule for what a room says that it cannot mask.
func derived(c access.Command) bool {
	for _, u := range c.Classes {
		if u.Derived && !u.Beneath {
			return true
		}
	}
	for _, t := range c.Touches {
		if t.Effect == access.Unknown {
			return true
		}
	}
	return !c.Complete
}

// Claim takes withdrawals. Nobody approves anything here.
func (b *broker) Claim(_ context.Context, r api.ClaimRequest) (api.ClaimResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !r.Withdraw {
		return api.ClaimResponse{}, errors.New("nobody approved it")
	}
	b.withdrawn++
	return api.ClaimResponse{}, nil
}

func (b *broker) withdrawals() int { b.mu.Lock(); defer b.mu.Unlock(); return b.withdrawn }

// Watch never delivers.
func (b *broker) Watch(access.ApprovalID) (<-chan api.Verdict, func()) {
	select {
	case b.held <- struct{}{}:
	default:
	}
	return make(chan api.Verdict), func() {}
}

func (b *broker) Reserve(int) error { return nil }
func (b *broker) Release(int)       {}

func (b *broker) Put(o api.Outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outcomes = append(b.outcomes, o)
}
