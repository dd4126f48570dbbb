package api

import (
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// Paths of functions/token and functions/enroll. Calls by a principal or actor carry "Authorization: DPoP <token>" and a
// DPoP proof (RFC 9449); agents sign (RFC 9421).
const (
	PathDiscovery = "/.well-known/sallyport"
	PathJWKS      = "/jwks.json"
	PathToken     = "/token"  // RFC 8693 form: log in, delegate
	PathRenew     = "/renew"  // a fresh token for the same node
	PathTicket    = "/ticket" // relay ticket and nonce for one stream
	PathRevoke    = "/revoke"
	PathWhoami    = "/whoami"
	PathCan       = "/can"    // served by decide: what would be decided, nothing stored, nothing runs
	PathJoin      = "/join"   // an administrator makes a join token
	PathEnroll    = "/enroll" // a new agent trades it for a certificate
	PathRecertify = "/recertify"
	// PathRevokeAgent is where an administrator ends an agent: its certificates so far, and its sessions.
	PathRevokeAgent = "/revoke-agent"
)

// Discovery tells a client where everything is. It is public.
type Discovery struct {
	Issuer   string   `json:"issuer"`    // of our access tokens
	OIDC     string   `json:"oidc"`      // issuer of the identity provider
	ClientID string   `json:"client_id"` // at the provider, a public client
	CA       string   `json:"ca"`        // PEM: signs agents' and relays' certificates
	Relays   []string `json:"relays"`    // host:port
	Console  string   `json:"console"`   // URL of the browser's pages
	// Functions are the URLs of the functions that have one of their own; the others are where discovery is.
	Functions map[string]string `json:"functions,omitempty"`
	// FunctionsIAM are the URLs of the same functions for agents with an AWS identity, where there are any.
	FunctionsIAM map[string]string `json:"functions_iam,omitempty"`
	// Epoch is that of the tokens and tickets that are signed now: relays refuse those of every other one.
	Epoch int64 `json:"epoch"`
}

// GrantTypes and token types of PathToken (RFC 8693).
const (
	GrantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	TypeIDToken     = "urn:ietf:params:oauth:token-type:id_token"
	TypeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
)

// TokenResponse answers PathToken and PathRenew.
type TokenResponse struct {
	AccessToken     string            `json:"access_token"`
	IssuedTokenType string            `json:"issued_token_type"`
	TokenType       string            `json:"token_type"` // "DPoP"
	ExpiresIn       int               `json:"expires_in"` // seconds
	GrantExpires    time.Time         `json:"grant_expires"`
	Lineage         access.Lineage    `json:"lineage"`
	Capability      access.Capability `json:"capability"`
}

// TicketRequest asks for the way to a target. Endpoint is a random id (32 bytes, base64url) that all streams of one
// endpoint share, so that they reach one agent.
type TicketRequest struct {
	Target   access.TargetName `json:"target"`
	Endpoint string            `json:"endpoint"`
}

// TicketResponse carries a relay ticket (JWT, aud=relay, a minute, target and endpoint, no identity) and the nonce for the
// proof, good once.
type TicketResponse struct {
	Ticket   string            `json:"ticket"`
	Nonce    string            `json:"nonce"`
	Relays   []string          `json:"relays"`
	Protocol string            `json:"protocol"` // of the target, from the bundle's targets: "postgres"
	Database string            `json:"database"` // display name of the default database, may be empty
	Name     access.TargetName `json:"name"`
	// Revoked are the agents whose certificates of that time, or earlier, count no more, although a relay may still lead to them.
	Revoked []RevokedAgent `json:"revoked,omitempty"`
}

// RevokedAgent is an agent that was revoked lately.
type RevokedAgent struct {
	Agent  access.AgentName `json:"agent"`
	Before time.Time        `json:"before"`
}

// RevokeRequest ends a node of a lineage and everything under it.
type RevokeRequest struct {
	Root   access.ActorID `json:"root"`
	Actor  access.ActorID `json:"actor"` // == Root ends the whole login
	Reason string         `json:"reason"`
}

// JoinRequest asks for a join token: single use, one hour. Administrators only.
type JoinRequest struct {
	Agent   access.AgentName    `json:"agent"`
	Targets []access.TargetName `json:"targets"`
}

// JoinResponse carries the token, shown once.
type JoinResponse struct {
	JoinToken string    `json:"join_token"`
	Expires   time.Time `json:"expires"`
}

// RevokeAgentRequest makes every certificate and join token of the agent worthless that there is now. Administrators only.
type RevokeAgentRequest struct {
	Agent  access.AgentName `json:"agent"`
	Reason string           `json:"reason,omitempty"` // at most 200 bytes of plain text
}

// RevokeAgentResponse says what came of it.
type RevokeAgentResponse struct {
	Before   time.Time `json:"before"`   // what was issued then or earlier counts no more
	Sessions int       `json:"sessions"` // open ones that were ended
}

// EnrollRequest trades a join token for a certificate. CSR is PEM; its key is the agent's own (P-256).
type EnrollRequest struct {
	JoinToken string `json:"join_token"`
	CSR       string `json:"csr"`
}

// EnrollResponse carries the certificate: 24 hours, with URI names sallyport:agent:NAME and sallyport:target:NAME….
type EnrollResponse struct {
	Certificate string              `json:"certificate"` // PEM
	CA          string              `json:"ca"`          // PEM
	Agent       access.AgentName    `json:"agent"`
	Targets     []access.TargetName `json:"targets"`
	Relays      []string            `json:"relays"`
}

// CanRequest asks what would be decided for one effect on one resource.
type CanRequest struct {
	Target   access.TargetName `json:"target"`
	Effect   access.Effect     `json:"effect"`
	Resource access.Resource   `json:"resource"`
	Database string            `json:"database,omitempty"`
}

// CanResponse answers CanRequest. Nothing of it is a permit.
type CanResponse struct {
	Decision access.Decision `json:"decision"`
}

// Whoami answers PathWhoami (GET).
type Whoami struct {
	Lineage      access.Lineage    `json:"lineage"`
	Capability   access.Capability `json:"capability"`
	TokenExpires time.Time         `json:"token_expires"`
	GrantExpires time.Time         `json:"grant_expires"`
	// Administrator and Auditor say which roles of the active bundle the principal has.
	Administrator bool `json:"administrator,omitempty"`
	Auditor       bool `json:"auditor,omitempty"`
}

// RecertifyRequest asks, signed by the agent, for a fresh certificate with the same names. CSR is PEM, for a new key.
type RecertifyRequest struct {
	CSR string `json:"csr"`
}

// Form fields of PathToken. GrantExchange with TypeIDToken logs in; with TypeAccessToken it delegates: the parent's token is
// both the DPoP-bound authorization and FieldSubject, and FieldActor is token.SignKeyProof by the child's key.
const (
	FieldGrant       = "grant_type"
	FieldSubject     = "subject_token"
	FieldSubjectType = "subject_token_type"
	FieldActor       = "actor_token"
	FieldActorType   = "actor_token_type"
	FieldSalt        = "login_salt" // of token.LoginNonce
	FieldName        = "actor_name" // access.CheckName
	FieldPurpose     = "purpose"    // 1 to 200 characters
	FieldCapability  = "capability" // a Grantlet; repeated
	FieldLife        = "actor_life" // seconds; absent: as long as the parent
	TypeKeyProof     = "urn:sallyport:params:oauth:token-type:key-proof"
)
