package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/access"
)

// back is the loop that reads the target and writes the client. It owns tap, and the entries of the queue once they are in it.
type back struct {
	l   *link
	tap *tap
	q   *queue
	out *out

	mask   *masking // of the simple query's present result
	tmp    []byte
	copies bool   // the target sends COPY's data
	last   string // the SQLSTATE of a fatal error that the client has seen
}

// loop ends with an error that says why nothing more can come.
func (b *back) loop(ctx context.Context) error {
	for {
		tag, size, err := b.tap.peek()
		if err != nil {
			return err
		}
		if tag == 'd' {
			if err := b.copyOut(ctx, size); err != nil {
				return err
			}
			continue
		}
		if tag != 'D' && size > maxHeld+header {
			if err := b.long(tag, size); err != nil {
				return err
			}
			continue
		}
		if tag == 'D' {
			if err := b.rows(ctx, size); err != nil {
				return err
			}
			continue
		}
		msg, err := b.tap.message(size)
		if err != nil {
			return err
		}
		if err := b.message(tag, msg); err != nil {
			return err
		}
	}
}

// message deals with one whole message that is not a row.
func (b *back) message(tag byte, msg []byte) error {
	body := msg[header:]
	switch tag {
	case 'N':
		return b.notice(msg)
	case 'S':
		return b.parameter(msg)
	case 'A':
		return b.notification(msg)
	case 'Z':
		return b.ready(msg)
	}
	e := b.q.head()
	if e == nil && tag != 'E' {
		return fmt.Errorf("%w: tag %q while nothing was asked", errOutOfStep, tag)
	}
	if tag == 'E' {
		return b.failed(e, msg)
	}
	if e.kind == kindInternal {
		return b.internal(e, tag, body)
	}
	return b.answer(e, tag, msg)
}

// answer deals with what a message of the client, or one that the room sent beside it, gets from a target that is content.
func (b *back) answer(e *expect, tag byte, msg []byte) error {
	switch {
	case e.kind == kindQuery && e.reply == nil:
		return b.answerQuery(e, tag, msg)
	case e.kind == kindLock && tag == '1':
		return b.q.pop(b.out)
	case e.kind == kindGuard && (tag == '2' || tag == 'C' || tag == '3'):
		if e.simple && tag == 'C' || tag == '3' {
			return b.q.pop(b.out)
		}
		return nil
	case e.kind == kindParse && tag == '1':
		e.run.end(access.StatusOK, "")
		return b.pass(e, msg)
	case e.kind == kindBind && tag == '2', e.kind == kindClose && tag == '3':
		return b.pass(e, msg)
	case e.kind == kindDescribeStatement && tag == 't':
		return b.put(e, msg)
	case e.kind == kindDescribeStatement && (tag == 'T' || tag == 'n'):
		return b.pass(e, msg)
	case e.kind == kindDescribePortal && tag == 'T':
		fields, err := fieldsOfRow(msg[header:])
		if err != nil {
			return err
		}
		if p := e.portal; p.described && !slices.EqualFunc(p.fields, fields, func(x, y field) bool { return x.origin == y.origin && x.typ == y.typ }) {
			return fmt.Errorf("%w: a portal that is described in two ways", errOutOfStep)
		}
		e.portal.fields, e.portal.described = fields, true
		return b.pass(e, msg)
	case e.kind == kindDescribePortal && tag == 'n':
		e.portal.fields, e.portal.described = nil, true
		if e.simple {
			return b.q.pop(b.out)
		}
		return b.pass(e, msg)
	case e.kind == kindExecute && (tag == 'G' || tag == 'H'):
		return b.copyStarts(e, tag, msg)
	case e.kind == kindExecute && tag == 'c' && b.copies:
		return b.put(e, msg)
	case e.kind == kindFunction && tag == 'V':
		e.run.bytes += int64(len(msg))
		return b.put(e, msg)
	case e.kind == kindExecute && (tag == 'C' || tag == 'I' || tag == 's'):
		return b.complete(e, tag, msg)
	}
	return fmt.Errorf("%w: tag %q", errOutOfStep, tag)
}

func (b *back) answerQuery(e *expect, tag byte, msg []byte) error {
	switch tag {
	case 'G', 'H':
		return b.copyStarts(e, tag, msg)
	case 'c':
		if !b.copies {
			break
		}
		return b.put(e, msg)
	case 'T':
		if b.mask != nil || e.run.alone && e.run.tag != "" {
			return fmt.Errorf("%w: a description in the middle of rows, or a result more than was asked for", errOutOfStep)
		}
		fields, err := fieldsOfRow(msg[header:])
		if err != nil {
			return err
		}
		if b.mask, err = b.l.masking(fields, e.run); err != nil {
			return err
		}
		return b.put(e, msg)
	case 'C', 'I':
		b.finishRows(e.run, b.mask)
		b.mask, b.copies = nil, false
		b.q.copied()
		e.run.tag = tagOf(msg)
		if e.run.over {
			e.run.over = false
			return b.overLimit(e)
		}
		return b.put(e, msg)
	}
	return fmt.Errorf("%w: tag %q in a query", errOutOfStep, tag)
}

