package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sallyport/sallyport/agent/config"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/token"
)

const (
	// renewBefore is how long before its end a certificate is renewed: a broker may be away for a night.
	renewBefore = 16 * time.Hour
	renewCheck  = time.Minute
	// enrollTimeout is for the one call that trades the join token.
	enrollTimeout = 30 * time.Second
	identityFile  = "agent.pem" // key, certificate and the CA's certificate
	maxIdentity   = 64 << 10
)

// Identity is the agent's key and certificate. The key never leaves the state directory.
type Identity struct {
	path  string
	agent token.Agent
	ca    *x509.Certificate
	kept  error

	mu   sync.Mutex
	cert tls.Certificate
}

// Certificate is the current one, with its Leaf.
func (i *Identity) Certificate() (tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Now().After(i.cert.Leaf.NotAfter) {
		return tls.Certificate{}, fmt.Errorf("the agent's certificate ended at %s: "+notEnrolled, i.cert.Leaf.NotAfter.Format(time.RFC3339))
	}
	return i.cert, nil
}

// Agent is who the certificate says this is.
func (i *Identity) Agent() token.Agent { return i.agent }

// covers says whether the certificate names every configured target.
func (i *Identity) covers(targets map[access.TargetName]config.Target) error {
	for name := range targets {
		if !i.agent.Serves(name) {
			return fmt.Errorf("target %q: agent %q is enrolled for %v only: make a join token that names it, and remove %s", name, i.agent.Name, i.agent.Targets, i.path)
		}
	}
	return nil
}

// notEnrolled says what whoever runs the agent must do.
const notEnrolled = "make a join token (an administrator does, with `sallyport agent enroll`) and set join_token"

// Enroll returns the identity in the state directory, or makes one with the join token: a fresh key, whose certificate the broker signs. A
// join token that was not tried before is worth more than an identity that is there: whoever put it there wants the agent enrolled anew. It need not
// be: where the broker does not take it, an identity that is still good stays.
func Enroll(ctx context.Context, c config.Config, getenv func(string) string) (*Identity, error) {
	path := filepath.Join(c.StateDir, identityFile)
	id, err := load(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("identity: %w", err)
	}
	good := err == nil && time.Now().Before(id.cert.Leaf.NotAfter)
	if c.JoinToken.Check() != nil {
		if good {
			return id, nil
		}
		if err == nil {
			return nil, fmt.Errorf("this agent's certificate ended at %s: %s", id.cert.Leaf.NotAfter.UTC().Format(time.RFC3339), notEnrolled)
		}
		return nil, errors.New("this agent is not enrolled: " + notEnrolled)
	}
	secret, err := c.JoinToken.Fetch(ctx, getenv)
	if err != nil {
		if good { // it may have been deleted since: it is good once
			return id, nil
		}
		return nil, fmt.Errorf("join token: %w", err)
	}
	tried, err := triedBefore(filepath.Join(c.StateDir, triedFile), secret.Reveal())
	if err != nil {
		return nil, fmt.Errorf("join token: %w", err)
	}
	if good && tried {
		return id, nil
	}
	fresh, err := join(ctx, c, path, secret.Reveal())
	if err != nil && !good {
		return nil, err
	}
	if err != nil {
		fresh, id.kept = id, err
	}
	if e := (*api.Error)(nil); err == nil || errors.As(err, &e) && e.Status() < http.StatusInternalServerError {
		return fresh, replace(filepath.Join(c.StateDir, triedFile), fingerprint(secret.Reveal()))
	}
	return fresh, nil // nobody answered: at the next start it is tried again
}

// Kept is why an identity that was there already is used although there is a new join token; nil where there is nothing to tell.
func (i *Identity) Kept() error { return i.kept }

// triedFile holds the hash of the last join token that the broker has answered on.
const triedFile = "join-token.tried"

func fingerprint(join string) []byte {
	h := sha256.Sum256([]byte(join))
	return []byte(hex.EncodeToString(h[:]) + "\n")
}

func triedBefore(path, join string) (bool, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return bytes.Equal(b, fingerprint(join)), err
}

