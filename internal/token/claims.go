package token

import (
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// Limits of tokens and grants.
const (
	AccessLife = 5 * time.Minute  // of an access token: how long a broker may be believed without asking the root item
	TicketLife = time.Minute      // of a relay ticket: one is asked for at every connection, and it outlives a revocation
	RootIdle   = 4 * time.Hour    // a login that nobody renews ends
	RootMax    = 12 * time.Hour   // a login ends then whatever happens
	MaxDepth   = 8                // actors below the principal
	MaxToken   = 8 << 10          // bytes of a token in compact form: API Gateway takes 10,240 bytes of headers in all
	Window     = 60 * time.Second // how far the time of a proof or call may be from ours
	Skew       = 30 * time.Second // how far ahead of ours the clock of an issuer may be
)

// Claims are what an access token says. The zero Claims permit nothing.
type Claims struct {
	ID         string   // of this token (jti); a node has many over its life
	Principal  string   // subject
	Groups     []string // of the principal, at login
	Path       []access.Node
	Assurance  access.Assurance
	AuthTime   time.Time // of the principal's login at its provider
	Capability access.Capability
	Thumbprint string // RFC 7638, of the key that the token is bound to (cnf.jkt)
	Issued     time.Time
	Expires    time.Time
	// GrantExpires is when the node itself ends; tokens are renewed until then.
	GrantExpires time.Time
}

// Lineage is who speaks with this token.
func (c Claims) Lineage() access.Lineage {
	return access.Lineage{Principal: c.Principal, Groups: c.Groups, Path: c.Path, Assurance: c.Assurance, AuthTime: c.AuthTime}
}

// Ticket is what a relay learns of a stream: where it goes, and which streams belong together. No identity is in it.
type Ticket struct {
	ID       string
	Endpoint string // random, shared by the streams of one endpoint
	Target   access.TargetName
	Expires  time.Time
}
