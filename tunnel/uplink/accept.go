package uplink

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/tunnel"
)

// Stream is one endpoint's connection, as its own words inside TLS describe it. What the endpoint says is proven by nobody yet: verify
// Preamble.Proof against Hello.Target, Exporter and the agent's key, then answer with Welcome.
type Stream struct {
	net.Conn              // has CloseWrite; ends with tunnel.ErrCut where the peer did not end it
	Hello    tunnel.Hello // the target only; the ticket stayed at the relay
	Preamble api.Preamble
	Exporter []byte // 32 bytes, under token.ExporterLabel
}

// Accept reads the hello off a stream that Config.Handle was given, finishes TLS with cert, and reads the preamble. The whole takes at
// most tunnel.HandshakeTimeout. On error the stream is closed.
func Accept(ctx context.Context, stream net.Conn, cert tls.Certificate) (*Stream, error) {
	return nil, errors.New("accept: not there yet")
}

// Welcome tells the endpoint that its proof holds here, or why not (refusal nil or not); after a refusal the stream is closed.
func (s *Stream) Welcome(refusal *api.Error) error { return errors.New("welcome: not there yet") }

// CloseWrite says that nothing more will be written; reading goes on.
func (s *Stream) CloseWrite() error { return errors.New("close write: not there yet") }
