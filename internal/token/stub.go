package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/store"
)

var errStub = errors.New("not there yet")

// Issuer signs access tokens and tickets.
type Issuer struct{}

// NewIssuer signs for iss with key.
func NewIssuer(iss string, key store.Signer, epoch int64) *Issuer { return &Issuer{} }

// Access signs an access token.
func (i *Issuer) Access(ctx context.Context, c Claims) (string, error) { return "", errStub }

// Ticket signs a relay ticket.
func (i *Issuer) Ticket(ctx context.Context, t Ticket) (string, error) { return "", errStub }

// JWKS is the key set that verifiers fetch.
func (i *Issuer) JWKS() []byte { return nil }

// Verifier checks what an Issuer signed.
type Verifier struct{}

// NewVerifier accepts tokens of iss.
func NewVerifier(iss string, epoch int64, keys ...*ecdsa.PublicKey) *Verifier { return &Verifier{} }

// Access verifies an access token.
func (v *Verifier) Access(raw string, now time.Time) (Claims, error) { return Claims{}, errStub }

// Ticket verifies a ticket.
func (v *Verifier) Ticket(raw string, now time.Time) (Ticket, error) { return Ticket{}, errStub }

// Request authenticates an HTTP request.
func (v *Verifier) Request(ctx context.Context, r *http.Request, base string, items store.Items, now time.Time) (Claims, error) {
	return Claims{}, errStub
}

// ParseJWKS reads a key set.
func ParseJWKS(b []byte) ([]*ecdsa.PublicKey, error) { return nil, errStub }

// Thumbprint is RFC 7638.
func Thumbprint(key *ecdsa.PublicKey) string { return "" }

// HashToken is the base64url SHA-256 of a token.
func HashToken(raw string) string { return "" }

// SignDPoP makes a DPoP proof.
func SignDPoP(key *ecdsa.PrivateKey, method, url, accessToken string, now time.Time) (string, error) {
	return "", errStub
}

// SignKeyProof shows a child's key to whoever makes its token.
func SignKeyProof(key *ecdsa.PrivateKey, iss string, now time.Time) (string, error) {
	return "", errStub
}

// LoginNonce is the nonce of an OIDC login that is bound to a key.
func LoginNonce(thumbprint, salt string) string { return "" }

// ExporterLabel is the TLS exporter's label of a session proof; no context, 32 bytes.
const ExporterLabel = "EXPORTER-sallyport-session-v1"

// Proof binds a session to a TLS channel.
type Proof struct {
	Target    access.TargetName
	AgentKey  string // thumbprint of the agent's certificate key
	Exporter  []byte // 32 bytes
	Nonce     string
	TokenHash string // HashToken of the access token
	Endpoint  string
	IssuedAt  time.Time
}

// SignProof signs a session proof.
func SignProof(key *ecdsa.PrivateKey, p Proof) (string, error) { return "", errStub }

// VerifyProof verifies a session proof.
func VerifyProof(raw string, now time.Time) (Proof, string, error) { return Proof{}, "", errStub }

// NewNonce makes a broker nonce.
func NewNonce(stateKey []byte, jkt string, target access.TargetName, endpoint string, now time.Time) string {
	return ""
}

// CheckNonce verifies a broker nonce.
func CheckNonce(stateKey []byte, nonce, jkt string, target access.TargetName, endpoint string, now time.Time) (store.Write, error) {
	return store.Write{}, errStub
}

// State is a session's sealed state.
type State struct {
	Session    access.SessionID
	Agent      access.AgentName
	AgentKey   string // thumbprint
	Target     access.TargetName
	Lineage    access.Lineage
	Capability access.Capability
	Thumbprint string // of the client's key
	Opened     time.Time
	Expires    time.Time
	DigestKey  []byte
	DataKey    []byte
	Bundle     string
}

// SealState encrypts.
func SealState(stateKey []byte, s State) (string, error) { return "", errStub }

// OpenState decrypts.
func OpenState(stateKey []byte, raw string) (State, error) { return State{}, errStub }

// Root is the one item that says whether a login and its actors are alive.
type Root struct {
	ID           access.ActorID `json:"id"`
	Principal    string         `json:"principal"`
	Groups       []string       `json:"groups,omitempty"`
	AuthTime     time.Time      `json:"auth_time"`
	Created      time.Time      `json:"created"`
	RenewedUntil time.Time      `json:"renewed_until"`
	Thumbprint   string         `json:"jkt"`
	Suspended    bool           `json:"suspended,omitempty"`
	Revoked      []Revoked      `json:"revoked,omitempty"`
	Epoch        int64          `json:"epoch"`
}

