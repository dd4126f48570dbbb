package mux

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

// maxFrame is the most that one frame carries: with its header it fills two TLS records, and nobody waits long behind it. yamux alone
// would send a whole window in one.
const maxFrame = 32<<10 - headerSize

// Stream is a net.Conn over an uplink, with CloseWrite.
type Stream struct {
	yamux   *yamux.Stream
	session *Session
	closed  atomic.Bool
	// Of the one goroutine that reads: since the buffer was last given back.
	carried int
	shrunk  time.Time
}

const (
	// A stream that has carried shrinkAfter bytes gives its buffer back, once empty and once in shrinkEvery at most: yamux keeps what a burst made
	// it grow to, a window at worst, for as long as the stream lives, and making it anew all the time would cost half the throughput.
	shrinkAfter = 256 << 10
	shrinkEvery = time.Second
)

// Read is a net.Conn's, for one goroutine at a time. It ends with io.EOF where the other side ended the stream, with ErrLost where the uplink broke.
func (s *Stream) Read(b []byte) (int, error) {
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	n, err := s.yamux.Read(b)
	if err != nil {
		return n, s.explain(err)
	}
	if s.carried += n; s.carried >= shrinkAfter && n < len(b) {
		if now := time.Now(); now.Sub(s.shrunk) >= shrinkEvery {
			s.yamux.Shrink() // does nothing unless the buffer is empty
			s.carried, s.shrunk = 0, now
		}
	}
	return n, nil
}

// Write is a net.Conn's.
func (s *Stream) Write(b []byte) (int, error) {
	total := 0
	for {
		n, err := s.yamux.Write(b[total:min(len(b), total+maxFrame)])
		total += n
		if err != nil {
			s.session.noteStall(err)
			return total, s.explain(err)
		}
		if total == len(b) {
			return total, nil
		}
	}
}

// explain turns yamux's errors into those that users of a net.Conn know.
func (s *Stream) explain(err error) error {
	if s.closed.Load() {
		return net.ErrClosed
	}
	lost := s.session.yamux.IsClosed()
	switch {
	case errors.Is(err, io.EOF) && !lost:
		return io.EOF
	case errors.Is(err, yamux.ErrTimeout):
		return os.ErrDeadlineExceeded // crypto/tls goes on after this one, and not after yamux's own
	case lost:
		return ErrLost
	case errors.Is(err, yamux.ErrStreamClosed):
		return net.ErrClosed
	}
	return err
}

// CloseWrite ends our direction. The other side has closeTimeout to end its own.
func (s *Stream) CloseWrite() error { return s.yamux.Close() }

// Close ends the stream: a Read or Write that waits returns, and what comes in is dropped.
func (s *Stream) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	err := s.yamux.Close()
	_ = s.yamux.SetDeadline(time.Unix(1, 0)) // always nil; wakes a Read, which yamux.Close does not
	return err
}

// LocalAddr is the uplink's.
func (s *Stream) LocalAddr() net.Addr { return s.yamux.LocalAddr() }

// RemoteAddr is the uplink's.
func (s *Stream) RemoteAddr() net.Addr { return s.yamux.RemoteAddr() }

// SetDeadline is a net.Conn's.
func (s *Stream) SetDeadline(t time.Time) error {
	if s.closed.Load() {
		return net.ErrClosed
	}
	return s.yamux.SetDeadline(t)
}

// SetReadDeadline is a net.Conn's.
func (s *Stream) SetReadDeadline(t time.Time) error {
	if s.closed.Load() {
		return net.ErrClosed
	}
	return s.yamux.SetReadDeadline(t)
}

// SetWriteDeadline is a net.Conn's.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	if s.closed.Load() {
		return net.ErrClosed
	}
	return s.yamux.SetWriteDeadline(t)
}
