package relay_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/tunnel"
	"github.com/sallyport/sallyport/tunnel/client"
	"github.com/sallyport/sallyport/tunnel/mux"
	"github.com/sallyport/sallyport/tunnel/relay"
	"github.com/sallyport/sallyport/tunnel/tunneltest"
	"github.com/sallyport/sallyport/tunnel/uplink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

func echo(s *uplink.Stream) {
	_, _ = io.Copy(s, s)
	_ = s.CloseWrite()
}

// say writes and reads back.
func say(t *testing.T, c net.Conn, s string) {
	t.Helper()
	said := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte(s))
		said <- err
	}()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, len(s))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != s {
		t.Fatalf("said %d bytes, heard %.20q, %v", len(s), buf, err)
	}
	if err := <-said; err != nil {
		t.Fatalf("say: %v", err)
	}
	_ = c.SetReadDeadline(time.Time{})
}

func dial(t *testing.T, ca *tunneltest.CA, addr string, target access.TargetName, endpoint string) (*client.Conn, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := tunneltest.Dial(ctx, ca, addr, target, endpoint)
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// rawStream is a TLS connection as an endpoint makes it, before any frame.
func rawStream(t *testing.T, ca *tunneltest.CA, addr string) *tls.Conn {
	t.Helper()
	cfg := tunnel.TLSTo(tunnel.ALPNStream, ca.Pool(), "sallyport:relay")
	c, err := tls.Dial("tcp", addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

func TestRefusals(t *testing.T) {
	ca := tunneltest.NewCA(t)
	addr, _ := tunneltest.StartRelay(t, ca, relay.Limits{})
	tunneltest.StartAgent(t, ca, addr, ca.Agent(t, "inside", "app"), echo, func(error) { t.Error("a stream reached the agent") })
	frame := func(s string) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...) }
	for _, c := range []struct {
		name  string
		hello []byte
		kind  *api.Error
	}{
		{"no ticket", frame(`{"v":1,"target":"app"}`), api.ErrLogin},
		{"a bad ticket", frame(`{"v":1,"target":"app","ticket":"nonsense"}`), api.ErrLogin},
		{"a ticket for another target", frame(`{"v":1,"target":"app","ticket":"other/one"}`), api.ErrDenied},
		{"a target that no agent serves", frame(`{"v":1,"target":"other","ticket":"other/one"}`), api.ErrUnavailable},
		{"another version", frame(`{"v":2,"target":"app","ticket":"app/one"}`), api.ErrBadRequest},
		{"an unknown field", frame(`{"v":1,"target":"app","ticket":"app/one","x":1}`), api.ErrBadRequest},
		{"a target that is no name", frame(`{"v":1,"target":"APP","ticket":"APP/one"}`), api.ErrBadRequest},
		{"no JSON", frame(`hello`), api.ErrBadRequest},
		{"an empty frame", frame(``), api.ErrBadRequest},
		{"an oversized frame", []byte{0, 0, 0x40, 1}, api.ErrBadRequest},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), api.ErrBadRequest},
	} {
		conn := rawStream(t, ca, addr)
		if _, err := conn.Write(c.hello); err != nil {
			t.Fatal(err)
		}
		if err := tunnel.ReadWelcome(conn); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, want %s", c.name, err, c.kind.Code)
		}
		if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
			t.Errorf("%s: then %q, %v", c.name, rest, err)
		}
	}
}

