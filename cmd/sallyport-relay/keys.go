package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
)

const (
	// refresh is how often the broker's keys and our own certificate are looked at: a new key signs tickets a minute after it is published.
	refresh = time.Minute
	// firstRetry is for a broker that starts beside us.
	firstRetry = time.Second
	// staleAfter is how long keys are believed that could not be refreshed: it bounds how long a withdrawn key still opens streams, which
	// lead to agents that ask the broker anyway.
	staleAfter = time.Hour
	// fetchTimeout is for one look at the broker.
	fetchTimeout = 10 * time.Second
)

// source is where the keys come from: broker.Public.
type source interface {
	Discovery(ctx context.Context) (api.Discovery, error)
	Keys(ctx context.Context) ([]*ecdsa.PublicKey, error)
}

// keys verifies tickets with the broker's current keys.
type keys struct {
	from  source
	epoch int64
	log   *slog.Logger
	now   func() time.Time
	known atomic.Pointer[known]
}

type known struct {
	verifier *token.Verifier
	at       time.Time
}

func newKeys(from source, epoch int64, log *slog.Logger) *keys {
	return &keys{from: from, epoch: epoch, log: log, now: time.Now}
}

// ticket is a relay.Config's Ticket.
func (k *keys) ticket(raw string) (token.Ticket, error) {
	known, now := k.known.Load(), k.now()
	if known == nil || now.Sub(known.at) > staleAfter {
		return token.Ticket{}, api.Because(api.ErrUnavailable, "try again", "the relay could not fetch the broker's keys")
	}
	return known.verifier.Ticket(raw, now)
}

// first waits for the keys; false when ctx ended before.
func (k *keys) first(ctx context.Context) bool {
	for !k.refresh(ctx) {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(firstRetry):
		}
	}
	return true
}

// refresh says whether the keys are now the broker's current ones; those that are known stay where they are not.
func (k *keys) refresh(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	d, err := k.from.Discovery(ctx)
	var public []*ecdsa.PublicKey
	if err == nil {
		public, err = k.from.Keys(ctx)
	}
	if err == nil && (d.Issuer == "" || len(public) == 0) {
		err = errors.New("the broker names no issuer or no key")
	}
	if err != nil {
		k.log.Warn("fetch the broker's keys", "error", err)
		return false
	}
	k.known.Store(&known{token.NewVerifier(d.Issuer, k.epoch, public...), k.now()})
	return true
}

// certificates is the relay's own certificate, read again when its file changes.
type certificates struct {
	in                inputs
	certFile, keyFile string
	log               *slog.Logger

	mu   sync.Mutex // one refresh at a time
	pem  []byte
	cert atomic.Pointer[tls.Certificate]
}

func newCertificates(in inputs, c config, log *slog.Logger) (*certificates, error) {
	s := &certificates{in: in, certFile: c.Certificate, keyFile: c.Key, log: log}
	if err := s.load(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *certificates) current() *tls.Certificate { return s.cert.Load() }

// refresh keeps what it has when the new one is no good; the log says so every time.
func (s *certificates) refresh() {
	if err := s.load(); err != nil {
		s.log.Warn("read the certificate again", "error", err)
	}
}

func (s *certificates) load() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	pem, err := s.in.read(s.certFile)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	if bytes.Equal(pem, s.pem) {
		return nil
	}
	key, err := s.in.secret(s.keyFile)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	cert, err := tls.X509KeyPair(pem, key)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	if !isRelay(cert.Leaf) {
		return fmt.Errorf("certificate: %s is not a relay's: it does not name %s", s.certFile, token.URIRelay)
	}
	s.pem = pem
	s.cert.Store(&cert)
	return nil
}

func isRelay(leaf *x509.Certificate) bool {
	for _, u := range leaf.URIs {
		if u.String() == token.URIRelay {
			return true
		}
	}
	return false
}

// every calls f once an interval until ctx ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f()
		}
	}
}
