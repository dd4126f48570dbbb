package mux

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is an uplink over an unbuffered pipe: relay and agent.
func pair(t *testing.T, cfg Config) (opener, taker *Session) {
	t.Helper()
	a, b := net.Pipe()
	opener, err := New(a, a.Close, Opener, cfg)
	if err != nil {
		t.Fatal(err)
	}
	taker, err = New(b, b.Close, Taker, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		opener.Close()
		taker.Close()
	})
	return opener, taker
}

func openPair(t *testing.T, opener, taker *Session) (o, k *Stream) {
	t.Helper()
	o, err := opener.Open()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if k, err = taker.Accept(ctx); err != nil {
		t.Fatal(err)
	}
	return o, k
}

func TestHalfCloseBothWays(t *testing.T) {
	opener, taker := pair(t, Config{})
	o, k := openPair(t, opener, taker)
	for _, dir := range []struct {
		name     string
		from, to *Stream
	}{{"down", k, o}, {"up", o, k}} {
		sent := bytes.Repeat([]byte(dir.name), 100_000)
		go func() {
			_, _ = dir.from.Write(sent)
			_ = dir.from.CloseWrite()
		}()
		got, err := io.ReadAll(dir.to)
		if err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("%s: got %d of %d bytes, error %v", dir.name, len(got), len(sent), err)
		}
	}
}

func TestALostUplinkIsNoEnd(t *testing.T) {
	opener, taker := pair(t, Config{})
	o, k := openPair(t, opener, taker)
	read := make(chan error, 1)
	go func() {
		_, err := o.Read(make([]byte, 1))
		read <- err
	}()
	taker.Close()
	if err := <-read; !errors.Is(err, ErrLost) {
		t.Errorf("a read that waits for a lost uplink ends with %v", err)
	}
	if _, err := k.Read(make([]byte, 1)); !errors.Is(err, ErrLost) {
		t.Errorf("a read on a lost uplink: %v", err)
	}
	if _, err := k.Write([]byte("x")); !errors.Is(err, ErrLost) {
		t.Errorf("a write on a lost uplink: %v", err)
	}
	<-opener.Done()
	if _, err := opener.Open(); !errors.Is(err, ErrGone) {
		t.Errorf("open on a lost uplink: %v", err)
	}
	if _, err := taker.Accept(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("accept on a lost uplink: %v", err)
	}
}

func TestCloseWakesRead(t *testing.T) {
	opener, taker := pair(t, Config{})
	o, _ := openPair(t, opener, taker)
	read := make(chan error, 1)
	go func() {
		_, err := o.Read(make([]byte, 1))
		read <- err
	}()
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := o.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	if err := o.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("deadline after close: %v", err)
	}
}

// TestDeadlineIsNotTheEnd: crypto/tls takes a timeout that is not the standard library's own for the end of the connection.
func TestDeadlineIsNotTheEnd(t *testing.T) {
	opener, taker := pair(t, Config{})
	o, k := openPair(t, opener, taker)
	if err := o.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if err := o.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = k.Write([]byte("x")) }()
	if _, err := o.Read(make([]byte, 1)); err != nil {
		t.Errorf("after the deadline was lifted: %v", err)
	}
}

func TestFull(t *testing.T) {
	opener, taker := pair(t, Config{Window: minWindow, Memory: 3 * minWindow})
	var last *Stream
	for range 3 {
		last, _ = openPair(t, opener, taker)
	}
	if _, err := opener.Open(); !errors.Is(err, ErrFull) {
		t.Fatalf("the fourth stream of three: %v", err)
	}
	// A stream that one side alone has ended still has a window to fill.
	if err := last.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := opener.Open(); !errors.Is(err, ErrFull) {
		t.Fatalf("beside a half-closed stream: %v", err)
	}
}

func TestLeaving(t *testing.T) {
	opener, taker := pair(t, Config{})
	o, k := openPair(t, opener, taker)
	taker.Leave()
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := opener.Open()
		if errors.Is(err, ErrGone) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("open after the other side left: %v", err)
		}
	}
	go func() { _, _ = k.Write([]byte("still here")) }()
	if _, err := io.ReadFull(o, make([]byte, 10)); err != nil {
		t.Errorf("an open stream did not go on: %v", err)
	}
	opener.Leave()
	if _, err := opener.Open(); !errors.Is(err, ErrGone) {
		t.Errorf("open after leaving: %v", err)
	}
}

