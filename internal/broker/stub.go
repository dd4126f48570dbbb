package broker

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

var errStub = errors.New("not there yet")

// Public makes the calls that need no identity. URL is as for ActorConfig.
type Public struct{}

// NewPublic calls the broker at url.
func NewPublic(url string) (*Public, error) { return nil, errStub }

// Discovery tells where everything is.
func (p *Public) Discovery(ctx context.Context) (api.Discovery, error) {
	return api.Discovery{}, errStub
}

// Keys fetches the keys that sign access tokens and tickets (for token.NewVerifier).
func (p *Public) Keys(ctx context.Context) ([]*ecdsa.PublicKey, error) { return nil, errStub }

// Enroll trades a join token for a certificate.
func (p *Public) Enroll(ctx context.Context, r api.EnrollRequest) (api.EnrollResponse, error) {
	return api.EnrollResponse{}, errStub
}

// ActorConfig says who calls.
type ActorConfig struct {
	URL   string // of the broker, https; may carry a pin: https://host:port/#ca=BASE64URL(SHA-256 of the CA certificate)
	Key   *ecdsa.PrivateKey
	Token func() string // the current access token; "" before login. Nil means none.
	Now   func() time.Time
}

// Actor is a principal or actor that calls the broker.
type Actor struct{ Public }

// NewActor makes the client.
func NewActor(c ActorConfig) (*Actor, error) { return nil, errStub }

// Do calls any path: in (nil for GET) is sent, out (nil for none) is decoded strictly. Errors of the broker are *api.Error.
func (a *Actor) Do(ctx context.Context, method, path string, in, out any) error { return errStub }

// Login trades an ID token for an access token bound to the actor's key. salt is what token.LoginNonce took.
func (a *Actor) Login(ctx context.Context, idToken, salt string) (api.TokenResponse, error) {
	return api.TokenResponse{}, errStub
}

// Delegation asks for a child actor.
type Delegation struct {
	Name       string
	Purpose    string
	Capability access.Capability // not wider than the caller's
	Life       time.Duration     // 0: as long as the caller
	KeyProof   string            // token.SignKeyProof by the child's own key
}

// Delegate makes a child of the caller.
func (a *Actor) Delegate(ctx context.Context, d Delegation) (api.TokenResponse, error) {
	return api.TokenResponse{}, errStub
}

// Renew returns a fresh token for the same node.
func (a *Actor) Renew(ctx context.Context) (api.TokenResponse, error) {
	return api.TokenResponse{}, errStub
}

// Ticket asks for the way to a target.
func (a *Actor) Ticket(ctx context.Context, r api.TicketRequest) (api.TicketResponse, error) {
	return api.TicketResponse{}, errStub
}

// Revoke ends a node and all under it.
func (a *Actor) Revoke(ctx context.Context, r api.RevokeRequest) error { return errStub }

// Whoami says what the broker knows of the caller.
func (a *Actor) Whoami(ctx context.Context) (api.Whoami, error) { return api.Whoami{}, errStub }

// Can asks what would be decided.
func (a *Actor) Can(ctx context.Context, r api.CanRequest) (api.CanResponse, error) {
	return api.CanResponse{}, errStub
}

// Join makes a join token.
func (a *Actor) Join(ctx context.Context, r api.JoinRequest) (api.JoinResponse, error) {
	return api.JoinResponse{}, errStub
}

// Approvals lists approvals; status "" means all.
func (a *Actor) Approvals(ctx context.Context, status string) ([]api.ApprovalView, error) {
	return nil, errStub
}

// Approval shows one.
func (a *Actor) Approval(ctx context.Context, id access.ApprovalID) (api.ApprovalView, error) {
	return api.ApprovalView{}, errStub
}

// Sessions lists sessions, newest first.
func (a *Actor) Sessions(ctx context.Context, limit int) ([]api.SessionView, error) {
	return nil, errStub
}

// Session shows one with its commands.
func (a *Actor) Session(ctx context.Context, id access.SessionID) (api.SessionView, error) {
	return api.SessionView{}, errStub
}

// Actors is the live tree.
func (a *Actor) Actors(ctx context.Context) ([]api.ActorView, error) { return nil, errStub }

// AgentConfig says which agent calls.
type AgentConfig struct {
	URL         string                          // as for ActorConfig
	Certificate func() (tls.Certificate, error) // the current one, with Leaf set and an *ecdsa.PrivateKey; asked at every call
	Now         func() time.Time                // nil: time.Now
}

// Agent is an enrolled agent that calls the broker.
type Agent struct{}

// NewAgent makes the client.
func NewAgent(c AgentConfig) (*Agent, error) { return nil, errStub }

// Open asks for a session.
func (a *Agent) Open(ctx context.Context, r api.OpenRequest) (api.OpenResponse, error) {
	return api.OpenResponse{}, errStub
}

// Check asks for decisions.
func (a *Agent) Check(ctx context.Context, r api.CheckRequest) (api.CheckResponse, error) {
	return api.CheckResponse{}, errStub
}

// Claim uses an approval.
func (a *Agent) Claim(ctx context.Context, r api.ClaimRequest) (api.ClaimResponse, error) {
	return api.ClaimResponse{}, errStub
}

// Close ends a session.
func (a *Agent) Close(ctx context.Context, r api.CloseRequest) error { return errStub }

// Changes asks what a live agent must know.
func (a *Agent) Changes(ctx context.Context, r api.ChangesRequest) (api.ChangesResponse, error) {
	return api.ChangesResponse{}, errStub
}

// Record delivers outcomes.
func (a *Agent) Record(ctx context.Context, r api.RecordRequest) error { return errStub }

// Recertify trades a new key's CSR for a fresh certificate with the same names.
func (a *Agent) Recertify(ctx context.Context, r api.RecertifyRequest) (api.EnrollResponse, error) {
	return api.EnrollResponse{}, errStub
}