// join trades a join token for an identity and keeps that.
func join(ctx context.Context, c config.Config, path, token string) (*Identity, error) {
	key, csr, err := request()
	if err != nil {
		return nil, err
	}
	b, err := broker.NewPublic(c.Broker)
	if err != nil {
		return nil, err
	}
	defer b.CloseIdle()
	ctx, cancel := context.WithTimeout(ctx, enrollTimeout)
	defer cancel()
	resp, err := b.Enroll(ctx, api.EnrollRequest{JoinToken: token, CSR: csr})
	if err != nil {
		return nil, fmt.Errorf("enroll: %w", err)
	}
	id := &Identity{path: path}
	return id, id.take(key, resp, []byte(resp.CA))
}

// request makes a key and a CSR over it.
func request() (*ecdsa.PrivateKey, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", fmt.Errorf("make key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "sallyport-agent"}}, key)
	if err != nil {
		return nil, "", fmt.Errorf("make CSR: %w", err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// take checks an answer of the broker, keeps it on disk, then uses it.
func (i *Identity) take(key *ecdsa.PrivateKey, resp api.EnrollResponse, ca []byte) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("keep identity: %w", err)
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	b = append(append(b, resp.Certificate...), ca...)
	next, err := parse(b)
	if err != nil {
		return fmt.Errorf("the broker's certificate: %w", err)
	}
	if i.agent.Name != "" && next.agent.Name != i.agent.Name {
		return fmt.Errorf("the broker's certificate is for agent %q", next.agent.Name)
	}
	if err := replace(i.path, b); err != nil {
		return fmt.Errorf("keep identity: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.agent, i.ca, i.cert = next.agent, next.ca, next.cert
	return nil
}

func load(path string) (*Identity, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 || st.Size() > maxIdentity {
		return nil, fmt.Errorf("%s: others can read it (mode %04o), or it is too large", path, st.Mode().Perm())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	id, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	id.path = path
	return id, nil
}

// parse reads key, certificate and CA, and that they belong together.
func parse(b []byte) (*Identity, error) {
	var blocks []*pem.Block
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		blocks, b = append(blocks, block), rest
	}
	if len(blocks) != 3 || blocks[0].Type != "PRIVATE KEY" || blocks[1].Type != "CERTIFICATE" || blocks[2].Type != "CERTIFICATE" {
		return nil, errors.New("want a key, a certificate and the CA's certificate")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(blocks[0].Bytes)
	if err != nil {
		return nil, errors.New("the key cannot be read") // whatever it is, none of it belongs into a log
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("the key is not an ECDSA key")
	}
	leaf, err := x509.ParseCertificate(blocks[1].Bytes)
	if err != nil {
		return nil, err
	}
	ca, err := x509.ParseCertificate(blocks[2].Bytes)
	if err != nil {
		return nil, err
	}
	if pub, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(&key.PublicKey) {
		return nil, errors.New("the certificate is for another key")
	}
	if err := leaf.CheckSignatureFrom(ca); err != nil {
		return nil, err
	}
	who, err := token.ParseAgent(leaf)
	if err != nil {
		return nil, err
	}
	return &Identity{agent: who, ca: ca, cert: tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Raw}, PrivateKey: key, Leaf: leaf}}, nil
}

// keep renews the certificate until ctx ends, each time for a new key.
func (i *Identity) keep(ctx context.Context, b *broker.Agent, log *slog.Logger) {
	tick := time.NewTicker(renewCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		cert, err := i.Certificate()
		if err == nil && time.Until(cert.Leaf.NotAfter) > renewBefore {
			continue
		}
		if err == nil {
			err = i.renew(ctx, b)
		}
		if e := (*api.Error)(nil); errors.As(err, &e) {
			log.Error("certificate not renewed", "error", err, "rule", e.Rule, "next", e.Hint)
		} else if err != nil && ctx.Err() == nil {
			log.Error("certificate not renewed", "error", err)
		}
	}
}

func (i *Identity) renew(ctx context.Context, b *broker.Agent) error {
	key, csr, err := request()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, enrollTimeout)
	defer cancel()
	resp, err := b.Recertify(ctx, api.RecertifyRequest{CSR: csr})
	if err != nil {
		return fmt.Errorf("recertify: %w", err)
	}
	// The CA is the one of the enrolment: an answer does not replace it.
	return i.take(key, resp, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.ca.Raw}))
}

// replace writes a file whole, for its owner only, durably.
func replace(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
