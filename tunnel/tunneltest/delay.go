package tunneltest

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Delay listens on loopback and passes everything on to addr, and back, so much later: a long way with room for any number of bytes.
func Delay(t testing.TB, addr string, oneWay time.Duration) string {
	t.Helper()
	l := Listen(t, "")
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", addr)
			if err != nil {
				_ = a.Close()
				continue
			}
			mu.Lock()
			conns = append(conns, a, b)
			mu.Unlock()
			wg.Go(func() { delay(a, b, oneWay) })
			wg.Go(func() { delay(b, a, oneWay) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

func delay(dst, src net.Conn, oneWay time.Duration) {
	type late struct {
		b   []byte
		due time.Time
	}
	pieces := make(chan late, 1<<14)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer dst.Close() //nolint:errcheck // a test's
		for p := range pieces {
			time.Sleep(time.Until(p.due))
			if _, err := dst.Write(p.b); err != nil {
				for range pieces { // let the reader end
				}
				return
			}
		}
	})
	for {
		b := make([]byte, 32<<10)
		n, err := src.Read(b)
		if n > 0 {
			pieces <- late{b[:n], time.Now().Add(oneWay)}
		}
		if err != nil {
			break
		}
	}
	close(pieces)
	wg.Wait()
}
