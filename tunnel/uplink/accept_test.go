package uplink_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/tunnel"
	"github.com/sallyport/sallyport/tunnel/relay"
	"github.com/sallyport/sallyport/tunnel/tunneltest"
	"github.com/sallyport/sallyport/tunnel/uplink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestNewCertificate: uplinks are made anew with it, and streams over the old ones go on until they end.
func TestNewCertificate(t *testing.T) {
	ca := tunneltest.NewCA(t)
	addr, _ := tunneltest.StartRelay(t, ca, relay.Limits{})
	var current atomic.Pointer[tls.Certificate]
	first, second := ca.Agent(t, "inside", "app"), ca.Agent(t, "inside", "app", "new")
	current.Store(&first)
	up := make(chan int, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- uplink.RunChecking(ctx, uplink.Config{
			Relay: addr, CA: ca.Pool(), Log: tunneltest.Quiet(), Connections: 1,
			Certificate: func() (tls.Certificate, error) { return *current.Load(), nil },
			Changed:     func(n int) { up <- n },
			Handle: func(ctx context.Context, conn net.Conn) {
				s, err := uplink.Accept(ctx, conn, *current.Load())
				if err != nil {
					t.Errorf("accept: %v", err)
					return
				}
				stop := context.AfterFunc(ctx, func() { _ = s.Close() })
				defer stop()
				defer s.Close() //nolint:errcheck // a test's
				if err := s.Welcome(nil); err == nil {
					echo(s)
				}
			},
		}, 10*time.Millisecond)
	}()
	await := func(n int) {
		t.Helper()
		for timeout := time.After(patience); ; {
			select {
			case got := <-up:
				if got == n {
					return
				}
			case <-timeout:
				t.Fatalf("there were never %d uplinks", n)
			}
		}
	}
	await(1)
	c := tunneltest.MustDial(t, ca, addr, "app", "one")
	say(t, c, "over the first")
	current.Store(&second)
	await(2) // both are up
	say(t, tunneltest.MustDial(t, ca, addr, "new", "one"), "over the second")
	say(t, c, "still over the first")
	_ = c.Close()
	await(1) // and the first is gone with its last stream
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// endpoint plays an endpoint and its relay towards Accept, over a pipe.
func accept(t *testing.T, cert tls.Certificate, play func(c net.Conn)) error {
	t.Helper()
	a, b := net.Pipe()
	played := make(chan struct{})
	go func() {
		defer close(played)
		defer a.Close() //nolint:errcheck // a pipe's
		play(a)
	}()
	s, err := uplink.Accept(t.Context(), b, cert)
	if err == nil {
		_ = s.Close()
	}
	<-played
	return err
}

func frame(s string) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...) }

const goodHello = `{"v":1,"target":"app"}`

// inner finishes TLS as an endpoint does and then says what it is told.
func inner(alpn, name string, then []byte) func(c net.Conn) {
	return func(c net.Conn) {
		_, _ = c.Write(frame(goodHello))
		cfg := tunnel.TLS(alpn)
		cfg.InsecureSkipVerify, cfg.ServerName = true, name
		conn := tls.Client(c, cfg)
		if conn.Handshake() != nil {
			return
		}
		_, _ = conn.Write(then)
		_, _ = io.Copy(io.Discard, conn)
	}
}

func TestAcceptRefuses(t *testing.T) {
	ca := tunneltest.NewCA(t)
	cert := ca.Agent(t, "inside", "app")
	raw := func(b []byte) func(c net.Conn) {
		return func(c net.Conn) {
			_, _ = c.Write(b)
			_, _ = io.Copy(io.Discard, c)
		}
	}
	good := `{"v":1,"endpoint":"e","token":"t","proof":"p","client":{}}`
	if err := accept(t, cert, inner(tunnel.ALPNInner, "app", frame(good))); err != nil {
		t.Fatalf("a good one: %v", err)
	}
	for _, c := range []struct {
		name string
		play func(c net.Conn)
		why  string
	}{
		{"no hello", raw([]byte("\x16\x03\x01\x00\x01")), "malformed frame"},
		{"an oversized hello", raw([]byte{0, 1, 0, 0}), "malformed frame"},
		{"a target that it does not serve", raw(frame(`{"v":1,"target":"other"}`)), "not in the agent's certificate"},
		{"a ticket", raw(frame(`{"v":1,"target":"app","ticket":"t"}`)), "ticket"},
		{"in clear", raw(append(frame(goodHello), frame(good)...)), "handshake with the endpoint"},
		{"gone after the hello", func(c net.Conn) { _, _ = c.Write(frame(goodHello)) }, "cut"},
		{"the wrong target inside", inner(tunnel.ALPNInner, "other", frame(good)), "asks for target"},
		{"no target inside", inner(tunnel.ALPNInner, "", frame(good)), "asks for target"},
		{"another protocol inside", inner("h2", "app", frame(good)), "handshake with the endpoint"},
		{"an oversized preamble", inner(tunnel.ALPNInner, "app", []byte{0, 1, 0, 0}), "malformed frame"},
		{"an unknown field", inner(tunnel.ALPNInner, "app", frame(`{"v":1,"endpoint":"e","token":"t","proof":"p","client":{},"x":1}`)), "malformed frame"},
		{"no proof", inner(tunnel.ALPNInner, "app", frame(`{"v":1,"endpoint":"e","token":"t","client":{}}`)), "needs an endpoint"},
	} {
		if err := accept(t, cert, c.play); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want %q", c.name, err, c.why)
		}
	}
	for name, cert := range map[string]tls.Certificate{"no certificate": {}, "a relay's certificate": ca.Relay(t)} {
		if err := accept(t, cert, func(net.Conn) {}); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAcceptIsBounded: an endpoint that stops half-way is dropped after tunnel.HandshakeTimeout.
func TestAcceptIsBounded(t *testing.T) {
	cert := tunneltest.NewCA(t).Agent(t, "inside", "app")
	for name, said := range map[string][]byte{"says nothing": nil, "stops in the hello": frame(goodHello)[:9], "stops before TLS": frame(goodHello)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				err := accept(t, cert, func(c net.Conn) {
					_, _ = c.Write(said)
					_, _ = io.Copy(io.Discard, c)
				})
				if d := time.Since(start); err == nil || d != tunnel.HandshakeTimeout {
					t.Errorf("after %s: %v", d, err)
				}
			})
		})
	}
}

// FuzzAccept: whatever a relay sends before TLS, Accept returns an error and does not panic.
func FuzzAccept(f *testing.F) {
	f.Add(frame(goodHello))
	f.Add(append(frame(goodHello), "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"...))
	cert := tunneltest.NewCA(f).Agent(f, "inside", "app")
	f.Fuzz(func(t *testing.T, b []byte) {
		err := accept(t, cert, func(c net.Conn) {
			go func() { _, _ = io.Copy(io.Discard, c) }()
			_, _ = c.Write(b)
		})
		if err == nil {
			t.Error("a stream was accepted")
		}
	})
}
