package endpoint_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/client/endpoint"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel/relay"
	"github.com/sallyport/sallyport/tunnel/tunneltest"
	"github.com/sallyport/sallyport/tunnel/uplink"
)

type someone struct{ key *ecdsa.PrivateKey }

func (s someone) Fresh(context.Context) error { return nil }
func (s someone) Token() string               { return "token" }
func (s someone) Key() *ecdsa.PrivateKey      { return s.key }

// desk gives tickets, and remembers for which endpoints.
type desk struct {
	relay   string
	revoked []api.RevokedAgent

	mu    sync.Mutex
	asked []string
}

func (d *desk) Ticket(_ context.Context, r api.TicketRequest) (api.TicketResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, r.Endpoint)
	return api.TicketResponse{Ticket: tunneltest.Ticket(r.Target, r.Endpoint), Nonce: token.NewNonce(make([]byte, 32), "thumbprint", r.Target, r.Endpoint, time.Now()), Relays: []string{d.relay}, Revoked: d.revoked}, nil
}

// A revoked agent that still holds its place at a relay does not keep an endpoint from the other agent that serves the target, and the endpoint stays with
// that one.
func TestARevokedAgentIsPassedBy(t *testing.T) {
	ca := tunneltest.NewCA(t)
	addr, _ := tunneltest.StartRelay(t, ca, relay.Limits{})
	var served atomic.Int64
	good := tunneltest.StartAgent(t, ca, addr, ca.Agent(t, "good", "app"), func(*uplink.Stream) { served.Add(1) }, nil)
	tunneltest.StartAgent(t, ca, addr, ca.Agent(t, "bad", "app"), func(*uplink.Stream) { t.Error("a stream of the revoked agent") }, func(error) {})
	d := &desk{relay: addr, revoked: []api.RevokedAgent{{Agent: "bad", Before: time.Now().Add(time.Hour)}}}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	moved := 0
	for range 12 { // each with a chance of one half to begin at the revoked one
		way, err := endpoint.NewTunnel(endpoint.TunnelConfig{Target: "app", CA: ca.Pool(), Identity: someone{key}, Tickets: d})
		if err != nil {
			t.Fatal(err)
		}
		d.asked = nil
		if conn, err := way.Open(t.Context(), api.Client{}, nil); err == nil {
			_ = conn.Close()
		} else if e := (*api.Error)(nil); !errors.As(err, &e) || e.Rule != api.RuleAgentRevoked || len(d.asked) < 6 { // one in sixty-four finds none
			t.Fatalf("%v after %d tickets", err, len(d.asked))
		}
		n := len(d.asked)
		if n > 1 {
			moved++
		}
		if conn, err := way.Open(t.Context(), api.Client{}, nil); err == nil {
			_ = conn.Close()
			if d.asked[n] != d.asked[n-1] && n < 6 {
				t.Error("the next stream goes another way than the first")
			}
		}
	}
	good.Stop()
	if moved == 0 || served.Load() < 12 {
		t.Errorf("%d endpoints had to move, %d streams were served", moved, served.Load())
	}
	// Where there is no other one, it says so, and does not ask for ever.
	way, err := endpoint.NewTunnel(endpoint.TunnelConfig{Target: "app", CA: ca.Pool(), Identity: someone{key}, Tickets: d})
	if err != nil {
		t.Fatal(err)
	}
	d.asked = nil
	_, err = way.Open(t.Context(), api.Client{}, nil)
	if e := (*api.Error)(nil); !errors.As(err, &e) || e.Rule != api.RuleAgentRevoked || len(d.asked) != 6 {
		t.Errorf("%v after %d tickets", err, len(d.asked))
	}
}
