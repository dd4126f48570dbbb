package ssh

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

func TestRealClient(t *testing.T) {
	t.Parallel()
	h := open(t, server(t))
	r := h.ssh(nil, "echo out; echo err >&2; exit 7")
	if r.out != "out\n" || !strings.HasSuffix(r.err, "err\n") || r.code != 7 {
		t.Errorf("got %+v", r)
	}
	if r := h.ssh(strings.NewReader("from stdin"), "cat"); r.out != "from stdin" || r.code != 0 {
		t.Errorf("stdin: got %+v", r)
	}
	r = h.ssh(nil, "touch /tmp/denyme")
	if r.code != 126 || r.out != "" || !strings.Contains(r.err, `denied by rule "no-denyme"`) || !strings.Contains(r.err, "do something else") ||
		!strings.Contains(r.err, `DETAIL: {"code":"denied","rule":"no-denyme"`) {
		t.Errorf("denied: got %+v", r)
	}
	if _, err := os.Stat("/tmp/denyme"); err == nil {
		t.Error("a denied command ran")
	}
	r = h.ssh(nil)
	if r.code != 126 || !strings.Contains(r.err, "ssh.shell") {
		t.Errorf("shell: got %+v", r)
	}
	r = h.ssh(nil, "kill -9 $$")
	if r.code != 255 { // what OpenSSH's client makes of a signal
		t.Errorf("signal: got %+v", r)
	}
	eventually(t, "outcomes", func() bool { return len(h.outcomes()) == 3 })
	first := h.outcomes()[0].Result
	if first.Status != access.StatusError || first.Error != "exit 7" || first.Bytes != int64(len("out\nerr\n")) {
		t.Errorf("outcome %+v", first)
	}
	if last := h.outcomes()[2].Result; last.Error != "signal KILL" {
		t.Errorf("outcome %+v", last)
	}
}

func TestBulk(t *testing.T) {
	t.Parallel()
	h := open(t, server(t))
	r := h.ssh(nil, "head -c 20000000 /dev/zero; echo end >&2; exit 3")
	if len(r.out) != 20000000 || r.code != 3 || !strings.HasSuffix(r.err, "end\n") {
		t.Errorf("down: %d bytes, code %d, %s", len(r.out), r.code, r.err)
	}
	r = h.ssh(bytes.NewReader(make([]byte, 20000000)), "wc -c")
	if strings.TrimSpace(r.out) != "20000000" || r.code != 0 {
		t.Errorf("up: %+v", r)
	}
}

func TestManyChannelsOneConnection(t *testing.T) {
	t.Parallel()
	h := open(t, server(t))
	c := h.dial()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			s, err := c.NewSession()
			if err != nil {
				t.Error(err)
				return
			}
			text := fmt.Sprintf("echo n%d", i)
			if i%2 == 1 {
				text += " denyme"
			}
			out, err := s.Output(text)
			code := 0
			if e := (*ssh.ExitError)(nil); errors.As(err, &e) {
				code = e.ExitStatus()
			}
			if want := fmt.Sprintf("n%d\n", i); i%2 == 0 && string(out) != want || i%2 == 1 && code != 126 {
				t.Errorf("%d: %q, %v", i, out, err)
			}
		})
	}
	wg.Wait()
	if n := len(h.asked("EXEC")); n != 20 {
		t.Errorf("%d decisions for 20 commands", n)
	}
}

// TestKeysAreNeverLookedAt: SS-10 and SS-11 need a server that looks at keys.
func TestKeysAreNeverLookedAt(t *testing.T) {
	t.Parallel()
	srv := server(t)
	h := open(t, srv, func(s *protocol.Session) { s.Verifier = verifier(t, "the-one") })
	signer, err := ssh.ParsePrivateKey([]byte(srv.Key)) // the very key that the agent logs in with
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ssh.Dial("tcp", h.addr, &ssh.ClientConfig{User: srv.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()}); err == nil { //nolint:gosec // as in dial
		t.Error("a key opened a session")
	}
}

