package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
)

// rows passes on the DataRows that begin with the next message, as many as are here. size is the length of the first.
func (b *back) rows(ctx context.Context, size int) error {
	e := b.q.head()
	switch {
	case e == nil:
		return fmt.Errorf("%w: a row while nothing was asked", errOutOfStep)
	case e.kind == kindInternal:
		msg, err := b.tap.message(b.bounded(size))
		if err != nil {
			return err
		}
		return internalRow(e.rows, msg[header:])
	case e.kind == kindGuard:
		_, err := b.tap.message(b.bounded(size))
		return err
	case e.kind == kindQuery && e.reply == nil:
		if b.mask == nil {
			return fmt.Errorf("%w: a row before its description", errOutOfStep)
		}
		return b.pump(ctx, e.run, b.mask, size)
	case e.kind == kindExecute:
		m, err := b.portalMask(e)
		if err != nil {
			return err
		}
		return b.pump(ctx, e.run, m, size)
	}
	return fmt.Errorf("%w: a row", errOutOfStep)
}

// bounded keeps a length within what the tap may hold; a longer message then fails as cut short.
func (b *back) bounded(size int) int { return min(size, maxHeld+header) }

// portalMask resolves a portal's fields once for each Execute.
func (b *back) portalMask(e *expect) (*masking, error) {
	p := e.portal
	if p.maskFor == e {
		return p.mask, nil
	}
	if !b.l.guarded() {
		p.mask, p.maskFor = &masking{}, e
		return p.mask, nil
	}
	if !p.described {
		return nil, fmt.Errorf("%w: a row of a portal that was not described", errOutOfStep)
	}
	m, err := b.l.masking(p.fields, e.run)
	if err != nil {
		return nil, err
	}
	p.mask, p.maskFor = m, e
	return m, nil
}

// pump passes on rows until the tap must read, or something else comes.
func (b *back) pump(ctx context.Context, r *running, m *masking, size int) error {
	b.out.mu.Lock()
	defer b.out.mu.Unlock()
	for {
		if err := b.one(ctx, r, m, size); err != nil {
			return err
		}
		if b.tap.w-b.tap.r < header {
			b.tap.linger = b.few()
			return nil
		}
		if b.tap.buf[b.tap.r] != 'D' {
			return nil
		}
		var err error
		if _, size, err = b.tap.head(); err != nil {
			return err
		}
		if b.tap.w-b.tap.r < size {
			return nil // the loop comes back with the lock free
		}
	}
}

// few says whether what was gathered is worth waiting for more: neither a small answer, which leaves at once, nor half a buffer. The
// caller holds the lock of out.
func (b *back) few() bool { return len(b.out.buf) >= outSize/16 && len(b.out.buf) < outSize/2 }

// one passes on one row; the caller holds the lock of out.
func (b *back) one(ctx context.Context, r *running, m *masking, size int) error {
	r.rows++
	if r.limit > 0 && r.rows > r.limit {
		if !r.over {
			r.over = true
			b.l.stopTarget(ctx)
		}
		r.rows = r.limit
		return b.skip(size)
	}
	if r.plan && size > maxHeld+header {
		return fmt.Errorf("%w: a plan of %d bytes", errOutOfStep, size)
	}
	if size > maxHeld+header || !r.plan && len(m.columns) == 0 && size > tapSize/2 && size > b.tap.w-b.tap.r {
		return b.stream(r, m, size)
	}
	if b.tap.w-b.tap.r < size {
		b.tap.linger = b.few()
		if err := b.unlocked(func() error { return b.tap.need(size) }); err != nil {
			return err
		}
	}
	msg := b.tap.buf[b.tap.r : b.tap.r+size]
	b.tap.r += size
	if r.plan {
		var err error
		if b.tmp, err = withoutWidths(b.tmp[:0], msg); err != nil {
			return err
		}
		msg, size = b.tmp, len(b.tmp)
	}
	if b.l.guarded() && (size < header+2 || int(binary.BigEndian.Uint16(msg[header:])) != m.fields) {
		return fmt.Errorf("%w: a row that is not as described", errOutOfStep)
	}
	if len(m.columns) == 0 {
		r.bytes += int64(size)
		return b.out.putLocked(msg)
	}
	if len(b.out.buf)+size+m.grow > cap(b.out.buf) {
		if err := b.out.flushLocked(); err != nil {
			return err
		}
	}
	was := len(b.out.buf)
	buf, err := m.row(b.out.buf, msg)
	if err != nil {
		return err
	}
	b.out.buf = buf
	r.bytes += int64(len(buf) - was)
	return b.out.err
}

// unlocked runs what may block on the target with the client's side free for notices. Between messages only.
func (b *back) unlocked(f func() error) error {
	b.out.mu.Unlock()
	defer b.out.mu.Lock()
	return f()
}

// stream passes on a row in pieces, however long it is.
func (b *back) stream(r *running, m *masking, size int) error {
	var l *large
	if len(m.columns) > 0 {
		l = m.large(size-header, b.out.putLocked)
	}
	head := append(b.tmp[:0], b.tap.buf[b.tap.r:b.tap.r+header]...)
	b.tmp = head
	b.tap.r += header
	b.out.inside = true
	if err := b.out.putLocked(head); err != nil {
		return err
	}
	idle := b.tap.idle
	b.tap.idle = b.out.flushLocked // the lock is held
	defer func() { b.tap.idle = idle }()
	for left := size - header; left > 0; {
		piece, err := b.tap.some(left)
		if err != nil {
			return err
		}
		if l != nil {
			err = l.pass(piece)
		} else {
			err = b.out.putLocked(piece)
		}
		if err != nil {
			return err
		}
		left -= len(piece)
	}
	b.out.inside = false
	r.bytes += int64(size)
	return nil
}

// skip drops a row.
func (b *back) skip(size int) error {
	return b.unlocked(func() error {
		for size > 0 {
			piece, err := b.tap.some(size)
			if err != nil {
				return err
			}
			size -= len(piece)
		}
		return nil
	})
}
