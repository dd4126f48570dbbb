package uplink

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel"
	"github.com/sallyport/sallyport/tunnel/mux"
)

const (
	maxConnections = 8 // what a relay takes of one agent by default
	// A relay that is away is tried after firstWait, then less and less often: lastWait is what a restart of it costs at most.
	firstWait = 100 * time.Millisecond
	lastWait  = 10 * time.Second
	// checkCertificate is how often an uplink compares its certificate with the current one. Certificates live 24 hours and are renewed
	// hours before they end.
	checkCertificate = 30 * time.Second
	checkIdle        = time.Second // how often an uplink that was replaced is looked at
	// stopTimeout is for handlers to tell their clients that the agent stops.
	stopTimeout = 5 * time.Second
)

// Config is what Run needs.
type Config struct {
	Relay string // host:port
	// Certificate returns the agent's current certificate, with Leaf set. Uplinks made with an older one are replaced; their streams go on.
	Certificate func() (tls.Certificate, error)
	CA          *x509.CertPool // of the stack: signs relays
	// Handle owns a stream: it returns when the stream has ended, having closed it. It ends with ctx.
	Handle      func(ctx context.Context, stream net.Conn)
	Connections int // to this relay; 0 means 2, so that bulk on one does not hold up the other. At most 8
	Mux         mux.Config
	// Changed, if not nil, hears how many uplinks are up, whenever that changes. Calls do not overlap.
	Changed func(up int)
	Log     *slog.Logger
}

// Run keeps the uplinks until ctx ends, reconnecting with jitter. It returns once every stream has ended: nil after ctx, an error only for
// a Config that cannot work.
func Run(ctx context.Context, cfg Config) error { return run(ctx, cfg, checkCertificate) }

func run(ctx context.Context, cfg Config, check time.Duration) error {
	if cfg.Relay == "" || cfg.Certificate == nil || cfg.CA == nil || cfg.Handle == nil || cfg.Log == nil {
		return errors.New("run uplinks: a relay, a certificate, a CA, a handler and a log are needed")
	}
	if cfg.Connections == 0 {
		cfg.Connections = 2
	}
	if cfg.Connections < 1 || cfg.Connections > maxConnections {
		return fmt.Errorf("run uplinks: %d connections: want 1 to %d", cfg.Connections, maxConnections)
	}
	if err := cfg.Mux.Check(); err != nil {
		return fmt.Errorf("run uplinks: %w", err)
	}
	if cfg.Mux.Log == nil {
		cfg.Mux.Log = cfg.Log
	}
	r := &runner{cfg: cfg, log: cfg.Log.With("relay", cfg.Relay), check: check}
	for range cfg.Connections {
		r.wg.Go(func() { r.keep(ctx) })
	}
	r.wg.Wait()
	return nil
}

type runner struct {
	cfg   Config
	log   *slog.Logger
	check time.Duration  // checkCertificate
	wg    sync.WaitGroup // keepers, uplinks and their streams

	mu sync.Mutex
	up int
}

func (r *runner) changed(by int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.up += by
	if r.cfg.Changed != nil {
		r.cfg.Changed(r.up)
	}
}

// link is one uplink that is up.
type link struct {
	session *mux.Session
	leaf    []byte        // of the certificate that it was made with
	ended   chan struct{} // closed when no stream is taken any more and all have been handled
}

// finish closes an uplink whose streams have been told to end, after the last has said good-bye.
func (l *link) finish() {
	l.session.Leave()
	select {
	case <-l.ended:
	case <-l.session.Done():
	case <-time.After(stopTimeout):
	}
	l.session.Close()
}

// keep keeps one uplink up until ctx ends.
func (r *runner) keep(ctx context.Context) {
	wait := firstWait
	for ctx.Err() == nil {
		l, err := r.connect(ctx)
		if err == nil {
			wait = firstWait
			l, err = r.watch(ctx, l)
			if ctx.Err() != nil {
				l.finish()
				return
			}
			l.session.Close()
		}
		if ctx.Err() != nil {
			return
		}
		pause := wait/2 + rand.N(wait/2) // half of it jitter: agents that lost one relay together do not come back together
		r.log.Warn("uplink is down", "error", err, "retry_in", pause)
		wait = min(2*wait, lastWait)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// watch returns when the uplink is down, or ctx has ended. It replaces the uplink when its certificate has been: the new one is up before
// the old one stops taking streams. It returns the uplink that it had in the end.
func (r *runner) watch(ctx context.Context, l *link) (*link, error) {
	tick := time.NewTicker(r.check)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return l, ctx.Err()
		case <-l.session.Done():
			return l, mux.ErrLost
		case <-tick.C:
			cert, err := r.cfg.Certificate()
			if err != nil || len(cert.Certificate) == 0 || bytes.Equal(cert.Certificate[0], l.leaf) {
				continue // a certificate that cannot be had now is missed, and told, at the next connect
			}
			next, err := r.connect(ctx)
			if err != nil {
				r.log.Warn("uplink keeps its old certificate", "error", err)
				continue
			}
			r.retire(ctx, l)
			l = next
		}
	}
}

// retire closes an uplink after its last stream.
func (r *runner) retire(ctx context.Context, l *link) {
	l.session.Leave()
	r.wg.Go(func() {
		tick := time.NewTicker(checkIdle)
		defer tick.Stop()
		for l.session.Streams() > 0 {
			select {
			case <-ctx.Done():
				l.finish()
				return
			case <-l.session.Done():
				return
			case <-tick.C:
			}
		}
		l.session.Close()
	})
}

// connect makes one uplink and starts taking its streams.
func (r *runner) connect(ctx context.Context) (*link, error) {
	cert, err := r.cfg.Certificate()
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if len(cert.Certificate) == 0 {
		return nil, errors.New("certificate: there is none")
	}
	session, err := r.dial(ctx, cert)
	if err != nil {
		return nil, err
	}
	l := &link{session: session, leaf: cert.Certificate[0], ended: make(chan struct{})}
	r.changed(+1)
	r.log.Info("uplink is up")
	r.wg.Go(func() {
		defer r.changed(-1)
		r.take(ctx, l)
	})
	return l, nil
}

func (r *runner) dial(ctx context.Context, cert tls.Certificate) (*mux.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, tunnel.HandshakeTimeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.cfg.Relay)
	if err != nil {
		return nil, err // says what it did
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) }) // the reads and writes below fail and tell
	conn := tunnel.ClientLeg(raw, r.clientTLS(cert))
	err = conn.Handshake()
	if err == nil {
		err = tunnel.ReadWelcome(conn) // in TLS 1.3 it is only now that our certificate has been looked at
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = raw.Close() // err is the one to tell
		return nil, fmt.Errorf("handshake with the relay: %w", err)
	}
	session, err := mux.New(conn, raw.Close, mux.Taker, r.cfg.Mux)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return session, nil
}

func (r *runner) clientTLS(cert tls.Certificate) *tls.Config {
	cfg := tunnel.TLSTo(tunnel.ALPNUplink, r.cfg.CA, token.URIRelay)
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	return cfg
}

// take hands the streams of one uplink to the handler until the uplink or ctx ends, and returns after the last has.
func (r *runner) take(ctx context.Context, l *link) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var streams sync.WaitGroup
	for {
		stream, err := l.session.Accept(ctx)
		if err != nil {
			break
		}
		streams.Go(func() {
			defer stream.Close() //nolint:errcheck // the handler has closed it; this is for one that broke its promise
			r.cfg.Handle(ctx, stream)
		})
	}
	streams.Wait()
	close(l.ended)
}
