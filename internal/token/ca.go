package token

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

// Names in certificates, as URI subject alternative names. A target's name says that the broker lets this key serve it.
const (
	URIRelay  = "sallyport:relay"
	URIBroker = "sallyport:broker"

	uriAgent  = "sallyport:agent:"
	uriTarget = "sallyport:target:"
)

// URIAgent is an agent's own name.
func URIAgent(a access.AgentName) string { return uriAgent + string(a) }

// URITarget is the name of a target that the certificate's key may serve.
func URITarget(t access.TargetName) string { return uriTarget + string(t) }

// Lives of certificates, and how far back they begin, for clocks that differ.
const (
	CertificateLife = 24 * time.Hour
	ServerLife      = 30 * 24 * time.Hour // a relay's or embedded broker's: made anew at a start or by hand
	caLife          = 10 * 365 * 24 * time.Hour
	backdate        = 5 * time.Minute
	MaxTargets      = 64 // an agent's certificate travels with every call and handshake
)

// Agent is who a certificate says an agent is. The zero Agent serves nothing.
type Agent struct {
	Name       access.AgentName
	Targets    []access.TargetName
	Key        *ecdsa.PublicKey
	Thumbprint string
	Issued     time.Time // whole seconds
	Expires    time.Time
}

// Serves says whether the certificate names the target.
func (a Agent) Serves(t access.TargetName) bool {
	for _, x := range a.Targets {
		if x == t {
			return true
		}
	}
	return false
}

// ParseAgent reads the names in an agent's certificate. It refuses a certificate that is anything else beside; it does not verify who
// signed it.
func ParseAgent(cert *x509.Certificate) (Agent, error) {
	if cert == nil {
		return Agent{}, errors.New("agent certificate: none")
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || checkKey(key) != nil {
		return Agent{}, errors.New("agent certificate: the key is not a P-256 key")
	}
	if cert.IsCA {
		return Agent{}, errors.New("agent certificate: it is a CA's")
	}
	a := Agent{Key: key, Thumbprint: Thumbprint(key), Issued: cert.NotBefore.Add(backdate), Expires: cert.NotAfter}
	if len(cert.URIs) > MaxTargets+1 {
		return Agent{}, fmt.Errorf("agent certificate: over %d targets", MaxTargets)
	}
	for _, u := range cert.URIs {
		s := u.String()
		switch name, isAgent := strings.CutPrefix(s, uriAgent); {
		case isAgent && a.Name == "" && access.CheckName("agent", name) == nil:
			a.Name = access.AgentName(name)
		case isAgent:
			return Agent{}, fmt.Errorf("agent certificate: name %q twice or not well formed", s)
		default:
			name, isTarget := strings.CutPrefix(s, uriTarget)
			if !isTarget || access.CheckName("target", name) != nil {
				return Agent{}, fmt.Errorf("agent certificate: name %q is not known", s)
			}
			a.Targets = append(a.Targets, access.TargetName(name))
		}
	}
	if a.Name == "" || len(a.Targets) == 0 {
		return Agent{}, errors.New("agent certificate: names no agent or no target")
	}
	return a, nil
}

// CA signs the certificates of agents, relays and the broker's embedded server.
type CA struct {
	signer store.Signer
	cert   *x509.Certificate
}

// CreateCA makes a self-signed certificate over the signer's key. It is made once: its hash is the pin that clients hold.
func CreateCA(ctx context.Context, signer store.Signer, now time.Time) (der []byte, err error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Sallyport CA"}, NotBefore: now.Add(-backdate), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err = x509.CreateCertificate(rand.Reader, t, t, signer.Public(), certSigner{ctx, signer})
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	return der, nil
}

// NewCA wraps a certificate that CreateCA made over the same key.
func NewCA(signer store.Signer, der []byte) (*CA, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	if key, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || !key.Equal(signer.Public()) {
		return nil, errors.New("CA: the certificate is of another key")
	}
	if !cert.IsCA {
		return nil, errors.New("CA: the certificate is not a CA's")
	}
	return &CA{signer: signer, cert: cert}, nil
}

// LoadCA reads the CA's certificate from the registry table, or makes and stores it: of two that try at once, one wins.
func LoadCA(ctx context.Context, items store.Items, signer store.Signer, now time.Time) (*CA, error) {
	key := store.Key{PK: "ca", SK: "certificate"}
	it, err := items.Get(ctx, store.Registry, key, true)
	if errors.Is(err, store.ErrNotFound) {
		der, err := CreateCA(ctx, signer, now)
		if err != nil {
			return nil, err
		}
		body, err := json.Marshal(storedCA{der})
		if err != nil {
			return nil, fmt.Errorf("encode CA: %w", err)
		}
		err = items.Put(ctx, store.Write{Table: store.Registry, Item: store.Item{Key: key, Body: body}})
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return nil, fmt.Errorf("store CA: %w", err)
		}
		it, err = items.Get(ctx, store.Registry, key, true)
		if err != nil {
			return nil, fmt.Errorf("read CA: %w", err)
		}
		return parseCA(signer, it.Body)
	}
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	return parseCA(signer, it.Body)
}

