package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel"
	"github.com/sallyport/sallyport/tunnel/client"
	"github.com/sallyport/sallyport/tunnel/relay"
	"github.com/sallyport/sallyport/tunnel/tunneltest"
	"github.com/sallyport/sallyport/tunnel/uplink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ tunnel.Duplex = (*client.Conn)(nil)

func config(ca *tunneltest.CA, relays ...string) client.Config {
	return client.Config{
		Relays: relays, CA: ca.Pool(), Ticket: tunneltest.Ticket("app", "one"), Target: "app", Endpoint: "one",
		Prove:    func(string, []byte) (string, error) { return "proof", nil },
		Preamble: api.Preamble{Token: "token"},
	}
}

func dial(t *testing.T, cfg client.Config) error {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, cfg)
	if err == nil {
		_ = c.Close()
	}
	return err
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	l := tunneltest.Listen(t, "")
	_ = l.Close()
	return l.Addr().String()
}

// TestRelays: the next one is tried where it could do better, and not where it would only say the same.
func TestRelays(t *testing.T) {
	ca := tunneltest.NewCA(t)
	empty, _ := tunneltest.StartRelay(t, ca, relay.Limits{})
	good, _ := tunneltest.StartRelay(t, ca, relay.Limits{})
	tunneltest.StartAgent(t, ca, good, ca.Agent(t, "inside", "app"), func(*uplink.Stream) {}, nil)
	away := closedPort(t)
	for _, c := range []struct {
		name   string
		change func(*client.Config)
		relays []string
		want   error
	}{
		{"the first", nil, []string{good}, nil},
		{"one is away", nil, []string{away, good}, nil},
		{"one has no agent", nil, []string{empty, good}, nil},
		{"all are away", nil, []string{away, away}, api.ErrUnavailable},
		{"none has an agent", nil, []string{empty, away}, api.ErrUnavailable},
		{"there is none", nil, nil, api.ErrUnavailable},
		{"the ticket is bad", func(c *client.Config) { c.Ticket = "bad" }, []string{good, away}, api.ErrLogin},
		{"the ticket is another target's", func(c *client.Config) { c.Ticket = "other/one" }, []string{good, away}, api.ErrDenied},
	} {
		cfg := config(ca, c.relays...)
		if c.change != nil {
			c.change(&cfg)
		}
		err := dial(t, cfg)
		if !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.change != nil && strings.Contains(err.Error(), away) {
			t.Errorf("%s: it went on to ask another relay: %v", c.name, err)
		}
	}
}

func TestProofFails(t *testing.T) {
	ca := tunneltest.NewCA(t)
	addr, _ := tunneltest.StartRelay(t, ca, relay.Limits{})
	refused := make(chan error, 1)
	tunneltest.StartAgent(t, ca, addr, ca.Agent(t, "inside", "app"), func(*uplink.Stream) { t.Error("a stream") }, func(err error) { refused <- err })
	why := errors.New("the key is locked")
	cfg := config(ca, addr)
	cfg.Prove = func(string, []byte) (string, error) { return "", why }
	if err := dial(t, cfg); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if err := <-refused; err == nil {
		t.Error("the agent took it")
	}
}

// TestAgentThatWillNotDo: an agent that is not accepted is told nothing, and the next relay may lead to a better one.
func TestAgentThatWillNotDo(t *testing.T) {
	ca := tunneltest.NewCA(t)
	bad, _ := tunneltest.StartRelay(t, ca, relay.Limits{})
	refused := make(chan error, 1)
	tunneltest.StartAgent(t, ca, bad, ca.Agent(t, "revoked", "app"), func(*uplink.Stream) { t.Error("a stream") }, func(err error) { refused <- err })
	cfg := config(ca, bad)
	cfg.Prove = func(string, []byte) (string, error) { t.Error("proved to a revoked agent"); return "", nil }
	cfg.Accept = func(a token.Agent) error {
		if a.Name == "revoked" && time.Since(a.Issued).Abs() < time.Hour {
			return api.Because(api.ErrUnavailable, "", "it was revoked").By(api.RuleAgentRevoked)
		}
		return nil
	}
	e := (*api.Error)(nil)
	if err := dial(t, cfg); !errors.As(err, &e) || e.Rule != api.RuleAgentRevoked {
		t.Errorf("got %v", err)
	}
	if err := <-refused; err == nil {
		t.Error("the agent took it")
	}
	good, _ := tunneltest.StartRelay(t, ca, relay.Limits{})
	tunneltest.StartAgent(t, ca, good, ca.Agent(t, "inside", "app"), func(*uplink.Stream) {}, nil)
	cfg.Relays = []string{bad, good}
	cfg.Prove = func(string, []byte) (string, error) { return "proof", nil }
	if err := dial(t, cfg); err != nil {
		t.Errorf("with a better agent behind the next relay: %v", err)
	}
	<-refused
}

// TestCancel: a relay that answers nothing holds nobody who does not want to wait.
func TestCancel(t *testing.T) {
	ca := tunneltest.NewCA(t)
	l := tunneltest.Listen(t, "") // takes connections, by its backlog, and says nothing
	defer l.Close()               //nolint:errcheck // a test's
	for name, serve := range map[string]func(c net.Conn){
		"before TLS": func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"after the hello": func(c net.Conn) {
			cfg := tunnel.TLS(tunnel.ALPNStream)
			cfg.Certificates = []tls.Certificate{ca.Relay(t)}
			_, _ = io.Copy(io.Discard, tls.Server(c, cfg))
		},
	} {
		served := make(chan struct{})
		go func() {
			defer close(served)
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close() //nolint:errcheck // a test's
			serve(c)
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		start := time.Now()
		if _, err := client.Dial(ctx, config(ca, l.Addr().String(), l.Addr().String())); err == nil || time.Since(start) > 5*time.Second {
			t.Errorf("%s: %v after %s", name, err, time.Since(start))
		}
		cancel()
		<-served
	}
}

func TestConfig(t *testing.T) {
	ca := tunneltest.NewCA(t)
	for name, change := range map[string]func(*client.Config){
		"no CA":       func(c *client.Config) { c.CA = nil },
		"no proof":    func(c *client.Config) { c.Prove = nil },
		"no target":   func(c *client.Config) { c.Target = "" },
		"no endpoint": func(c *client.Config) { c.Endpoint = "" },
	} {
		cfg := config(ca, closedPort(t))
		change(&cfg)
		if err := dial(t, cfg); err == nil || errors.Is(err, api.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
