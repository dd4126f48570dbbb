package prototest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

const (
	// patience is how long an answer may take on a busy machine, unpunctual where two permits come late before it.
	patience   = 5 * time.Second
	unpunctual = 3 * api.PermitLife
	// ending is how long a room may take to end.
	ending = 6 * time.Second
)

// house is one client, the room, a tap on the way to the target, and the broker.
type house struct {
	t       T
	f       *Fixture
	broker  *broker
	gate    *gate.Gate
	batcher *gate.Batcher
	tap     *tap
	log     *buffer
	client  net.Conn
	cancel  context.CancelCauseFunc
	served  chan error // the room's last word
	wg      sync.WaitGroup
	leaks   sync.Mutex
	leaked  []net.Conn // by a mutant
	room    []byte     // made by a mutant

	sending  func(b []byte) // of a mutant: told what the client says, before the room is
	raw      *buffer        // what came to the client, as it travelled
	got      *buffer        // everything that the client received
	read     int            // of it
	patience time.Duration
}

// marks make every text of a test run its own.
var marks atomic.Int64

func mark(kind string) string { return fmt.Sprintf("%sx%d", kind, marks.Add(1)) }

// setting changes a house before the room serves in it.
type setting func(h *house, s *protocol.Session)

// open lets a room serve one client. close must be called.
func open(t T, f *Fixture, m mutation, settings ...setting) *house {
	t.Helper()
	h := &house{t: t, f: f, broker: &broker{held: make(chan struct{}, 1)}, log: newBuffer(), raw: newBuffer(), got: newBuffer(), served: make(chan error, 1), patience: patience}
	for _, c := range f.Classes {
		h.broker.classes = append(h.broker.classes, c.Name)
	}
	h.tap = &tap{dial: f.Dial}
	h.batcher = gate.NewBatcher("agent", h.broker)
	var err error
	if h.gate, err = gate.New(gate.Config{Batcher: h.batcher, Claims: h.broker, Verdicts: h.broker, Outcomes: h.broker, Session: "SESSION",
		Target: "target", State: "state", DigestKey: digestKey, Classes: f.Classes}); err != nil {
		t.Fatalf("gate: %v", err)
	}
	s := &protocol.Session{ID: "SESSION", Target: "target", Lineage: access.Lineage{Principal: "alice"}, Owner: protocol.Owner{Endpoint: "e", Thumbprint: "k"},
		Classes: f.Classes, Login: f.Login, Dial: h.tap.Dial, Gate: h.gate, Recorder: &Recorder{},
		Log: slog.New(slog.NewJSONHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, set := range settings {
		set(h, s)
	}
	room := f.Room()
	if m != nil {
		room = m(h, room)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	h.cancel = cancel
	var server net.Conn
	h.client, server = net.Pipe()
	if f.Client != nil {
		h.client = f.Client(&teed{h.client, h.raw})
	}
	h.wg.Go(func() { h.served <- room.Serve(ctx, server, s) })
	h.wg.Go(func() {
		b := make([]byte, 32<<10)
		for {
			n, err := h.client.Read(b)
			_, _ = h.got.Write(b[:n]) // never fails
			if err != nil {
				h.got.end()
				return
			}
		}
	})
	return h
}

// close ends the house, whatever state it is in.
func (h *house) close() {
	h.cancel(nil)
	_ = h.client.Close() // the room may have
	h.wg.Wait()
	for _, c := range h.leaked {
		_ = c.Close() // it has served its purpose
	}
	h.gate.Close(context.Background())
	h.batcher.Close()
}

// send writes what the client says. A room that has hung up already is told by what it answered.
func (h *house) send(b []byte) {
	if h.sending != nil {
		h.sending(b)
	}
	_ = h.client.SetWriteDeadline(time.Now().Add(patience))
	_, _ = h.client.Write(b) // see above
}

// received says whether a text came to the client, hidden by the protocol or not.
func (h *house) received(text string) bool {
	return bytes.Contains(h.got.bytes(), []byte(text)) || bytes.Contains(h.raw.bytes(), []byte(text))
}

// reached says whether a text went to the target. Where the protocol hides it on the way, the target's own log tells.
func (h *house) reached(text string) bool {
	return h.tap.has(text) || h.f.Client != nil && h.f.Seen(text)
}

// teed keeps what is read.
type teed struct {
	net.Conn
	b *buffer
}

func (c *teed) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	_, _ = c.b.Write(b[:n]) // never fails
	return n, err
}

// await says whether what the client received came to satisfy ok.
func (h *house) await(ok func([]byte) bool) bool { return h.got.await(h.patience, ok) }

// answered waits for the next whole answer, or that there is none.
func (h *house) answered() bool {
	return h.await(func(b []byte) bool { _, ok := h.f.Wire.Answer(b[h.read:]); return ok })
}

// next waits for the next whole answer.
func (h *house) next(what string, whole func([]byte) (int, bool)) []byte {
	h.t.Helper()
	answer := []byte(nil)
	if !h.await(func(b []byte) bool {
		n, ok := whole(b[h.read:])
		if ok {
			answer = slices.Clone(b[h.read : h.read+n])
		}
		return ok
	}) {
		h.t.Fatalf("%s: no answer; so far %q", what, h.got.bytes()[h.read:])
	}
	h.read += len(answer)
	return answer
}

// greet opens the connection.
func (h *house) greet() {
	h.t.Helper()
	h.send(h.f.Wire.Greeting())
	h.next("greeting", h.f.Wire.Ready)
}

// ask runs one command.
func (h *house) ask(b []byte) []byte {
	h.t.Helper()
	h.send(b)
	return h.next(fmt.Sprintf("command %.80q", b), h.f.Wire.Answer)
}

// ended says whether the room ends.
func (h *house) ended() bool {
	select {
	case err := <-h.served:
		h.served <- err
		return true
	case <-time.After(ending):
		return false
	}
}

// lives fails unless a harmless command works.
func (h *house) lives() {
	h.t.Helper()
	if answer := h.ask(h.f.Wire.Run(mark("alive"))); !h.f.Wire.Succeeded(answer) {
		h.t.Fatalf("the session is dead: %q", answer)
	}
}

// buffer can be waited on.
type buffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	over bool
	more chan struct{} // closed and replaced when something comes
}

func newBuffer() *buffer { return &buffer{more: make(chan struct{})} }

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b.Write(p)
	close(b.more)
	b.more = make(chan struct{})
	return len(p), nil
}

