package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/internal/access"
)

// poison is what goes to the target in place of a denied text inside a transaction: it cannot parse, so the target itself
// fails the transaction.
const poison = "sallyport: denied"

// query decides and runs one Query message: one command, however many statements it holds.
func (f *front) query(ctx context.Context, msg []byte) error {
	c := cursor{b: msg[header:]}
	text := string(c.text())
	if c.end() != nil {
		return violated("malformed Query message")
	}
	if f.seg.open {
		if ok, err := f.join(ctx); err != nil || !ok {
			return err
		}
	} else if err := f.begin(ctx); err != nil {
		return err
	}
	cmd, p := f.command(text, nil, false)
	if again, err := f.upToDate(ctx, p); err != nil {
		return err
	} else if again {
		cmd, p = f.command(text, nil, false)
	}
	if f.copying = copyNone; p.copyIn {
		f.copying = copyRefused
	}
	defer func() { f.seg.open = false }()
	permits, denied, err := f.check(ctx, []access.Command{cmd})
	if err != nil {
		return err
	}
	if denied != nil {
		return f.deny(refusal(denied))
	}
	if denied, err := f.current(ctx, []access.Command{cmd}); err != nil || denied != nil {
		unused(permits)
		if err != nil {
			return err
		}
		return f.deny(refusal(denied))
	}
	if f.seg.status == statusError {
		p.relies = nil // the target runs nothing but what ends the transaction, and answers no question
	}
	if p.relies != nil && f.seg.status == statusIdle && !f.seg.sent && f.pipelines() {
		first := *p.relies
		first.apart, p.relies = true, &first
	}
	if p.relies != nil && p.relies.apart && !f.seg.sent {
		why, err := f.look(ctx, p.relies)
		if err != nil {
			unused(permits)
			return err
		}
		if why != "" {
			unused(permits)
			return f.elsewhere(ctx, msg, why)
		}
	}
	return f.permitted(ctx, msg, text, cmd, p, permits[0])
}

// pipelines says that what goes before a Query begins a transaction that only a Sync ends: then the Query would not be committed by itself, and with
// a Sync behind it the server gets out of step (XX000). PostgreSQL 18 is so, 15 is not; what is between is treated like 18. The question then goes by
// itself, right before the Query, without locks.
func (f *front) pipelines() bool {
	major, _, _ := strings.Cut(f.statuses["server_version"], ".")
	n, err := strconv.Atoi(major)
	return err != nil || n > 15
}

// permitted runs a Query that was permitted.
func (f *front) permitted(ctx context.Context, msg []byte, text string, cmd access.Command, p plan, leave *gate.Permit) error {
	f.barrier()
	permit, denied, err := f.use(ctx, leave, cmd)
	if err != nil {
		return err
	}
	if denied != nil {
		return f.deny(refusal(denied))
	}
	r, denied := permitted(p, cmd, permit)
	if denied != nil {
		permit.Done(access.Result{Status: access.StatusError, Error: stateDenied})
		return f.deny(refusal(denied))
	}
	g := &guarding{query: msg, retry: !f.again && f.seg.status == statusIdle && !f.seg.sent && !p.copyIn, copying: p.copyIn}
	if r.beneath {
		msg = appendQuery(nil, cmd.Masked)
		f.remember(cmd)
	}
	r.alone, r.copies = p.statements <= 1, p.copyIn || p.copyOut
	r.plan = f.showsPlan(cmd)
	if p.copyIn {
		f.copying = copySent
	}
	f.forget("")
	f.drop("")
	f.after(p)
	f.isolates(text)
	if r.counts {
		return f.counted(ctx, text, r, p)
	}
	return f.send(ctx, msg, r, p, g)
}

