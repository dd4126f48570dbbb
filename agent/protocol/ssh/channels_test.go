package ssh

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/policy"
)

// TestAsOpenSSH: what a client sees of a command is what it sees without the room between.
func TestAsOpenSSH(t *testing.T) {
	t.Parallel()
	srv := server(t)
	h := open(t, srv)
	key := write(t, "key", srv.Key)
	_, port, _ := strings.Cut(srv.Addr, ":")
	direct := []string{"-F", "none", "-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile=" + filepath.Join(t.TempDir(), "known"), "-i", key, "-o", "Port=" + port, srv.User + "@127.0.0.1"}
	for _, c := range []struct{ text, stdin string }{
		{"exit 0", ""}, {"exit 255", ""}, {"exit 126", ""}, {"exit 127", ""}, {"nosuchprogram", ""}, {"echo out; echo err >&2", ""}, {"cat; exit 4", "in"}, {"head -c 3", "0123456789"},
		{"kill -TERM $$", ""}, {"kill -9 $$", ""}, {"sleep 0.1; echo late", ""}, {"exec 1>&-; sleep 0.1; echo err >&2; exit 3", ""}, {"exec 2>&-; echo out", ""}, {"true", strings.Repeat("x", 1<<20)},
		{"(sleep 0.2; echo behind) & echo before", ""}, {"printf 'a\\0b'", ""}, {"head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2", ""},
	} {
		t.Run(c.text, func(t *testing.T) {
			t.Parallel()
			want := execute(t, strings.NewReader(c.stdin), "ssh", append(slices.Clone(direct), c.text)...)
			got := h.ssh(strings.NewReader(c.stdin), c.text)
			clean := func(s string) string {
				lines := strings.SplitAfter(s, "\n")
				return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "Warning: Permanently added") }), "")
			}
			if got.out != want.out || got.code != want.code || clean(got.err) != clean(want.err) {
				t.Errorf("%q:\n got %.200q %.200q %d\nwant %.200q %.200q %d", c.text, got.out, got.err, got.code, want.out, want.err, want.code)
			}
		})
	}
}

// TestControlMaster: many commands on one connection of the real client, each decided by itself.
func TestControlMaster(t *testing.T) {
	t.Parallel()
	h := open(t, server(t))
	sock := filepath.Join(t.TempDir(), "c")
	master := append(h.options(), "-o", "ControlPath="+sock)
	if r := execute(t, nil, "ssh", append(slices.Clone(master), "-o", "ControlMaster=yes", "-f", "-N", "x@127.0.0.1")...); r.code != 0 {
		t.Fatalf("master: %+v", r)
	}
	defer func() { execute(t, nil, "ssh", append(slices.Clone(master), "-O", "exit", "x@127.0.0.1")...) }()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if r := execute(t, nil, "ssh", append(slices.Clone(master), "x@127.0.0.1", fmt.Sprintf("echo n%d; exit %d", i, i))...); r.out != fmt.Sprintf("n%d\n", i) || r.code != i {
				t.Errorf("%d: %+v", i, r)
			}
		})
	}
	wg.Wait()
	if r := execute(t, nil, "ssh", append(slices.Clone(master), "-O", "forward", "-L", "127.0.0.1:0:127.0.0.1:1", "x@127.0.0.1")...); r.code == 0 && r.err == "" {
		t.Logf("the master listens; what it opens is refused: %+v", r)
	}
	if n := len(h.asked("EXEC")); n != 8 || !strings.HasPrefix(string(h.asked("EXEC")[7].Session), "SESSION1") {
		t.Errorf("%d decisions", n)
	}
}

// A client that does not read stops what is sent to it, not other channels, and nothing grows meanwhile.
func TestBackpressure(t *testing.T) {
	h := open(t, server(t))
	c := h.dial()
	slow, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := slow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(t.TempDir(), "done")
	if err := slow.Start("head -c 50000000 /dev/zero; touch " + mark); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if b, err := s.Output("echo quick"); err != nil || string(b) != "quick\n" {
			t.Fatalf("beside a client that does not read: %q, %v", b, err)
		}
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("50 MB went somewhere")
	}
	if n, err := io.Copy(io.Discard, out); n != 50000000 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if err := slow.Wait(); err != nil {
		t.Error(err)
	}
}

// Keys are renewed in both directions while bytes flow, on both legs.
func TestRekey(t *testing.T) {
	t.Parallel()
	h := open(t, server(t, "RekeyLimit 1M"))
	r := h.ssh(bytes.NewReader(make([]byte, 8<<20)), "-o", "RekeyLimit=1M", "cat; exit 5")
	if len(r.out) != 8<<20 || r.code != 5 {
		t.Errorf("%d bytes, code %d, %s", len(r.out), r.code, r.err)
	}
}

// A client that asks whether anybody is there is answered, also while a reviewer is asked.
func TestKeepalive(t *testing.T) {
	for name, args := range map[string][]string{"a command": {"echo holdme"}, "a listener": {"-N", "-R", "/holdme:127.0.0.1:1"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t, server(t)).allow(Settings{Listen: true})
			done := make(chan result, 1)
			started := time.Now()
			go func() {
				done <- h.ssh(nil, append([]string{"-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1"}, args...)...)
			}()
			eventually(t, "held", func() bool { h.broker.mu.Lock(); defer h.broker.mu.Unlock(); return len(h.broker.verdicts) > 0 })
			for time.Since(started) < 4*time.Second { // the client itself counts by the clock
				select {
				case r := <-done:
					t.Fatalf("it gave up: %+v", r)
				case <-time.After(100 * time.Millisecond):
				}
			}
			h.end(&access.Denied{Code: access.CodeRevoked, Rule: "revoked"})
			<-done
		})
	}
}

