package ssh

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/internal/access"
)

func TestAddress(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		host string
		port uint32
		want string
	}{
		{"Db.Internal.", 5432, "db.internal:5432"}, {"127.0.0.1", 1, "127.0.0.1:1"}, {"::1", 65535, "[::1]:65535"}, {"[::1]", 22, "[::1]:22"}, {"::ffff:10.0.0.1", 22, "10.0.0.1:22"},
		{"localhost", 22, "localhost:22"}, {"2001:DB8::1", 443, "[2001:db8::1]:443"}, {"a_b.example", 1, "a_b.example:1"},
		{"127.1", 22, ""}, {"2130706433", 22, ""}, {"0x7f000001", 22, ""}, {"0x7f.0.0.1", 22, ""}, {"127.0.0.01", 22, ""}, {"010.0.0.1", 22, ""}, {"", 22, ""}, {"a b", 22, ""}, {"a\nb", 22, ""}, {"a/b", 22, ""},
		{"fe80::1%eth0", 22, ""}, {"h", 0, ""}, {"h", 65536, ""}, {"-h", 1, ""}, {strings.Repeat("a.", 200) + "a", 1, ""}, {"h\x00", 1, ""}, {"xn--é", 1, ""}, {"1.2.3", 1, ""},
	} {
		if got, err := address(c.host, c.port); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q %d: %q, %v", c.host, c.port, got, err)
		}
	}
	for p, ok := range map[string]bool{"/run/x.sock": true, "run/x": false, "/run/../x": false, "/a//b": false, "": false, "/a\nb": false, "/" + strings.Repeat("a", 5000): false} {
		if _, err := socket(p); (err == nil) != ok {
			t.Errorf("%q: %v", p, err)
		}
	}
	for host, want := range map[string]string{"": "listen:*:80", "*": "listen:*:80", "localhost": "listen:localhost:80", "0.0.0.0": "listen:0.0.0.0:80", "0": ""} {
		if got, _ := binding(host, 80); got != want {
			t.Errorf("%q: %q", host, got)
		}
	}
}

func FuzzForwarding(f *testing.F) {
	f.Add("direct-tcpip", ssh.Marshal(&tcpChannel{Host: "db", Port: 5432}))
	f.Add("direct-streamlocal@openssh.com", ssh.Marshal(&localChannel{Path: "/run/x"}))
	f.Add("tcpip-forward", ssh.Marshal(&tcpBind{"127.0.0.1", 0}))
	f.Add("streamlocal-forward@openssh.com", ssh.Marshal(&localBind{"/run/x"}))
	f.Fuzz(func(t *testing.T, kind string, b []byte) {
		if to, err := leadsTo(kind, b); err == nil {
			if printable(to) != to || strings.HasPrefix(to, "listen:") || to == "" {
				t.Fatalf("leads to %q", to)
			}
			if again, err := leadsTo(kind, plainExtra(kind, to)); err != nil || again != to {
				t.Fatalf("%q is asked for as %q, %v", to, again, err)
			}
		}
		if to, err := readBind(kind, b); err == nil && (!strings.HasPrefix(to.at, "listen:") || printable(to.at) != to.at) {
			t.Fatalf("listens at %q", to.at)
		}
		_, _ = readPTY(b)
		_, _ = readSize(b)
		(&link{binds: []bind{{host: "x", port: 1}}}).bound(kind, b)
	})
}

// echo answers each connection with what it says, once it has said all.
func echo(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				b, _ := io.ReadAll(conn)
				_, _ = conn.Write(bytes.ToUpper(b))
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l
}

// say speaks to an echo, and hears its answer after the half-close.
func say(t *testing.T, conn net.Conn, text string) string {
	t.Helper()
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Error(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	b, err := io.ReadAll(conn)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func (h *house) tags(verb string) (tags []string) {
	for _, c := range h.asked(verb) {
		for _, o := range h.outcomes() {
			if o.Command == c.ID {
				tags = append(tags, o.Result.Tag)
			}
		}
	}
	return tags
}

func TestForward(t *testing.T) {
	t.Parallel()
	h := open(t, server(t)).allow(Settings{Forward: true})
	far := echo(t, "tcp", "127.0.0.1:0")
	sock := filepath.Join(t.TempDir(), "s")
	echo(t, "unix", sock)
	c := h.dial()
	for network, addr := range map[string]string{"tcp": far.Addr().String(), "unix": sock} {
		conn, err := c.Dial(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 64)
		if _, err := io.WriteString(conn, "hello"); err != nil {
			t.Fatal(err)
		}
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if n, err := io.ReadFull(conn, b[:5]); string(b[:n]) != "HELLO" {
			t.Errorf("%s: %q, %v", network, b[:n], err)
		}
		_ = conn.Close()
	}
	eventually(t, "outcomes", func() bool { return len(h.tags("FORWARD")) == 2 })
	for _, tag := range h.tags("FORWARD") {
		if tag != "sent 5 received 5" {
			t.Errorf("outcome %q", tag)
		}
	}
	want := access.Touch{Effect: access.Forward, Resource: access.Resource{Kind: access.KindAddress, Name: far.Addr().String()}}
	got := h.asked("FORWARD")
	if fmt.Sprint(got[0].Touches[0]) != fmt.Sprint(want) && fmt.Sprint(got[1].Touches[0]) != fmt.Sprint(want) {
		t.Errorf("decided was %+v", got)
	}
	h.broker.forbid("channel direct-tcpip to " + far.Addr().String())
	if conn, err := c.Dial("tcp", far.Addr().String()); err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Errorf("a denied destination: %v, %v", conn, err)
	}
	if conn, err := c.Dial("tcp", "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "could not connect") {
		t.Errorf("nobody there: %v, %v", conn, err)
	}
	if ch, _, err := c.OpenChannel("direct-tcpip", ssh.Marshal(&tcpChannel{Host: "127.1", Port: 22})); err == nil {
		_ = ch.Close()
		t.Error("127.1 was forwarded")
	}
	for _, kind := range []string{"x11", "auth-agent@openssh.com", "tun@openssh.com", "forwarded-tcpip"} {
		if ch, _, err := c.OpenChannel(kind, nil); err == nil {
			_ = ch.Close()
			t.Errorf("channel %s was opened", kind)
		}
	}
	if l, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
		_ = l.Close()
		t.Error("it listens where only forwarding is allowed")
	}
}

