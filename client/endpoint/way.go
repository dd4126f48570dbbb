package endpoint

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel"
	"github.com/sallyport/sallyport/tunnel/client"
)

// Identity is who connections are made as.
type Identity interface {
	Fresh(ctx context.Context) error // renews the token if it is due
	Token() string
	Key() *ecdsa.PrivateKey
}

// Tickets is the broker, asked once for each connection.
type Tickets interface {
	Ticket(ctx context.Context, r api.TicketRequest) (api.TicketResponse, error)
}

// TunnelConfig is what a Tunnel needs, all of it but Now.
type TunnelConfig struct {
	Target   access.TargetName
	CA       *x509.CertPool // of the stack, from discovery
	Identity Identity
	Tickets  Tickets
	Now      func() time.Time // nil means time.Now
}

// Tunnel is the Way through the relay. All streams of one Tunnel reach one agent, so that a cancel finds its session, until that agent is
// revoked: its sessions have ended then.
type Tunnel struct {
	c TunnelConfig

	mu sync.Mutex
	id string // what relays choose the agent by
}

// NewTunnel makes a way to a target; it connects to nothing yet.
func NewTunnel(c TunnelConfig) (*Tunnel, error) {
	if c.Target == "" || c.CA == nil || c.Identity == nil || c.Tickets == nil {
		return nil, errors.New("tunnel: target, CA, identity and tickets are all needed")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Tunnel{c: c, id: token.NewRandom()}, nil
}

// Ticket asks the broker for the way. It also tells, before the first connection, what the target speaks and whether it may be
// asked for at all.
func (t *Tunnel) Ticket(ctx context.Context) (api.TicketResponse, error) {
	return t.ticket(ctx, t.endpoint())
}

func (t *Tunnel) ticket(ctx context.Context, id string) (api.TicketResponse, error) {
	if err := t.c.Identity.Fresh(ctx); err != nil {
		return api.TicketResponse{}, err
	}
	return t.c.Tickets.Ticket(ctx, api.TicketRequest{Target: t.c.Target, Endpoint: id})
}

func (t *Tunnel) endpoint() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.id
}

// elsewhere makes relays choose again, unless another stream has seen to it.
func (t *Tunnel) elsewhere(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.id == id {
		t.id = token.NewRandom()
	}
}

// maxElsewhere is how many agents are asked for in place of revoked ones that still hold their places at a relay.
const maxElsewhere = 6

// Open makes one stream. A revoked agent can be where the relay leads to until its certificate ends; another one that serves the target is found by
// asking under another id.
func (t *Tunnel) Open(ctx context.Context, c api.Client, v *api.Verifier) (tunnel.Duplex, error) {
	for tried := 1; ; tried++ {
		id := t.endpoint()
		d, err := t.open(ctx, id, c, v)
		if e := (*api.Error)(nil); !errors.As(err, &e) || e.Rule != api.RuleAgentRevoked || tried == maxElsewhere {
			return d, err
		}
		t.elsewhere(id)
	}
}

// open makes one stream: a ticket, the relay, and a proof of our key on that very channel.
func (t *Tunnel) open(ctx context.Context, id string, c api.Client, v *api.Verifier) (tunnel.Duplex, error) {
	tk, err := t.ticket(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("ticket for %s: %w", t.c.Target, err)
	}
	raw := t.c.Identity.Token()
	conn, err := client.Dial(ctx, client.Config{
		Relays: tk.Relays, CA: t.c.CA, Ticket: tk.Ticket, Target: t.c.Target, Endpoint: id,
		Prove: func(agentKey string, exporter []byte) (string, error) {
			return token.SignProof(t.c.Identity.Key(), token.Proof{
				Target: t.c.Target, AgentKey: agentKey, Exporter: exporter, Nonce: tk.Nonce,
				TokenHash: token.HashToken(raw), Endpoint: id, IssuedAt: t.c.Now(),
			})
		},
		Accept:   notRevoked(tk.Revoked),
		Preamble: api.Preamble{Token: raw, Client: c, Verifier: v},
	})
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", t.c.Target, err)
	}
	return conn, nil
}

// notRevoked accepts an agent unless its certificate is of before its revocation: a relay knows nothing of that.
func notRevoked(revoked []api.RevokedAgent) func(token.Agent) error {
	return func(a token.Agent) error {
		for _, r := range revoked {
			if r.Agent == a.Name && !a.Issued.After(r.Before) {
				return api.Because(api.ErrUnavailable, "tell whoever runs the agent: it must be enrolled anew", "agent %q was revoked", a.Name).By(api.RuleAgentRevoked)
			}
		}
		return nil
	}
}
