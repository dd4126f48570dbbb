package mux

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	// DefaultWindow is how much a stream's sender may have under way: a stream carries at most window ÷ round trip, so 2 MiB at 20 ms is
	// about 50 MB/s (measured: 1 MiB 24, 4 MiB 91, 16 MiB 366). Only a reader that lags lets that much pile up.
	DefaultWindow = 2 << 20
	// DefaultMemory is what the windows of one uplink may add up to: 512 streams of DefaultWindow, so that an agent's two uplinks carry its
	// thousand sessions (session.DefaultMax). Only readers that lag, all of them, let it come to that.
	DefaultMemory = 1 << 30

	minWindow = 256 << 10 // what yamux begins every stream with (its spec.md, "Flow Control")
	maxWindow = 64 << 20

	// openBacklog is how many streams may be open and not yet acknowledged: beyond it opening waits.
	openBacklog = 64
	// openTimeout closes an uplink whose other side does not take streams; taking one is a few microseconds of its loop.
	openTimeout = 15 * time.Second
	// closeTimeout is for the other side to end a stream after we did. Half-closing is said inside the stream, by its TLS, so an end out here
	// means that all is over.
	closeTimeout = 30 * time.Second
)

// pace is how long an uplink may stand still before it counts as dead, and how often that is tried. Together they bound how long a vanished
// peer keeps its place.
type pace struct{ write, keepAlive time.Duration }

var defaultPace = pace{write: 10 * time.Second, keepAlive: 15 * time.Second}

var (
	// ErrFull means that this uplink has no room for another stream.
	ErrFull = errors.New("uplink carries as many streams as its memory allows")
	// ErrGone means that this uplink takes no more streams: closed, or leaving.
	ErrGone = errors.New("uplink is gone")
	// ErrLost ends a stream whose uplink broke.
	ErrLost = errors.New("uplink was lost")
)

// Config sizes an uplink. The zero Config has the defaults.
type Config struct {
	Window int // bytes per stream, 256 KiB to 64 MiB; 0 means DefaultWindow
	Memory int // bytes of windows per uplink: Memory ÷ Window streams; 0 means DefaultMemory
	Log    *slog.Logger
}

// Check says what is wrong with c.
func (c Config) Check() error {
	if w := c.window(); w < minWindow || w > maxWindow {
		return fmt.Errorf("window of %d bytes: want %d to %d", w, minWindow, maxWindow)
	}
	if c.Streams() < 1 {
		return fmt.Errorf("memory of %d bytes is less than one window of %d", c.Memory, c.window())
	}
	return nil
}

func (c Config) window() int {
	if c.Window == 0 {
		return DefaultWindow
	}
	return c.Window
}

// Streams is how many streams an uplink of this size carries.
func (c Config) Streams() int {
	if c.Memory == 0 {
		return DefaultMemory / c.window()
	}
	return c.Memory / c.window()
}

// Side tells the two ends of an uplink apart.
type Side int

const (
	// Taker takes streams and opens none: the agent.
	Taker Side = iota
	// Opener opens streams and takes none: the relay.
	Opener
)

// Session is one end of an uplink.
type Session struct {
	yamux   *yamux.Session
	max     int
	opening atomic.Int32
	leaving atomic.Bool
}

// New speaks the mux on conn, which it owns from now on. abort must end conn at once, without a word to the peer.
func New(conn net.Conn, abort func() error, side Side, cfg Config) (*Session, error) {
	return newSession(conn, abort, side, cfg, defaultPace)
}

func newSession(conn net.Conn, abort func() error, side Side, cfg Config, p pace) (*Session, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("mux: %w", err)
	}
	y := &yamux.Config{
		AcceptBacklog:          openBacklog,
		EnableKeepAlive:        true,
		KeepAliveInterval:      p.keepAlive,
		ConnectionWriteTimeout: p.write,
		MaxStreamWindowSize:    uint32(cfg.window()), //nolint:gosec // Check bounds it
		StreamOpenTimeout:      openTimeout,
		StreamCloseTimeout:     closeTimeout,
		Logger:                 logger{cfg.Log},
	}
	wire := &wire{Conn: conn, abort: abort, side: side, now: time.Now}
	s := &Session{max: cfg.Streams()}
	var err error
	if side == Opener {
		s.yamux, err = yamux.Client(wire, y)
	} else {
		s.yamux, err = yamux.Server(wire, y)
	}
	if err != nil {
		return nil, fmt.Errorf("mux: %w", err)
	}
	return s, nil
}

// Open opens a stream. Its errors are of kind ErrFull or ErrGone.
func (s *Session) Open() (*Stream, error) {
	if s.leaving.Load() {
		return nil, ErrGone
	}
	// A stream counts until both sides have ended it: until then its window may fill.
	opening := int(s.opening.Add(1))
	defer s.opening.Add(-1)
	if s.yamux.NumStreams()+opening > s.max {
		return nil, ErrFull
	}
	y, err := s.yamux.OpenStream()
	if err != nil {
		s.noteStall(err)
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	return &Stream{yamux: y, session: s}, nil
}

// Accept waits for a stream. Its errors are ctx's, and of kind ErrGone. A peer that opens more streams than were agreed ends the session.
func (s *Session) Accept(ctx context.Context) (*Stream, error) {
	y, err := s.yamux.AcceptStreamWithContext(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		s.noteStall(err)
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	// The peer's count and ours differ by the streams whose end is under way.
	if s.yamux.NumStreams() > s.max+openBacklog {
		s.Close()
		return nil, fmt.Errorf("%w: its peer opened more than %d streams", ErrGone, s.max)
	}
	return &Stream{yamux: y, session: s}, nil
}

// Leave makes the other side open no more streams here; those that are open go on.
func (s *Session) Leave() {
	s.leaving.Store(true)
	_ = s.yamux.GoAway() // on a broken uplink it has no one to tell
}

// Streams is how many are open, counting those that only one side has ended.
func (s *Session) Streams() int { return s.yamux.NumStreams() }

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.yamux.CloseChan() }

// Close ends the session and every stream on it.
func (s *Session) Close() {
	_ = s.yamux.Close() // always nil
}

// noteStall closes an uplink whose queue did not move for so long. yamux itself goes on with it: the peer's streams would hang
// for ever (GHSA-29qp-crvh-w22m).
func (s *Session) noteStall(err error) {
	if errors.Is(err, yamux.ErrConnectionWriteTimeout) {
		s.Close()
	}
}

// logger routes yamux's own log, which a peer can fill at will, to where it is asked for. Why an uplink ended is told by its owner.
type logger struct{ log *slog.Logger }

func (l logger) Printf(format string, v ...any) {
	if l.log == nil || !l.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	l.log.Debug("mux", "event", strings.TrimSpace(fmt.Sprintf(format, v...)))
}

func (l logger) Print(v ...any)   { l.Printf("%s", fmt.Sprint(v...)) }
func (l logger) Println(v ...any) { l.Printf("%s", fmt.Sprintln(v...)) }
