package tunneltest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/tunnel"
	"github.com/sallyport/sallyport/tunnel/tunneltest"
	"github.com/sallyport/sallyport/tunnel/uplink"
)

const (
	canaryUp   = "canary-from-the-client-SELECT-card_number"
	canaryDown = "canary-from-the-agent-4111111111111111"
)

// evilStack is an evil relay between a client and the agents "inside" (targets app and other) and "elsewhere" (target far).
type evilStack struct {
	ca      *tunneltest.CA
	evil    *tunneltest.Evil
	refused chan error    // by agents, before a stream was taken
	got     chan []byte   // what agents read of streams that they took
	ended   chan error    // how that ended
	taken   chan struct{} // one for each
}

func newEvilStack(t *testing.T) *evilStack {
	s := &evilStack{
		ca: tunneltest.NewCA(t), refused: make(chan error, 16), got: make(chan []byte, 16), ended: make(chan error, 16), taken: make(chan struct{}, 16),
	}
	s.evil = tunneltest.StartEvil(t, s.ca)
	for name, targets := range map[access.AgentName][]access.TargetName{"inside": {"app", "other"}, "elsewhere": {"far"}} {
		tunneltest.StartAgent(t, s.ca, s.evil.Addr, s.ca.Agent(t, name, targets...), s.handle, func(err error) { s.refused <- err })
	}
	s.evil.Follow(inside(tunneltest.Script{}))
	return s
}

// handle answers each canary with one of its own.
func (s *evilStack) handle(stream *uplink.Stream) {
	s.taken <- struct{}{}
	var all []byte
	buf := make([]byte, 1024)
	for {
		n, err := stream.Read(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			s.got <- all
			s.ended <- err
			return
		}
		_, _ = stream.Write([]byte(canaryDown)) // its failure shows in the next Read
	}
}

func inside(s tunneltest.Script) tunneltest.Script {
	s.Route = func(tunnel.Hello) access.AgentName { return "inside" }
	return s
}

func (s *evilStack) dial(t *testing.T) (io.ReadWriteCloser, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := tunneltest.Dial(ctx, s.ca, s.evil.Addr, "app", "one")
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, nil
}

// nothingLeaked: neither canary, nor the token and the proof, passed the relay in clear.
func (s *evilStack) nothingLeaked(t *testing.T) {
	t.Helper()
	seen := s.evil.Seen()
	if len(seen) == 0 {
		t.Error("the relay saw nothing at all: this proves nothing")
	}
	for _, secret := range []string{canaryUp, canaryDown, `"token"`, `"proof"`, `"endpoint"`} {
		if bytes.Contains(seen, []byte(secret)) {
			t.Errorf("the relay saw %q", secret)
		}
	}
}

func receive[T any](t *testing.T, c chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: nothing came", what)
		panic("not reached")
	}
}

