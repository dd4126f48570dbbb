package postgres

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/internal/access"
)

// CountsRows makes the room a protocol.RowCounter.
func (r *Room) CountsRows() {}

// A permit may bound the rows that a command changes. The target counts them, and tells before it commits where it is asked before the
// Sync: so the room waits for the count, and where it is too high sends what must fail, which takes the change back. A command in the simple
// protocol is sent by the extended one for that.

// changes says whether a command writes rows, or may.
func changes(c access.Command) bool {
	return !c.Complete || slices.ContainsFunc(c.Touches, func(t access.Touch) bool { return t.Effect == access.Write })
}

// uncountable is the refusal of a command that changes rows whose number the target does not tell.
func uncountable(c access.Command, p plan, permit *gate.Permit) *access.Denied {
	if permit.RowLimit() == 0 || !changes(c) || p.counted && p.statements == 1 {
		return nil
	}
	return &access.Denied{Code: access.CodeDenied, Rule: "row-limit", Command: permit.Command(),
		Hint: fmt.Sprintf("the policy lets %d rows be changed, and how many this would change is not told: send one INSERT, UPDATE, DELETE or MERGE by itself",
			permit.RowLimit())}
}

// affected reads the count of a completion tag: the last word.
func affected(tag string) int64 {
	n, _ := strconv.ParseInt(tag[strings.LastIndexByte(tag, ' ')+1:], 10, 64)
	return n
}

// settleCount waits for the count of a command that was just forwarded. What it returns is told to the client in place of the completion.
func (f *front) settleCount(ctx context.Context, r *running) (*reply, error) {
	if r == nil || !r.counts {
		return nil, nil
	}
	if _, err := f.w.Write(appendBare(nil, 'H')); err != nil {
		return nil, f.lost(err)
	}
	if err := f.flush(); err != nil {
		return nil, err
	}
	if _, err := f.q.answered(ctx, f.in, goneGrace); err != nil || r.excess == 0 {
		return nil, err
	}
	return refusal(&access.Denied{Code: access.CodeDenied, Rule: "row-limit", Command: r.permit.Command(),
		Hint: fmt.Sprintf("it would have changed %d rows, the policy lets %d be changed; nothing was", r.excess, r.limit)}), nil
}

// counted runs a Query of one statement so that its change can still be taken back when its count is known.
func (f *front) counted(ctx context.Context, text string, r *running, p plan) error {
	portal := &portal{name: own, statement: &statement{name: own, text: text}, plan: p, asked: true}
	f.seg.sent = true
	msg := appendParse(nil, own, text)
	msg = appendBind(msg, own, own)
	for _, e := range []*expect{{kind: kindParse, hidden: true}, {kind: kindBind, portal: portal, hidden: true}} {
		if err := f.q.push(e); err != nil {
			r.end(access.StatusLost, "")
			return err
		}
	}
	if p.relies != nil && !p.relies.apart {
		var err error
		if msg, err = f.guard(msg, p.relies, own+" asked", &guarding{}, r); err != nil {
			r.end(access.StatusLost, "")
			return err
		}
	}
	msg = appendDescribePortal(msg, own)
	msg = appendExecute(msg, own)
	msg = appendClose(msg, 'P', own)
	msg = appendClose(msg, 'S', own)
	for _, e := range []*expect{
		{kind: kindDescribePortal, portal: portal, simple: true},
		{kind: kindExecute, portal: portal, run: r}, {kind: kindClose, hidden: true}, {kind: kindClose, hidden: true},
	} {
		if err := f.q.push(e); err != nil {
			r.end(access.StatusLost, "")
			return err
		}
	}
	if _, err := f.w.Write(msg); err != nil {
		return f.lost(err)
	}
	rep, err := f.settleCount(ctx, r)
	if err != nil {
		return err
	}
	if rep != nil {
		if err := f.poisoned(rep); err != nil {
			return err
		}
	}
	f.seg.skipping = false
	if err := f.q.push(&expect{kind: kindSync}); err != nil {
		return err
	}
	if _, err := f.w.Write(appendBare(nil, 'S')); err != nil {
		return f.lost(err)
	}
	return f.flush()
}
