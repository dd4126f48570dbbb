package tunneltest_test

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/tunnel/mux"
	"github.com/sallyport/sallyport/tunnel/relay"
	"github.com/sallyport/sallyport/tunnel/tunneltest"
	"github.com/sallyport/sallyport/tunnel/uplink"
)

func benchPath(b *testing.B, handle func(*uplink.Stream)) (*tunneltest.CA, string) {
	ca := tunneltest.NewCA(b)
	addr, _ := tunneltest.StartRelay(b, ca, relay.Limits{})
	tunneltest.StartAgent(b, ca, addr, ca.Agent(b, "inside", "app"), handle, nil)
	return ca, addr
}

// BenchmarkRoundTrip is one small message there and back, through every TLS.
func BenchmarkRoundTrip(b *testing.B) {
	ca, addr := benchPath(b, echo)
	c := tunneltest.MustDial(b, ca, addr, "app", "one")
	msg := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(msg); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, msg); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBulk streams from the agent to the endpoint, as a large result does.
func BenchmarkBulk(b *testing.B) {
	const piece = 64 << 10
	for _, streams := range []int{1, 16} {
		b.Run(fmt.Sprint(streams), func(b *testing.B) {
			ca, addr := benchPath(b, func(s *uplink.Stream) {
				buf := make([]byte, piece)
				for {
					if _, err := s.Write(buf); err != nil {
						return
					}
				}
			})
			b.SetBytes(int64(streams * piece))
			b.ReportAllocs()
			var wg sync.WaitGroup
			conns := make([]io.Reader, streams)
			for i := range conns {
				conns[i] = tunneltest.MustDial(b, ca, addr, "app", fmt.Sprint(i))
			}
			b.ResetTimer()
			for _, c := range conns {
				wg.Go(func() {
					buf := make([]byte, piece)
					for range b.N {
						if _, err := io.ReadFull(c, buf); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkDial is a new connection: two handshakes and the agent's welcome.
func BenchmarkDial(b *testing.B) {
	ca, addr := benchPath(b, func(*uplink.Stream) {})
	for b.Loop() {
		c, err := tunneltest.Dial(context.Background(), ca, addr, "app", "one")
		if err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
	}
}

// BenchmarkWindow is one bulk stream over an uplink with a round trip of 20 ms, by window. The agent is far away; the endpoint is not.
func BenchmarkWindow(b *testing.B) {
	const piece = 64 << 10
	for _, window := range []int{256 << 10, 1 << 20, 4 << 20, 16 << 20} {
		b.Run(fmt.Sprint(window>>10, "KiB"), func(b *testing.B) {
			ca := tunneltest.NewCA(b)
			size := mux.Config{Window: window}
			addr, _ := tunneltest.StartRelay(b, ca, relay.Limits{Mux: size})
			far := tunneltest.Delay(b, addr, 10*time.Millisecond)
			cert := ca.Agent(b, "inside", "app")
			tunneltest.StartAgentWith(b, uplink.Config{Relay: far, CA: ca.Pool(), Mux: size}, cert, func(s *uplink.Stream) {
				buf := make([]byte, piece)
				for {
					if _, err := s.Write(buf); err != nil {
						return
					}
				}
			}, nil)
			c := tunneltest.MustDial(b, ca, addr, "app", "one")
			buf := make([]byte, piece)
			b.SetBytes(piece)
			for b.Loop() {
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
