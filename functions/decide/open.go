package decide

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// maxSession is how long a session may last: a login lasts no longer either.
const maxSession = token.RootMax

// Limits of what an endpoint says of its client, which is for display only.
const maxProgram = 256

// open opens a session for a client that is there: it signed this very channel to this very agent.
func (d *decider) open(ctx context.Context, agent token.Agent, req *api.OpenRequest) (api.OpenResponse, error) {
	now := d.now()
	if err := session.Fresh(string(req.Session), now); err != nil {
		return api.OpenResponse{}, api.Because(api.ErrBadRequest, "set the clock of the agent's machine", "session %v", err).By(api.RuleClock)
	}
	if !agent.Serves(req.Target) {
		return api.OpenResponse{}, api.Because(api.ErrDenied, "enroll the agent for the target", "agent %q does not serve target %q", agent.Name, req.Target).By(api.RuleAgentTarget)
	}
	if len(req.Client.Program) > maxProgram {
		return api.OpenResponse{}, api.Because(api.ErrBadRequest, "", "program name over %d bytes", maxProgram)
	}
	claims, nonce, err := d.present(agent, req, now)
	if err != nil {
		return api.OpenResponse{}, err
	}
	bundle, err := d.Bundles.Active(ctx)
	if err != nil {
		return api.OpenResponse{}, d.noDecision(ctx, "the policy", err)
	}
	o := &opening{decider: d, agent: agent, req: req, claims: claims, bundle: bundle, now: now}
	dec, err := o.rule(ctx)
	if err != nil {
		return api.OpenResponse{}, err
	}
	if dec.Outcome != access.Allow {
		return api.OpenResponse{}, o.deny(ctx, dec)
	}
	// Only now the nonce is used up: what was refused for another reason leaves no trace of it.
	if err := d.Items.Put(ctx, nonce); errors.Is(err, store.ErrConflict) {
		return api.OpenResponse{}, api.Because(api.ErrDenied, "connect again", "the nonce was used before").By(api.RuleSessionProof)
	} else if err != nil {
		return api.OpenResponse{}, d.noDecision(ctx, "the nonces", err)
	}
	return o.store(ctx, dec)
}

// present verifies, without any store, that the token's holder signed this channel. It returns the write that uses up the nonce.
func (d *decider) present(agent token.Agent, req *api.OpenRequest, now time.Time) (token.Claims, store.Write, error) {
	refuse := func(format string, args ...any) (token.Claims, store.Write, error) {
		return token.Claims{}, store.Write{}, api.Because(api.ErrDenied, "connect again", format, args...).By(api.RuleSessionProof)
	}
	claims, err := d.Verifier.Access(req.Token, now)
	if err != nil {
		return token.Claims{}, store.Write{}, err
	}
	proof, jkt, err := token.VerifyProof(req.Proof, now)
	if err != nil {
		return token.Claims{}, store.Write{}, err
	}
	switch {
	case jkt == "" || jkt != claims.Thumbprint:
		return refuse("the session proof is not by the key that the token is bound to")
	case proof.TokenHash != token.HashToken(req.Token):
		return refuse("the session proof is for another token")
	case proof.Target != req.Target:
		return refuse("the session proof is for target %q", proof.Target)
	case proof.AgentKey == "" || proof.AgentKey != agent.Thumbprint:
		return refuse("the session proof is for another agent's key")
	case len(req.Exporter) != 32 || subtle.ConstantTimeCompare(proof.Exporter, req.Exporter) != 1:
		return refuse("the session proof is for another channel")
	}
	nonce, err := token.CheckNonce(d.StateKey, proof.Nonce, jkt, req.Target, proof.Endpoint, now)
	if err != nil {
		return token.Claims{}, store.Write{}, err
	}
	return claims, nonce, nil
}

// opening is one call of open whose caller is known.
type opening struct {
	*decider
	agent  token.Agent
	req    *api.OpenRequest
	claims token.Claims
	bundle *policy.Bundle
	now    time.Time
}

// rule decides: the lineage is alive, the target is in the policy, and policy permits to connect.
func (o *opening) rule(ctx context.Context) (access.Decision, error) {
	lineage := o.claims.Lineage()
	r := roots{items: o.Items}
	dead, err := r.dead(ctx, lineage, o.now)
	if err != nil {
		return access.Decision{}, o.noDecision(ctx, "the lineage", err)
	}
	if dead.rule != "" {
		return access.Decision{Code: dead.code, Rule: dead.rule, Reasons: []string{dead.reason}, Hint: dead.hint}, nil
	}
	if _, ok := o.bundle.Target(o.req.Target); !ok {
		return access.Decision{Rule: policy.RuleUnknownTarget, Hint: fmt.Sprintf("target %q is not in the policy's targets", o.req.Target)}, nil
	}
	v := policy.Connect(o.bundle, policy.Request{Target: o.req.Target, Agent: o.agent.Name, Lineage: lineage,
		Capability: o.claims.Capability, Now: o.now})
	return access.Decision{Outcome: v.Outcome, Code: v.Code, Rule: v.Rule, Reasons: v.Reasons, Hint: v.Hint, Obligations: v.Obligations}, nil
}

