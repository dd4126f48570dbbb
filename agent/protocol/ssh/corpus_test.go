package ssh

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/recording"
)

// Each row of the corpus of tricks in at least five spellings, through the room and a real server. What the server really did is what counts.

// TestCorpusChannels, SS-01: that one channel was let in lets in no other.
func TestCorpusChannels(t *testing.T) {
	t.Parallel()
	h := open(t, server(t))
	c := h.dial()
	run := func(text string) (string, error) {
		s, err := c.NewSession()
		if err != nil {
			return "", err
		}
		defer s.Close()
		b, err := s.Output(text)
		return string(b), err
	}
	first, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, err := first.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start("cat"); err != nil { // stays open all the while
		t.Fatal(err)
	}
	for name, text := range map[string]string{"another": "echo denyme", "the same again": "cat; echo denyme", "in a list": "true; echo denyme", "quoted": "'echo' denyme", "on another program": "printf denyme"} {
		if out, err := run(text); exitCode(err) != 126 || out != "" {
			t.Errorf("%s: %q, %v", name, out, err)
		}
		if out, err := run("echo fine"); err != nil || out != "fine\n" {
			t.Errorf("after %s: %q, %v", name, out, err)
		}
	}
	h.broker.forbid("subsystem sftp")
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err == nil {
		err = s.RequestSubsystem("sftp")
	}
	if b, _ := io.ReadAll(out); err == nil && len(b) > 0 {
		t.Errorf("sftp answered %q", b)
	}
	_ = in.Close()
	if err := first.Wait(); err != nil {
		t.Errorf("the first channel ended with %v", err)
	}
	if n := len(h.asked("EXEC")); n != 11 {
		t.Errorf("%d commands were decided", n)
	}
}

// TestCorpusSubsystems, SS-02: sftp by any other name, where only commands are permitted.
func TestCorpusSubsystems(t *testing.T) {
	t.Parallel()
	h := open(t, server(t))
	h.broker.policy = func(c access.Command) bool { return c.Verb == "EXEC" && c.Complete && c.Refused == nil }
	c := h.dial()
	hello := string(packet(fxpInit, 3).bytes())
	for _, name := range []string{"sftp", "SFTP", "sftp ", "internal-sftp", "/usr/lib/openssh/sftp-server", "netconf", "", "sftp\x00x"} {
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		s.Stdin = strings.NewReader(hello)
		var got bytes.Buffer
		s.Stdout = &got
		if err := s.RequestSubsystem(name); err == nil {
			_ = s.Wait()
		}
		if got.Len() > 0 {
			t.Errorf("subsystem %q answered %q", name, got.String())
		}
		_ = s.Close()
	}
	for _, text := range []string{"/usr/lib/openssh/sftp-server", "internal-sftp", "exec /usr/lib/openssh/sftp-server", "/usr/lib/openssh/sftp-server -e", "sh -c /usr/lib/openssh/sftp-server", "env /usr/lib/openssh/sftp-server", "cd /usr/lib/openssh && ./sftp-server"} {
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		s.Stdin = strings.NewReader(hello)
		var got bytes.Buffer
		s.Stdout = &got
		if err := s.Run(text); err == nil || got.Len() > 0 {
			if cmd := h.asked("EXEC"); recognised(cmd[len(cmd)-1], access.Write, "/etc/x") {
				continue // seen as something that does anything: what is permitted here is more than a policy would
			}
			t.Errorf("%q answered %q, %v", text, got.String(), err)
		}
	}
}

