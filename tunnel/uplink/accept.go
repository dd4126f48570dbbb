package uplink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel"
)

// Stream is one endpoint's connection, as its own words inside TLS describe it. What the endpoint says is proven by nobody yet: verify
// Preamble.Proof against Hello.Target, Exporter and the agent's key, then answer with Welcome.
type Stream struct {
	net.Conn              // ends with tunnel.ErrCut where the peer did not end it
	Hello    tunnel.Hello // the target only; the ticket stayed at the relay
	Preamble api.Preamble
	Exporter []byte // 32 bytes, under token.ExporterLabel

	channel *tunnel.Channel
}

// Accept reads the hello off a stream that Config.Handle was given, finishes TLS with cert, and reads the preamble. The whole takes at
// most tunnel.HandshakeTimeout. On error the stream is closed.
func Accept(ctx context.Context, stream net.Conn, cert tls.Certificate) (*Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, tunnel.HandshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = stream.SetDeadline(time.Unix(1, 0)) }) // the reads and writes below fail and tell
	s, err := accept(stream, cert)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = stream.Close() // err is the one to tell
		return nil, fmt.Errorf("accept stream: %w", err)
	}
	return s, nil
}

func accept(stream net.Conn, cert tls.Certificate) (*Stream, error) {
	if cert.Leaf == nil {
		return nil, errors.New("the agent's certificate has no leaf")
	}
	agent, err := token.ParseAgent(cert.Leaf)
	if err != nil {
		return nil, fmt.Errorf("the agent's certificate: %w", err)
	}
	hello, err := tunnel.ReadHello(stream)
	if err != nil {
		return nil, fmt.Errorf("hello: %w", err)
	}
	if hello.Ticket != "" {
		return nil, errors.New("hello: a ticket has no business behind the relay")
	}
	if !agent.Serves(hello.Target) {
		return nil, fmt.Errorf("hello: target %s is not in the agent's certificate", hello.Target)
	}
	conn := tls.Server(tunnel.Carry(stream), serverTLS(cert, hello))
	if err := conn.Handshake(); err != nil {
		return nil, fmt.Errorf("handshake with the endpoint: %w", err)
	}
	if p := conn.ConnectionState().NegotiatedProtocol; p != tunnel.ALPNInner {
		return nil, fmt.Errorf("handshake with the endpoint: it speaks %q, not %q", p, tunnel.ALPNInner)
	}
	ch := tunnel.NewChannel(conn)
	preamble, err := tunnel.ReadPreamble(ch)
	if err != nil {
		return nil, fmt.Errorf("preamble: %w", err)
	}
	exporter, err := ch.Exporter()
	if err != nil {
		return nil, err
	}
	return &Stream{Conn: ch, Hello: hello, Preamble: preamble, Exporter: exporter, channel: ch}, nil
}

// serverTLS refuses an endpoint that asked for another target than the relay says it did.
func serverTLS(cert tls.Certificate, hello tunnel.Hello) *tls.Config {
	cfg := tunnel.TLS(tunnel.ALPNInner)
	cfg.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if h.ServerName != string(hello.Target) {
			return nil, fmt.Errorf("the endpoint asks for target %q, the relay says %q", h.ServerName, hello.Target)
		}
		return &cert, nil
	}
	return cfg
}

// Welcome tells the endpoint that its proof holds here (nil), or why not; after a refusal the stream is closed.
func (s *Stream) Welcome(refusal *api.Error) error {
	if err := s.SetWriteDeadline(time.Now().Add(tunnel.HandshakeTimeout)); err != nil {
		return fmt.Errorf("welcome: %w", err)
	}
	err := tunnel.WriteFrame(s, api.Welcome{V: tunnel.Version, Error: refusal})
	if err == nil && refusal == nil {
		err = s.SetWriteDeadline(time.Time{})
	}
	if err != nil || refusal != nil {
		if cerr := s.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return fmt.Errorf("welcome: %w", err)
	}
	return nil
}

// CloseWrite says that nothing more will be written; reading goes on.
func (s *Stream) CloseWrite() error { return s.channel.CloseWrite() }