// dial is Go's own client.
func (h *house) dial() *ssh.Client {
	h.t.Helper()
	c, err := ssh.Dial("tcp", h.addr, &ssh.ClientConfig{User: "x", HostKeyCallback: ssh.InsecureIgnoreHostKey()}) //nolint:gosec // the key is not what these tests are about
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestHold(t *testing.T) {
	t.Parallel()
	h := open(t, server(t))
	done := make(chan result, 1)
	go func() { done <- h.ssh(nil, "echo holdme") }()
	var verdict chan api.Verdict
	var id access.ApprovalID
	eventually(t, "held", func() bool {
		h.broker.mu.Lock()
		defer h.broker.mu.Unlock()
		for i, v := range h.broker.verdicts {
			id, verdict = i, v
		}
		return verdict != nil
	})
	verdict <- api.Verdict{Approval: id, Status: "approved"}
	r := <-done
	if r.out != "holdme\n" || r.code != 0 || !strings.Contains(r.err, "https://console/approve/A") {
		t.Errorf("got %+v", r)
	}
}

func TestHoldGivenUp(t *testing.T) {
	t.Parallel()
	h := open(t, server(t))
	for name, leave := range map[string]func(c *ssh.Client, s *ssh.Session){
		"connection": func(c *ssh.Client, _ *ssh.Session) { _ = c.Close() },
		"channel":    func(_ *ssh.Client, s *ssh.Session) { _ = s.Close() },
	} {
		h.broker.mu.Lock()
		before := h.broker.withdrawn
		h.broker.verdicts = map[access.ApprovalID]chan api.Verdict{}
		h.broker.mu.Unlock()
		c := h.dial()
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start("echo holdme"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "held", func() bool { h.broker.mu.Lock(); defer h.broker.mu.Unlock(); return len(h.broker.verdicts) > 0 })
		leave(c, s)
		eventually(t, name+": withdrawn", func() bool { h.broker.mu.Lock(); defer h.broker.mu.Unlock(); return h.broker.withdrawn == before+1 })
	}
}

// TestRevoked: OpenSSH refuses signals for root, and takes those for others: where this test runs as root, it is the agent that ends what is left.
func TestRevoked(t *testing.T) {
	h := open(t, server(t)).allow(Settings{Reap: true})
	c := h.dial()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var errOut bytes.Buffer
	s.Stderr = &errOut
	mark := filepath.Join(t.TempDir(), "ran")
	const nap = "61.7242"
	if err := s.Start("sleep " + nap + "; touch " + mark); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it runs", func() bool { return running(t, "sleep\x00"+nap) })
	started := time.Now()
	h.end(&access.Denied{Code: access.CodeRevoked, Rule: "revoked", Hint: "over"})
	err = s.Wait()
	if e := (*ssh.ExitError)(nil); !errors.As(err, &e) || e.ExitStatus() != 126 || !strings.Contains(errOut.String(), "revoked") {
		t.Errorf("got %v, %q", err, errOut.String())
	}
	if d := time.Since(started); d > 2*time.Second {
		t.Errorf("the client was told after %s", d)
	}
	eventually(t, "it is gone", func() bool { return !running(t, "sleep\x00"+nap) })
	if d := time.Since(started); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("it went on")
	}
	if b, err := os.ReadFile(h.srv.LogFile); err != nil || !strings.Contains(string(b), "Starting session") {
		t.Errorf("the host's log: %v", err)
	}
}

// running says whether a process of this machine has such a command line.
func running(t *testing.T, line string) bool {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(all) == 0 {
		t.Fatalf("no processes to look at: %v", err)
	}
	for _, p := range all {
		if b, err := os.ReadFile(p); err == nil && strings.HasPrefix(string(b), line) {
			return true
		}
	}
	return false
}

func TestSwappedHostKey(t *testing.T) {
	t.Parallel()
	h := open(t, server(t), func(s *protocol.Session) { s.Login.Peer.Pin = make([]byte, 32) })
	r := h.ssh(nil, "echo hello")
	if r.code != 255 || !strings.Contains(r.err, "pins") || strings.Contains(r.out, "hello") {
		t.Errorf("got %+v", r)
	}
	if err := <-h.served; !errors.Is(err, errHostKey) {
		t.Errorf("the session ended with %v", err)
	}
}

