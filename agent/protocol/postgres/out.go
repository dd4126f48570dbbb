package postgres

import (
	"fmt"
	"net"
	"sync"
)

// outSize is what is gathered for the client before it is written; rows of one read of the target leave in one write.
const outSize = 64 << 10

// out is the client's side for writing. Both loops write whole messages; the lock is held over each, so that a notice from
// one never lands inside a row from the other.
type out struct {
	mu     sync.Mutex
	conn   net.Conn
	buf    []byte
	err    error
	inside bool // part of a message has left, or is in buf, and the rest is to come
}

func newOut(c net.Conn) *out { return &out{conn: c, buf: make([]byte, 0, outSize)} }

// send appends whole messages and writes them at once.
func (o *out) send(b []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf = append(o.buf, b...)
	return o.flushLocked()
}

// put appends whole messages; they leave with the next flush, or when the buffer is full.
func (o *out) put(b []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.putLocked(b)
}

func (o *out) putLocked(b []byte) error {
	if len(o.buf)+len(b) > outSize {
		if err := o.flushLocked(); err != nil {
			return err
		}
		if len(b) >= outSize/2 { // large: no copy
			return o.writeLocked(b)
		}
	}
	o.buf = append(o.buf, b...)
	return o.err
}

func (o *out) flush() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.flushLocked()
}

func (o *out) flushLocked() error {
	if len(o.buf) == 0 || o.err != nil {
		return o.err
	}
	b := o.buf
	o.buf = o.buf[:0]
	if cap(b) > 4*outSize {
		o.buf = make([]byte, 0, outSize)
	}
	return o.writeLocked(b)
}

func (o *out) writeLocked(b []byte) error {
	if o.err != nil {
		return o.err
	}
	if _, err := o.conn.Write(b); err != nil {
		o.err = fmt.Errorf("%w: %w", errClientGone, err)
	}
	return o.err
}