func TestHandshakeRefusals(t *testing.T) {
	ca := tunneltest.NewCA(t)
	addr, _ := tunneltest.StartRelay(t, ca, relay.Limits{})
	agent := ca.Agent(t, "inside", "app")
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for name, change := range map[string]func(*tls.Config){
		"no ALPN":                        func(c *tls.Config) { c.NextProtos = nil },
		"another ALPN":                   func(c *tls.Config) { c.NextProtos = []string{"h2"} },
		"both ALPNs":                     func(c *tls.Config) { c.NextProtos = []string{tunnel.ALPNStream, tunnel.ALPNUplink} },
		"TLS 1.2":                        func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"an agent without a certificate": func(c *tls.Config) { c.Certificates = nil },
		"an agent of another CA":         func(c *tls.Config) { c.Certificates = []tls.Certificate{tunneltest.NewCA(t).Agent(t, "inside", "app")} },
		"an agent whose time is over": func(c *tls.Config) {
			c.Certificates = []tls.Certificate{ca.Issue(t, -time.Minute, both, "sallyport:agent:inside", "sallyport:target:app")}
		},
		"a relay as an agent": func(c *tls.Config) { c.Certificates = []tls.Certificate{ca.Relay(t)} },
		"an agent without a name": func(c *tls.Config) {
			c.Certificates = []tls.Certificate{ca.Issue(t, time.Hour, both, "sallyport:target:app")}
		},
	} {
		cfg := tunnel.TLS(tunnel.ALPNUplink)
		cfg.InsecureSkipVerify = true
		cfg.Certificates = []tls.Certificate{agent}
		change(cfg)
		conn, err := tls.Dial("tcp", addr, cfg)
		if err == nil {
			_ = conn.SetDeadline(time.Now().Add(patience))
			err = tunnel.ReadWelcome(conn)
			_ = conn.Close()
		}
		if err == nil {
			t.Errorf("%s: welcome", name)
		}
	}
	if _, err := dial(t, ca, addr, "app", "one"); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("one of them became a route: %v", err)
	}
}

// pipes is a listener of pipes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return nil
}
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial() net.Conn {
	a, b := net.Pipe()
	p.conns <- b
	return a
}

// anyRelay trusts every relay: in a bubble it is the year 2000, and no certificate is valid.
func anyRelay() *tls.Config {
	cfg := tunnel.TLS(tunnel.ALPNStream)
	cfg.InsecureSkipVerify = true
	return cfg
}

// TestSlowLoris: who takes their time over the handshake or the hello is out after five seconds, however lively they are.
func TestSlowLoris(t *testing.T) {
	ca := tunneltest.NewCA(t)
	for name, slow := range map[string]func(c net.Conn) error{
		"silent": func(c net.Conn) error {
			_, err := c.Read(make([]byte, 1))
			return err
		},
		"a byte of TLS a second": func(c net.Conn) error {
			for _, b := range []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") {
				if _, err := c.Write([]byte{b}); err != nil {
					return err
				}
				time.Sleep(time.Second)
			}
			return nil
		},
		"silent after TLS": func(c net.Conn) error {
			conn := tls.Client(c, anyRelay())
			if err := conn.Handshake(); err != nil {
				t.Error(err)
			}
			_, err := io.Copy(io.Discard, conn)
			if err == nil {
				err = io.EOF
			}
			return err
		},
		"a byte of hello a second": func(c net.Conn) error {
			conn := tls.Client(c, anyRelay())
			if err := conn.Handshake(); err != nil {
				t.Error(err)
			}
			go func() { _, _ = io.Copy(io.Discard, conn) }()
			for _, b := range []byte{0, 0, 0, 100, '{', '"', 'v', '"', ':', '1'} {
				if _, err := conn.Write([]byte{b}); err != nil {
					return err
				}
				time.Sleep(time.Second)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newPipes()
				_, stop := tunneltest.ServeRelay(t, ca, relay.Limits{}, l)
				start := time.Now()
				c := l.dial()
				if err := slow(c); err == nil {
					t.Error("it was suffered to the end")
				}
				if d := time.Since(start); d < tunnel.HandshakeTimeout || d > tunnel.HandshakeTimeout+time.Second {
					t.Errorf("it was out after %s", d)
				}
				_ = c.Close()
				stop()
			})
		})
	}
}

// TestHandshakesAreBounded: the pending ones take all places, one more is turned away at once, and places come back.
func TestHandshakesAreBounded(t *testing.T) {
	ca := tunneltest.NewCA(t)
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		_, stop := tunneltest.ServeRelay(t, ca, relay.Limits{Handshakes: 2}, l)
		defer stop()
		a, b, c := l.dial(), l.dial(), l.dial()
		start := time.Now()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || time.Since(start) != 0 {
			t.Errorf("one too many: %v after %s", err, time.Since(start))
		}
		_ = a.Close()
		synctest.Wait()
		d := l.dial()
		_ = d.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := d.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			t.Error("the place did not come back")
		}
		_ = b.Close()
		_ = d.Close()
	})
}

