package decide

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// plan is one Ask on its way to being stored.
type plan struct {
	*checking
	ask      *api.Ask
	state    token.State
	seat     *seat
	standing standing
	key      store.Key // where the Ask's item lies, or will

	entries   []audit.Entry
	decisions []access.Decision // of entries, in order
	bytes     int               // of entries, where they were measured
	held      *approval.Record  // goes with the only entry, where that is held
}

// sequence compares the Ask with what this process knows of the session. repeated says that it must be stored already.
func (p *plan) sequence(ctx context.Context) (repeated bool, err error) {
	s, first := p.seat, p.ask.Commands[0].Seq
	if err := p.resolve(ctx, s); err != nil {
		return false, p.noDecision(ctx, "the evidence", err)
	}
	switch {
	case s.last == 0 || first > s.last+1:
		return false, nil // another process may have decided those between: the put and the evidence's chain tell
	case first == s.last+1 && p.ask.Prev != s.link:
		return false, p.end(ctx, s, fmt.Sprintf("the chain is broken at sequence %d", first))
	}
	return first <= s.last, nil
}

// resolve finds out whether a put without an answer happened.
func (d *decider) resolve(ctx context.Context, s *seat) error {
	if s.unsure == nil {
		return nil
	}
	stored, err := d.stored(ctx, *s.unsure)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if s.unsure = nil; err == nil {
		s.follow(stored)
	}
	return nil
}

// follow moves the seat behind stored entries.
func (s *seat) follow(entries []audit.Entry) {
	if seq, link := chainEnd(entries); seq > s.last {
		s.last, s.link = seq, link
	}
}

// chainEnd is the sequence of the last of consecutive entries, and the chain's value after it.
func chainEnd(entries []audit.Entry) (seq uint64, link string) {
	link = entries[0].Prev
	for _, e := range entries {
		seq, link = e.Seq, audit.Link(link, access.CommandID(e.ID), e.Seq, e.Command.Digest)
	}
	return seq, link
}

// stored reads an Ask's item, strongly.
func (d *decider) stored(ctx context.Context, k store.Key) ([]audit.Entry, error) {
	it, err := d.Items.Get(ctx, store.Audit, k, true)
	if err != nil {
		return nil, err
	}
	return decided(it)
}

// decided decodes an Ask's item: every entry that it returns is a command with its decision.
func decided(it store.Item) ([]audit.Entry, error) {
	entries, err := audit.Decode(it)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Kind != audit.KindCommand || e.Command == nil || e.Decision == nil {
			return nil, fmt.Errorf("entry %s is not a decided command", e.ID)
		}
	}
	return entries, nil
}

// again answers an Ask whose place is taken: by itself, then with the stored decisions, provided that the lineage is still
// alive (p.standing was read in this very call); by anything else, then the session ends.
func (p *plan) again(ctx context.Context) ([]access.Decision, error) {
	p.decisions = nil // what was just settled was not stored
	stored, err := p.stored(ctx, p.key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, p.noDecision(ctx, "the evidence", err)
	}
	if err != nil || !p.same(stored) {
		return nil, p.end(ctx, p.seat, fmt.Sprintf("sequence %d was seen twice", p.ask.Commands[0].Seq))
	}
	p.seat.follow(stored)
	if p.standing.rule != "" {
		first := p.ask.Commands[0]
		p.decisions = append(p.decisions, p.refuse(&first, stored[0].Command.Digest))
		return p.stopped(), nil
	}
	for _, e := range stored {
		p.decisions = append(p.decisions, *e.Decision)
	}
	return p.stopped(), nil
}

// same says whether the stored entries are a beginning of the Ask: equal ids, sequences, digests and chain.
func (p *plan) same(stored []audit.Entry) bool {
	if len(stored) > len(p.ask.Commands) || stored[0].Prev != p.ask.Prev {
		return false
	}
	for i, e := range stored {
		cmd := &p.ask.Commands[i]
		digest := access.Digest(p.state.DigestKey, p.state.Target, *cmd)
		if e.ID != string(cmd.ID) || e.Session != cmd.Session || e.Seq != cmd.Seq || e.Command.Digest != digest || e.Decision.Digest != digest {
			return false
		}
	}
	return true
}

