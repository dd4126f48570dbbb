package postgres

import (
	"context"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/internal/access"
)

// decide asks about what the segment holds, and forwards it up to the first message that is denied or cannot work.
func (f *front) decide(ctx context.Context) error {
	items, cmds := f.seg.items, f.seg.commands
	f.seg.items, f.seg.commands, f.seg.bytes = nil, nil, 0
	if len(items) == 0 {
		return nil
	}
	if f.copying == copySent {
		return violated("a command in the middle of COPY")
	}
	var permits []*gate.Permit
	var denied *access.Denied
	if len(cmds) > 0 {
		var err error
		if permits, denied, err = f.check(ctx, cmds); err != nil {
			return err
		}
	}
	retry := f.retriable(items)
	if late, err := f.current(ctx, cmds); err != nil || late != nil {
		unused(permits)
		if err != nil {
			return err
		}
		permits, denied = nil, late
	}
	if index, err := f.lookFirst(ctx, items); err != nil || index != nil {
		unused(permits)
		if err != nil {
			return err
		}
		permits, denied = nil, index
	}
	f.barrier()
	spent := 0
	for _, it := range items {
		rep := it.fail
		var permit *gate.Permit
		if it.command >= 0 && rep == nil {
			d := denied
			if it.command < len(permits) {
				var err error
				spent = it.command + 1
				if permit, d, err = f.use(ctx, permits[it.command], cmds[it.command]); err != nil {
					unused(permits[spent:])
					return err
				}
			}
			if permit == nil {
				if d == nil { // a permit is missing and nobody said why
					d = deniedBy(errOutOfStep)
				}
				rep = refusal(d)
			}
		}
		if rep != nil {
			unused(permits[spent:])
			return f.poisoned(rep)
		}
		var r *running
		if permit != nil {
			c := cmds[it.command]
			var d *access.Denied
			if r, d = permitted(it.plan, c, permit); d == nil {
				if d = it.exchange(r, c); r.beneath {
					f.remember(c)
				}
			}
			if d != nil {
				permit.Done(access.Result{Status: access.StatusError, Error: stateDenied})
				unused(permits[spent:])
				return f.poisoned(refusal(d))
			}
			r.plan = f.showsPlan(c)
			r.alone, r.copies = true, it.plan.copyIn || it.plan.copyOut
		}
		run := r
		if it.bound {
			run = it.portal.run
		}
		if err := f.forward(it, r); err != nil {
			r.end(access.StatusLost, "")
			unused(permits[spent:])
			return err
		}
		if rep, err := f.certain(ctx, it, items, retry); err != nil || rep != nil {
			unused(permits[spent:])
			if err != nil {
				return err
			}
			return f.poisoned(rep)
		}
		if it.tag != 'E' {
			continue
		}
		if rep, err := f.settleCount(ctx, run); err != nil || rep != nil {
			unused(permits[spent:])
			if err != nil {
				return err
			}
			return f.poisoned(rep)
		}
	}
	return nil
}

// retriable says that what items do may be done anew where the guard of their only command fails.
func (f *front) retriable(items []*item) bool {
	binds := 0
	for _, it := range items {
		if it.tag == 'B' {
			binds++
		}
		if it.plan.copyIn || it.fail != nil {
			return false
		}
	}
	return binds == 1 && f.seg.whole && f.seg.status == statusIdle && !f.again
}

// lookFirst asks about commands that must not share a transaction with the room's question, where nothing of the segment was sent.
func (f *front) lookFirst(ctx context.Context, items []*item) (*access.Denied, error) {
	for _, it := range items {
		if it.tag != 'B' || it.plan.relies == nil || !it.plan.relies.apart || f.seg.sent || f.seg.status == statusError {
			continue
		}
		why, err := f.look(ctx, it.plan.relies)
		if err != nil {
			return nil, err
		}
		if why != "" {
			f.stale = true
			return definitionsChanged(why, it.command), nil
		}
	}
	return nil, nil
}

// certain follows a Bind, which has locked what the command names, with the question whether it means what was decided.
func (f *front) certain(ctx context.Context, it *item, items []*item, retry bool) (*reply, error) {
	r := it.plan.relies
	if it.tag != 'B' || r == nil || r.apart || f.seg.status == statusError {
		return nil, nil
	}
	if f.frozen {
		if _, err := f.w.Write(appendBare(nil, 'H')); err != nil {
			return nil, f.lost(err)
		}
		if err := f.flush(); err != nil {
			return nil, err
		}
		if skipping, err := f.q.answered(ctx, f.in, goneGrace); err != nil || skipping {
			return nil, err
		}
		why, err := f.lookOutside(ctx, r)
		if err != nil {
			return nil, err
		}
		if why != "" {
			f.stale = true
			return refusal(definitionsChanged(why, it.command)), nil
		}
	}
	g := &guarding{retry: retry}
	if retry {
		g.items = items
	}
	msg, err := f.guard(nil, r, own, g, it.portal.run)
	if err != nil {
		return nil, err
	}
	if _, err := f.w.Write(msg); err != nil {
		return nil, f.lost(err)
	}
	return nil, nil
}

