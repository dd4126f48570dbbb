package tunneltest

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel"
	"github.com/sallyport/sallyport/tunnel/mux"
)

// Script is what an evil relay does to a stream. Each nil does what an honest relay does.
type Script struct {
	// Hello is what the agent is told of the client's hello.
	Hello func(tunnel.Hello) tunnel.Hello
	// Route chooses the agent.
	Route func(tunnel.Hello) access.AgentName
	// Up and Down see what client and agent send, with the offset of its first byte, and return what goes on. After false the stream is ended in
	// order, as if the sender had: no reset, no truncated record.
	Up, Down func(offset int, b []byte) ([]byte, bool)
}

// Evil is a relay with a genuine certificate that follows a Script. It believes everybody.
type Evil struct {
	Addr string

	mu     sync.Mutex
	script Script
	agents map[access.AgentName]*mux.Session
	seen   bytes.Buffer
	up     []byte // what clients sent after their hellos
	conns  sync.WaitGroup
}

// StartEvil serves an evil relay on loopback until the test ends.
func StartEvil(t testing.TB, ca *CA) *Evil {
	t.Helper()
	l := Listen(t, "")
	e := &Evil{Addr: l.Addr().String(), agents: map[access.AgentName]*mux.Session{}}
	cfg := tunnel.TLS(tunnel.ALPNStream)
	cfg.NextProtos = append(cfg.NextProtos, tunnel.ALPNUplink)
	cfg.Certificates = []tls.Certificate{ca.Relay(t)}
	cfg.ClientAuth = tls.RequestClientCert
	ctx, cancel := context.WithCancel(context.Background())
	e.conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			e.conns.Go(func() { e.serve(ctx, conn, cfg) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		e.conns.Wait()
	})
	return e
}

// Follow makes later streams follow s.
func (e *Evil) Follow(s Script) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.script = s
}

// Seen is every byte that has passed, both ways.
func (e *Evil) Seen() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return bytes.Clone(e.seen.Bytes())
}

// Sent is what clients have sent after their hellos.
func (e *Evil) Sent() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.up)
}

// Replay plays bytes to an agent as a new stream and returns what came back.
func (e *Evil) Replay(agent access.AgentName, target access.TargetName, b []byte) ([]byte, error) {
	s, err := e.open(agent, tunnel.Hello{V: tunnel.Version, Target: target})
	if err != nil {
		return nil, err
	}
	defer s.Close() //nolint:errcheck // the answer is in
	if _, err := s.Write(b); err != nil {
		return nil, err
	}
	if err := s.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	return io.ReadAll(s)
}

func (e *Evil) open(agent access.AgentName, hello tunnel.Hello) (*mux.Stream, error) {
	e.mu.Lock()
	session := e.agents[agent]
	e.mu.Unlock()
	if session == nil {
		return nil, fmt.Errorf("agent %s is not connected", agent)
	}
	s, err := session.Open()
	if err != nil {
		return nil, err
	}
	return s, tunnel.WriteFrame(s, hello)
}

func (e *Evil) serve(ctx context.Context, raw net.Conn, cfg *tls.Config) {
	defer raw.Close() //nolint:errcheck // evil
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	conn := tls.Server(raw, cfg)
	if conn.Handshake() != nil {
		return
	}
	if conn.ConnectionState().NegotiatedProtocol == tunnel.ALPNUplink {
		e.uplink(conn, raw)
		return
	}
	e.stream(ctx, conn)
}

func (e *Evil) uplink(conn *tls.Conn, raw net.Conn) {
	agent, err := token.ParseAgent(conn.ConnectionState().PeerCertificates[0])
	if err != nil || tunnel.WriteFrame(conn, api.Welcome{V: tunnel.Version}) != nil {
		return
	}
	session, err := mux.New(conn, raw.Close, mux.Opener, mux.Config{})
	if err != nil {
		return
	}
	defer session.Close()
	e.mu.Lock()
	e.agents[agent.Name] = session
	e.mu.Unlock()
	<-session.Done()
}

func (e *Evil) stream(ctx context.Context, conn *tls.Conn) {
	e.mu.Lock()
	script := e.script
	e.mu.Unlock()
	hello, err := tunnel.ReadHello(conn)
	if err != nil {
		return
	}
	hello.Ticket = ""
	agent := access.AgentName("")
	if script.Route != nil {
		agent = script.Route(hello)
	} else {
		e.mu.Lock()
		for agent = range e.agents {
			break
		}
		e.mu.Unlock()
	}
	if script.Hello != nil {
		hello = script.Hello(hello)
	}
	up, err := e.open(agent, hello)
	if err != nil {
		return
	}
	if tunnel.WriteFrame(conn, api.Welcome{V: tunnel.Version}) != nil {
		return
	}
	a := &tampered{Duplex: conn, evil: e, do: script.Up, up: true}
	b := &tampered{Duplex: up, evil: e, do: script.Down}
	_, _ = tunnel.Splice(ctx, a, b) // how it ends is for client and agent to judge
}

// tampered is a connection whose reads follow the script.
type tampered struct {
	tunnel.Duplex
	evil   *Evil
	do     func(int, []byte) ([]byte, bool)
	up     bool
	offset int
	ended  bool
	rest   []byte
}

func (c *tampered) Read(b []byte) (int, error) {
	for len(c.rest) == 0 {
		if c.ended {
			return 0, io.EOF
		}
		buf := make([]byte, 16<<10)
		n, err := c.Duplex.Read(buf)
		if err != nil {
			return 0, err
		}
		c.evil.saw(buf[:n], c.up)
		c.rest = buf[:n]
		if c.do != nil {
			var more bool
			c.rest, more = c.do(c.offset, c.rest)
			c.ended = !more
		}
		c.offset += n
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (e *Evil) saw(b []byte, up bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen.Write(b)
	if up {
		e.up = append(e.up, b...)
	}
}