// ReadCA reads the CA's certificate for those who only verify with it. store.ErrNotFound says that LoadCA was never called.
func ReadCA(ctx context.Context, items store.Items) (*x509.Certificate, error) {
	it, err := items.Get(ctx, store.Registry, store.Key{PK: "ca", SK: "certificate"}, true)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	var stored storedCA
	if err := strict(it.Body, &stored); err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	cert, err := x509.ParseCertificate(stored.DER)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	if !cert.IsCA {
		return nil, errors.New("CA: the certificate is not a CA's")
	}
	return cert, nil
}

type storedCA struct {
	DER []byte `json:"der"`
}

func parseCA(signer store.Signer, b []byte) (*CA, error) {
	var stored storedCA
	if err := strict(b, &stored); err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	return NewCA(signer, stored.DER)
}

// Cert is the CA's certificate.
func (c *CA) Cert() *x509.Certificate { return c.cert }

// PEM is the CA's certificate for configuration files and answers.
func (c *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
}

// Pin is what a broker URL's fragment carries: base64url SHA-256 of the certificate.
func (c *CA) Pin() string { return Pin(c.cert) }

// Pin is the base64url SHA-256 of a certificate.
func Pin(cert *x509.Certificate) string {
	h := sha256.Sum256(cert.Raw)
	return encode(h[:])
}

// IssueAgent signs a 24-hour certificate for the key of a CSR. Of the CSR nothing but the key is taken, and only if its holder signed it.
func (c *CA) IssueAgent(ctx context.Context, csr *x509.CertificateRequest, name access.AgentName, targets []access.TargetName, now time.Time) (der []byte, err error) {
	if err := csr.CheckSignature(); err != nil {
		return nil, api.Because(api.ErrBadRequest, "", "CSR: %v", err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || checkKey(key) != nil {
		return nil, api.Because(api.ErrBadRequest, "make a P-256 key", "CSR: the key is not a P-256 key")
	}
	uris := []string{URIAgent(name)}
	for _, t := range targets {
		uris = append(uris, URITarget(t))
	}
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: string(name)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err = c.issue(ctx, t, key, uris, CertificateLife, now)
	if err != nil {
		return nil, fmt.Errorf("agent certificate: %w", err)
	}
	if cert, err := x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("agent certificate: %w", err)
	} else if _, err := ParseAgent(cert); err != nil {
		return nil, api.Because(api.ErrBadRequest, "", "%v", err)
	}
	return der, nil
}

// ServerNames are what a server's certificate is good for.
type ServerNames struct {
	URI string // URIRelay or URIBroker
	DNS []string
	IPs []net.IP
}

// IssueServer signs a server's certificate for ServerLife.
func (c *CA) IssueServer(ctx context.Context, pub *ecdsa.PublicKey, names ServerNames, now time.Time) (der []byte, err error) {
	if names.URI != URIRelay && names.URI != URIBroker {
		return nil, fmt.Errorf("server certificate: name %q is not known", names.URI)
	}
	if err := checkKey(pub); err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: names.URI}, DNSNames: names.DNS, IPAddresses: names.IPs, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err = c.issue(ctx, t, pub, []string{names.URI}, ServerLife, now)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	return der, nil
}

func (c *CA) issue(ctx context.Context, t *x509.Certificate, pub *ecdsa.PublicKey, uris []string, life time.Duration, now time.Time) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t.SerialNumber, t.NotBefore, t.NotAfter, t.BasicConstraintsValid = serial, now.Add(-backdate), now.Add(life), true
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("name %q: %w", s, err)
		}
		t.URIs = append(t.URIs, u)
	}
	return x509.CreateCertificate(rand.Reader, t, c.cert, pub, certSigner{ctx, c.signer})
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

// certSigner is a crypto.Signer for one signature, which is why it may hold a context.
type certSigner struct {
	ctx context.Context
	key store.Signer
}

func (s certSigner) Public() crypto.PublicKey { return s.key.Public() }

func (s certSigner) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	if o.HashFunc() != crypto.SHA256 {
		return nil, errors.New("want a SHA-256 digest")
	}
	return sign(s.ctx, s.key, digest)
}
