package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel"
	"github.com/sallyport/sallyport/tunnel/mux"
)

// Config is what New needs.
type Config struct {
	Certificate tls.Certificate // names token.URIRelay, signed by CA
	// Renewed, if not nil, is asked at each handshake for the certificate to show in place of Certificate.
	Renewed func() *tls.Certificate
	CA      *x509.CertPool // of the stack: signs agents
	// Ticket verifies a relay ticket; a refusal is an *api.Error.
	Ticket func(raw string) (token.Ticket, error)
	Limits Limits
	Log    *slog.Logger
}

// Limits bound what a relay holds. Each zero means its default.
type Limits struct {
	Handshakes      int           // connections that have not said their hello; 512. A TLS handshake holds about 40 kB
	Streams         int           // of endpoints; 1024. Each holds about 150 kB, and up to Mux.Window more while its endpoint does not read
	Uplinks         int           // of all agents; 256
	UplinksPerAgent int           // 8
	Mux             mux.Config    // of each uplink
	Drain           time.Duration // for streams to end before a stopping relay cuts them; 30 s
}

func (l Limits) withDefaults() Limits {
	set := func(v *int, to int) {
		if *v == 0 {
			*v = to
		}
	}
	set(&l.Handshakes, 512)
	set(&l.Streams, 1024)
	set(&l.Uplinks, 256)
	set(&l.UplinksPerAgent, 8)
	if l.Drain == 0 {
		l.Drain = 30 * time.Second
	}
	return l
}

// Relay is a relay; one Serve each.
type Relay struct {
	cfg    Config
	tls    *tls.Config
	routes *routes

	handshakes chan struct{} // one token for each that is pending
	streams    chan struct{} // one for each stream
	conns      sync.WaitGroup
	drained    sync.WaitGroup // streams alone

	mu       sync.Mutex
	stopping bool
}

// New makes a relay.
func New(cfg Config) (*Relay, error) {
	if len(cfg.Certificate.Certificate) == 0 || cfg.CA == nil || cfg.Ticket == nil || cfg.Log == nil {
		return nil, errors.New("new relay: a certificate, a CA, a verifier of tickets and a log are needed")
	}
	cfg.Limits = cfg.Limits.withDefaults()
	if l := cfg.Limits; l.Handshakes < 1 || l.Streams < 1 || l.Uplinks < 1 || l.UplinksPerAgent < 1 || l.Drain < 0 {
		return nil, errors.New("new relay: a limit is negative")
	}
	if err := cfg.Limits.Mux.Check(); err != nil {
		return nil, fmt.Errorf("new relay: %w", err)
	}
	if cfg.Limits.Mux.Log == nil {
		cfg.Limits.Mux.Log = cfg.Log
	}
	return &Relay{
		cfg:        cfg,
		tls:        serverTLS(cfg),
		routes:     newRoutes(cfg.Limits, cfg.Log),
		handshakes: make(chan struct{}, cfg.Limits.Handshakes),
		streams:    make(chan struct{}, cfg.Limits.Streams),
	}, nil
}

// serverTLS asks for a certificate only from who wants to be an agent: an endpoint has none, and shows none to a relay.
func serverTLS(cfg Config) *tls.Config {
	get := func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if cfg.Renewed != nil {
			return cfg.Renewed(), nil
		}
		return &cfg.Certificate, nil
	}
	stream := tunnel.TLS(tunnel.ALPNStream)
	stream.GetCertificate = get
	uplink := tunnel.TLS(tunnel.ALPNUplink)
	uplink.GetCertificate = get
	uplink.ClientAuth, uplink.ClientCAs = tls.RequireAndVerifyClientCert, cfg.CA

	first := tunnel.TLS(tunnel.ALPNStream)
	first.GetCertificate = get
	first.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if len(h.SupportedProtos) == 1 {
			switch h.SupportedProtos[0] {
			case tunnel.ALPNStream:
				return stream, nil
			case tunnel.ALPNUplink:
				return uplink, nil
			}
		}
		return nil, fmt.Errorf("neither an endpoint nor an agent: ALPN %q", h.SupportedProtos)
	}
	return first
}

// Serve takes connections until ctx ends, then drains: no new streams, uplinks without streams closed at once, the rest given
// Limits.Drain. It returns when no goroutine is left; nil after ctx.
func (r *Relay) Serve(ctx context.Context, l net.Listener) error {
	hard, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // makes Accept return
	defer stop()

	err := r.accept(ctx, hard, l)
	_ = l.Close() // again, where Accept failed by itself
	r.drain()
	ended := make(chan struct{})
	go func() {
		r.drained.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(r.cfg.Limits.Drain):
		r.cfg.Log.Warn("streams are cut: they did not end in time", "streams", len(r.streams))
	}
	cut(errors.New("relay is stopping"))
	r.routes.closeAll()
	r.conns.Wait()
	<-ended
	return err
}

func (r *Relay) accept(ctx, hard context.Context, l net.Listener) error {
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		case err != nil:
			// Most often no file descriptor is left; connections that end will give some back.
			r.cfg.Log.Error("accept", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		select {
		case r.handshakes <- struct{}{}:
			r.conns.Go(func() { r.serve(ctx, hard, conn) })
		default:
			r.cfg.Log.Warn("connection refused: too many handshakes are pending", "remote", conn.RemoteAddr())
			_ = conn.Close()
		}
	}
}

// serve speaks to one connection. ctx ends when the relay begins to stop, hard when it must.
func (r *Relay) serve(ctx, hard context.Context, raw net.Conn) {
	defer raw.Close() //nolint:errcheck // whoever served it has closed it in order; this is for the rest
	release := sync.OnceFunc(func() { <-r.handshakes })
	defer release()
	// The relay's stopping ends handshakes too: nobody would serve them.
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := raw.SetDeadline(time.Now().Add(tunnel.HandshakeTimeout)); err != nil {
		return
	}
	conn := tunnel.ServerLeg(raw, r.tls)
	if err := conn.Handshake(); err != nil {
		r.cfg.Log.Debug("handshake", "remote", raw.RemoteAddr(), "error", err)
		return
	}
	p := &peer{Leg: conn, raw: raw, settled: func() error {
		if !stop() {
			return errStopping
		}
		release()
		return raw.SetDeadline(time.Time{})
	}}
	var err error
	switch conn.ConnectionState().NegotiatedProtocol {
	case tunnel.ALPNStream:
		err = r.stream(hard, p)
	case tunnel.ALPNUplink:
		err = r.uplink(p)
	}
	if err != nil {
		r.cfg.Log.Info("connection ended", "remote", raw.RemoteAddr(), "error", err)
	}
}

var errStopping = errors.New("relay is stopping")

// peer is a connection whose TLS is done and whose hello is not.
type peer struct {
	*tunnel.Leg
	raw net.Conn
	// settled ends the time limit of the handshake and gives its place free.
	settled func() error
}

func (r *Relay) drain() {
	r.mu.Lock()
	r.stopping = true
	r.mu.Unlock()
	r.routes.leave()
}