// TestOneEndpointOneAgent: all streams of an endpoint meet at one agent, endpoints spread, and another agent takes over.
func TestOneEndpointOneAgent(t *testing.T) {
	ca := tunneltest.NewCA(t)
	addr, _ := tunneltest.StartRelay(t, ca, relay.Limits{})
	agents := map[byte]*tunneltest.Agent{}
	for _, name := range []access.AgentName{"a", "b", "c"} {
		agents[name[0]] = tunneltest.StartAgent(t, ca, addr, ca.Agent(t, name, "app"), func(s *uplink.Stream) {
			_, _ = s.Write([]byte(name))
			_, _ = io.Copy(io.Discard, s)
		}, nil)
	}
	ask := func(endpoint string) byte {
		c := tunneltest.MustDial(t, ca, addr, "app", endpoint)
		defer c.Close() //nolint:errcheck // a test's
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		return b[0]
	}
	first := map[string]byte{}
	count := map[byte]int{}
	for i := range 30 {
		e := fmt.Sprint("endpoint", i)
		first[e] = ask(e)
		count[first[e]]++
	}
	if len(count) != 3 {
		t.Errorf("endpoints went to %v", count)
	}
	for e, agent := range first {
		if got := ask(e); got != agent {
			t.Errorf("%s went to %c, then to %c", e, agent, got)
		}
	}
	agents['a'].Stop()
	for e, agent := range first {
		got := ask(e)
		if agent == 'a' && got == 'a' || agent != 'a' && got != agent {
			t.Errorf("%s went to %c, and without a to %c", e, agent, got)
		}
	}
}

func TestStreamsAreBounded(t *testing.T) {
	ca := tunneltest.NewCA(t)
	for name, limits := range map[string]relay.Limits{
		"of the relay":  {Streams: 4},
		"of the uplink": {Mux: mux.Config{Window: 1 << 20, Memory: 2 << 20}}, // and the agent has two
	} {
		t.Run(name, func(t *testing.T) {
			addr, _ := tunneltest.StartRelay(t, ca, limits)
			tunneltest.StartAgent(t, ca, addr, ca.Agent(t, "inside", "app"), echo, nil)
			var conns []*client.Conn
			for range 4 {
				c := tunneltest.MustDial(t, ca, addr, "app", "one")
				say(t, c, "hello")
				conns = append(conns, c)
			}
			if _, err := dial(t, ca, addr, "app", "one"); !errors.Is(err, api.ErrBusy) {
				t.Fatalf("one too many: %v", err)
			}
			for _, c := range conns {
				say(t, c, "still here")
			}
			_ = conns[0].Close()
			deadline := time.Now().Add(patience)
			for {
				c, err := dial(t, ca, addr, "app", "one")
				if err == nil {
					say(t, c, "hello")
					break
				}
				if !errors.Is(err, api.ErrBusy) || time.Now().After(deadline) {
					t.Fatalf("the place did not come back: %v", err)
				}
			}
		})
	}
}

