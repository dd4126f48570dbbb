package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/internal/access"
)

// copying says what becomes of the data of COPY FROM STDIN that the client sends.
type copying uint8

const (
	copyNone    copying = iota // it is dropped: nobody asked for it
	copyRefused                // the command was refused: its data was on the way
	copySent                   // the command is at the target: so goes its data
	copyEnded                  // and the client has said that it is complete, or that it is not
)

// carried holds COPY to what the room can do: the rows carry no names, so that a value of a class that has to be masked cannot be found in
// them. Where it can be, it was masked beneath.
func carried(p plan, c access.Command, permit *gate.Permit) *access.Denied {
	if !p.copyOut {
		return nil
	}
	for _, u := range c.Classes {
		if permit.Masks(u.Class) && !u.Beneath {
			return &access.Denied{Code: access.CodeNotMaskable, Rule: "postgres.copy", Command: permit.Command(),
				Hint: fmt.Sprintf("COPY carries class %q past the masks: use SELECT, or leave its columns out", u.Class)}
		}
	}
	return nil
}

// copyMessage passes on CopyData, CopyDone and CopyFail; head is read, n bytes of body are to come, of whatever length: CopyData goes
// on in pieces. What comes after the target has failed is the target's to drop.
func (f *front) copyMessage(ctx context.Context, head []byte, n int) error {
	if f.seg.open {
		if err := f.decide(ctx); err != nil {
			return err
		}
		if f.seg.skipping && f.copying == copySent {
			f.copying = copyRefused
		}
	}
	to := io.Writer(f.w)
	switch f.copying {
	case copySent:
		if head[0] != 'd' {
			f.copying = copyEnded
			f.q.copied()
		}
	default:
		to = io.Discard // as the server does with what comes out of place: it was on the way when the COPY failed
	}
	if _, err := to.Write(head); err != nil {
		return f.lost(err)
	}
	for n > 0 {
		if len(f.in.cur) == 0 && !f.in.waiting() {
			if err := f.flush(); err != nil {
				return err
			}
		}
		if err := f.in.fill(ctx); err != nil {
			return err
		}
		take := min(n, len(f.in.cur))
		if _, err := to.Write(f.in.cur[:take]); err != nil {
			return f.lost(err)
		}
		f.in.cur, n = f.in.cur[take:], n-take
	}
	if head[0] != 'd' || !f.in.waiting() {
		return f.flush()
	}
	return nil
}

// copyBegins waits, at a Sync behind the Execute of a COPY FROM STDIN, for the target to ask for the data or to fail. Where it asks, it would
// take no notice of the Sync, which therefore does not go on: libpq sends one here and another after the data.
func (f *front) copyBegins(ctx context.Context) (bool, error) {
	if _, err := f.w.Write(appendBare(nil, 'H')); err != nil {
		return false, f.lost(err)
	}
	if err := f.flush(); err != nil {
		return false, err
	}
	return f.q.begun(ctx, f.in, goneGrace)
}

// copyOut passes on one CopyData of the target, however long it is.
func (b *back) copyOut(ctx context.Context, size int) error {
	e := b.q.head()
	if e == nil || e.run == nil || e.kind != kindQuery && e.kind != kindExecute || !b.copies {
		return fmt.Errorf("%w: data while nothing is copied", errOutOfStep)
	}
	b.out.mu.Lock()
	defer b.out.mu.Unlock()
	e.run.rows++
	if e.run.limit > 0 && e.run.rows > e.run.limit {
		if !e.run.over {
			e.run.over = true
			b.l.stopTarget(ctx)
		}
		e.run.rows = e.run.limit
		return b.skip(size)
	}
	if size > tapSize/2 && size > b.tap.w-b.tap.r {
		return b.stream(e.run, &masking{}, size)
	}
	if b.tap.w-b.tap.r < size {
		b.tap.linger = b.few()
		if err := b.unlocked(func() error { return b.tap.need(size) }); err != nil {
			return err
		}
	}
	msg := b.tap.buf[b.tap.r : b.tap.r+size]
	b.tap.r += size
	e.run.bytes += int64(size)
	b.tap.linger = b.few()
	return b.out.putLocked(msg)
}

// copyStarts deals with CopyInResponse and CopyOutResponse. CopyBothResponse is replication's, which was refused.
func (b *back) copyStarts(e *expect, tag byte, msg []byte) error {
	if !e.run.copies {
		return fmt.Errorf("%w: COPY", errOutOfStep)
	}
	c := cursor{b: msg[header:]}
	form := c.byte()
	columns := int(c.uint16())
	c.take(2 * columns)
	if form > 1 || c.end() != nil {
		return fmt.Errorf("%w: COPY", errMalformed)
	}
	if tag == 'G' {
		b.q.asksForData()
	} else {
		b.copies = true
	}
	return b.out.send(msg)
}