// TestEvilHonest: the evil relay without a script is a relay, so what the other tests see is their scripts' doing.
func TestEvilHonest(t *testing.T) {
	s := newEvilStack(t)
	c, err := s.dial(t)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte(canaryUp)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, len(canaryDown))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != canaryDown {
		t.Fatalf("got %q, %v", buf, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := receive(t, s.got, "the agent's bytes"), receive(t, s.ended, "the agent's end"); string(got) != canaryUp || !errors.Is(err, io.EOF) {
		t.Errorf("the agent got %q and then %v", got, err)
	}
	s.nothingLeaked(t)
}

// armed is a script's hook that waits until it is told to act.
type armed struct{ on chan struct{} }

func (a armed) is() bool {
	select {
	case <-a.on:
		return true
	default:
		return false
	}
}

// TU-03: a relay alters, repeats, drops, reorders or ends what passes, on a channel that is up.
func TestTU03TamperedBytes(t *testing.T) {
	flip := func(b []byte) ([]byte, bool) {
		b = bytes.Clone(b)
		b[len(b)/2] ^= 1
		return b, true
	}
	for name, do := range map[string]func(b []byte) ([]byte, bool){
		"alter":            flip,
		"alter the type":   func(b []byte) ([]byte, bool) { b = bytes.Clone(b); b[0] = 22; return b, true },
		"repeat":           func(b []byte) ([]byte, bool) { return append(bytes.Clone(b), b...), true },
		"cut in a record":  func(b []byte) ([]byte, bool) { return b[:len(b)-1], false },
		"cut between them": func([]byte) ([]byte, bool) { return nil, false },
		"inject": func(b []byte) ([]byte, bool) {
			return append([]byte{23, 3, 3, 0, 17, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}, b...), true
		},
		"in clear": func([]byte) ([]byte, bool) { return []byte("DROP TABLE accounts;"), true },
	} {
		for _, direction := range []string{"up", "down"} {
			t.Run(name+"/"+direction, func(t *testing.T) {
				s := newEvilStack(t)
				ready := armed{make(chan struct{})}
				hook := func(_ int, b []byte) ([]byte, bool) {
					if !ready.is() {
						return b, true
					}
					return do(b)
				}
				script := tunneltest.Script{Up: hook}
				if direction == "down" {
					script = tunneltest.Script{Down: hook}
				}
				s.evil.Follow(inside(script))
				c, err := s.dial(t)
				if err != nil {
					t.Fatal(err)
				}
				receive(t, s.taken, "the stream")
				close(ready.on)
				_, _ = c.Write([]byte(canaryUp))
				got, err := io.ReadAll(c)
				if err == nil {
					t.Errorf("the client took %q for everything", got)
				}
				// What was repeated had arrived once, and rightly so; anything else must be nothing.
				if len(got) > 0 && (string(got) != canaryDown || name != "repeat") {
					t.Errorf("the client got %q", got)
				}
				_ = c.Close()
				if got := receive(t, s.got, "the agent's bytes"); len(got) > 0 && string(got) != canaryUp {
					t.Errorf("the agent got %q", got)
				}
				if err := receive(t, s.ended, "the agent's end"); direction == "up" && errors.Is(err, io.EOF) {
					t.Error("the agent took it for the client's own end")
				}
				s.nothingLeaked(t)
			})
		}
	}
}

// TU-03: an end that nobody said is told apart from one that somebody did, also when it falls between two records.
func TestTU03CutLooksLikeACut(t *testing.T) {
	s := newEvilStack(t)
	ready := armed{make(chan struct{})}
	s.evil.Follow(inside(tunneltest.Script{Down: func(_ int, b []byte) ([]byte, bool) { return b, !ready.is() }}))
	c, err := s.dial(t)
	if err != nil {
		t.Fatal(err)
	}
	close(ready.on)
	_, _ = c.Write([]byte(canaryUp))
	got, err := io.ReadAll(c)
	if string(got) != canaryDown || !errors.Is(err, tunnel.ErrCut) {
		t.Errorf("got %q, then %v", got, err)
	}
}

// TU-03: the bytes of a whole earlier stream open nothing.
func TestTU03Replay(t *testing.T) {
	s := newEvilStack(t)
	c, err := s.dial(t)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte(canaryUp))
	if _, err := io.ReadFull(c, make([]byte, len(canaryDown))); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	receive(t, s.taken, "the first stream")
	receive(t, s.got, "the agent's bytes")
	for _, target := range []access.TargetName{"app", "other"} {
		answer, _ := s.evil.Replay("inside", target, s.evil.Sent())
		err := receive(t, s.refused, "the agent's refusal")
		if bytes.Contains(answer, []byte(canaryDown)) {
			t.Error("the replay was answered")
		}
		t.Logf("target %s: %v", target, err)
	}
	if len(s.taken) != 0 {
		t.Error("the agent took a replayed stream")
	}
}