func TestUplinksAreBounded(t *testing.T) {
	ca := tunneltest.NewCA(t)
	addr, _ := tunneltest.StartRelay(t, ca, relay.Limits{UplinksPerAgent: 2, Uplinks: 3})
	tunneltest.StartAgent(t, ca, addr, ca.Agent(t, "inside", "app"), echo, nil)
	knock := func(name access.AgentName) error {
		cfg := tunnel.TLSTo(tunnel.ALPNUplink, ca.Pool(), "sallyport:relay")
		cfg.Certificates = []tls.Certificate{ca.Agent(t, name, "app")}
		conn, err := tls.Dial("tcp", addr, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		return tunnel.ReadWelcome(conn)
	}
	if err := knock("inside"); !errors.Is(err, api.ErrBusy) {
		t.Errorf("the third of two: %v", err)
	}
	if err := knock("second"); err != nil {
		t.Errorf("another agent: %v", err)
	}
	if err := knock("third"); !errors.Is(err, api.ErrBusy) {
		t.Errorf("the fourth of three: %v", err)
	}
}

// TestOneThatDoesNotRead: its own stream stands still, at most a window and some buffers later, and no other does.
func TestOneThatDoesNotRead(t *testing.T) {
	ca := tunneltest.NewCA(t)
	size := mux.Config{Window: 1 << 20}
	addr, _ := tunneltest.StartRelay(t, ca, relay.Limits{Mux: size})
	sent := make(chan int, 1<<16)
	tunneltest.StartAgentWith(t, uplink.Config{Relay: addr, CA: ca.Pool(), Connections: 1, Mux: size}, ca.Agent(t, "inside", "app"), func(s *uplink.Stream) {
		if s.Preamble.Endpoint != "stuck" {
			echo(s)
			return
		}
		buf := make([]byte, 32<<10)
		for {
			n, err := s.Write(buf)
			sent <- n
			if err != nil {
				return
			}
		}
	}, nil)
	_ = tunneltest.MustDial(t, ca, addr, "app", "stuck")
	other := tunneltest.MustDial(t, ca, addr, "app", "other")
	total := 0
	for still := false; !still; {
		select {
		case n := <-sent:
			if total += n; total > 64<<20 {
				t.Fatal("the agent sends on and on")
			}
		case <-time.After(300 * time.Millisecond):
			still = true
		}
	}
	t.Logf("%d kB are under way", total>>10)
	start := time.Now()
	say(t, other, strings.Repeat("x", 8<<20))
	t.Logf("8 MiB went round beside it in %s", time.Since(start))
}

// TestDrain: a stopping relay turns new streams away and lets those that are open end.
func TestDrain(t *testing.T) {
	ca := tunneltest.NewCA(t)
	addr, stop := tunneltest.StartRelay(t, ca, relay.Limits{})
	agent := tunneltest.StartAgent(t, ca, addr, ca.Agent(t, "inside", "app"), echo, nil)
	c := tunneltest.MustDial(t, ca, addr, "app", "one")
	say(t, c, "before")
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	agent.Await(t, 1) // the idle one of its two uplinks is sent away
	if _, err := dial(t, ca, addr, "app", "two"); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a new stream: %v", err)
	}
	say(t, c, "meanwhile")
	select {
	case <-stopped:
		t.Fatal("it did not wait for the stream")
	default:
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Errorf("the end: %q, %v", rest, err)
	}
	_ = c.Close()
	select {
	case <-stopped:
	case <-time.After(patience):
		t.Fatal("it does not stop")
	}
}

// TestDrainEnds: a stream that does not end in time is cut, and its client knows.
func TestDrainEnds(t *testing.T) {
	ca := tunneltest.NewCA(t)
	addr, stop := tunneltest.StartRelay(t, ca, relay.Limits{Drain: 50 * time.Millisecond})
	tunneltest.StartAgent(t, ca, addr, ca.Agent(t, "inside", "app"), echo, nil)
	c := tunneltest.MustDial(t, ca, addr, "app", "one")
	say(t, c, "before")
	stop()
	if _, err := io.ReadAll(c); err == nil {
		t.Error("the cut looks like an end")
	}
}

func TestConfig(t *testing.T) {
	ca := tunneltest.NewCA(t)
	good := relay.Config{Certificate: ca.Relay(t), CA: ca.Pool(), Ticket: tunneltest.ParseTicket, Log: tunneltest.Quiet()}
	if _, err := relay.New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*relay.Config){
		"no certificate":   func(c *relay.Config) { c.Certificate = tls.Certificate{} },
		"no CA":            func(c *relay.Config) { c.CA = nil },
		"no tickets":       func(c *relay.Config) { c.Ticket = nil },
		"no log":           func(c *relay.Config) { c.Log = nil },
		"a negative limit": func(c *relay.Config) { c.Limits.Streams = -1 },
		"a bad window":     func(c *relay.Config) { c.Limits.Mux.Window = 1 },
	} {
		bad := good
		change(&bad)
		if _, err := relay.New(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
