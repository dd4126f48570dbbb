//go:build bench

package ssh

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/localstack/sshserver"
)

// library is a host of the room's own library that takes anybody and starts no programs, so that what programs cost is not measured.
func library(t testing.TB) (addr, key string) {
	t.Helper()
	signer, err := New(Config{}).signer("host")
	if err != nil {
		t.Fatal(err)
	}
	cfg := &ssh.ServerConfig{Config: crypto(), NoClientAuth: true, PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	cfg.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer raw.Close()
				_, channels, reqs, err := ssh.NewServerConn(raw, cfg)
				if err != nil {
					return
				}
				wg.Go(func() { ssh.DiscardRequests(reqs) })
				for nc := range channels {
					if ch, reqs, err := nc.Accept(); err == nil {
						wg.Go(func() { pretend(ch, reqs) })
					}
				}
			})
		}
	})
	return l.Addr().String(), string(ssh.MarshalAuthorizedKey(signer.PublicKey()))
}

// streamed is what pretend's commands send and take.
const streamed = 32 << 20

// pretend behaves as a few commands would.
func pretend(ch ssh.Channel, reqs <-chan *ssh.Request) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for r := range reqs {
		var p struct{ Text string }
		ok := r.Type == "exec" && ssh.Unmarshal(r.Payload, &p) == nil
		_ = r.Reply(ok, nil)
		if !ok {
			continue
		}
		wg.Go(func() {
			switch p.Text {
			case "cat":
				_, _ = io.Copy(ch, ch)
			case "cat file":
				buf := make([]byte, 32<<10)
				for range streamed / len(buf) {
					_, _ = ch.Write(buf)
				}
			case "wc":
				_, _ = io.Copy(io.Discard, ch)
			}
			_, _ = ch.SendRequest("exit-status", false, make([]byte, 4))
			_ = ch.Close()
		})
	}
}

// work is what this process has done so far: µs of CPU, kB allocated, and how often it waited.
type work [3]float64

func now(t *testing.T) work {
	t.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return work{float64(r.Utime.Nano()+r.Stime.Nano()) / 1e3, float64(m.TotalAlloc) / 1e3, float64(r.Nvcsw)}
}

// jobs are what the lanes do, n times for one measurement.
var jobs = []struct {
	name string
	n    int
	unit float64 // of which a measurement has n
	do   func(t *testing.T, c *ssh.Client, n int)
}{
	{"a command, from open to closed", 300, 1, func(t *testing.T, c *ssh.Client, n int) {
		for range n {
			command(t, c, "true", func(io.WriteCloser, io.Reader) {})
		}
	}},
	{"a keystroke and its echo", 500, 1, func(t *testing.T, c *ssh.Client, n int) {
		command(t, c, "cat", func(in io.WriteCloser, out io.Reader) { echoer{in, out}.echoes(t, n); _ = in.Close() })
	}},
	{"a MB down", 2, streamed / 1e6, func(t *testing.T, c *ssh.Client, n int) {
		for range n {
			command(t, c, "cat file", func(_ io.WriteCloser, out io.Reader) { _, _ = io.Copy(io.Discard, out) })
		}
	}},
	{"a MB up", 2, streamed / 1e6, func(t *testing.T, c *ssh.Client, n int) {
		buf := make([]byte, 32<<10)
		for range n {
			command(t, c, "wc", func(in io.WriteCloser, _ io.Reader) {
				for range streamed / len(buf) {
					_, _ = in.Write(buf)
				}
				_ = in.Close()
			})
		}
	}},
}

func command(t *testing.T, c *ssh.Client, text string, talk func(in io.WriteCloser, out io.Reader)) {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal("open: ", err)
	}
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(text); err != nil {
		t.Fatal("start: ", err)
	}
	talk(in, out)
	if err := s.Wait(); err != nil {
		t.Fatal("wait: ", err)
	}
}

// TestTableWork: what a command, a keystroke and a MB cost in CPU, which says more than time where the machine has other work. Client, proxy
// and host are one process, all of the same library, so that what lanes have beside the direct one is the proxy's.
func TestTableWork(t *testing.T) {
	addr, key := library(t)
	srv := &sshserver.Server{Addr: addr, HostKey: key, User: "x", Key: newLogin(t)}
	signer, err := ssh.ParsePrivateKey([]byte(srv.Key))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{srv: srv, key: signer, addr: map[string]string{"direct": addr, "bare": bareProxy(t, srv, signer), "room": open(t, srv).addr}}
	lanes := []string{"direct", "bare", "room"}
	clients := map[string]*ssh.Client{}
	for _, lane := range lanes {
		clients[lane] = b.client(t, lane)
	}
	fmt.Printf("\n| SSH, CPU µs / kB allocated / waits, client and host included | direct | bare | room | CPU, room / bare | added by the room, CPU µs |\n|---|---|---|---|---|---|\n")
	for _, j := range jobs {
		got := map[string][3][]float64{}
		for range 2*rounds + 1 {
			for _, lane := range lanes {
				before := now(t)
				j.do(t, clients[lane], j.n)
				after, g := now(t), got[lane]
				for i := range g {
					g[i] = append(g[i], (after[i]-before[i])/float64(j.n)/j.unit)
				}
				got[lane] = g
			}
		}
		fmt.Printf("| %s |", j.name)
		cpu := map[string]float64{}
		for _, lane := range lanes {
			g := got[lane]
			cpu[lane] = median(g[0])
			fmt.Printf(" %.0f / %.1f / %.1f |", cpu[lane], median(g[1]), median(g[2]))
		}
		fmt.Printf(" %.2f | %.0f |\n", cpu["room"]/cpu["bare"], cpu["room"]-cpu["direct"])
	}
}