// complete ends an Execute.
func (b *back) complete(e *expect, tag byte, msg []byte) error {
	b.finishRows(e.run, e.portal.mask)
	b.copies = false
	b.q.copied()
	switch tag {
	case 'C':
		e.run.tag = tagOf(msg)
	case 's':
		e.run.tag = "SUSPENDED"
	}
	if n := affected(e.run.tag); e.run.counts && n > e.run.limit {
		e.run.excess = n
		e.run.end(access.StatusError, stateDenied)
		return b.q.pop(b.out)
	}
	if e.run.over {
		if err := b.overLimit(e); err != nil {
			return err
		}
		return b.q.pop(b.out)
	}
	e.run.end(access.StatusOK, "")
	return b.pass(e, msg)
}

// overLimit puts an error in the place of the completion of a command whose permit bounds its rows. Where the target goes on with
// something that the client would take for skipped, the session ends.
func (b *back) overLimit(e *expect) error {
	d := rowLimit(e.run)
	e.run.end(access.StatusError, stateDenied)
	if !b.q.last(e) {
		return d
	}
	return b.out.put(refusal(d).append(nil))
}

func rowLimit(r *running) *access.Denied {
	return &access.Denied{Code: access.CodeDenied, Rule: "row-limit", Command: r.permit.Command(),
		Hint: fmt.Sprintf("the policy lets %d rows through; ask for fewer (LIMIT)", r.limit)}
}

func tagOf(msg []byte) string {
	if msg[0] != 'C' {
		return ""
	}
	c := cursor{b: msg[header:]}
	tag := c.text()
	return strings.ToValidUTF8(string(tag[:min(len(tag), 64)]), "")
}

// finishRows moves the counts of one result to the command.
func (b *back) finishRows(r *running, m *masking) {
	if m != nil {
		r.masked = m.counted(r.masked)
	}
}

// put forwards a message unless the room itself had asked for it.
func (b *back) put(e *expect, msg []byte) error {
	if e.hidden {
		return nil
	}
	return b.out.put(msg)
}

// pass is put, and the entry is done with.
func (b *back) pass(e *expect, msg []byte) error {
	if err := b.put(e, msg); err != nil {
		return err
	}
	e.ok = true
	return b.q.pop(b.out)
}

func (b *back) notice(msg []byte) error {
	if e := b.q.head(); e != nil && e.kind == kindInternal {
		return nil
	}
	if b.l.guarded() {
		msg, _ = scrubbed(b.tmp[:0], 'N', msg[header:])
		b.tmp = msg
	}
	return b.out.put(msg)
}

// notification passes on what another session has sent (NOTIFY). Its text may be anything, a protected value too: where there are such, only
// the channel's name passes.
func (b *back) notification(msg []byte) error {
	if !b.l.listening.Load() {
		return nil // nobody asked for it
	}
	c := cursor{b: msg[header:]}
	pid, channel := c.uint32(), c.text()
	c.text()
	if err := c.end(); err != nil {
		return fmt.Errorf("NotificationResponse: %w", err)
	}
	if b.l.guarded() {
		dst, at := frame(b.tmp[:0], 'A')
		dst = binary.BigEndian.AppendUint32(dst, pid)
		msg = seal(append(append(append(dst, channel...), 0), 0), at)
		b.tmp = msg
	}
	return b.out.put(msg)
}

// parameter forwards a ParameterStatus. One that would change what bytes mean ends the session.
func (b *back) parameter(msg []byte) error {
	c := cursor{b: msg[header:]}
	name, value := string(c.text()), string(c.text())
	if err := c.end(); err != nil {
		return fmt.Errorf("ParameterStatus: %w", err)
	}
	if !b.l.steady(name, value, b.l.role) {
		return &access.Denied{Code: access.CodeDenied, Rule: "postgres.drift",
			Hint: fmt.Sprintf("the command changed %s, which the room pins; connect again", name)}
	}
	return b.out.put(msg)
}

// steady says whether a reported parameter still has the value that the room relies on.
func (l *link) steady(name, value, role string) bool {
	switch strings.ToLower(name) {
	case "client_encoding":
		return isUTF8(value) || isASCII(value) && isUTF8(l.statuses["server_encoding"])
	case "standard_conforming_strings":
		return value == "on" || l.loose.Load()
	case "session_authorization":
		return role == "" || value == role
	}
	return true
}