// forward sends one message on, and says what is owed for it.
func (f *front) forward(it *item, r *running) error {
	f.seg.sent = true
	e := &expect{run: r, hidden: it.hidden}
	it.owed = e
	switch it.tag {
	case 'P':
		e.kind, e.made = kindParse, it.made
		f.effect(e, false, it.made.name)
		if it.made.name == "" {
			f.forget("") // the target drops it before it looks at the new text
		}
	case 'B':
		e.kind, e.portal = kindBind, it.portal
		it.portal.run = r
		f.effect(e, true, it.portal.name)
	case 'D':
		e.kind = kindDescribeStatement
		if !it.ofStmt {
			e.kind, e.portal = kindDescribePortal, it.portal
			it.portal.asked = true
		}
	case 'C':
		e.kind = kindClose
		f.effect(e, !it.ofStmt, it.name)
	case 'E':
		e.kind, e.portal = kindExecute, it.portal
		if it.bound {
			e.run = it.portal.run
			it.portal.run = nil
		}
		if err := f.describeFirst(it.portal); err != nil {
			return err
		}
		f.after(it.plan)
		f.isolates(it.portal.statement.text)
		if it.plan.copyIn {
			f.copying = copySent
		}
	}
	if err := f.q.push(e); err != nil {
		return err
	}
	if _, err := f.w.Write(it.msg); err != nil {
		return f.lost(err)
	}
	return nil
}

// effect keeps what a message does to a name, until the segment ends. Of the nameless ones only the latest counts, as long as nothing of an
// earlier one is left to be done: a driver's pipeline of a hundred thousand statements stays small.
func (f *front) effect(e *expect, portal bool, name string) {
	for i := len(f.seg.effects) - 1; name == "" && i >= max(0, len(f.seg.effects)-4); i-- {
		if x := f.seg.effects[i]; x.name == "" && x.portal == portal && (x.e.portal == nil || x.e.portal.run == nil && !x.e.portal.fresh) {
			if x.e.portal != nil {
				x.e.portal.params = nil // nobody executes it again, and the queue may hold it for a while
			}
			f.seg.kept -= x.bytes
			f.seg.effects = append(f.seg.effects[:i], f.seg.effects[i+1:]...)
			break
		}
	}
	x := effect{e: e, portal: portal, name: name}
	switch {
	case e.portal != nil:
		x.bytes = e.portal.size
	case e.made != nil:
		x.bytes = e.made.size()
	}
	f.seg.kept += x.bytes
	f.seg.effects = append(f.seg.effects, x)
}

// describeFirst asks for a portal's description where the client has not: its rows cannot be judged without.
func (f *front) describeFirst(p *portal) error {
	if p.asked || !f.guarded() {
		return nil
	}
	p.asked = true
	if err := f.q.push(&expect{kind: kindDescribePortal, portal: p, hidden: true}); err != nil {
		return err
	}
	if _, err := f.w.Write(appendDescribePortal(nil, p.name)); err != nil {
		return f.lost(err)
	}
	return nil
}

// poisoned answers a message of the extended protocol that must not go on. Where the target has seen nothing of the segment and no
// transaction is open, the room answers alone. Otherwise a Bind of a statement that does not exist goes in its place: the target
// fails, skips to Sync and rolls back, and its error is replaced by rep.
func (f *front) poisoned(rep *reply) error {
	f.seg.skipping = true
	if !f.seg.sent && f.seg.status != statusBlock {
		return f.q.answer(rep.append(nil), f.out)
	}
	if err := f.q.push(&expect{kind: kindPoison, reply: rep}); err != nil {
		return err
	}
	if _, err := f.w.Write(appendBind(nil, own, own+" denied")); err != nil {
		return f.lost(err)
	}
	f.seg.sent = true
	return nil
}

// flushed deals with Flush: what is owed must come now. After a Sync it comes anyway, and no segment begins: libpq sends Sync, Flush and
// then perhaps a Query.
func (f *front) flushed(ctx context.Context) error {
	if !f.seg.open {
		return nil
	}
	if err := f.decide(ctx); err != nil {
		return err
	}
	if !f.seg.sent {
		return nil
	}
	if _, err := f.w.Write(appendBare(nil, 'H')); err != nil {
		return f.lost(err)
	}
	return f.flush()
}

// sync ends the segment: the target answers with ReadyForQuery, exactly once.
func (f *front) sync(ctx context.Context) error {
	if err := f.begin(ctx); err != nil {
		return err
	}
	f.seg.whole = !f.seg.sent
	if err := f.decide(ctx); err != nil {
		return err
	}
	if f.copying == copySent && !f.seg.skipping {
		if begun, err := f.copyBegins(ctx); begun || err != nil {
			return err
		}
	}
	f.seg.open = false
	if err := f.q.push(&expect{kind: kindSync}); err != nil {
		return err
	}
	if _, err := f.w.Write(appendBare(nil, 'S')); err != nil {
		return f.lost(err)
	}
	return f.flush()
}

// settle takes over what the finished segment did to the names at the target. Nothing is owed when it is called.
func (f *front) settle() {
	for _, x := range f.seg.effects {
		if x.portal {
			f.settlePortal(x)
			continue
		}
		if x.e.ok {
			f.forget(x.name)
			if x.e.made != nil {
				f.statements[x.name] = x.e.made
				f.held += x.e.made.size()
			}
		}
	}
	f.seg.effects, f.seg.kept = nil, 0
	_, _, status, _ := f.q.state()
	if status == statusIdle {
		for name := range f.portals {
			f.drop(name)
		}
	}
}

func (f *front) settlePortal(x effect) {
	p := x.e.portal
	if p != nil {
		p.fresh = false
		p.run.end(access.StatusOK, "") // bound, and never executed
		p.run = nil
	}
	if !x.e.ok && x.name != "" {
		return // the target has kept what had this name
	}
	f.drop(x.name)
	if x.e.ok && p != nil {
		f.portals[x.name] = p
		f.held += p.size
	}
}

// forget drops a prepared statement.
func (f *front) forget(name string) {
	if st, ok := f.statements[name]; ok {
		f.held -= st.size()
		delete(f.statements, name)
	}
}

// drop drops a portal.
func (f *front) drop(name string) {
	if p, ok := f.portals[name]; ok {
		f.held -= p.size
		delete(f.portals, name)
	}
}