// Revoked names a node that is dead with all its descendants.
type Revoked struct {
	ID    access.ActorID `json:"id"`
	Until time.Time      `json:"until"`
}

// RootKey is where a root lives.
func RootKey(id access.ActorID) store.Key { return store.Key{} }

// GetRoot reads a root.
func GetRoot(ctx context.Context, items store.Items, id access.ActorID, strong bool) (Root, store.Item, error) {
	return Root{}, store.Item{}, errStub
}

// Alive says whether a lineage is alive.
func (r Root) Alive(l access.Lineage, now time.Time) error { return errStub }

// ActorRecord is one delegated node.
type ActorRecord struct {
	Node       access.Node       `json:"node"`
	Parent     access.ActorID    `json:"parent"`
	Capability access.Capability `json:"capability"`
	Created    time.Time         `json:"created"`
	Expires    time.Time         `json:"expires"`
	Thumbprint string            `json:"jkt"`
}

// Actors lists the delegated nodes of a root, at most limit, in order of id.
func Actors(ctx context.Context, items store.Items, root access.ActorID, limit int) ([]ActorRecord, error) {
	return nil, errStub
}

// Roots lists the roots made on a day (UTC), at most limit.
func Roots(ctx context.Context, items store.Items, day time.Time, limit int) ([]Root, error) {
	return nil, errStub
}

// Agent is who a certificate says an agent is.
type Agent struct {
	Name       access.AgentName
	Targets    []access.TargetName
	Key        *ecdsa.PublicKey
	Thumbprint string
	Expires    time.Time
}

// Serves says whether the agent's certificate names the target.
func (a Agent) Serves(t access.TargetName) bool { return false }

// ParseAgent reads an agent's certificate; it does not verify who signed it.
func ParseAgent(cert *x509.Certificate) (Agent, error) { return Agent{}, errStub }

// CA signs certificates.
type CA struct{}

// CreateCA makes a self-signed certificate over the signer's key.
func CreateCA(ctx context.Context, signer store.Signer, now time.Time) (der []byte, err error) {
	return nil, errStub
}

// NewCA wraps a certificate that CreateCA made.
func NewCA(signer store.Signer, der []byte) (*CA, error) { return nil, errStub }

// LoadCA reads the certificate from the registry table, or makes and stores it once.
func LoadCA(ctx context.Context, items store.Items, signer store.Signer, now time.Time) (*CA, error) {
	return nil, errStub
}

// Cert is the CA's certificate.
func (c *CA) Cert() *x509.Certificate { return nil }

// PEM is the CA's certificate.
func (c *CA) PEM() []byte { return nil }

// Pin is the broker URL's fragment value: base64url SHA-256 of the certificate.
func (c *CA) Pin() string { return "" }

// IssueAgent signs a 24-hour certificate for the key of a CSR.
func (c *CA) IssueAgent(ctx context.Context, csr *x509.CertificateRequest, name access.AgentName, targets []access.TargetName, now time.Time) (der []byte, err error) {
	return nil, errStub
}

// Names of server certificates.
const (
	URIRelay  = "sallyport:relay"
	URIBroker = "sallyport:broker"
)

// ServerNames are what a server certificate is good for.
type ServerNames struct {
	URI string // URIRelay or URIBroker
	DNS []string
	IPs []net.IP
}

// IssueServer signs a server's certificate.
func (c *CA) IssueServer(ctx context.Context, pub *ecdsa.PublicKey, names ServerNames, now time.Time) (der []byte, err error) {
	return nil, errStub
}

// URITarget is the URI name of an agent's certificate for a target.
func URITarget(t access.TargetName) string { return "sallyport:target:" + string(t) }

// URIAgent is the URI name of an agent.
func URIAgent(a access.AgentName) string { return "sallyport:agent:" + string(a) }

// HeaderCertificate carries the caller's certificate, base64 DER.
const HeaderCertificate = "Sallyport-Certificate"

// SignAgent signs a call by an agent.
func SignAgent(req *http.Request, body []byte, cert *x509.Certificate, key *ecdsa.PrivateKey, now time.Time) error {
	return errStub
}

// VerifyAgent verifies a call by an agent.
func VerifyAgent(r *http.Request, body []byte, ca *x509.Certificate, now time.Time) (Agent, error) {
	return Agent{}, errStub
}

// ReadAgent reads and verifies a call's body, and decodes it strictly into v.
func ReadAgent(r *http.Request, ca *x509.Certificate, now time.Time, v any) (Agent, error) {
	return Agent{}, errStub
}