// TU-03: a stream for one target is led to another, or to another agent.
func TestTU03Reroute(t *testing.T) {
	retarget := func(to access.TargetName) func(tunnel.Hello) tunnel.Hello {
		return func(h tunnel.Hello) tunnel.Hello { h.Target = to; return h }
	}
	to := func(a access.AgentName) func(tunnel.Hello) access.AgentName {
		return func(tunnel.Hello) access.AgentName { return a }
	}
	for name, c := range map[string]struct {
		script tunneltest.Script
		why    string // the agent's
	}{
		"to an agent that does not serve it":             {tunneltest.Script{Route: to("elsewhere")}, "not in the agent's certificate"},
		"to another agent's target":                      {tunneltest.Script{Route: to("elsewhere"), Hello: retarget("far")}, "the endpoint asks for target"},
		"to another target of an agent that serves both": {tunneltest.Script{Route: to("inside"), Hello: retarget("other")}, "the endpoint asks for target"},
		"to a target that nobody serves":                 {tunneltest.Script{Route: to("inside"), Hello: retarget("nowhere")}, "not in the agent's certificate"},
		"with the ticket still on it":                    {tunneltest.Script{Route: to("inside"), Hello: func(h tunnel.Hello) tunnel.Hello { h.Ticket = "t"; return h }}, "ticket"},
		"with a version that is not spoken":              {tunneltest.Script{Route: to("inside"), Hello: func(h tunnel.Hello) tunnel.Hello { h.V = 9; return h }}, "version"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newEvilStack(t)
			s.evil.Follow(c.script)
			if _, err := s.dial(t); err == nil {
				t.Error("the client is connected")
			}
			if err := receive(t, s.refused, "the agent's refusal"); !strings.Contains(err.Error(), c.why) {
				t.Errorf("the agent refused because of %v", err)
			}
			if len(s.taken) != 0 {
				t.Error("the agent took the stream")
			}
			if seen := s.evil.Seen(); bytes.Contains(seen, []byte(`"token"`)) {
				t.Error("the relay saw the token")
			}
		})
	}
}

// TU-03: the certificate that answers must be one of the stack's CA, for this target, valid now; the client says nothing before.
func TestTU03WrongAgent(t *testing.T) {
	ca := tunneltest.NewCA(t)
	for name, agent := range map[string]struct {
		cert func(t *testing.T) (c tunnelCert)
	}{
		"signed by another CA": {func(t *testing.T) tunnelCert { return tunneltest.NewCA(t).Agent(t, "inside", "app") }},
		"for another target":   {func(t *testing.T) tunnelCert { return ca.Agent(t, "inside", "other") }},
		"expired": {func(t *testing.T) tunnelCert {
			return ca.Issue(t, -time.Minute, bothUses, "sallyport:agent:inside", "sallyport:target:app")
		}},
		"for a client only": {func(t *testing.T) tunnelCert {
			return ca.Issue(t, time.Hour, clientUse, "sallyport:agent:inside", "sallyport:target:app")
		}},
		"of the relay":              {func(t *testing.T) tunnelCert { return ca.Relay(t) }},
		"for a name that begins so": {func(t *testing.T) tunnelCert { return ca.Agent(t, "inside", "app2") }},
	} {
		t.Run(name, func(t *testing.T) {
			addr, spoken := lyingAgent(t, ca, agent.cert(t))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if c, err := tunneltest.Dial(ctx, ca, addr, "app", "one"); err == nil {
				_ = c.Close()
				t.Error("the client is connected")
			}
			if got := receive(t, spoken, "the agent's side"); len(got) != 0 {
				t.Errorf("the client said %q", got)
			}
		})
	}
}

// TestWrongRelay: the same for whoever plays the relay; the ticket stays with the client.
func TestWrongRelay(t *testing.T) {
	ca := tunneltest.NewCA(t)
	for name, cert := range map[string]tunnelCert{
		"signed by another CA": tunneltest.NewCA(t).Relay(t),
		"an agent's":           ca.Agent(t, "inside", "app"),
		"the broker's":         ca.Issue(t, time.Hour, serverUse, "sallyport:broker"),
		"expired":              ca.Issue(t, -time.Minute, serverUse, "sallyport:relay"),
	} {
		t.Run(name, func(t *testing.T) {
			addr, spoken := lyingRelay(t, cert)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if c, err := tunneltest.Dial(ctx, ca, addr, "app", "one"); err == nil {
				_ = c.Close()
				t.Error("the client is connected")
			}
			if got := receive(t, spoken, "the relay's side"); len(got) != 0 {
				t.Errorf("the client said %q", got)
			}
		})
	}
}
