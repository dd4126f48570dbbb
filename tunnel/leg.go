package tunnel

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
)

// Leg is a TLS connection over a network. What crypto/tls would write record by record leaves in one system call, and while there is more
// to read than one record, several come in one.
type Leg struct {
	*tls.Conn
	joint *joiner
}

// ServerLeg is tls.Server on a network's connection.
func ServerLeg(raw net.Conn, cfg *tls.Config) *Leg {
	w := newWide(raw)
	return &Leg{tls.Server(w, cfg), w.joiner}
}

// ClientLeg is tls.Client on a network's connection.
func ClientLeg(raw net.Conn, cfg *tls.Config) *Leg {
	w := newWide(raw)
	return &Leg{tls.Client(w, cfg), w.joiner}
}

// Write is a net.Conn's.
func (l *Leg) Write(b []byte) (int, error) { return l.joint.write(l.Conn, b) }

const (
	maxPlain = 16 << 10 // of one TLS record
	// maxJoined is what is written at once: more would only keep what comes behind it waiting.
	maxJoined = 32 << 10
	// wideSize is what is read at once while there is much to read.
	wideSize = 64 << 10
)

// wide is the network's side of a leg. Reading is for one goroutine at a time, as crypto/tls does it.
type wide struct {
	net.Conn
	*joiner
	more bool            // the last read was filled: there is more than it asked for
	buf  *[wideSize]byte // nil while nothing of it is unread
	r, w int
}

var wides = sync.Pool{New: func() any { return new([wideSize]byte) }}

func newWide(c net.Conn) *wide { return &wide{Conn: c, joiner: &joiner{to: c}} }

// Write is the joiner's.
func (c *wide) Write(b []byte) (int, error) { return c.joiner.Write(b) }

// Read reads ahead while the connection is busy; the buffer for it goes back as soon as it is empty.
func (c *wide) Read(b []byte) (int, error) {
	if c.buf == nil {
		if !c.more {
			n, err := c.Conn.Read(b)
			c.more = n == len(b)
			return n, err
		}
		buf := wides.Get().(*[wideSize]byte)
		n, err := c.Conn.Read(buf[:])
		c.more = n == wideSize
		if n == 0 {
			wides.Put(buf)
			return 0, err
		}
		// An error beside bytes comes again with the next read.
		c.buf, c.r, c.w = buf, 0, n
	}
	n := copy(b, c.buf[c.r:c.w])
	if c.r += n; c.r == c.w {
		wides.Put(c.buf)
		c.buf = nil
	}
	return n, nil
}

// joiner sits below a TLS and makes one write of the records of a long one.
type joiner struct {
	to   io.Writer
	long sync.Mutex // held over a long write

	mu     sync.Mutex
	joined []byte // nil while nothing is held back
	err    error  // of a joined write: some of it may have left, so that nothing may follow
}

var joints = sync.Pool{New: func() any {
	b := make([]byte, 0, maxJoined+1<<10)
	return &b
}}

// Write is what the TLS above calls for each record, alerts included.
func (j *joiner) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.err != nil:
		return 0, j.err
	case j.joined != nil:
		j.joined = append(j.joined, b...)
		return len(b), nil
	}
	return j.to.Write(b)
}

// write writes b to the TLS above. When it returns without an error everything has been handed on.
func (j *joiner) write(above io.Writer, b []byte) (int, error) {
	total := 0
	for len(b)-total > maxPlain {
		n, err := j.join(above, b[total:min(len(b), total+maxJoined)])
		if total += n; err != nil || total == len(b) {
			return total, err
		}
	}
	n, err := above.Write(b[total:])
	return total + n, err
}

func (j *joiner) join(above io.Writer, b []byte) (int, error) {
	j.long.Lock()
	defer j.long.Unlock()
	buf := joints.Get().(*[]byte)
	j.mu.Lock()
	j.joined = (*buf)[:0]
	j.mu.Unlock()
	n, err := above.Write(b)
	j.mu.Lock()
	defer j.mu.Unlock()
	joined := j.joined
	j.joined = nil
	if len(joined) > 0 && j.err == nil {
		if _, werr := j.to.Write(joined); werr != nil {
			n, err, j.err = 0, werr, werr
		}
	}
	*buf = joined[:0]
	joints.Put(buf)
	return n, err
}