// Answers keep their order behind a request that waits, however many keepalives there are.
func TestKeepalivesInOrder(t *testing.T) {
	t.Parallel()
	h := open(t, server(t)).allow(Settings{Listen: true})
	c := h.dial()
	sock := filepath.Join(t.TempDir(), "holdme")
	listening := make(chan error, 1)
	go func() { _, err := c.ListenUnix(sock); listening <- err }()
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
	const beats = 10 * maxReceipts
	for range beats {
		if _, _, err := c.SendRequest(keepalive, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	verdict <- api.Verdict{Approval: id, Status: "approved"}
	if err := <-listening; err != nil {
		t.Errorf("the listener: %v", err)
	}
	if ok, _, err := c.SendRequest(keepalive, true, nil); ok || err != nil {
		t.Errorf("keepalive: %v, %v", ok, err)
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	h := open(t, server(t)).allow(Settings{Env: []string{"SECRET_A", "SECRET_B*"}})
	s, err := h.dial().NewSession()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"SECRET_A": true, "SECRET_B1": true, "SECRET_C": false, "LD_PRELOAD": false, "PATH": false, "LC_CTYPE": true} {
		if err := s.Setenv(name, "C"); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Setenv("SECRET_B2", "a\x1bb"); err == nil {
		t.Error("a value with an escape")
	}
	if err := s.Setenv("SECRET_B3", strings.Repeat("x", maxEnvValue+1)); err == nil {
		t.Error("a value without an end")
	}
	if out, err := s.Output("echo $SECRET_A$SECRET_B1"); err != nil || string(out) != "CC\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestRequestsOutOfPlace(t *testing.T) {
	t.Parallel()
	h := open(t, server(t)).allow(Settings{Shells: []Mode{ModeTerminal}})
	s, err := h.dial().NewSession()
	if err != nil {
		t.Fatal(err)
	}
	for name, payload := range map[string][]byte{"window-change": ssh.Marshal(&size{80, 24, 0, 0}), "signal": ssh.Marshal(&struct{ N string }{"TERM"}), "break": ssh.Marshal(&struct{ N uint32 }{0}), "xon-xoff": {0},
		"pty-req": ssh.Marshal(&struct {
			Term       string
			A, B, C, D uint32
			Modes      string
		}{"x\x1b]0;", 1, 1, 1, 1, ""})} {
		if ok, err := s.SendRequest(name, true, payload); ok || err != nil {
			t.Errorf("%s before anything runs: %v, %v", name, ok, err)
		}
	}
	if err := s.RequestPty("xterm", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.RequestPty("xterm", 24, 80, nil); err == nil {
		t.Error("a second terminal")
	}
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("cat"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a break is answered by the host", func() bool {
		_, err := s.SendRequest("break", true, ssh.Marshal(&struct{ N uint32 }{0}))
		return err == nil
	})
	for _, name := range []string{"exec", "shell", "subsystem", "env", "pty-req", "x11-req"} {
		if ok, err := s.SendRequest(name, true, ssh.Marshal(&struct{ N string }{"sftp"})); ok || err != nil {
			t.Errorf("%s while something runs: %v, %v", name, ok, err)
		}
	}
	_ = s.WindowChange(1<<20, 1) // not a terminal's
	if _, err := io.WriteString(in, "\x04"); err != nil {
		t.Fatal(err)
	}
	_ = s.Wait() // a break may have ended it
}

// A policy that permits whatever it can without naming it opens no terminal: "unknown" is permitted by name alone.
func TestGrantsArePermittedByName(t *testing.T) {
	t.Parallel()
	c := &channel{l: &link{s: &protocol.Session{}, settings: &Settings{}}}
	for cedar, want := range map[string]map[Mode]bool{
		`permit (principal, action, resource);`:                                                                             {ModeLine: true},
		`permit (principal, action in [Action::"execute", Action::"read", Action::"unknown"], resource);`:                   {},
		`permit (principal, action == Action::"connect", resource == Target::"web");`:                                       {},
		`permit (principal, action in [Action::"connect", Action::"unknown"], resource == Program::"web/terminal");`:        {ModeTerminal: true},
		`permit (principal, action == Action::"connect", resource == Program::"web/line");`:                                 {ModeLine: true},
		`permit (principal, action in [Action::"execute", Action::"unknown"], resource == Program::"web/terminal");`:        {},
		`permit (principal, action == Action::"forward", resource is Address) when { resource.name like "db.internal:*" };`: {},
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{"p.cedar": "@id(\"p\")\n" + cedar + "\n", "targets.yaml": "targets: [{name: web, protocol: ssh}]\n", "classes.yaml": "classes: []\n", "holds.yaml": "holds: []\n", "roles.yaml": "auditors: [a]\nadministrators: [a]\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		b, problems := policy.Load(os.DirFS(dir))
		if b == nil {
			t.Fatalf("%s: %v", cedar, problems)
		}
		for _, m := range []Mode{ModeLine, ModeTerminal} {
			v := policy.Decide(b, policy.Request{Command: c.grant(m), Target: "web", Agent: "a", Now: time.Now(),
				Lineage:    access.Lineage{Principal: "alice", Path: []access.Node{{ID: "1", Name: "alice"}}},
				Capability: access.Capability{{Effects: access.Effects, Target: "*", Resource: "*"}}})
			if (v.Outcome == access.Allow) != want[m] {
				t.Errorf("%s: %s is %s by %s: %s", cedar, m, v.Outcome, v.Rule, v.Hint)
			}
		}
	}
}