func (b *back) ready(msg []byte) error {
	if len(msg) != header+1 || !strings.ContainsRune("ITE", rune(msg[header])) {
		return fmt.Errorf("ReadyForQuery: %w", errMalformed)
	}
	if msg[header] == statusIdle && b.l.defines.Swap(false) {
		b.l.tellOthers()
	}
	if e := b.q.head(); e != nil && (e.kind == kindQuery || e.kind == kindFunction) {
		if e.reply != nil && !e.ok {
			return fmt.Errorf("%w: a statement that must fail did not", errOutOfStep)
		}
		b.finishRows(e.run, b.mask)
		b.mask = nil
		e.run.end(access.StatusOK, "")
	}
	return b.q.ready(msg[header], msg, b.out)
}

// failed deals with an ErrorResponse: the poison's is replaced, all others are scrubbed where columns are masked.
func (b *back) failed(e *expect, msg []byte) error {
	code := sqlstateOf(msg[header:])
	b.copies = false
	b.q.copied()
	if e != nil && e.guarding != nil {
		if done, err := b.unguarded(e, code, msg); done || err != nil {
			return err
		}
	}
	switch {
	case e != nil && e.kind == kindInternal:
		e.rows.err = fmt.Errorf("target answered SQLSTATE %s", code)
		return nil
	case e != nil && e.reply != nil && (e.kind != kindGuard || e.guarding.why != ""):
		e.ok = true
		code = e.reply.code
		msg = e.reply.append(b.tmp[:0])
		b.tmp = msg
	case e != nil && e.run != nil && e.run.over:
		msg, code = refusal(rowLimit(e.run)).append(b.tmp[:0]), stateDenied
		b.tmp = msg
	case b.l.guarded():
		if fatal(msg[header:]) {
			b.last = code
		}
		msg, code = scrubbed(b.tmp[:0], 'E', msg[header:])
		b.tmp = msg
		if e != nil && e.run != nil && e.run.beneath {
			msg = unplaced(msg)
		}
	case fatal(msg[header:]):
		b.last = code
	}
	if e != nil && e.run != nil {
		b.finishRows(e.run, b.maskOf(e))
		b.mask = nil
		status := access.StatusError
		if code == stateCancelled {
			status = access.StatusCancelled
		}
		e.run.end(status, code)
	}
	if e == nil {
		return b.farewell(msg)
	}
	if e.kind == kindQuery || e.kind == kindFunction {
		return b.out.put(msg)
	}
	if e.guarding != nil && e.guarding.query != nil {
		b.q.abandon(e.guarding)
		return b.out.put(msg)
	}
	b.q.fail()
	return b.out.put(msg)
}

// unguarded deals with a guard that failed because a definition has changed. done says that the client is not told, or not by this message.
func (b *back) unguarded(e *expect, code string, msg []byte) (done bool, err error) {
	if e.kind != kindGuard {
		return false, nil // a lock: the error is the command's own
	}
	g := e.guarding
	switch code {
	case "22P02":
		c := cursor{b: msg[header:]}
		for kind := c.byte(); kind != 0 && !c.bad; kind = c.byte() {
			if v := string(c.text()); kind == 'M' {
				if _, rest, ok := strings.Cut(v, own+"-"); ok {
					g.why = strings.TrimRight(rest, "\"\u00bb\u201d'")
				}
			}
		}
	case "42P01", "3F000":
		g.why = "name"
	}
	switch {
	case g.why == "":
		return false, nil
	case g.query != nil:
		b.q.abandon(g)
	case g.retry:
		b.q.once(g)
		b.q.fail()
	default:
		e.reply = refusal(definitionsChanged(g.why, 0))
		return false, nil
	}
	return true, nil
}

// farewell passes on what the target says unasked before it closes.
func (b *back) farewell(msg []byte) error {
	if b.last == "" {
		return fmt.Errorf("%w: an error while nothing was asked", errOutOfStep)
	}
	return b.out.put(msg)
}

func (b *back) maskOf(e *expect) *masking {
	if e.kind == kindQuery {
		return b.mask
	}
	if e.portal != nil {
		return e.portal.mask
	}
	return nil
}

// maxInternal bounds what the room's own questions may bring: the catalogue of a very large database.
const maxInternal = 64 << 20

func (b *back) internal(e *expect, tag byte, body []byte) error {
	switch tag {
	case '1', '2', '3', 'n', 't', 'T', 'C', 's', 'I':
		return nil
	}
	return fmt.Errorf("%w: tag %q for a question of the room", errOutOfStep, tag)
}

// internalRow keeps one row of the room's own question.
func internalRow(in *internal, body []byte) error {
	c := cursor{b: body}
	n := int(c.uint16())
	if n > len(body) {
		return errMalformed
	}
	row := make([]string, n)
	for i := range row {
		size := int(int32(c.uint32()))
		if size == -1 {
			continue
		}
		row[i] = string(c.take(size))
	}
	if err := c.end(); err != nil {
		return err
	}
	in.bytes += len(body)
	if in.bytes > maxInternal {
		return fmt.Errorf("the target's catalogue is over %d bytes", maxInternal)
	}
	in.rows = append(in.rows, row)
	return nil
}
