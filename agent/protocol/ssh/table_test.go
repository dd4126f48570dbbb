//go:build bench

package ssh

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/localstack/sshserver"
)

// The tables of docs/BENCHMARKS.md for SSH. Lanes take turns, round by round, so that a machine whose speed drifts drifts for all of them:
//
//	direct   the client on OpenSSH's server itself
//	jump     OpenSSH's ProxyJump over another such server
//	bare     a proxy that joins two connections of the room's own library, and does nothing else
//	room     the room, with a gate in front of a broker in this process that answers at once
//
// The client of bulk is OpenSSH's, in a process of its own; that of the others is Go's.
const (
	rounds         = 5
	bulkSize       = 128 << 20
	samples        = 400
	turns          = 15  // of each lane
	strokes        = 200 // in a turn
	channelsInTurn = 10
	many           = 200 // sessions at once
)

var lanes = []string{"direct", "jump", "bare", "room"}

// bench is a set of lanes to one server.
type bench struct {
	srv  *sshserver.Server
	args map[string][]string // of OpenSSH's client
	addr map[string]string   // where Go's client connects; jump has none
	key  ssh.Signer
}

func newBench(t *testing.T, cipher string) *bench {
	t.Helper()
	options := []string{"MaxSessions 500", "MaxStartups 500"}
	if cipher != "" {
		options = append(options, "Ciphers "+cipher)
	}
	srv := server(t, options...)
	h := open(t, srv)
	key, err := ssh.ParsePrivateKey([]byte(srv.Key))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{srv: srv, key: key, addr: map[string]string{"direct": srv.Addr, "room": h.addr, "bare": bareProxy(t, srv, key)}}
	file := write(t, "key", srv.Key)
	common := []string{"-F", "none", "-T", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "IdentityAgent=none", "-o", "LogLevel=ERROR", "-i", file}
	if cipher != "" {
		common = append(common, "-c", cipher)
	}
	at := func(addr string) []string {
		host, port, _ := net.SplitHostPort(addr)
		return append(slices.Clone(common), "-p", port, srv.User+"@"+host)
	}
	b.args = map[string][]string{"direct": at(srv.Addr), "bare": at(b.addr["bare"]), "room": at(h.addr)}
	second := server(t, options...) // takes another key, which the jump must show
	jumpKey := write(t, "jumpkey", second.Key)
	proxy := "ssh " + strings.Join(append(slices.Clone(common), "-i", jumpKey, "-W", "%h:%p"), " ")
	_, jumpPort, _ := net.SplitHostPort(second.Addr)
	b.args["jump"] = append([]string{"-o", "ProxyCommand=" + proxy + " -p " + jumpPort + " " + second.User + "@127.0.0.1"}, at(srv.Addr)...)
	return b
}

