package client

import (
	"context"
	"crypto/x509"
	"errors"
	"net"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// Config is what Dial needs, all of it.
type Config struct {
	Relays   []string       // host:port, tried in order
	CA       *x509.CertPool // of the stack: signs relays and agents
	Ticket   string         // for the relay, from PathTicket
	Target   access.TargetName
	Endpoint string
	// Prove signs the session proof for the agent key (RFC 7638 thumbprint) and TLS exporter (32 bytes, token.ExporterLabel) of this channel.
	Prove func(agentKey string, exporter []byte) (proof string, err error)
	// Preamble goes to the agent inside the TLS. V, Endpoint and Proof are filled in.
	Preamble api.Preamble
}

// Conn is the channel to the agent. Its Read ends with io.EOF only if the agent ended it, with tunnel.ErrCut if anything in between did.
type Conn struct {
	net.Conn
}

// CloseWrite says that nothing more will be written; reading goes on.
func (c *Conn) CloseWrite() error { return errors.New("close write: not there yet") }

// Dial connects. A refusal by relay or agent is an *api.Error in the chain; when no relay can be reached the error is of kind api.ErrUnavailable.
func Dial(ctx context.Context, cfg Config) (*Conn, error) {
	return nil, errors.New("dial: not there yet")
}
