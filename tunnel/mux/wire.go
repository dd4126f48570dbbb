package mux

import (
	"encoding/binary"
	"errors"
	"net"
	"time"
)

// A frame's header (yamux spec.md, "Framing"): version, type, flags, stream, length. Only data has a body.
const (
	headerSize = 12
	typeData   = 0
	typeUpdate = 1
	typePing   = 2
	flagSYN    = 1
)

const (
	// pingBurst and one a second after it is how often a peer may ping: yamux answers each from a goroutine of its own, so a flood that does
	// not read its answers would be unbounded. An honest peer pings every 15 s.
	pingBurst = 16
)

var (
	errPingFlood = errors.New("mux: peer floods with pings")
	errTaker     = errors.New("mux: peer opened a stream, which is not for it to do")
)

// wire is what yamux sees as its connection. Going out it joins a header with its body, which yamux writes apart: one TLS record and one
// system call in place of two. Coming in it looks at each header before yamux does.
type wire struct {
	net.Conn
	abort func() error
	side  Side
	now   func() time.Time

	out []byte // a header that waits for its body, then both; yamux writes from one goroutine

	check guard // yamux reads from one goroutine
}

// Write is called by yamux's one sender: first with a header, then with its body where it has one.
func (w *wire) Write(b []byte) (int, error) {
	if len(w.out) == 0 && len(b) == headerSize && b[1] == typeData && binary.BigEndian.Uint32(b[8:]) > 0 {
		w.out = append(w.out, b...)
		return len(b), nil
	}
	if len(w.out) == 0 {
		return w.Conn.Write(b)
	}
	head := len(w.out)
	w.out = append(w.out, b...)
	n, err := w.Conn.Write(w.out)
	w.out = w.out[:0]
	return max(n-head, 0), err
}

// Read passes on only what the guard has let through.
func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if n > 0 {
		if gerr := w.check.see(b[:n], w.side, w.now); gerr != nil {
			return 0, gerr
		}
	}
	return n, err
}

// Close ends the connection without waiting for a peer that may not read.
func (w *wire) Close() error { return w.abort() }

// guard follows the frames of one direction, in whatever pieces they come.
type guard struct {
	head [headerSize]byte
	have int    // bytes of head
	body uint32 // bytes of the current frame still to come

	pings    float64 // taken from the burst
	lastPing time.Time
}

// see refuses the piece in which a frame ends that the peer must not send.
func (g *guard) see(b []byte, side Side, now func() time.Time) error {
	for len(b) > 0 {
		if g.body > 0 {
			n := min(uint32(len(b)), g.body) //nolint:gosec // a piece is at most some kilobytes
			g.body -= n
			b = b[n:]
			continue
		}
		n := copy(g.head[g.have:], b)
		g.have += n
		b = b[n:]
		if g.have < headerSize {
			return nil
		}
		g.have = 0
		if err := g.frame(side, now); err != nil {
			return err
		}
	}
	return nil
}

func (g *guard) frame(side Side, now func() time.Time) error {
	syn := binary.BigEndian.Uint16(g.head[2:])&flagSYN != 0
	switch g.head[1] {
	case typeData, typeUpdate:
		if syn && side == Opener {
			return errTaker
		}
		if g.head[1] == typeData {
			g.body = binary.BigEndian.Uint32(g.head[8:])
		}
	case typePing:
		if syn {
			return g.ping(now())
		}
	}
	return nil // yamux refuses what it does not know
}

func (g *guard) ping(now time.Time) error {
	if !g.lastPing.IsZero() {
		g.pings = max(g.pings-now.Sub(g.lastPing).Seconds(), 0)
	}
	g.lastPing = now
	g.pings++
	if g.pings > pingBurst {
		return errPingFlood
	}
	return nil
}
