package tunneltest

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel/client"
	"github.com/sallyport/sallyport/tunnel/relay"
	"github.com/sallyport/sallyport/tunnel/uplink"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// Quiet is a log that nobody reads.
func Quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Ticket makes a ticket that ParseTicket takes.
func Ticket(target access.TargetName, endpoint string) string { return string(target) + "/" + endpoint }

// ParseTicket reads an unsigned ticket; it is a relay.Config's Ticket.
func ParseTicket(raw string) (token.Ticket, error) {
	target, endpoint, ok := strings.Cut(raw, "/")
	if !ok {
		return token.Ticket{}, api.Because(api.ErrLogin, "", "not a ticket")
	}
	return token.Ticket{Target: access.TargetName(target), Endpoint: endpoint, Expires: time.Now().Add(time.Minute)}, nil
}

// StartRelay serves a relay on loopback until the test ends or stop is called, and returns its address. stop drains.
func StartRelay(t testing.TB, ca *CA, limits relay.Limits) (addr string, stop func()) {
	t.Helper()
	return ServeRelay(t, ca, limits, Listen(t, ""))
}

// ServeRelay is StartRelay on a listener of the test's.
func ServeRelay(t testing.TB, ca *CA, limits relay.Limits, l net.Listener) (addr string, stop func()) {
	t.Helper()
	r, err := relay.New(relay.Config{Certificate: ca.Relay(t), CA: ca.Pool(), Ticket: ParseTicket, Limits: limits, Log: Quiet()})
	if err != nil {
		t.Fatalf("relay: %v", err)
	}
	return l.Addr().String(), run(t, func(ctx context.Context) error { return r.Serve(ctx, l) })
}

// Listen listens on loopback; addr "" means any port.
func Listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	return l
}

// Agent is an agent's side of the tunnel.
type Agent struct {
	Stop func()
	up   chan int
}

// StartAgent connects an agent to a relay and waits until its uplinks are up. Each stream that uplink.Accept takes is welcomed and given to handle, each that
// it refuses to refused (nil drops it).
func StartAgent(t testing.TB, ca *CA, relayAddr string, cert tls.Certificate, handle func(*uplink.Stream), refused func(error)) *Agent {
	t.Helper()
	return StartAgentWith(t, uplink.Config{Relay: relayAddr, CA: ca.Pool()}, cert, handle, refused)
}

// StartAgentWith is StartAgent with a Config of the test's, whose Certificate, Handle and Log are filled in.
func StartAgentWith(t testing.TB, cfg uplink.Config, cert tls.Certificate, handle func(*uplink.Stream), refused func(error)) *Agent {
	t.Helper()
	cfg.Log = Quiet()
	cfg.Certificate = func() (tls.Certificate, error) { return cert, nil }
	cfg.Handle = func(ctx context.Context, conn net.Conn) {
		s, err := uplink.Accept(ctx, conn, cert)
		if err != nil {
			if refused != nil {
				refused(err)
			}
			return
		}
		defer s.Close()                                          //nolint:errcheck // the handler's last word was its last write
		stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // the test is over
		defer stop()
		if err := s.Welcome(nil); err == nil {
			handle(s)
		}
	}
	return StartUplink(t, cfg)
}

// StartUplink runs uplinks until the test ends or Stop is called, and waits until the first set of them is up.
func StartUplink(t testing.TB, cfg uplink.Config) *Agent {
	t.Helper()
	a := &Agent{up: make(chan int, 1)}
	told := cfg.Changed
	cfg.Changed = func(n int) {
		if told != nil {
			told(n)
		}
		select {
		case <-a.up:
		default:
		}
		a.up <- n
	}
	a.Stop = run(t, func(ctx context.Context) error { return uplink.Run(ctx, cfg) })
	want := cfg.Connections
	if want == 0 {
		want = 2
	}
	a.Await(t, want)
	return a
}

// Await waits until n uplinks are up.
func (a *Agent) Await(t testing.TB, n int) {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case up := <-a.up:
			if up == n {
				return
			}
		case <-timeout:
			t.Fatalf("uplinks: %d were not up in %s", n, patience)
		}
	}
}

// Dial is client.Dial to a target with the unsigned ticket and a proof that says what it is over.
func Dial(ctx context.Context, ca *CA, relayAddr string, target access.TargetName, endpoint string) (*client.Conn, error) {
	return client.Dial(ctx, client.Config{
		Relays: []string{relayAddr}, CA: ca.Pool(), Ticket: Ticket(target, endpoint), Target: target, Endpoint: endpoint,
		Prove: func(agentKey string, exporter []byte) (string, error) {
			return Proof(agentKey, exporter), nil
		},
		Preamble: api.Preamble{Token: "token"},
	})
}

// Proof is what Dial proves with.
func Proof(agentKey string, exporter []byte) string { return fmt.Sprintf("%s/%x", agentKey, exporter) }

// MustDial is Dial for a test that expects it to work; the connection is closed with the test.
func MustDial(t testing.TB, ca *CA, relayAddr string, target access.TargetName, endpoint string) *client.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := Dial(ctx, ca, relayAddr, target, endpoint)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// run runs f until the test ends or the function it returns is called, which waits for it.
func run(t testing.TB, f func(ctx context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}
