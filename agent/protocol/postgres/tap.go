package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// tapSize is what is read of the target at once: throughput of rows levels off here.
const tapSize = 128 << 10

// tapKeep is how large the buffer may stay after large rows.
const tapKeep = 512 << 10

// tap reads the target's messages in place. It belongs to one goroutine.
type tap struct {
	conn net.Conn
	buf  []byte
	r, w int
	// idle runs before every read that may block: what was gathered for the client must leave first.
	idle func() error
	// linger lets the next read wait for a moment before idle runs: rows are on their way, and few of them have been gathered.
	linger bool
	since  time.Time       // when the first read since idle lingered
	done   <-chan struct{} // whoever ends the room also sets the connection's deadline; nil: nobody does
}

// lingering bounds what gathering adds to a row's delay. PostgreSQL sends 8 kB at a time, and on a busy machine each of them would
// otherwise travel by itself, through every process on the way.
const lingering = 500 * time.Microsecond

func newTap(c net.Conn, idle func() error) *tap {
	return &tap{conn: c, buf: make([]byte, tapSize), idle: idle}
}

// need makes at least n bytes readable at b[r:]; n is at most maxHeld + header.
func (t *tap) need(n int) error {
	if t.w-t.r >= n {
		return nil
	}
	if n > len(t.buf) {
		grown := make([]byte, max(n, 2*len(t.buf)))
		t.w = copy(grown, t.buf[t.r:t.w])
		t.r, t.buf = 0, grown
	} else if t.r > 0 && (t.r == t.w || len(t.buf)-t.r < n || len(t.buf)-t.w < tapSize/4) {
		t.w = copy(t.buf, t.buf[t.r:t.w])
		t.r = 0
		if len(t.buf) > tapKeep && t.w < tapSize && n <= tapSize {
			small := make([]byte, tapSize)
			copy(small, t.buf[:t.w])
			t.buf = small
		}
	}
	if t.linger {
		t.linger = false
		if err := t.lingered(); err != nil || t.w-t.r >= n {
			return err
		}
	}
	t.since = time.Time{}
	if err := t.idle(); err != nil {
		return err
	}
	for t.w-t.r < n {
		m, err := t.conn.Read(t.buf[t.w:])
		t.w += m
		if err != nil && t.w-t.r < n {
			return fmt.Errorf("%w: %w", errTarget, err)
		}
	}
	return nil
}

// lingered reads what comes within a moment, if anything does.
func (t *tap) lingered() error {
	now := time.Now()
	if t.since.IsZero() {
		t.since = now
	}
	until := t.since.Add(lingering)
	if !now.Before(until) {
		return nil
	}
	if err := t.conn.SetReadDeadline(until); err != nil {
		return nil //nolint:nilerr // the next read tells
	}
	m, err := t.conn.Read(t.buf[t.w:])
	t.w += m
	_ = t.conn.SetReadDeadline(time.Time{}) // the next read tells
	select {
	case <-t.done:
		_ = t.conn.SetReadDeadline(time.Now()) // as it was set meanwhile, or is about to be
	default:
	}
	if err != nil && m == 0 && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: %w", errTarget, err)
	}
	return nil
}

// peek returns the next message's tag and whole length (tag included) without taking it.
func (t *tap) peek() (tag byte, size int, err error) {
	if err := t.need(header); err != nil {
		return 0, 0, err
	}
	return t.head()
}

func (t *tap) head() (tag byte, size int, err error) {
	tag = t.buf[t.r]
	n := binary.BigEndian.Uint32(t.buf[t.r+1:])
	limit := uint32(maxHeld)
	switch tag {
	case 'D', 'd', 'E', 'N', 'A', 'V': // what is longer than maxHeld is never kept whole
		limit = maxRow
	}
	if n < lengthWord || n > limit {
		return 0, 0, fmt.Errorf("%w: tag %q of %d bytes from the target", errMalformed, tag, n)
	}
	return tag, int(n) + 1, nil
}

// message takes a whole message; it is valid until the next call.
func (t *tap) message(size int) ([]byte, error) {
	if err := t.need(size); err != nil {
		return nil, err
	}
	m := t.buf[t.r : t.r+size]
	t.r += size
	return m, nil
}

// some takes what is here of the next n bytes, at least one.
func (t *tap) some(n int) ([]byte, error) {
	if t.r == t.w {
		if err := t.need(1); err != nil {
			return nil, err
		}
	}
	n = min(n, t.w-t.r)
	b := t.buf[t.r : t.r+n]
	t.r += n
	return b, nil
}
