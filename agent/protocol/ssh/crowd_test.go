//go:build bench

package ssh

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/localstack/sshserver"
)

const crowdEnv = "SALLYPORT_TEST_CROWD"

// TestCrowd is the host and the clients of TestTableMemory, in a process of their own. It says where the host is, is told where the room is, and
// says when everybody has a command that waits.
func TestCrowd(t *testing.T) {
	if os.Getenv(crowdEnv) == "" {
		return
	}
	addr, key := library(t)
	fmt.Printf("%s %s", addr, key)
	var room string
	if _, err := fmt.Scanln(&room); err != nil {
		t.Fatal(err)
	}
	one := func() (*ssh.Client, error) {
		c, err := ssh.Dial("tcp", room, &ssh.ClientConfig{Config: crypto(), User: "x", HostKeyCallback: ssh.InsecureIgnoreHostKey()}) //nolint:gosec // as above
		if err != nil {
			return nil, err
		}
		s, err := c.NewSession()
		if err != nil {
			return c, err
		}
		in, err := s.StdinPipe()
		if err != nil {
			return c, err
		}
		out, err := s.StdoutPipe()
		if err != nil {
			return c, err
		}
		if err := s.Start("cat"); err != nil {
			return c, err
		}
		if _, err := in.Write([]byte("x")); err != nil {
			return c, err
		}
		_, err = io.ReadFull(out, make([]byte, 1))
		return c, err
	}
	next := make(chan int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range next {
				c, err := one()
				if err != nil {
					t.Error(i, err)
				}
				if c != nil {
					t.Cleanup(func() { _ = c.Close() })
				}
			}
		})
	}
	for i := range many {
		next <- i
	}
	close(next)
	wg.Wait()
	if !t.Failed() {
		fmt.Println("ready")
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func resident(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

// TestTableMemory: what sessions take that do nothing just now.
func TestTableMemory(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestCrowd$")
	cmd.Env = append(os.Environ(), crowdEnv+"=yes")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	out := bufio.NewReader(pipe)
	line, err := out.ReadString('\n')
	addr, key, ok := strings.Cut(strings.TrimSpace(line), " ")
	if err != nil || !ok {
		t.Fatalf("%q, %v", line, err)
	}
	over := make(chan struct{})
	t.Cleanup(func() { close(over) }) // after the room's end
	h := open(t, &sshserver.Server{Addr: addr, HostKey: key, User: "x", Key: newLogin(t)})
	go func() {
		for {
			select {
			case <-h.served:
			case <-over:
				return
			}
		}
	}()
	debug.FreeOSMemory()
	before := resident(t)
	_, _ = fmt.Fprintln(in, h.addr)
	if line, err := out.ReadString('\n'); line != "ready\n" {
		rest, _ := io.ReadAll(out)
		t.Fatalf("%q, %v\n%s", line, err, rest)
	}
	after, goroutines := resident(t), runtime.NumGoroutine()
	debug.FreeOSMemory()
	idle := resident(t)
	fmt.Printf("\n| SSH, %d sessions, each with a command that waits | |\n|---|---|\n| resident before / with them / once the garbage is given back | %d / %d / %d MB |\n| of that for a session | %d kB |\n| goroutines of a session | %d |\n\n",
		many, before>>20, after>>20, idle>>20, (after-before)>>10/many, goroutines/many)
	if after > 300<<20 {
		t.Errorf("%d MB", after>>20)
	}
}

// newLogin is a key to log in with.
func newLogin(t testing.TB) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}