// TestCorpusForwarding, SS-04 and SS-05: no way on from the host, and none back, however it is spelt; each is recorded, and the connection lives.
func TestCorpusForwarding(t *testing.T) {
	t.Parallel()
	srv := server(t)
	_, port, err := net.SplitHostPort(srv.Addr)
	if err != nil {
		t.Fatal(err)
	}
	var to uint32
	if _, err := fmt.Sscan(port, &to); err != nil {
		t.Fatal(err)
	}
	h := open(t, srv)
	c := h.dial()
	type dial struct {
		Host     string
		Port     uint32
		From     string
		FromPort uint32
	}
	refusals := 0
	for _, host := range []string{"127.0.0.1", "localhost", "::1", "0.0.0.0", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]", "", "LOCALHOST."} {
		if ch, _, err := c.OpenChannel("direct-tcpip", ssh.Marshal(dial{host, to, "127.0.0.1", 1})); err == nil {
			t.Errorf("direct-tcpip to %q is open", host)
			_ = ch.Close()
		}
		refusals++
	}
	for _, kind := range []string{"direct-streamlocal@openssh.com", "forwarded-tcpip", "forwarded-streamlocal@openssh.com", "x11", "auth-agent@openssh.com", "auth-agent", "tun@openssh.com", "session@openssh.com", "direct-tcpip@x"} {
		if ch, _, err := c.OpenChannel(kind, ssh.Marshal(struct {
			Path     string
			Reserved string
			More     uint32
		}{"/run/docker.sock", "", 0})); err == nil {
			t.Errorf("%s is open", kind)
			_ = ch.Close()
		}
		refusals++
	}
	for _, kind := range []string{"tcpip-forward", "cancel-tcpip-forward", "streamlocal-forward@openssh.com", "cancel-streamlocal-forward@openssh.com", "tcpip-forward@x", "hostkeys-prove-00@openssh.com"} {
		if ok, _, err := c.SendRequest(kind, true, ssh.Marshal(struct {
			Host string
			Port uint32
		}{"", 0})); ok || err != nil {
			t.Errorf("%s: %v, %v", kind, ok, err)
		}
		refusals++
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"x11-req", "auth-agent-req@openssh.com", "auth-agent-req", "pty-req", "eow@openssh.com"} {
		if ok, _ := s.SendRequest(kind, true, nil); ok {
			t.Errorf("%s is granted", kind)
		}
		refusals++
	}
	if out, err := s.Output("echo alive"); err != nil || string(out) != "alive\n" {
		t.Errorf("afterwards: %q, %v", out, err)
	}
	eventually(t, "receipts", func() bool {
		h.broker.mu.Lock()
		defer h.broker.mu.Unlock()
		return len(h.broker.commands) == refusals+1
	})
	for _, args := range [][]string{{"-W", srv.Addr}, {"-W", "localhost:" + port}} { // what -J sends
		if r := h.ssh(nil, args...); r.code == 0 || strings.Contains(r.out, "SSH-2.0-OpenSSH") {
			t.Errorf("%q: %+v", args, r)
		}
	}
}

// victims are ways to remove or overwrite a file, after "@", of which a policy that permits no writes must let none through.
var victims = []string{
	"ls;rm -f @", "ls\nrm -f @", "ls&rm -f @;wait", "ls|rm -f @", "ls&&rm -f @", "false||rm -f @",
	"echo $(rm -f @)", "echo `rm -f @`", "echo \"$(rm -f @)\"", "cat <<E\n$(rm -f @)\nE\n", "ls $(rm -f @)",
	"rm${IFS}-f${IFS}@", "{rm,-f,@}", "r''m -f @", "\\rm -f @", "$(echo rm) -f @", "x=rm;$x -f @", "IFS=,;x=rm,-f,@;$x",
	"echo cm0gLWYg | base64 -d | sed 's,$,@,' | sh", "echo 'rm -f @' | sh", "printf 'rm -f @' | bash -s", "sh <<E\nrm -f @\nE\n", "bash <<< 'rm -f @'", "echo 'rm -f @' | xargs -I{} sh -c {}", "base64 -d <<< cm0= | xargs -I% % -f @",
	"find @ -delete", "find @ -exec rm {} +", "find @ -exec rm {} \\;", "find @ -execdir rm {} +", "find @ -ok rm {} \\; </dev/null; find @ -fprint @", "find @ -type f -printf '%p\\n' | xargs rm",
	"vim -es -c ':!rm @' -c q", "ed -s @ <<E\n1,$d\nw\nE\n", "sed -i d @", "sed -n 'w @' /etc/hostname", "sed '1e rm -f @' /etc/hostname", "awk 'BEGIN{system(\"rm @\")}'", "awk 'BEGIN{print > \"@\"}'",
	"python3 -c 'import os; os.remove(\"@\")'", "python3 - <<E\nimport os; os.remove('@')\nE\n", "perl -e 'unlink \"@\"'", "perl -i -ne '' @", "echo 'import os; os.remove(\"@\")' | python3",
	"> @", ": >| @", "true &> @", "cp /etc/hostname @", "dd if=/dev/null of=@", "tee @ </dev/null", "truncate -s0 @", "ln -sf /dev/null @", "mv @ @.gone", "shred -u @", "sort -o @ /etc/hostname", "tar cf @ /etc/hostname", "install /etc/hostname @",
	"env rm -f @", "nice rm -f @", "timeout 5 rm -f @", "xargs rm -f <<< @", "eval rm -f @", "exec rm -f @", "command rm -f @", "sh -c 'rm -f @'", "sh -c 'rm -f \"$1\"' x @", "trap 'rm -f @' EXIT", "f(){ rm -f @; };f", "alias a='rm -f @'\na",
	"true # \\\nrm -f @", "ls #\\\nrm -f @", "cat <(rm -f @)", "coproc rm -f @; wait", "time rm -f @", "((x[$(rm -f @)]))", "[[ -n $(rm -f @) ]]", "case $(rm -f @) in esac", "for i in $(rm -f @); do :; done",
	"rsync --server . @ </dev/null; rsync /etc/hostname @", "scp -t @ </dev/null; scp /etc/hostname @", "git init -q @.git; git -c alias.x='!rm -f @' x", "script -qc 'rm -f @' /dev/null", "setsid rm -f @; sleep 0.1", "nohup rm -f @", "busybox rm -f @",
}

