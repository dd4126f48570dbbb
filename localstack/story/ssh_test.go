package story

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/localstack/sshserver"
)

const hostPolicy = `@id("host") permit (principal in Group::"engineers", action, resource in Target::"web");
@id("named") permit (principal in Group::"engineers", action == Action::"unknown", resource in Target::"web");
@id("held-address") @hold("reach") forbid (principal, action == Action::"forward", resource is Address in Target::"web") when { context.verb == "FORWARD" && resource.name like "127.0.0.2:*" };
@id("held-listener") @hold("reach") forbid (principal, action == Action::"forward", resource is Address in Target::"web") when { context.verb == "LISTEN" && resource.name like "listen:127.0.0.2:*" };
@id("held-program") @hold("reach") forbid (principal, action == Action::"execute", resource == Program::"web/nproc");
@id("no-touch") forbid (principal, action == Action::"execute", resource == Program::"web/touch");
`

const hostTargets = `targets:
  web:
    protocol: ssh
    address: %s
    user: %s
    private_key: {file: %s}
    host_key: %s
    ssh: {shells: [line, terminal], forward: true, listen: true, reap: true}
`

// sshWorld is a world with a host behind the gate, and somebody logged in who may do nearly everything there.
type sshWorld struct {
	*world
	t    *testing.T
	srv  *sshserver.Server
	file string // ssh_config
}

func newSSHWorld(t *testing.T) *sshWorld {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	bin, err := filepath.Abs("../../bin")
	must(err)
	w, err := newWorld(t.Context(), Config{Bin: bin, Out: t.Output()}, "")
	must(err)
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	srv, err := sshserver.Start(sshserver.Config{})
	must(err)
	t.Cleanup(func() {
		if err := srv.Stop(); err != nil {
			t.Error(err)
		}
	})
	key, policy := filepath.Join(w.dir, "host.key"), filepath.Join(w.dir, "policy")
	must(os.Mkdir(policy, 0o700))
	for name, text := range map[string]string{key: srv.Key, filepath.Join(w.dir, "targets.yaml"): fmt.Sprintf(hostTargets, srv.Addr, srv.User, key, srv.HostKey),
		filepath.Join(policy, "access.cedar"): hostPolicy, filepath.Join(policy, "targets.yaml"): "targets:\n- name: web\n  protocol: ssh\n",
		filepath.Join(policy, "holds.yaml"): "holds:\n- name: reach\n  reviewers: [reviewers]\n  expires: 15m\n"} {
		must(os.WriteFile(name, []byte(text), 0o600))
	}
	w.system.(*dev).more = []string{"--policy", policy}
	must(w.start(t.Context()))
	must(w.loginByToken(t.Context(), "alice", "engineers"))
	options, code, err := w.cli(t.Context(), "", "config", "ssh")
	if err != nil || code != 0 {
		t.Fatalf("config ssh: exit %d, %v: %s", code, err, options)
	}
	s := &sshWorld{world: w, t: t, srv: srv, file: filepath.Join(w.dir, "ssh_config")}
	must(os.WriteFile(s.file, []byte(options), 0o600))
	return s
}

// client is a running ssh.
type client struct {
	cmd   *exec.Cmd
	keys  io.WriteCloser
	shown lockedBuffer
	ended chan struct{}
}

func (s *sshWorld) start(args ...string) *client {
	s.t.Helper()
	c := &client{cmd: exec.Command("ssh", append([]string{"-F", s.file}, args...)...), ended: make(chan struct{})}
	c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr = s.env(), &c.shown, &c.shown
	var err error
	if c.keys, err = c.cmd.StdinPipe(); err != nil {
		s.t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { _ = c.cmd.Wait(); close(c.ended) }()
	s.t.Cleanup(func() { _ = c.cmd.Process.Kill(); <-c.ended })
	return c
}

// shows types a line and waits for what it shows.
func (s *sshWorld) shows(c *client, line, want string) {
	s.t.Helper()
	if _, err := io.WriteString(c.keys, line); err != nil {
		s.t.Fatal(err)
	}
	s.waits(func() bool { return strings.Contains(c.shown.String(), want) }, "%q does not show %q: %s", line, want, &c.shown)
}

func (s *sshWorld) waits(ok func() bool, format string, args ...any) {
	s.t.Helper()
	for late := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(late) {
			for i, a := range args {
				if b, ok := a.(*lockedBuffer); ok {
					args[i] = b.String()
				}
			}
			s.t.Fatalf(format, args...)
		}
	}
}