// stopped completes the decisions: what was not stored does not run, and may be asked again.
func (p *plan) stopped() []access.Decision {
	for i := len(p.decisions); i < len(p.ask.Commands); i++ {
		cmd := &p.ask.Commands[i]
		p.decisions = append(p.decisions, access.Decision{
			Command: cmd.ID, Seq: cmd.Seq, Digest: access.Digest(p.state.DigestKey, p.state.Target, *cmd),
			Code: access.CodeNoDecision, Rule: api.RuleBatchStopped, Hint: "ask again after the commands before it",
		})
	}
	return p.decisions
}

// decide settles the commands, stores what was settled, and only then answers.
func (p *plan) decide(ctx context.Context) ([]access.Decision, error) {
	if err := p.settle(ctx); err != nil {
		return nil, err
	}
	if p.entries == nil { // a hold's place is taken
		return p.again(ctx)
	}
	write, err := audit.Put(p.entries...)
	if err != nil {
		return nil, fmt.Errorf("decide: %w", err)
	}
	if p.held == nil {
		err = p.Items.Put(ctx, write)
	} else {
		var hold store.Write
		if hold, err = approval.Put(*p.held, store.Cond{}); err != nil {
			return nil, fmt.Errorf("decide: %w", err)
		}
		err = p.Items.Transact(ctx, hold, write)
	}
	switch {
	case errors.Is(err, store.ErrConflict):
		return p.again(ctx)
	case errors.Is(err, store.ErrTooLarge):
		return nil, api.Because(api.ErrTooLarge, "send less in one command", "the command does not fit the evidence")
	case err != nil:
		p.seat.unsure = &p.key
		return nil, p.noDecision(ctx, "the evidence", err)
	}
	p.seat.follow(p.entries)
	if p.standing.rule == api.RulePolicyChanged {
		_ = p.end(ctx, p.seat, p.standing.reason) // the refusal is stored and answered; functions/changes then ends the session
	}
	return p.stopped(), nil
}

// settle fills entries and decisions: up to the first command that is not allowed, and not past one that changes what the
// next ones mean or that must wait for a reviewer: these are decided only as the first of an Ask.
func (p *plan) settle(ctx context.Context) error {
	prev := p.ask.Prev
	for i := range p.ask.Commands {
		cmd := &p.ask.Commands[i]
		if i > 0 && changesState(cmd) {
			return nil
		}
		digest := access.Digest(p.state.DigestKey, p.state.Target, *cmd)
		dec := p.rule(cmd, digest)
		if dec.Outcome == access.Hold {
			if i > 0 {
				return nil
			}
			taken, err := p.hold(ctx, cmd, &dec)
			if taken || err != nil {
				return err
			}
		}
		fits, err := p.add(ctx, cmd, prev, dec)
		if err != nil {
			return err
		}
		if !fits || p.decisions[i].Outcome != access.Allow || changesState(cmd) {
			return nil
		}
		prev = audit.Link(prev, cmd.ID, cmd.Seq, digest)
	}
	return nil
}

// rule is the decision on one command: what stands against all of them, else policy's.
func (p *plan) rule(cmd *access.Command, digest string) access.Decision {
	if p.standing.rule != "" {
		return p.refuse(cmd, digest)
	}
	v := policy.Decide(p.bundle, policy.Request{
		Command: *cmd, Target: p.state.Target, Agent: p.state.Agent, Lineage: p.state.Lineage,
		Capability: p.state.Capability, Now: p.now,
	})
	return decision(cmd, digest, v)
}

func (p *plan) refuse(cmd *access.Command, digest string) access.Decision {
	return access.Decision{Command: cmd.ID, Seq: cmd.Seq, Digest: digest, Code: p.standing.code,
		Rule: p.standing.rule, Reasons: []string{p.standing.reason}, Hint: p.standing.hint}
}