// TestCorpusShell, SS-07: the room and a policy of reading alone, in front of a real shell: the file stays as it was.
func TestCorpusShell(t *testing.T) {
	t.Parallel()
	h := open(t, server(t))
	h.broker.policy = func(c access.Command) bool {
		return c.Complete && c.Refused == nil && !slices.ContainsFunc(c.Touches, func(t access.Touch) bool {
			return t.Effect != access.Read && t.Effect != access.Execute
		})
	}
	file := filepath.Join(t.TempDir(), "victim")
	c := h.dial()
	for _, text := range victims {
		if err := os.WriteFile(file, []byte("here\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Run(strings.ReplaceAll(text, "@", file)) // denied, or harmless
		if b, err := os.ReadFile(file); err != nil || string(b) != "here\n" {
			cmds := h.asked("EXEC")
			t.Errorf("%q went through, read as %v", text, told(cmds[len(cmds)-1]))
		}
	}
	for _, text := range []string{"cat @", "wc -l < @", "grep -c here @", "cd / && head -n 1 @", "cat @ | sort | uniq -c"} { // no wall either
		if out, err := func() ([]byte, error) {
			s, err := c.NewSession()
			if err != nil {
				return nil, err
			}
			return s.Output(strings.ReplaceAll(text, "@", file))
		}(); err != nil || len(out) == 0 {
			t.Errorf("%q: %q, %v", text, out, err)
		}
	}
}

// TestCorpusTerminals, SS-08: where commands alone are permitted there is no terminal to play with, and lines that are pasted are decided as a whole.
func TestCorpusTerminals(t *testing.T) {
	t.Parallel()
	h := open(t, server(t))
	for _, args := range [][]string{{"-tt"}, {"-tt", "true"}, {"-tt", "bash"}, {"-tt", "stty -echo; cat"}, {"-T"}, {"-tt", "vim"}} {
		r := h.ssh(strings.NewReader("touch /tmp/sallyport-corpus-pty\nexit\n"), args...)
		if r.code != 255 && r.code != 126 {
			t.Errorf("%q: %+v", args, r)
		}
	}
	if _, err := os.Stat("/tmp/sallyport-corpus-pty"); err == nil {
		t.Error("a terminal ran something")
		_ = os.Remove("/tmp/sallyport-corpus-pty")
	}
	for _, text := range []string{"echo a\necho denyme", "echo a\r\necho denyme", "!!; echo denyme", "echo a\x15echo denyme", "fc -s; echo denyme", "printf '\\033[?1049h'; echo denyme"} {
		if r := h.ssh(nil, text); r.code != 126 || r.out != "" {
			t.Errorf("%q: %+v", text, r)
		}
	}
	exact := "printf 'a\\tb'\nprintf c"
	if r := h.ssh(nil, exact); r.out != "a\tbc" {
		t.Errorf("got %+v", r)
	}
	if cmds := h.asked("EXEC"); cmds[len(cmds)-1].Text != exact {
		t.Errorf("decided was %q", cmds[len(cmds)-1].Text)
	}
}

// TestCorpusKeys, SS-10: whatever keys a client shows, only the endpoint's password tells who it is.
func TestCorpusKeys(t *testing.T) {
	t.Parallel()
	v := verifier(t, "the-one")
	h := open(t, server(t), func(s *protocol.Session) { s.Verifier = v })
	a, _ := newSigner(t)
	b, _ := newSigner(t)
	probe := ssh.PublicKeysCallback(func() ([]ssh.Signer, error) { return []ssh.Signer{shown{a.PublicKey(), b}}, nil })
	cert := hostCert(t, a.PublicKey(), b, func(c *ssh.Certificate) { c.CertType = ssh.UserCert })
	signer, err := ssh.NewCertSigner(cert, a)
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.ParsePrivateKey([]byte(h.srv.Key))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		auth []ssh.AuthMethod
		want bool
	}{
		"a key":                    {[]ssh.AuthMethod{ssh.PublicKeys(a)}, false},
		"two keys":                 {[]ssh.AuthMethod{ssh.PublicKeys(a, b)}, false},
		"a key, signed by another": {[]ssh.AuthMethod{probe}, false},
		"a certificate":            {[]ssh.AuthMethod{ssh.PublicKeys(signer)}, false},
		"the host's own login":     {[]ssh.AuthMethod{ssh.PublicKeys(host)}, false},
		"another password":         {[]ssh.AuthMethod{ssh.Password("the-two")}, false},
		"questions": {[]ssh.AuthMethod{ssh.KeyboardInteractive(func(_, _ string, q []string, _ []bool) ([]string, error) {
			return slices.Repeat([]string{"the-one"}, len(q)), nil
		})}, false},
		"nothing":                         {nil, false},
		"a key, then the password":        {[]ssh.AuthMethod{ssh.PublicKeys(a, b), ssh.Password("the-one")}, true},
		"a wrong one, then the right one": {[]ssh.AuthMethod{ssh.RetryableAuthMethod(passwords("no", "the-one"), 2)}, true},
	} {
		client, err := ssh.Dial("tcp", h.addr, &ssh.ClientConfig{User: "root", Auth: c.auth, HostKeyCallback: ssh.InsecureIgnoreHostKey()}) //nolint:gosec // the host is not what is looked at
		if err == nil {
			_ = client.Close()
		}
		if (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// shown is a signer that shows one key and signs with another.
type shown struct {
	key ssh.PublicKey
	by  ssh.Signer
}

func (s shown) PublicKey() ssh.PublicKey                              { return s.key }
func (s shown) Sign(r io.Reader, data []byte) (*ssh.Signature, error) { return s.by.Sign(r, data) }

func passwords(all ...string) ssh.AuthMethod {
	i := -1
	return ssh.PasswordCallback(func() (string, error) {
		i++
		return all[min(i, len(all)-1)], nil
	})
}

// TestCorpusSwappedKeys, SS-13: a host that shows another key than the pinned one, of whatever kind, gets nothing of us.
func TestCorpusSwappedKeys(t *testing.T) {
	t.Parallel()
	srv := server(t)
	flipped := pin(t, srv.HostKey)
	flipped[31] ^= 1
	other, _ := newSigner(t)
	line := line1(other.PublicKey())
	for name, p := range map[string]protocol.Peer{
		"another key":     {Mode: "pin", Pin: pin(t, line)},
		"one bit":         {Mode: "pin", Pin: flipped},
		"zeros":           {Mode: "pin", Pin: make([]byte, 32)},
		"cut short":       {Mode: "pin", Pin: pin(t, srv.HostKey)[:31]},
		"nothing":         {Mode: "pin"},
		"no way at all":   {},
		"a file of other": {Mode: "verify-full", ServerName: srv.Addr, CAFile: write(t, "known", fmt.Sprintf("%s %s\n", "127.0.0.1", line))},
	} {
		h := open(t, srv, func(s *protocol.Session) { s.Login.Peer = p })
		r := h.ssh(nil, "echo hello")
		if r.code != 255 || strings.Contains(r.out, "hello") {
			t.Errorf("%s: %+v", name, r)
		}
		if err := <-h.served; err == nil {
			t.Errorf("%s: the session ended well", name)
		}
	}
	log, err := os.ReadFile(srv.LogFile)
	if err != nil || strings.Contains(string(log), "Accepted") {
		t.Errorf("somebody logged in: %v\n%s", err, log)
	}
}

// TestCorpusRecordings, SS-14: what a program writes to steer the terminal of whoever looks at its recording does not get there.
func TestCorpusRecordings(t *testing.T) {
	t.Parallel()
	tricks := map[string]string{
		"clipboard": `\033]52;c;QkFE\a`, "clipboard, 8 bit": `\302\2355;c;QkFE\302\234`, "title": `\033]0;owned\a`, "title, ST": `\033]2;owned\033\\`, "answer back": `\005`, "who are you": `\033[c\033[>c\033[6n`,
		"cut in two": `\033]5` + `2;c;QkFE\a`, "device control": `\033P$q"p\033\\`, "within another": `\033[31\033]52;c;QkFE\a m`, "keyboard": `\033[?1000h\033[>4;2m`, "file": `\033]1337;File=x:QkFE\a`, "link": `\033]8;;file:///etc/passwd\a`,
	}
	var line strings.Builder
	for name, trick := range tricks {
		fmt.Fprintf(&line, "printf '<%s:%s>\\n'; ", name, trick)
	}
	h := open(t, server(t)).allow(Settings{Shells: []Mode{ModeTerminal}})
	if r := h.ssh(nil, "-tt", line.String()); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	eventually(t, "sealed", h.tape().Closed)
	p := play(t, h.tape())
	var f recording.Filter
	safe := f.Safe(p.Output)
	for _, steers := range []string{"\x05", "\x07", "\u009d", "\u0090", "\x1b]", "\x1bP", "QkFE", "owned", "\x1b[c", "\x1b[>", "\x1b[6n", "1000h", "passwd"} {
		if strings.Contains(safe, steers) {
			t.Errorf("%q reaches a terminal: %q became %q", steers, p.Output, safe)
		}
	}
	for name := range tricks {
		if !strings.Contains(p.Output, "<"+name+":") || !strings.Contains(safe, "<"+name+":") {
			t.Errorf("%s is lost in %q, from %q", name, safe, p.Output)
		}
	}
}
