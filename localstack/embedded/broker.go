package embedded

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport/sallyport/functions/approve"
	"github.com/sallyport/sallyport/functions/changes"
	"github.com/sallyport/sallyport/functions/copies"
	"github.com/sallyport/sallyport/functions/decide"
	"github.com/sallyport/sallyport/functions/enroll"
	"github.com/sallyport/sallyport/functions/record"
	"github.com/sallyport/sallyport/functions/seal"
	tokenfn "github.com/sallyport/sallyport/functions/token"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/bundles"
	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/telemetry"
	"github.com/sallyport/sallyport/internal/token"
)

// CLIClient and ConsoleClient are the client ids at the identity provider.
const (
	CLIClient     = "sallyport-cli"
	ConsoleClient = "sallyport-console"
)

// origin names the log of an embedded system.
const origin = "sallyport.local/audit"

// broker is every function behind one TLS listener, and the browser's pages behind a plain one on loopback.
type broker struct {
	*stores
	ca       *token.CA
	issuer   *token.Issuer
	verifier *token.Verifier
	sealer   *seal.Sealer
	copier   *copies.Copier
	state    []byte
	server   tls.Certificate
	api      http.Handler
	pages    http.Handler
	log      *slog.Logger
	tel      *telemetry.Telemetry

	mu      sync.Mutex
	addr    string
	running *http.Server
	served  chan struct{}
}

func newBroker(ctx context.Context, s *stores, at ports, relays []string, tel *telemetry.Telemetry) (*broker, error) {
	b := &broker{stores: s, addr: at.Broker, log: tel.Log(), tel: tel}
	tokenKey, err := s.keys.Signer("token")
	if err != nil {
		return nil, err
	}
	caKey, err := s.keys.Signer("ca")
	if err != nil {
		return nil, err
	}
	if b.state, err = s.keys.Secret("state"); err != nil {
		return nil, err
	}
	if b.ca, err = token.LoadCA(ctx, s.items, caKey, time.Now()); err != nil {
		return nil, err
	}
	base := "https://" + at.Broker
	b.issuer = token.NewIssuer(base, tokenKey, 1)
	b.verifier = token.NewVerifier(base, 1, tokenKey.Public())
	if b.server, err = b.certificate(ctx, token.URIBroker); err != nil {
		return nil, err
	}
	if err := b.newSealer(); err != nil {
		return nil, err
	}
	return b, b.functions(base, at, relays)
}

// certificate makes a key and a server certificate for loopback, for this run only.
func (b *broker) certificate(ctx context.Context, uri string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make server key: %w", err)
	}
	names := token.ServerNames{IPs: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, DNS: []string{"localhost"}, URI: uri}
	der, err := b.ca.IssueServer(ctx, &key.PublicKey, names, time.Now())
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der, b.ca.Cert().Raw}, PrivateKey: key}, nil
}

func (b *broker) newSealer() error {
	key, err := b.keys.Signer("checkpoint")
	if err != nil {
		return err
	}
	b.sealer, err = seal.New(seal.Config{Items: b.items, Feed: b.items, Blobs: b.evidence, Heads: b.evidence, Signer: key, Origin: origin})
	if err != nil {
		return err
	}
	if b.copier, err = copies.New(copies.Config{Log: b.evidence, Files: b.stores.copies}); err != nil {
		return err
	}
	line, err := audit.VerifierKey(origin, key.Public())
	if err != nil {
		return err
	}
	// The key lies beside the log for convenience; an auditor keeps a copy elsewhere.
	return b.evidence.Create(context.Background(), "log.pub", []byte(line+"\n"))
}