// TestStallEndsTheUplink: a peer that stops reading makes yamux's own Write fail and leaves everything else hanging.
func TestStallEndsTheUplink(t *testing.T) {
	a, b := net.Pipe() // nobody reads b
	defer b.Close()    //nolint:errcheck // a pipe's
	opener, err := newSession(a, a.Close, Opener, Config{}, pace{write: 50 * time.Millisecond, keepAlive: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer opener.Close()
	if _, err := opener.Open(); !errors.Is(err, ErrGone) {
		t.Fatalf("got %v", err)
	}
	ended(t, opener)
}

// TestStalledWriteEndsTheUplink is the same for a stream that was open before.
func TestStalledWriteEndsTheUplink(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close() //nolint:errcheck // a pipe's
	opener, err := newSession(a, a.Close, Opener, Config{}, pace{write: 50 * time.Millisecond, keepAlive: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer opener.Close()
	go func() { _, _ = io.ReadFull(b, make([]byte, headerSize)) }() // takes the opening and nothing else
	o, err := opener.Open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Write([]byte("x")); err == nil {
		t.Error("a write to nobody went well")
	}
	ended(t, opener)
}

// TestVanishedPeer: nothing is written, and the peer is not there any more.
func TestVanishedPeer(t *testing.T) {
	a, b := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, b) }() // takes all, answers nothing
	s, err := newSession(a, a.Close, Opener, Config{}, pace{write: 50 * time.Millisecond, keepAlive: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ended(t, s)
}

// ended waits for a session that must end by itself.
func ended(t *testing.T, s *Session) {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the uplink goes on")
	}
}

// TestTakerMayNotOpen: an agent that opens streams towards the relay, with yamux as it comes.
func TestTakerMayNotOpen(t *testing.T) {
	a, b := net.Pipe()
	opener, err := New(a, a.Close, Opener, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer opener.Close()
	cfg := yamux.DefaultConfig()
	cfg.LogOutput = io.Discard
	evil, err := yamux.Server(b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer evil.Close() //nolint:errcheck // evil
	_, _ = evil.OpenStream()
	ended(t, opener)
}

func TestPingFlood(t *testing.T) {
	a, b := net.Pipe()
	s, err := New(a, a.Close, Taker, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	go func() { _, _ = io.Copy(io.Discard, b) }()
	ping := []byte{0, typePing, 0, flagSYN, 0, 0, 0, 0, 0, 0, 0, 1}
	for i := range 10 * pingBurst {
		if _, err := b.Write(ping); err != nil {
			if i < pingBurst {
				t.Errorf("ping %d was refused", i)
			}
			return
		}
	}
	t.Error("a flood of pings was taken")
}

// TestStreamFlood: a relay that opens more streams than were agreed.
func TestStreamFlood(t *testing.T) {
	a, b := net.Pipe()
	taker, err := New(b, b.Close, Taker, Config{Window: minWindow, Memory: 2 * minWindow})
	if err != nil {
		t.Fatal(err)
	}
	defer taker.Close()
	cfg := yamux.DefaultConfig()
	cfg.LogOutput = io.Discard
	evil, err := yamux.Client(a, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer evil.Close() //nolint:errcheck // evil
	go func() {
		for {
			if _, err := evil.OpenStream(); err != nil {
				return
			}
		}
	}()
	for i := range 1000 {
		if _, err := taker.Accept(t.Context()); errors.Is(err, ErrGone) {
			return
		} else if err != nil || i > 2+2*openBacklog {
			t.Fatalf("stream %d, error %v", i, err)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		ok   bool
	}{
		{"zero", Config{}, true},
		{"smallest", Config{Window: minWindow, Memory: minWindow}, true},
		{"window below yamux's own", Config{Window: minWindow - 1}, false},
		{"window too large", Config{Window: maxWindow + 1}, false},
		{"negative", Config{Window: -1}, false},
		{"no room", Config{Window: 1 << 20, Memory: 1<<20 - 1}, false},
	} {
		if err := c.cfg.Check(); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if got := (Config{}).Streams(); got != 512 {
		t.Errorf("the default carries %d streams", got)
	}
}

// TestWireJoins: one write for a header with its body.
func TestWireJoins(t *testing.T) {
	rec := &recorder{}
	w := &wire{Conn: rec}
	head := []byte{0, typeData, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3}
	update := []byte{0, typeUpdate, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3}
	empty := []byte{0, typeData, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0}
	for _, b := range [][]byte{update, head, []byte("abc"), empty, head, bytes.Repeat([]byte{typeData}, headerSize), update} {
		if n, err := w.Write(b); n != len(b) || err != nil {
			t.Fatalf("write of %q: %d, %v", b, n, err)
		}
	}
	want := [][]byte{update, append(bytes.Clone(head), "abc"...), empty, append(bytes.Clone(head), bytes.Repeat([]byte{typeData}, headerSize)...), update}
	if len(rec.writes) != len(want) {
		t.Fatalf("%d writes, want %d", len(rec.writes), len(want))
	}
	for i := range want {
		if !bytes.Equal(rec.writes[i], want[i]) {
			t.Errorf("write %d is %q, want %q", i, rec.writes[i], want[i])
		}
	}
}

type recorder struct {
	net.Conn
	writes [][]byte
}

func (r *recorder) Write(b []byte) (int, error) {
	r.writes = append(r.writes, bytes.Clone(b))
	return len(b), nil
}

// FuzzGuard: however a stream of frames is cut into pieces, the guard sees the same.
func FuzzGuard(f *testing.F) {
	f.Add([]byte{0, typeData, 0, flagSYN, 0, 0, 0, 1, 0, 0, 0, 3, 'a', 'b', 'c', 0, typePing, 0, flagSYN, 0, 0, 0, 0, 0, 0, 0, 1}, uint8(5))
	f.Add(bytes.Repeat([]byte{0, typePing, 0, flagSYN, 0, 0, 0, 0, 0, 0, 0, 1}, 20), uint8(7))
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		now := func() time.Time { return time.Unix(1, 0) }
		for _, side := range []Side{Opener, Taker} {
			var whole, pieces guard
			want := whole.see(b, side, now)
			var got error
			for rest := b; len(rest) > 0 && got == nil; {
				n := min(len(rest), int(size)+1)
				got = pieces.see(rest[:n], side, now)
				rest = rest[n:]
			}
			if !errors.Is(got, want) {
				t.Fatalf("whole: %v, in pieces: %v", want, got)
			}
			if want == nil && whole != pieces {
				t.Fatalf("whole: %+v, in pieces: %+v", whole, pieces)
			}
		}
	})
}
