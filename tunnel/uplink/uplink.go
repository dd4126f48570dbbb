package uplink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
)

// Config is what Run needs.
type Config struct {
	Relay string // host:port
	// Certificate returns the agent's current certificate. Uplinks made with an older one are replaced; their streams go on.
	Certificate func() (tls.Certificate, error)
	CA          *x509.CertPool // of the stack: signs relays
	// Handle owns a stream: it returns when the stream has ended, having closed it. It ends with ctx.
	Handle      func(ctx context.Context, stream net.Conn)
	Connections int // to this relay; 0 means 2, so that bulk on one does not hold up the other. At most 8
	// Changed, if not nil, hears how many uplinks are up, whenever that changes. Calls do not overlap.
	Changed func(up int)
	Log     *slog.Logger
}

// Run keeps the uplinks until ctx ends, reconnecting with jitter. It returns once every stream has ended: nil after ctx, an error only for
// a Config that cannot work.
func Run(ctx context.Context, cfg Config) error { return errors.New("uplink: not there yet") }
