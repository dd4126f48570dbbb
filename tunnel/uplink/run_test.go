package uplink_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/tunnel"
	"github.com/sallyport/sallyport/tunnel/mux"
	"github.com/sallyport/sallyport/tunnel/relay"
	"github.com/sallyport/sallyport/tunnel/tunneltest"
	"github.com/sallyport/sallyport/tunnel/uplink"
)

const patience = 10 * time.Second

func echo(s *uplink.Stream) {
	_, _ = io.Copy(s, s)
	_ = s.CloseWrite()
}

func say(t *testing.T, c io.ReadWriter, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, len(s))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != s {
		t.Fatalf("said %q, heard %q, %v", s, buf, err)
	}
}

// TestReconnect: the relay goes away and comes back at its address, or is not there to begin with.
func TestReconnect(t *testing.T) {
	ca := tunneltest.NewCA(t)
	addr, stop := tunneltest.StartRelay(t, ca, relay.Limits{Drain: time.Millisecond})
	ended := make(chan error, 1)
	agent := tunneltest.StartAgent(t, ca, addr, ca.Agent(t, "inside", "app"), func(s *uplink.Stream) {
		buf := make([]byte, 16)
		for {
			n, err := s.Read(buf)
			if err != nil {
				ended <- err
				return
			}
			_, _ = s.Write(buf[:n])
		}
	}, nil)
	c := tunneltest.MustDial(t, ca, addr, "app", "one")
	say(t, c, "before")
	stop()
	if err := <-ended; errors.Is(err, io.EOF) {
		t.Error("the agent took the loss of its uplink for the client's end")
	}
	agent.Await(t, 0)
	tunneltest.ServeRelay(t, ca, relay.Limits{}, tunneltest.Listen(t, addr))
	agent.Await(t, 2)
	say(t, tunneltest.MustDial(t, ca, addr, "app", "one"), "after")
}

// TestStop: handlers hear that the agent stops, can still tell their clients, and Run waits for them.
func TestStop(t *testing.T) {
	ca := tunneltest.NewCA(t)
	addr, _ := tunneltest.StartRelay(t, ca, relay.Limits{})
	cert := ca.Agent(t, "inside", "app")
	returned := make(chan struct{})
	agent := tunneltest.StartUplink(t, uplink.Config{
		Relay: addr, CA: ca.Pool(), Log: tunneltest.Quiet(),
		Certificate: func() (tls.Certificate, error) { return cert, nil },
		Handle: func(ctx context.Context, conn net.Conn) {
			defer close(returned)
			s, err := uplink.Accept(ctx, conn, cert)
			if err != nil {
				t.Errorf("accept: %v", err)
				return
			}
			if err := s.Welcome(nil); err != nil {
				t.Errorf("welcome: %v", err)
			}
			<-ctx.Done()
			_, _ = s.Write([]byte("the agent stops"))
			_ = s.Close()
		},
	})
	c := tunneltest.MustDial(t, ca, addr, "app", "one")
	agent.Stop()
	select {
	case <-returned:
	default:
		t.Error("Run did not wait for the handler")
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "the agent stops" {
		t.Errorf("the client heard %q, %v", got, err)
	}
}

// TestRefusal: what the agent says instead of a welcome reaches the client as it was said.
func TestRefusal(t *testing.T) {
	ca := tunneltest.NewCA(t)
	addr, _ := tunneltest.StartRelay(t, ca, relay.Limits{})
	cert := ca.Agent(t, "inside", "app")
	tunneltest.StartUplink(t, uplink.Config{
		Relay: addr, CA: ca.Pool(), Log: tunneltest.Quiet(),
		Certificate: func() (tls.Certificate, error) { return cert, nil },
		Handle: func(ctx context.Context, conn net.Conn) {
			s, err := uplink.Accept(ctx, conn, cert)
			if err != nil {
				t.Errorf("accept: %v", err)
				return
			}
			if err := s.Welcome(api.Because(api.ErrLogin, "log in again", "the proof is for another channel")); err != nil {
				t.Errorf("refuse: %v", err)
			}
			if _, err := s.Write([]byte("x")); err == nil {
				t.Error("a refused stream is still open")
			}
		},
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := tunneltest.Dial(ctx, ca, addr, "app", "one")
	refusal := (*api.Error)(nil)
	if !errors.As(err, &refusal) || refusal.Code != "login_needed" || refusal.Hint != "log in again" {
		t.Errorf("the client heard %v", err)
	}
}

// TestWrongRelay: an agent shows nothing to a relay that is not one, and is not up.
func TestWrongRelay(t *testing.T) {
	ca := tunneltest.NewCA(t)
	stranger := tunneltest.NewCA(t)
	addr, _ := tunneltest.StartRelay(t, stranger, relay.Limits{})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := uplink.Run(ctx, uplink.Config{
		Relay: addr, CA: ca.Pool(), Log: tunneltest.Quiet(),
		Certificate: func() (tls.Certificate, error) { return ca.Agent(t, "inside", "app"), nil },
		Handle:      func(context.Context, net.Conn) { t.Error("a stream") },
		Changed:     func(up int) { t.Errorf("%d uplinks", up) },
	})
	if err != nil {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	ca := tunneltest.NewCA(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	good := uplink.Config{
		Relay: "127.0.0.1:1", CA: ca.Pool(), Log: tunneltest.Quiet(),
		Certificate: func() (tls.Certificate, error) { return tls.Certificate{}, errors.New("none") },
		Handle:      func(context.Context, net.Conn) {},
	}
	if err := uplink.Run(ctx, good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*uplink.Config){
		"no relay":             func(c *uplink.Config) { c.Relay = "" },
		"no CA":                func(c *uplink.Config) { c.CA = nil },
		"no certificate":       func(c *uplink.Config) { c.Certificate = nil },
		"no handler":           func(c *uplink.Config) { c.Handle = nil },
		"no log":               func(c *uplink.Config) { c.Log = nil },
		"too many connections": func(c *uplink.Config) { c.Connections = 9 },
		"negative connections": func(c *uplink.Config) { c.Connections = -1 },
		"a bad window":         func(c *uplink.Config) { c.Mux = mux.Config{Window: 1} },
	} {
		bad := good
		change(&bad)
		if err := uplink.Run(ctx, bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

var _ tunnel.Duplex = (*uplink.Stream)(nil)