func TestForwardingIsRefused(t *testing.T) {
	t.Parallel()
	srv := server(t)
	h := open(t, srv)
	c := h.dial()
	for name, addr := range map[string]string{"tcp": srv.Addr, "unix": "/var/run/x.sock"} {
		if conn, err := c.Dial(name, addr); err == nil {
			_ = conn.Close()
			t.Errorf("%s was forwarded", name)
		} else if !strings.Contains(err.Error(), "not forwarded") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, addr := range map[string]string{"tcp": "127.0.0.1:0", "unix": "/tmp/x.sock"} {
		if l, err := c.Listen(name, addr); err == nil {
			_ = l.Close()
			t.Errorf("a listener on %s was opened", name)
		}
	}
	for _, kind := range []string{"x11", "auth-agent@openssh.com", "tun@openssh.com", "forwarded-tcpip", "what@ever"} {
		if ch, _, err := c.OpenChannel(kind, nil); err == nil {
			_ = ch.Close()
			t.Errorf("channel %s was opened", kind)
		}
	}
	if ok, _, err := c.SendRequest("what@ever", true, nil); ok || err != nil {
		t.Errorf("unknown request: %v, %v", ok, err)
	}
	if ok, _, err := c.SendRequest("keepalive@openssh.com", true, nil); ok || err != nil {
		t.Errorf("keepalive: %v, %v", ok, err)
	}
	eventually(t, "receipts", func() bool {
		return len(h.asked("FORWARD")) == 5 && len(h.asked("X11")) == 1 && len(h.asked("CHANNEL")) == 1 && len(h.asked("REQUEST")) == 1
	})
	if got := h.asked("FORWARD")[0]; !strings.Contains(got.Text+h.asked("FORWARD")[1].Text, srv.Addr) {
		t.Errorf("the destination is not recorded: %+v", got)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RequestPty("xterm", 24, 80, nil); err == nil {
		t.Error("a terminal was opened")
	}
	if err := s.Setenv("LD_PRELOAD", "/tmp/x.so"); err == nil {
		t.Error("LD_PRELOAD was set")
	}
	if err := s.Setenv("SECRET_X", "x"); err == nil {
		t.Error("SECRET_X was set")
	}
	if err := s.Setenv("LC_ALL", "C.UTF-8"); err != nil {
		t.Errorf("LC_ALL: %v", err)
	}
	if out, err := s.Output("echo $LC_ALL$SECRET_X"); err != nil || string(out) != "C.UTF-8\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestPasswordOfTheEndpoint(t *testing.T) {
	t.Parallel()
	v := verifier(t, "the-one")
	h := open(t, server(t), func(s *protocol.Session) { s.Verifier = v })
	for password, want := range map[string]bool{"the-one": true, "another": false, "": false} {
		c, err := ssh.Dial("tcp", h.addr, &ssh.ClientConfig{User: "x", Auth: []ssh.AuthMethod{ssh.Password(password)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()}) //nolint:gosec // as in dial
		if err == nil {
			_ = c.Close()
		}
		if (err == nil) != want {
			t.Errorf("password %q: %v", password, err)
		}
	}
	if _, err := ssh.Dial("tcp", h.addr, &ssh.ClientConfig{User: "x", HostKeyCallback: ssh.InsecureIgnoreHostKey()}); err == nil { //nolint:gosec // as above
		t.Error("nobody in particular was let in")
	}
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 2 {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if err := New(Config{}).Refuse(t.Context(), conn, &access.Denied{Code: access.CodeRevoked, Rule: "revoked", Hint: "ask alice"}); err != nil {
				t.Error(err)
			}
		}
	})
	h := &house{t: t, addr: l.Addr().String()}
	if r := h.ssh(nil, "ls"); r.code != 255 || !strings.Contains(r.err, "ask alice") {
		t.Errorf("OpenSSH: %+v", r)
	}
	if _, err := ssh.Dial("tcp", h.addr, &ssh.ClientConfig{User: "x", HostKeyCallback: ssh.InsecureIgnoreHostKey()}); err == nil || !strings.Contains(err.Error(), "ask alice") { //nolint:gosec // as above
		t.Errorf("Go: %v", err)
	}
	wg.Wait()
}

func TestKeyStays(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	first, err := New(Config{KeyDir: dir}).signer("web")
	if err != nil {
		t.Fatal(err)
	}
	again, err := New(Config{KeyDir: dir}).signer("web")
	if err != nil || !bytes.Equal(first.PublicKey().Marshal(), again.PublicKey().Marshal()) {
		t.Errorf("another key after a restart (%v)", err)
	}
	other, err := New(Config{KeyDir: dir}).signer("db")
	if err != nil || bytes.Equal(first.PublicKey().Marshal(), other.PublicKey().Marshal()) {
		t.Errorf("two targets share a key (%v)", err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "web.key")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "web.key"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{KeyDir: dir}).signer("web"); err == nil {
		t.Error("a broken key was replaced in silence")
	}
}