func (o *opening) entry(dec access.Decision) audit.Entry {
	lineage := o.claims.Lineage()
	note := map[string]string{"program": o.req.Client.Program, "bundle": o.bundle.Address}
	if t, ok := o.bundle.Target(o.req.Target); ok {
		note["protocol"] = t.Protocol
	}
	return audit.Entry{V: 1, Kind: audit.KindOpen, ID: string(o.req.Session), Time: o.now, Agent: o.agent.Name, Session: o.req.Session,
		Target: o.req.Target, Lineage: &lineage, Decision: &dec, Note: note}
}

// deny stores the refusal and answers it. A hold cannot be waited for before there is a session: it denies.
func (o *opening) deny(ctx context.Context, dec access.Decision) error {
	if dec.Outcome == access.Hold {
		dec.Hint = "sessions cannot be held for approval; commands can"
	}
	dec.Outcome = access.Deny
	w, err := audit.Put(o.entry(dec))
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	// A conflict means that an attempt under this id is stored already, and it is no session that this call opened.
	if err := o.Items.Put(ctx, w); err != nil && !errors.Is(err, store.ErrConflict) {
		return o.noDecision(ctx, "the evidence", err)
	}
	kind := api.ErrDenied
	switch dec.Rule {
	case api.RuleRevoked:
		kind = api.ErrRevoked
	case api.RuleLoginExpired:
		kind = api.ErrLogin
	}
	return api.Because(kind, dec.Hint, "target %q: denied by rule %q", o.req.Target, dec.Rule).By(dec.Rule)
}

// store makes the session: its first entry and its record, both or neither.
func (o *opening) store(ctx context.Context, dec access.Decision) (api.OpenResponse, error) {
	st := token.State{
		Session: o.req.Session, Agent: o.agent.Name, AgentKey: o.agent.Thumbprint, Target: o.req.Target,
		Lineage: o.claims.Lineage(), Capability: o.claims.Capability, Thumbprint: o.claims.Thumbprint,
		Opened: o.now, Expires: o.now.Add(maxSession), DigestKey: make([]byte, 32), DataKey: make([]byte, 32), Bundle: o.bundle.Address,
	}
	if end := o.claims.GrantExpires; end.Before(st.Expires) {
		st.Expires = end
	}
	_, _ = rand.Read(st.DigestKey) // never fails: the runtime ends the process first
	_, _ = rand.Read(st.DataKey)
	sealed, err := token.SealState(o.StateKey, st)
	if err != nil {
		return api.OpenResponse{}, fmt.Errorf("open: %w", err)
	}
	entry, err := audit.Put(o.entry(dec))
	if err != nil {
		return api.OpenResponse{}, fmt.Errorf("open: %w", err)
	}
	record, err := session.Put(session.Record{
		ID: st.Session, Agent: st.Agent, Target: st.Target, Lineage: st.Lineage, Client: o.req.Client, State: sealed,
		Bundle: st.Bundle, Opened: st.Opened, Expires: st.Expires, Status: session.Open,
	}, store.Cond{})
	if err != nil {
		return api.OpenResponse{}, fmt.Errorf("open: %w", err)
	}
	err = o.Items.Transact(ctx, record, entry)
	if errors.Is(err, store.ErrConflict) {
		return api.OpenResponse{}, api.Because(api.ErrConflict, "connect again", "session %s was opened, refused or ended before", st.Session)
	}
	if err != nil {
		return api.OpenResponse{}, o.noDecision(ctx, "the evidence", err)
	}
	o.classes.same(st.Bundle, o.bundle)
	if err := o.remember(ctx, st, sealed); err != nil {
		return api.OpenResponse{}, err
	}
	return api.OpenResponse{Session: st.Session, State: sealed, DigestKey: st.DigestKey, Lineage: st.Lineage,
		Classes: o.bundle.Classes, Bundle: st.Bundle, Expires: st.Expires}, nil
}

// remember spares the first check of the session a look at the record that was just written.
func (o *opening) remember(ctx context.Context, st token.State, sealed string) error {
	s, err := o.live.enter(ctx, st, sealed)
	if err != nil {
		return o.noDecision(ctx, "the session's turn", err)
	}
	defer o.live.leave(s)
	s.looked = o.now
	return nil
}
