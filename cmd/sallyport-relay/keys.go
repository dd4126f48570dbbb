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
	// aheadTimeout and aheadAgain are for a look because of a ticket, which waits for it.
	aheadTimeout = 4 * time.Second
	aheadAgain   = 5 * time.Second
)

// source is where the keys come from: broker.Public.
type source interface {
	Discovery(ctx context.Context) (api.Discovery, error)
	Keys(ctx context.Context) ([]*ecdsa.PublicKey, error)
}

// keys verifies tickets with the broker's current keys, and its current epoch, which never goes back.
type keys struct {
	from  source
	least int64 // the epoch that the configuration names
	log   *slog.Logger
	now   func() time.Time
	known atomic.Pointer[known]

	learning sync.Mutex // of what becomes known
	asking   sync.Mutex // one look because of a ticket at a time; those that wait use what it found
	asked    time.Time
}

type known struct {
	verifier *token.Verifier
	at       time.Time
}

func newKeys(from source, least int64, log *slog.Logger) *keys {
	return &keys{from: from, least: least, log: log, now: time.Now}
}

// ticket is a relay.Config's Ticket.
func (k *keys) ticket(raw string) (token.Ticket, error) {
	known, now := k.known.Load(), k.now()
	if known == nil || now.Sub(known.at) > staleAfter {
		return token.Ticket{}, api.Because(api.ErrUnavailable, "try again", "the relay could not fetch the broker's keys")
	}
	t, err := known.verifier.Ticket(raw, now)
	if e := (*api.Error)(nil); errors.As(err, &e) && e.Rule == api.RuleEpochAhead {
		// The broker signed it, so its epoch was raised since we looked.
		return k.ahead(known).Ticket(raw, now)
	}
	return t, err
}

// ahead looks at the broker before the next minute does, where nobody has done so since what was known, or a moment ago.
func (k *keys) ahead(was *known) *token.Verifier {
	k.asking.Lock()
	defer k.asking.Unlock()
	if now := k.now(); k.known.Load() == was && now.Sub(k.asked) >= aheadAgain {
		k.asked = now
		ctx, cancel := context.WithTimeout(context.Background(), aheadTimeout)
		defer cancel()
		k.refresh(ctx)
	}
	return k.known.Load().verifier
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
	if err == nil && (d.Epoch < 1 || d.Epoch > token.MaxEpoch) {
		err = fmt.Errorf("the broker names the epoch %d: want 1 to %d", d.Epoch, token.MaxEpoch)
	}
	if err != nil {
		k.log.Warn("fetch the broker's keys", "error", err)
		return false
	}
	k.learn(d, public)
	return true
}

// learn never lowers the epoch: while a deployment runs, a function of before may answer, and what was refused stays refused.
func (k *keys) learn(d api.Discovery, public []*ecdsa.PublicKey) {
	k.learning.Lock()
	defer k.learning.Unlock()
	epoch := k.least
	if was := k.known.Load(); was != nil {
		epoch = was.verifier.Epoch()
	}
	switch {
	case d.Epoch > epoch:
		k.log.Info("the broker's epoch", "epoch", d.Epoch, "before", epoch)
		epoch = d.Epoch
	case d.Epoch < epoch:
		k.log.Warn("the broker names an epoch that is over; it is not believed", "epoch", d.Epoch, "stays", epoch)
	}
	k.known.Store(&known{token.NewVerifier(d.Issuer, epoch, public...), k.now()})
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