// The far side of a forwarded connection is closed when the near one is gone, though neither says a word.
func TestForwardEnds(t *testing.T) {
	h := open(t, server(t)).allow(Settings{Forward: true})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := h.dial()
	for _, leave := range []func(near, far io.Closer){func(near, _ io.Closer) { _ = near.Close() }, func(_, far io.Closer) { _ = far.Close() }} {
		near, err := c.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		before := len(h.tags("FORWARD"))
		leave(near, far)
		_ = far.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.ReadAll(far) // both see the end
		_, _ = io.ReadAll(near)
		_, _ = near.Close(), far.Close()
		eventually(t, "outcome", func() bool { return len(h.tags("FORWARD")) == before+1 })
	}
	near, err := c.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	started := time.Now()
	h.end(&access.Denied{Code: access.CodeRevoked, Rule: "revoked"})
	_ = far.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("far after the session's end: %v", err)
	}
	if d := time.Since(started); d > 2*time.Second {
		t.Errorf("it took %s", d)
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	h := open(t, server(t)).allow(Settings{Listen: true})
	c := h.dial()
	sock := filepath.Join(t.TempDir(), "s")
	for network, addr := range map[string]string{"tcp": "127.0.0.1:0", "unix": sock} {
		l, err := c.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			conn, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			b, _ := io.ReadAll(conn)
			_, _ = conn.Write(bytes.ToUpper(b))
			_ = conn.Close()
		})
		conn, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if got := say(t, conn, "hello"); got != "HELLO" {
			t.Errorf("%s: %q", network, got)
		}
		wg.Wait()
		if err := l.Close(); err != nil {
			t.Errorf("%s: %v", network, err)
		}
	}
	if a := h.asked("LISTEN"); len(a) != 2 || len(h.asked("FORWARDED")) != 2 || !strings.HasPrefix(a[0].Touches[0].Resource.Name, "listen:") {
		t.Errorf("asked %+v", a)
	}
	eventually(t, "outcomes", func() bool { return len(h.tags("FORWARDED")) == 2 })
	for _, tag := range h.tags("FORWARDED") {
		if tag != "sent 5 received 5" {
			t.Errorf("outcome %q", tag)
		}
	}
	h.broker.forbid("tcpip-forward at listen:127.0.0.1:0")
	if l, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
		_ = l.Close()
		t.Error("a denied listener was opened")
	}
	if l, err := c.Listen("tcp", "127.0.0.2:0"); err != nil {
		t.Errorf("after a denied one: %v", err)
	} else {
		_ = l.Close()
	}
	if ok, _, err := c.SendRequest("keepalive@openssh.com", true, nil); ok || err != nil {
		t.Errorf("keepalive: %v, %v", ok, err)
	}
	if ok, _, err := c.SendRequest("what@ever", true, nil); ok || err != nil {
		t.Errorf("unknown request: %v, %v", ok, err)
	}
	h.broker.forbid("")
	for i := range maxBinds + 1 {
		if _, err := c.Listen("tcp", "127.0.0.1:0"); (err == nil) != (i < maxBinds) {
			t.Errorf("listener %d: %v", i, err)
		}
	}
}

// The real client's own words for all of it.
func TestForwardByOpenSSH(t *testing.T) {
	t.Parallel()
	h := open(t, server(t)).allow(Settings{Forward: true, Listen: true})
	far := echo(t, "tcp", "127.0.0.1:0")
	if r := execute(t, strings.NewReader("hello"), "ssh", append(h.options(), "-W", far.Addr().String(), "x@127.0.0.1")...); r.out != "HELLO" || r.code != 0 {
		t.Errorf("-W: %+v", r)
	}
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	local, remote := free(), free()
	done := make(chan result, 1)
	in, release := io.Pipe()
	go func() {
		done <- execute(t, in, "ssh", append(h.options(), "-o", "ExitOnForwardFailure=yes", "-L", local+":"+far.Addr().String(), "-R", remote+":"+far.Addr().String(), "x@127.0.0.1", "cat")...)
	}()
	for name, addr := range map[string]string{"-L": local, "-R": remote} {
		var conn net.Conn
		eventually(t, name+" listens", func() bool {
			var err error
			conn, err = net.Dial("tcp", addr)
			return err == nil
		})
		if got := say(t, conn, "hello"); got != "HELLO" {
			t.Errorf("%s: %q", name, got)
		}
	}
	_ = release.Close()
	if r := <-done; r.code != 0 {
		t.Errorf("got %+v", r)
	}
	r := h.ssh(nil, "-A", "-X", "-o", "ForwardX11Trusted=no", "echo still here")
	if r.out != "still here\n" {
		t.Errorf("agent and X11: %+v", r)
	}
}