// functionCall decides a call by number: the target says which function that is, and the question is about a SELECT of it.
func (f *front) functionCall(ctx context.Context, msg []byte) error {
	if f.seg.open {
		return violated("a FunctionCall message before the Sync of the extended protocol")
	}
	c := cursor{b: msg[header:]}
	oid, params, ok := functionArguments(&c)
	if !ok {
		return violated("malformed FunctionCall message")
	}
	if err := f.begin(ctx); err != nil {
		return err
	}
	defer func() { f.seg.open = false }()
	cmd, p, err := f.functionCommand(ctx, oid, params)
	if err != nil {
		return err
	}
	permits, denied, err := f.check(ctx, []access.Command{cmd})
	if err != nil {
		return err
	}
	if denied == nil && cmd.Refused != nil {
		unused(permits)
		denied = refusedAnyway(cmd)
	}
	if denied != nil {
		return f.deny(refusal(denied))
	}
	f.barrier()
	permit, denied, err := f.use(ctx, permits[0], cmd)
	if err != nil {
		return err
	}
	if denied != nil {
		return f.deny(refusal(denied))
	}
	r := newRunning(permit, cmd.Classes)
	r.alone = true
	f.after(p)
	if err := f.q.push(&expect{kind: kindFunction, run: r}); err != nil {
		r.end(access.StatusLost, "")
		return err
	}
	if _, err := f.w.Write(msg); err != nil {
		return f.lost(err)
	}
	return f.flush()
}

// functionCommand is the question about a call by number.
func (f *front) functionCommand(ctx context.Context, oid uint32, params []access.Param) (access.Command, plan, error) {
	text := fmt.Sprintf("function call of oid %d", oid)
	if !f.set.FunctionCalls || f.guarded() || f.seg.status == statusError {
		return f.refused("FUNCTION CALL", text, "postgres.function-call", "call the function in a SELECT, by its name"), plan{}, nil
	}
	rows, err := f.ask(ctx, fmt.Sprintf("select pg_catalog.quote_ident(n.nspname), pg_catalog.quote_ident(p.proname) from pg_catalog.pg_proc p "+
		"join pg_catalog.pg_namespace n on n.oid = p.pronamespace where p.oid = %d", oid))
	if err != nil {
		return access.Command{}, plan{}, fmt.Errorf("name a function: %w", err)
	}
	if len(rows) != 1 || len(rows[0]) != 2 {
		return f.refused("FUNCTION CALL", text, "postgres.function-call", "there is no such function"), plan{}, nil
	}
	call := "SELECT " + rows[0][0] + "." + rows[0][1] + "("
	for i := range params {
		if i > 0 {
			call += ", "
		}
		call += fmt.Sprintf("$%d", i+1)
	}
	cmd, p := f.command(call+")", params, false)
	cmd.Verb = "FUNCTION CALL"
	return cmd, p, nil
}

// functionArguments reads a FunctionCall: which function, and its arguments as they came.
func functionArguments(c *cursor) (oid uint32, params []access.Param, ok bool) {
	oid = c.uint32()
	formats := int(c.uint16())
	forms := c.take(2 * formats)
	n := int(c.uint16())
	if c.bad || n > 100 || 4*n > len(c.b) || formats > 1 && formats != n || !knownFormats(forms) { // 100: FUNC_MAX_ARGS
		return 0, nil, false
	}
	params = make([]access.Param, n)
	for i := range params {
		size := int(int32(c.uint32()))
		if size == -1 {
			params[i].Null = true
			continue
		}
		params[i].Value = c.take(size)
	}
	if c.uint16() > binaryForm {
		return 0, nil, false
	}
	return oid, params, c.end() == nil
}

// long deals with a message of the target, other than a row and COPY's data, that is too long to be kept.
func (b *back) long(tag byte, size int) error {
	switch tag {
	case 'E', 'N':
		// What matters stands at the beginning; the rest is a value that somebody put into a message.
		msg, err := b.tap.message(keptOfLong)
		if err != nil {
			return err
		}
		kept := append([]byte(nil), msg...)
		if err := b.drop(size - keptOfLong); err != nil {
			return err
		}
		return b.message(tag, shortened(kept))
	case 'A':
		return b.drop(size)
	case 'V':
		e := b.q.head()
		if e == nil || e.kind != kindFunction || b.l.guarded() {
			return fmt.Errorf("%w: tag %q", errOutOfStep, tag)
		}
		b.out.mu.Lock()
		defer b.out.mu.Unlock()
		return b.stream(e.run, &masking{}, size)
	}
	return fmt.Errorf("%w: tag %q of %d bytes from the target", errMalformed, tag, size)
}

// keptOfLong is what is kept of a long ErrorResponse or NoticeResponse.
const keptOfLong = 64 << 10

// shortened makes a whole message of the first bytes of one: its last field ends where the bytes do.
func shortened(msg []byte) []byte {
	if n := len(msg); msg[n-1] != 0 {
		msg = append(msg, 0)
	}
	msg = append(msg, 0)
	binary.BigEndian.PutUint32(msg[1:], uint32(len(msg)-1))
	return msg
}

func (b *back) drop(size int) error {
	for size > 0 {
		piece, err := b.tap.some(size)
		if err != nil {
			return err
		}
		size -= len(piece)
	}
	return nil
}