// approve approves what waits, as a reviewer does: by the page, after a fresh login. It says what waited.
func (s *sshWorld) approve() string {
	s.t.Helper()
	var pending []api.ApprovalView
	s.waits(func() bool { s.json(s.t, &pending, "approvals", "ls", "--status", "pending"); return len(pending) == 1 }, "nothing waits")
	b, err := s.browser()
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	pg, err := b.signIn(ctx, pending[0].Link, "rita", s.world.file.Users["rita"])
	if err != nil {
		s.t.Fatal(err)
	}
	if !strings.Contains(pg.text(), pending[0].Text) {
		s.t.Fatalf("the page does not show %q: %s", pending[0].Text, pg.text())
	}
	if after, err := b.submit(ctx, pg, map[string]string{"verdict": "approve"}); err != nil || after.status != 200 {
		s.t.Fatalf("the verdict: %v, %d", err, after.status)
	}
	return pending[0].Text
}

func free(t *testing.T, host string) string {
	t.Helper()
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// shouts answers each line in capitals.
func shouts(t *testing.T, host string) string {
	t.Helper()
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewScanner(c); r.Scan(); {
					if _, err := fmt.Fprintln(c, strings.ToUpper(r.Text())); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

func (s *sshWorld) dial(addr string) net.Conn {
	s.t.Helper()
	var c net.Conn
	s.waits(func() (ok bool) {
		var err error
		c, err = net.Dial("tcp", addr)
		return err == nil
	}, "nothing listens on %s", addr)
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (s *sshWorld) says(c net.Conn, text string) {
	s.t.Helper()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintln(c, text); err != nil {
		s.t.Fatal(err)
	}
	if got, err := bufio.NewReader(c).ReadString('\n'); err != nil || got != strings.ToUpper(text)+"\n" {
		s.t.Fatalf("got %q, %v", got, err)
	}
}

// Plain ssh does all that it does elsewhere, through endpoint, relay, agent and broker; what is held waits for the reviewer's page; and a session that is
// ended ends all of it.
func TestSSHEndToEnd(t *testing.T) {
	s := newSSHWorld(t)
	far, held := shouts(t, "127.0.0.1"), shouts(t, "127.0.0.2")
	local, localHeld, dynamic, remote, remoteHeld := free(t, "127.0.0.1"), free(t, "127.0.0.1"), free(t, "127.0.0.1"), free(t, "127.0.0.1"), free(t, "127.0.0.2")
	control := filepath.Join(s.dir, "c")
	sleeps := "61.3137"
	master := s.start("-M", "-S", control, "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2", "-L", local+":"+far, "-L", localHeld+":"+held, "-D", dynamic, "-R", remote+":"+far, "-R", remoteHeld+":"+far,
		"web.sallyport", "echo master; sleep "+sleeps)
	if got := s.approve(); !strings.Contains(got, remoteHeld) {
		t.Errorf("approved %q", got)
	}
	s.shows(master, "", "master")
	conns := map[string]net.Conn{"-L": s.dial(local), "-R": s.dial(remote), "-R held": s.dial(strings.Replace(remoteHeld, "127.0.0.2", "127.0.0.1", 1)), "-L held": s.dial(localHeld)}
	for _, name := range []string{"-L", "-R", "-R held"} {
		s.says(conns[name], "hello")
	}
	if got := s.approve(); !strings.Contains(got, held) {
		t.Errorf("approved %q", got)
	}
	s.says(conns["-L held"], "hello")
	socks := s.dial(dynamic)
	host, port, _ := net.SplitHostPort(far)
	var n int
	_, _ = fmt.Sscan(port, &n)
	if _, err := socks.Write(append(append([]byte{5, 1, 0, 5, 1, 0, 1}, net.ParseIP(host).To4()...), byte(n>>8), byte(n))); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(socks, make([]byte, 12)); err != nil {
		t.Fatalf("-D: %v", err)
	}
	s.says(socks, "hello")
	conns["-D"] = socks

	sibling := s.start("-S", control, "-tt", "web.sallyport", "tty; cat")
	s.shows(sibling, "", "/dev/pts/")
	if got := s.approves(func() *client { return s.start("-S", control, "web.sallyport", "nproc") }); got != "nproc" {
		t.Errorf("approved %q", got)
	}
	key := filepath.Join(s.dir, "host.key")
	jump := s.start("-S", control, "-o", "UserKnownHostsFile="+filepath.Join(s.dir, "known"), "-o", "StrictHostKeyChecking=no", "-i", key,
		"-o", "ProxyCommand=ssh -F "+s.file+" -W %h:%p web.sallyport", "-p", s.srv.Addr[strings.LastIndexByte(s.srv.Addr, ':')+1:], s.srv.User+"@127.0.0.1", "echo $((40+2))-jumped")
	s.shows(jump, "", "42-jumped")
	s.over(jump)

	lines := s.start("-S", "none", "-tt", "web.sallyport")
	s.shows(lines, "", "$ ")
	s.shows(lines, "echo a'b'c\r", "abc")
	s.shows(lines, "touch /tmp/never\r", "no-touch")
	s.shows(lines, "nproc\r", "waiting for a reviewer")
	waiting := len(lines.shown.String())
	if got := s.approve(); !strings.HasSuffix(got, "nproc") {
		t.Errorf("approved %q", got)
	}
	s.waits(func() bool { return strings.Contains(lines.shown.String()[waiting:], "$ ") }, "no prompt: %s", &lines.shown) // what is typed before goes to nproc
	s.shows(lines, "exit 7\r", "exit 7")
	s.over(lines)
	if code := lines.cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("line mode ends with %d: %s", code, lines.shown.String())
	}

	// All of the master's session ends at once: what is forwarded, what listens, what runs and its siblings.
	var all []api.SessionView
	s.json(t, &all, "sessions", "list")
	id := all[len(all)-1].ID
	begun := time.Now()
	if out, code, err := s.cli(t.Context(), "", "sessions", "end", string(id), "--reason", "enough"); err != nil || code != 0 {
		t.Fatalf("end: exit %d, %v: %s", code, err, out)
	}
	for name, c := range conns {
		_ = c.SetReadDeadline(begun.Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s goes on", name)
		}
	}
	s.over(master)
	s.over(sibling)
	took := time.Since(begun)
	for _, addr := range []string{remote, strings.Replace(remoteHeld, "127.0.0.2", "127.0.0.1", 1)} {
		s.waits(func() bool {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				_ = c.Close()
			}
			return err != nil
		}, "%s is still listened on", addr)
	}
	s.waits(func() bool { out, _ := exec.Command("pgrep", "-f", "^sleep "+sleeps).Output(); return len(out) == 0 }, "the program of a session that was ended goes on")
	t.Logf("ended within %s, its program within %s", took.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
	if took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func (s *sshWorld) over(c *client) {
	s.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(20 * time.Second):
		s.t.Fatalf("it does not end: %s", c.shown.String())
	}
}

// approves approves what a client asks for, which then ends well.
func (s *sshWorld) approves(start func() *client) string {
	s.t.Helper()
	c := start()
	text := s.approve()
	s.over(c)
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		s.t.Errorf("exit %d: %s", code, c.shown.String())
	}
	return text
}