// functions builds the handlers exactly as they run behind Lambda, on embedded stores.
func (b *broker) functions(base string, at ports, relays []string) error {
	source := bundles.NewSource(b.items, b.blobs, time.Second)
	console, issuer := "http://"+at.Console, "http://"+at.Issuer
	mux := http.NewServeMux()
	var failed error
	mount := func(h http.Handler, err error, paths ...string) {
		failed = errors.Join(failed, err)
		for _, p := range paths {
			mux.Handle(p, h)
		}
	}
	h, err := tokenfn.New(tokenfn.Config{Items: b.items, Issuer: b.issuer, Verifier: b.verifier, CA: b.ca, StateKey: b.state, Bundles: source,
		OIDC: tokenfn.OIDC{Issuer: issuer, ClientID: CLIClient}, Relays: relays, Console: console, Base: base, Log: b.log})
	mount(h, err, api.PathDiscovery, api.PathJWKS, api.PathToken, api.PathRenew, api.PathTicket, api.PathRevoke, api.PathWhoami)
	h, err = enroll.New(enroll.Config{Items: b.items, Verifier: b.verifier, CA: b.ca, Bundles: source, Relays: relays, Base: base, Log: b.log})
	mount(h, err, api.PathJoin, api.PathEnroll, api.PathRecertify, api.PathRevokeAgent)
	uploads, taker, err := b.uploads(base)
	failed = errors.Join(failed, err)
	if taker != nil {
		mux.Handle("PUT "+dir.UploadPath, taker)
	}
	h, err = decide.New(decide.Config{Items: b.items, Evidence: b.evidence, Uploads: uploads, Bundles: source, Verifier: b.verifier, CA: b.ca.Cert(), StateKey: b.state, Console: console, Base: base, Log: b.log})
	mount(h, err, api.PathOpen, api.PathCheck, api.PathUpload, api.PathClaim, api.PathClose, api.PathCan)
	h, err = changes.New(changes.Config{Items: b.items, CA: b.ca.Cert(), StateKey: b.state, Bundles: source, Log: b.log})
	mount(h, err, api.PathChanges)
	h, err = record.New(record.Config{Items: b.items, Blobs: b.evidence, CA: b.ca.Cert(), StateKey: b.state, Log: b.log})
	mount(h, err, api.PathRecord, api.PathChunks)
	h, err = approve.New(approve.Config{Items: b.items, Evidence: b.evidence, Bundles: source, Verifier: b.verifier, Base: console, API: base, StateKey: b.state,
		OIDC: approve.OIDC{Issuer: issuer, ClientID: ConsoleClient}, Log: b.log})
	mount(h, err, api.PathApprovals, api.PathApprovals+"/", api.PathSessions, api.PathSessions+"/", api.PathActors)
	b.api, b.pages = b.tel.Serve(mux), b.tel.Serve(h)
	return failed
}

// publish makes the policy directory the active bundle.
func (b *broker) publish(ctx context.Context, bundle *policy.Bundle) error {
	return bundles.Publish(ctx, b.items, b.blobs, bundle)
}

// start listens where the ports say. Stopping and starting again is how a broker's outage is tried out.
func (b *broker) start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running != nil {
		return nil
	}
	l, err := net.Listen("tcp", b.addr)
	if err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	s := newServer(b.api, b.log)
	s.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{b.server}}
	b.running, b.served = s, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		if err := s.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			b.log.Error("broker stopped", "error", err)
		}
	}(b.served)
	return nil
}

// stop closes the listener and every connection.
func (b *broker) stop() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running == nil {
		return nil
	}
	err := b.running.Close()
	<-b.served
	b.running = nil
	return err
}

// sealEvery is how often new entries go under a checkpoint, sweepEvery how often lost sessions are looked for, copyEvery how often what is
// sealed is copied: each time makes a file.
const (
	sealEvery  = time.Second
	sweepEvery = 5 * time.Minute
	copyEvery  = time.Minute
)

// sealing seals until ctx ends, and once more after it.
func (b *broker) sealing(ctx context.Context) {
	tick, sweep := time.NewTicker(sealEvery), time.NewTicker(sweepEvery)
	defer tick.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			if _, err := b.sealer.Seal(last); err != nil {
				b.log.Error("seal", "error", err)
			}
			b.copy(last)
			return
		case <-sweep.C:
			if _, err := b.sealer.CloseLost(ctx); err != nil && !errors.Is(err, context.Canceled) {
				b.log.Error("close lost sessions", "error", err)
			}
		case <-tick.C:
			if _, err := b.sealer.Seal(ctx); err != nil && !errors.Is(err, context.Canceled) {
				b.log.Error("seal", "error", err)
			}
		}
	}
}

// copying copies what is sealed until ctx ends; sealing does so once more after it has sealed the last. Nothing waits for it.
func (b *broker) copying(ctx context.Context) {
	tick := time.NewTicker(copyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			b.copy(ctx)
		}
	}
}

func (b *broker) copy(ctx context.Context) {
	if _, err := b.copier.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		b.log.Error("copies", "error", err)
	}
}