// bareProxy serves any number of clients, each on a connection of its own to the server.
func bareProxy(t *testing.T, srv *sshserver.Server, key ssh.Signer) string {
	t.Helper()
	signer, err := New(Config{}).signer("bare")
	if err != nil {
		t.Fatal(err)
	}
	cfg := &ssh.ServerConfig{Config: crypto(), NoClientAuth: true}
	cfg.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
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
				target, err := ssh.Dial("tcp", srv.Addr, &ssh.ClientConfig{Config: crypto(), User: srv.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()}) //nolint:gosec // on loopback, in a benchmark
				if err != nil {
					return
				}
				defer target.Close()
				wg.Go(func() { ssh.DiscardRequests(reqs) })
				for nc := range channels {
					wg.Go(func() { join(nc, target) })
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().String()
}

func (b *bench) client(t *testing.T, lane string) *ssh.Client {
	t.Helper()
	c, err := ssh.Dial("tcp", b.addr[lane], &ssh.ClientConfig{Config: crypto(), User: b.srv.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(b.key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()}) //nolint:gosec // as above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// bulk runs OpenSSH's client once and returns MB/s, the connection's making left out.
func (b *bench) bulk(t *testing.T, lane string, up bool) float64 {
	t.Helper()
	text := fmt.Sprintf("head -c 1 /dev/zero; head -c %d /dev/zero", bulkSize)
	if up {
		text = fmt.Sprintf("echo; head -c %d | wc -c", bulkSize)
	}
	cmd := exec.CommandContext(t.Context(), "ssh", append(slices.Clone(b.args[lane]), text)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatalf("%s: %v", lane, err)
	}
	began := time.Now()
	if up {
		buf := make([]byte, 256<<10)
		for n := 0; n < bulkSize; n += len(buf) {
			if _, err := in.Write(buf); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = in.Close()
	n, err := io.Copy(io.Discard, out)
	took := time.Since(began)
	if err := cmd.Wait(); err != nil {
		t.Fatal(lane, err)
	}
	if !up && n != bulkSize || err != nil {
		t.Fatalf("%s: %d bytes, %v", lane, n, err)
	}
	return bulkSize / 1e6 / took.Seconds()
}

func median[T int64 | float64 | time.Duration](all []T) T {
	slices.Sort(all)
	return all[len(all)/2]
}

func at99(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)*99/100]
}

// TestTableBulk: MB/s of one stream each way.
func TestTableBulk(t *testing.T) {
	fmt.Printf("\n| SSH, one stream of %d MiB, MB/s | direct | jump | bare | room | room / bare |\n|---|---|---|---|---|---|\n", bulkSize>>20)
	for _, cipher := range []string{"chacha20-poly1305@openssh.com", "aes128-gcm@openssh.com", "aes256-gcm@openssh.com"} {
		b := newBench(t, cipher)
		for _, up := range []bool{false, true} {
			got := map[string][]float64{}
			var ratio []float64
			for range rounds {
				for _, lane := range lanes {
					got[lane] = append(got[lane], b.bulk(t, lane, up))
				}
				ratio = append(ratio, got["room"][len(ratio)]/got["bare"][len(ratio)])
			}
			fmt.Printf("| %s, %s |", cipher, map[bool]string{false: "down", true: "up"}[up])
			for _, lane := range lanes {
				fmt.Printf(" %.0f |", median(got[lane]))
			}
			fmt.Printf(" %.2f |\n", median(ratio))
		}
	}
}

// TestTableExec: one command on a connection that is open.
func TestTableExec(t *testing.T) {
	b := newBench(t, "")
	got := map[string][]time.Duration{}
	clients := map[string]*ssh.Client{}
	for _, lane := range lanes {
		if b.addr[lane] != "" {
			clients[lane] = b.client(t, lane)
		}
	}
	for range samples {
		for lane, c := range clients {
			s, err := c.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if err := s.Run("true"); err != nil {
				t.Fatal(err)
			}
			got[lane] = append(got[lane], time.Since(began))
		}
	}
	fmt.Printf("\n| SSH, `true` on an open connection | p50 µs | p99 µs | added p50 µs |\n|---|---|---|---|\n")
	for _, lane := range []string{"direct", "bare", "room"} {
		fmt.Printf("| %s | %d | %d | %d |\n", lane, median(got[lane]).Microseconds(), at99(got[lane]).Microseconds(), (median(got[lane]) - median(got["direct"])).Microseconds())
	}
}

// echoer sends a byte to a command that sends it back, and waits for it.
type echoer struct {
	in  io.Writer
	out io.Reader
}

func newEchoer(t *testing.T, c *ssh.Client) echoer {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("cat"); err != nil {
		t.Fatal(err)
	}
	return echoer{in, out}
}

func (y echoer) echoes(t *testing.T, n int) (all []time.Duration) {
	t.Helper()
	key := []byte("k")
	for range n {
		began := time.Now()
		if _, err := y.in.Write(key); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(y.out, key); err != nil {
			t.Fatal(err)
		}
		all = append(all, time.Since(began))
	}
	return all
}

// busy streams until it is stopped.
func busy(t *testing.T, c *ssh.Client) (stop func()) {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("cat /dev/zero"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, out, 8<<20); err != nil { // it is well under way
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(io.Discard, out) })
	return func() { _ = s.Close(); wg.Wait() }
}

// loads are what else goes on while a keystroke is echoed, or a channel opened.
var loads = []string{"nothing else", "a stream on another connection", "a stream on the same"}

// under runs f in short turns of each lane, with a load beside it.
func under(t *testing.T, b *bench, load string, f func(lane string, c *ssh.Client)) {
	t.Helper()
	lanes := []string{"direct", "bare", "room"}
	clients, others := map[string]*ssh.Client{}, map[string]*ssh.Client{}
	for _, lane := range lanes {
		clients[lane], others[lane] = b.client(t, lane), b.client(t, lane)
		f(lane, clients[lane]) // to warm up
	}
	for range turns {
		for _, lane := range lanes {
			stop := func() {}
			switch load {
			case loads[1]:
				stop = busy(t, others[lane])
			case loads[2]:
				stop = busy(t, clients[lane])
			}
			f(lane, clients[lane])
			stop()
		}
	}
}

func row(name string, got map[string][]time.Duration) {
	p99 := map[string]time.Duration{}
	fmt.Printf("| %s |", name)
	for _, lane := range []string{"direct", "bare", "room"} {
		p99[lane] = at99(got[lane])
		fmt.Printf(" %d / %d |", median(got[lane]).Microseconds(), p99[lane].Microseconds())
	}
	fmt.Printf(" %.2f | %.2f |\n", p99["room"].Seconds()/p99["direct"].Seconds(), p99["room"].Seconds()/p99["bare"].Seconds())
}

// TestTableEcho: a keystroke.
func TestTableEcho(t *testing.T) {
	b := newBench(t, "aes128-gcm@openssh.com")
	fmt.Printf("\n| SSH, a keystroke's echo, beside | direct p50 / p99 µs | bare | room | p99, room / direct | room / bare |\n|---|---|---|---|---|---|\n")
	for _, load := range loads {
		got := map[string][]time.Duration{}
		echoers := map[string]echoer{}
		under(t, b, load, func(lane string, c *ssh.Client) {
			y, ok := echoers[lane]
			if !ok {
				echoers[lane] = newEchoer(t, c)
				return
			}
			got[lane] = append(got[lane], y.echoes(t, strokes)...)
		})
		row(load, got)
	}
}

// TestTableOpen: another channel with a command, from asking for it to its first byte.
func TestTableOpen(t *testing.T) {
	b := newBench(t, "aes128-gcm@openssh.com")
	fmt.Printf("\n| SSH, another channel with `echo`, to its first byte, beside | direct p50 / p99 µs | bare | room | p99, room / direct | room / bare |\n|---|---|---|---|---|---|\n")
	for _, load := range loads {
		got := map[string][]time.Duration{}
		under(t, b, load, func(lane string, c *ssh.Client) {
			for range channelsInTurn {
				began := time.Now()
				s, err := c.NewSession()
				if err != nil {
					t.Fatal(err)
				}
				out, err := s.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Start("echo"); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				got[lane] = append(got[lane], time.Since(began))
				if err := s.Wait(); err != nil {
					t.Fatal(err)
				}
			}
		})
		row(load, got)
	}
}