// send sends a Query, and before it what makes sure that it means what was decided.
func (f *front) send(ctx context.Context, msg []byte, r *running, p plan, g *guarding) error {
	var ahead []byte
	if p.relies != nil && !p.relies.apart {
		why, err := f.firm(ctx, p.relies, g, r)
		if errors.Is(err, errBroken) {
			return f.mend(ctx)
		}
		if err != nil || why != "" {
			r.end(access.StatusUnused, "")
			if err != nil {
				return err
			}
			f.stale = true
			return f.deny(refusal(definitionsChanged(why, 0)))
		}
		if ahead, err = f.ahead(p.relies, g, r); err != nil {
			r.end(access.StatusLost, "")
			return err
		}
	}
	if err := f.q.push(&expect{kind: kindQuery, run: r}); err != nil {
		r.end(access.StatusLost, "")
		return err
	}
	if _, err := f.w.Write(ahead); err != nil {
		return f.lost(err)
	}
	if _, err := f.w.Write(msg); err != nil {
		return f.lost(err)
	}
	return f.flush()
}

// elsewhere deals with a Query whose meaning has changed before anything of it was sent: it is decided once more.
func (f *front) elsewhere(ctx context.Context, msg []byte, why string) error {
	if f.stale = true; f.again || f.seg.sent || f.seg.status != statusIdle {
		return f.deny(refusal(definitionsChanged(why, 0)))
	}
	f.seg.open, f.again = false, true
	defer func() { f.again = false }()
	return f.query(ctx, msg)
}

// permitted is a command on its way, in the one of its texts that its permit wants; what its obligations cannot be kept with is denied.
func permitted(p plan, c access.Command, permit *gate.Permit) (*running, *access.Denied) {
	if d := carried(p, c, permit); d != nil {
		return nil, d
	}
	if d := uncountable(c, p, permit); d != nil && !c.Prepare {
		return nil, d
	}
	r := newRunning(permit, c.Classes)
	r.counts = r.limit > 0 && !c.Prepare && changes(c)
	for _, u := range c.Classes {
		r.beneath = r.beneath || u.Beneath && permit.Masks(u.Class)
	}
	for _, u := range c.Classes {
		if r.beneath && u.Beneath && !permit.Masks(u.Class) { // policy does not answer so, but the floor may add to what it says
			return nil, &access.Denied{Code: access.CodeNotMaskable, Rule: "postgres.beneath", Command: permit.Command(),
				Hint: fmt.Sprintf("class %q may be seen, others that are used with it may not: ask for them one after the other", u.Class)}
		}
	}
	return r, nil
}

// join makes a Query message that comes before the Sync the end of the segment, as it is for the target: JDBC sends BEGIN by the extended
// protocol and SAVEPOINT in a Query behind it. What came before it is answered first. ok is false where something of it failed: then the
// Query is skipped like everything up to Sync.
func (f *front) join(ctx context.Context) (ok bool, err error) {
	if err := f.decide(ctx); err != nil || f.seg.skipping {
		return false, err
	}
	if _, err := f.w.Write(appendBare(nil, 'H')); err != nil {
		return false, f.lost(err)
	}
	if err := f.flush(); err != nil {
		return false, err
	}
	if f.seg.skipping, err = f.q.answered(ctx, f.in, goneGrace); err != nil || f.seg.skipping {
		return false, err
	}
	f.settle()
	return true, nil
}

// deny answers a Query that must not run. Outside a transaction nothing goes to the target; inside one that is still good the
// poison does, so that both sides know that the transaction has failed; and also behind messages that no Sync has ended.
func (f *front) deny(rep *reply) error {
	if f.seg.status != statusBlock && !f.seg.sent {
		return f.q.answer(appendReady(rep.append(nil), f.seg.status), f.out)
	}
	f.barrier()
	if err := f.q.push(&expect{kind: kindQuery, reply: rep}); err != nil {
		return err
	}
	if _, err := f.w.Write(appendQuery(nil, poison)); err != nil {
		return f.lost(err)
	}
	f.forget("")
	return f.flush()
}

// refusedAnyway holds the room to its own refusal, whatever the gate says.
func refusedAnyway(c access.Command) *access.Denied {
	return &access.Denied{Code: access.CodeUnsupported, Rule: c.Refused.Rule, Hint: c.Refused.Hint}
}