func (b *buffer) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	close(b.more)
	b.more = make(chan struct{})
}

func (b *buffer) bytes() []byte { b.mu.Lock(); defer b.mu.Unlock(); return bytes.Clone(b.b.Bytes()) }

// await says whether the content came to satisfy ok: before the end, and in time.
func (b *buffer) await(patience time.Duration, ok func([]byte) bool) bool {
	late := time.After(patience)
	for {
		b.mu.Lock()
		good, over, more := ok(b.b.Bytes()), b.over, b.more
		b.mu.Unlock()
		if good || over {
			return good
		}
		select {
		case <-more:
		case <-late:
			return false
		}
	}
}

// tap keeps what goes to the target.
type tap struct {
	dial func(ctx context.Context) (net.Conn, error)

	mu    sync.Mutex
	sent  bytes.Buffer
	conns []*tapped
}

type tapped struct {
	net.Conn
	tap    *tap
	closed atomic.Bool
}

// Dial reaches the target through the tap.
func (t *tap) Dial(ctx context.Context) (net.Conn, error) {
	c, err := t.dial(ctx)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	tc := &tapped{Conn: c, tap: t}
	t.conns = append(t.conns, tc)
	return tc, nil
}

func (c *tapped) Write(b []byte) (int, error) {
	c.tap.mu.Lock()
	c.tap.sent.Write(b)
	c.tap.mu.Unlock()
	return c.Conn.Write(b)
}

func (c *tapped) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

// has says whether a text went to the target.
func (t *tap) has(text string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Contains(t.sent.Bytes(), []byte(text))
}

// open counts the connections to the target that are.
func (t *tap) open() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.conns {
		if !c.closed.Load() {
			n++
		}
	}
	return n
}

// last is the newest connection to the target.
func (t *tap) last() net.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.conns) == 0 {
		return nil
	}
	return t.conns[len(t.conns)-1]
}