// decision is a verdict as an answer. An outcome that is not known denies.
func decision(cmd *access.Command, digest string, v policy.Verdict) access.Decision {
	dec := access.Decision{Command: cmd.ID, Seq: cmd.Seq, Digest: digest, Rule: v.Rule, Reasons: v.Reasons, Hint: v.Hint}
	switch v.Outcome {
	case access.Allow:
		dec.Outcome, dec.Obligations = access.Allow, v.Obligations
	case access.Hold:
		dec.Outcome, dec.Obligations, dec.HoldName = access.Hold, v.Obligations, v.Hold
	default:
		dec.Code = v.Code
	}
	return dec
}

// changesState says whether a command may change what the bytes of those after it mean: settings, definitions, rights, and
// everything that was not understood.
func changesState(cmd *access.Command) bool {
	if !cmd.Complete {
		return true
	}
	for _, t := range cmd.Touches {
		switch t.Effect {
		case access.Define, access.Grant, access.Unknown, "":
			return true
		case access.Read:
		default:
			if t.Resource.Kind == access.KindSetting {
				return true
			}
		}
	}
	return false
}

// roomy is the size up to which an Ask's entries are not measured: they cannot reach store.MaxItem.
const roomy = store.MaxItem / 2

// add appends a command's entry, where it still fits the item. A command that fits no item of its own is kept beside the log, or, where that
// cannot be, denied: what could not be kept whole did not run.
func (p *plan) add(ctx context.Context, cmd *access.Command, prev string, dec access.Decision) (fits bool, err error) {
	kept, err := audit.CommandOf(*cmd, dec.Digest, p.state.DataKey)
	if err != nil {
		return false, fmt.Errorf("decide: %w", err)
	}
	e := audit.Entry{V: 1, Kind: audit.KindCommand, ID: string(cmd.ID), Time: p.now, Agent: p.state.Agent, Session: cmd.Session,
		Seq: cmd.Seq, Prev: prev, Target: p.state.Target, Lineage: &p.state.Lineage, Command: kept, Decision: &dec}
	size := atMost(&e)
	if p.bytes+size > roomy {
		b, err := json.Marshal(e)
		if err != nil {
			return false, fmt.Errorf("decide: encode entry: %w", err)
		}
		size = len(b) + 2
	}
	if p.bytes+size > store.MaxItem || dec.Outcome == access.Hold && !reviewable(p.held) {
		if len(p.entries) > 0 {
			return false, nil
		}
		return true, p.addLarge(ctx, cmd, e, dec, size)
	}
	p.bytes += size
	p.entries, p.decisions = append(p.entries, e), append(p.decisions, dec)
	return true, nil
}

// atMost bounds an entry's encoded size from above without encoding it: a byte of text becomes at most six in JSON.
func atMost(e *audit.Entry) int {
	c, dec := e.Command, e.Decision
	n := 2048 + len(c.Body)*4/3 + 6*(len(c.Verb)+len(c.Normalised)+len(c.Why)+len(c.State.Database)+len(c.State.Role)+
		len(c.State.SearchPath)+len(dec.Rule)+len(dec.Hint)+len(dec.HoldName)+len(dec.Link)+len(e.Lineage.Principal))
	for _, t := range c.Touches {
		n += 64 + 6*len(t.Resource.Name)
		for _, column := range t.Resource.Columns {
			n += 3 + 6*len(column)
		}
	}
	for _, use := range c.Classes {
		n += 64 + 6*(len(use.Class)+len(use.On)+len(use.How))
	}
	for _, f := range c.Facts.Functions {
		n += 3 + 6*len(f)
	}
	for _, r := range dec.Reasons {
		n += 3 + 6*len(r)
	}
	for _, o := range dec.Obligations {
		n += 64 + 6*len(o.Kind)
		for _, class := range o.Classes {
			n += 3 + 6*len(class)
		}
	}
	for _, node := range e.Lineage.Path {
		n += 64 + 6*(len(node.Name)+len(node.Purpose)+len(node.ID))
	}
	for _, g := range e.Lineage.Groups {
		n += 3 + 6*len(g)
	}
	return n
}
