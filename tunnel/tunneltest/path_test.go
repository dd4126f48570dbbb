package tunneltest_test

import (
	"bytes"
	"crypto/rand"
	"io"
	"testing"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/tunnel/relay"
	"github.com/sallyport/sallyport/tunnel/tunneltest"
	"github.com/sallyport/sallyport/tunnel/uplink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func echo(s *uplink.Stream) {
	_, _ = io.Copy(s, s)
	_ = s.CloseWrite()
}

// TestWholePath sends bytes through endpoint, relay and agent, and half-closes both ways.
func TestWholePath(t *testing.T) {
	ca := tunneltest.NewCA(t)
	addr, _ := tunneltest.StartRelay(t, ca, relay.Limits{})
	seen := make(chan *uplink.Stream, 1)
	cert := ca.Agent(t, "inside", "app")
	tunneltest.StartAgent(t, ca, addr, cert, func(s *uplink.Stream) {
		seen <- s
		echo(s)
	}, func(err error) { t.Errorf("refused: %v", err) })
	c := tunneltest.MustDial(t, ca, addr, "app", "one")
	s := <-seen
	exporter, err := c.Exporter()
	if err != nil {
		t.Fatal(err)
	}
	key, err := c.PeerKey()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(exporter, s.Exporter) || s.Preamble.Proof != tunneltest.Proof(key, exporter) || s.Hello.Target != "app" || s.Hello.Ticket != "" ||
		s.Preamble.Endpoint != "one" || s.Preamble.Token != "token" {
		t.Errorf("the agent took %+v with exporter %x, the client's is %x", s.Preamble, s.Exporter, exporter)
	}

	sent := make([]byte, 5<<20+7)
	_, _ = rand.Read(sent)
	go func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("got %d bytes of %d back, error %v", len(got), len(sent), err)
	}
}
