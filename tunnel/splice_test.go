package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// tcpPair is a connection over loopback.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // done with
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, b = c.(*net.TCPConn), (<-accepted).(*net.TCPConn)
	t.Cleanup(func() {
		_ = a.Close()
		_ = b.Close()
	})
	return a, b
}

type spliced struct {
	copied Copied
	err    error
}

// splice splices two connections and returns their far ends.
func splice(ctx context.Context, t *testing.T) (a, b *net.TCPConn, done chan spliced) {
	t.Helper()
	a, a2 := tcpPair(t)
	b2, b := tcpPair(t)
	done = make(chan spliced, 1)
	go func() {
		c, err := Splice(ctx, a2, b2)
		done <- spliced{c, err}
	}()
	return a, b, done
}

func TestSpliceHalfCloses(t *testing.T) {
	for _, first := range []string{"a", "b"} {
		a, b, done := splice(t.Context(), t)
		from, to := a, b
		if first == "b" {
			from, to = b, a
		}
		_, _ = from.Write([]byte("question"))
		_ = from.CloseWrite()
		if got, err := io.ReadAll(to); err != nil || string(got) != "question" {
			t.Fatalf("got %q, %v", got, err)
		}
		answer := bytes.Repeat([]byte("answer"), 100_000) // long after the other direction has ended
		go func() {
			_, _ = to.Write(answer)
			_ = to.CloseWrite()
		}()
		if got, err := io.ReadAll(from); err != nil || !bytes.Equal(got, answer) {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
		s := <-done
		if s.err != nil || s.copied.AtoB+s.copied.BtoA != int64(len("question")+len(answer)) {
			t.Errorf("%+v", s)
		}
	}
}

func TestSpliceEnds(t *testing.T) {
	why := errors.New("revoked")
	for name, end := range map[string]func(a, b *net.TCPConn, cancel context.CancelCauseFunc){
		"one is reset":      func(a, _ *net.TCPConn, _ context.CancelCauseFunc) { _ = a.SetLinger(0); _ = a.Close() },
		"the other is":      func(_, b *net.TCPConn, _ context.CancelCauseFunc) { _ = b.SetLinger(0); _ = b.Close() },
		"the context is up": func(_, _ *net.TCPConn, cancel context.CancelCauseFunc) { cancel(why) },
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		a, b, done := splice(ctx, t)
		_, _ = a.Write([]byte("x"))
		if _, err := io.ReadFull(b, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		end(a, b, cancel)
		select {
		case s := <-done:
			if s.err == nil || errors.Is(s.err, net.ErrClosed) {
				t.Errorf("%s: it ended with %v", name, s.err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: it goes on", name)
		}
		cancel(nil)
		_ = a.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadAll(a); errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: a is still open", name)
		}
	}
}
