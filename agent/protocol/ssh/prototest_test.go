package ssh_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/protocol/prototest"
	"github.com/sallyport/sallyport/agent/protocol/ssh"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/secret"
)

const (
	hostPassword = "host-canary-41c9"
	protected    = "protected-canary-88d2"
)

// host is a server that knows a password, logs each command line as it arrives, and runs it in a shell.
type host struct {
	addr string
	pin  []byte
	dir  string

	mu  sync.Mutex
	log bytes.Buffer
}

func startHost(t *testing.T) *host {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(signer.PublicKey().Marshal())
	h := &host{pin: sum[:], dir: t.TempDir()}
	for _, name := range []string{"protected", "plain"} {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte(map[string]string{"protected": protected, "plain": "plain"}[name]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := &gossh.ServerConfig{PasswordCallback: func(_ gossh.ConnMetadata, p []byte) (*gossh.Permissions, error) {
		if string(p) != hostPassword {
			return nil, errors.New("no")
		}
		return &gossh.Permissions{}, nil
	}}
	cfg.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { h.serve(conn, cfg) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return h
}

func (h *host) serve(raw net.Conn, cfg *gossh.ServerConfig) {
	defer raw.Close()
	conn, channels, reqs, err := gossh.NewServerConn(raw, cfg)
	if err != nil {
		return
	}
	defer conn.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { gossh.DiscardRequests(reqs) })
	for nc := range channels {
		ch, reqs, err := nc.Accept()
		if err == nil {
			wg.Go(func() { h.channel(ch, reqs) })
		}
	}
}

func (h *host) channel(ch gossh.Channel, reqs <-chan *gossh.Request) {
	defer ch.Close()
	var cmd *exec.Cmd
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() {
		if cmd != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	}()
	for req := range reqs {
		var p struct{ Text string }
		if req.Type == "subsystem" && gossh.Unmarshal(req.Payload, &p) == nil && p.Text == "sftp" {
			p.Text = "/usr/lib/openssh/sftp-server"
		} else if req.Type != "exec" || gossh.Unmarshal(req.Payload, &p) != nil {
			_ = req.Reply(false, nil)
			continue
		} else {
			h.mu.Lock()
			fmt.Fprintln(&h.log, p.Text)
			h.mu.Unlock()
		}
		_ = req.Reply(true, nil)
		cmd = exec.Command("/bin/sh", "-c", p.Text)
		cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = h.dir, ch, ch, ch.Stderr()
		cmd.SysProcAttr, cmd.WaitDelay = &syscall.SysProcAttr{Setpgid: true}, 10*time.Millisecond
		if err := cmd.Start(); err != nil {
			return
		}
		started := cmd
		wg.Go(func() {
			_ = started.Wait()
			_, _ = ch.SendRequest("exit-status", false, gossh.Marshal(&struct{ Status uint32 }{uint32(started.ProcessState.ExitCode())}))
			_ = ch.Close()
		})
	}
}

func (h *host) seen(text string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Contains(h.log.String(), text)
}

func fixture(t *testing.T) prototest.Fixture {
	h := startHost(t)
	return prototest.Fixture{
		Room:  func() protocol.Protocol { return ssh.New(ssh.Config{}) },
		Login: protocol.Login{User: "app", Password: secret.New(hostPassword), Peer: protocol.Peer{Mode: "pin", Pin: h.pin}},
		Dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", h.addr)
		},
		Classes:   []access.Class{{Name: "secret", Columns: []string{h.dir + "/protected*"}, Mask: "full"}},
		Protected: protected, Refuses: true, Seen: h.seen, Client: newClient, Wire: wire{h.dir},
	}
}

func TestPromises(t *testing.T) { prototest.Run(t, fixture(t)) }

func TestPromisesFailOnMutants(t *testing.T) { prototest.RunMutants(t, fixture(t)) }

// client is Go's own client, which is told what to do line by line, and answers in the same order.
type client struct {
	net.Conn // to the room
	single   atomic.Bool
	queue    chan []byte
	gone     chan struct{}
	greeted  chan struct{}
	leave    sync.Once
	answers  chan chan []byte
	out      *io.PipeReader
	w        *io.PipeWriter
	wg       sync.WaitGroup

	mu   sync.Mutex
	line []byte
	ssh  gossh.Conn
	late time.Time
}

// message is a line to the client, or an answer of it.
type message struct {
	Greet     bool   `json:"greet,omitempty"`
	Exec      string `json:"exec,omitempty"`
	Unknown   string `json:"unknown,omitempty"`
	Oversized bool   `json:"oversized,omitempty"`

	Ready   bool   `json:"ready,omitempty"`
	Done    bool   `json:"done,omitempty"`
	Out     string `json:"out,omitempty"`
	Err     string `json:"err,omitempty"`
	Code    int    `json:"code,omitempty"`
	Refused bool   `json:"refused,omitempty"`
}

func newClient(raw net.Conn) net.Conn {
	c := &client{Conn: raw, answers: make(chan chan []byte, 100), queue: make(chan []byte, 1000), gone: make(chan struct{}), greeted: make(chan struct{})}
	c.wg.Go(c.deliver)
	c.out, c.w = io.Pipe()
	answers := c.answers
	c.wg.Go(func() {
		for a := range answers {
			b, ok := <-a
			if !ok {
				break // the connection is gone
			}
			if _, err := c.w.Write(b); err != nil {
				break
			}
		}
		_ = c.w.Close()
		for range answers { //nolint:revive // so that nobody waits
		}
	})
	return c
}

func (c *client) Read(b []byte) (int, error) { return c.out.Read(b) }

func (c *client) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.late = t
	return nil
}

// cut writes to the room one byte at a time, where Write was called so.
type cut struct{ *client }

func (c cut) Read(b []byte) (int, error)       { return c.Conn.Read(b) }
func (c cut) SetWriteDeadline(time.Time) error { return nil }
func (c cut) SetDeadline(time.Time) error      { return nil }
func (c cut) Close() error                     { return c.Conn.Close() }
func (c cut) Write(b []byte) (int, error) {
	select {
	case c.queue <- bytes.Clone(b):
		return len(b), nil
	case <-c.gone:
		return 0, io.ErrClosedPipe
	}
}

// deliver writes what is queued: both sides of SSH speak first, which a pipe without a buffer does not take.
func (c *client) deliver() {
	for {
		select {
		case b := <-c.queue:
			step := len(b)
			if c.single.Load() {
				step = 1
			}
			for i := 0; i < len(b); i += step {
				if _, err := c.Conn.Write(b[i:min(i+step, len(b))]); err != nil {
					return
				}
			}
		case <-c.gone:
			return
		}
	}
}

func (c *client) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if bytes.Equal(b, []byte{0}) { // no line: is there still somebody?
		_ = c.Conn.SetWriteDeadline(c.late)
		return c.Conn.Write(b)
	}
	c.single.Store(len(b) == 1)
	c.line = append(c.line, b...)
	for {
		line, rest, ok := bytes.Cut(c.line, []byte{'\n'})
		if !ok {
			return len(b), nil
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			return 0, err
		}
		c.line = rest
		answer := make(chan []byte, 1)
		if c.answers == nil {
			return 0, io.ErrClosedPipe
		}
		c.answers <- answer
		greeted := c.greeted
		c.wg.Go(func() {
			defer close(answer)
			if !m.Greet {
				<-greeted
			}
			if m, ok := c.do(m); ok {
				b, _ := json.Marshal(m)
				answer <- append(b, '\n')
			}
			if m.Greet {
				close(greeted)
			}
		})
	}
}

func (c *client) Close() error {
	err := c.Conn.Close()
	c.leave.Do(func() { close(c.gone) })
	_ = c.out.Close()
	c.mu.Lock()
	conn := c.ssh
	if c.answers != nil {
		close(c.answers)
		c.answers = nil
	}
	c.mu.Unlock()
	if conn != nil {
		_ = conn.Wait()
	}
	return err
}

func (c *client) do(m message) (message, bool) {
	if m.Greet {
		conn, channels, reqs, err := gossh.NewClientConn(cut{c}, "room", &gossh.ClientConfig{User: "x", HostKeyCallback: gossh.InsecureIgnoreHostKey()}) //nolint:gosec // the room's key is not what is tested
		if err != nil {
			_ = c.Conn.Close()
			return message{}, false
		}
		c.mu.Lock()
		c.ssh = conn
		c.mu.Unlock()
		c.wg.Go(func() { gossh.DiscardRequests(reqs) })
		c.wg.Go(func() {
			for nc := range channels {
				_ = nc.Reject(gossh.Prohibited, "")
			}
		})
		return message{Ready: true}, true
	}
	c.mu.Lock()
	conn := c.ssh
	c.mu.Unlock()
	switch {
	case conn == nil:
		return message{}, false
	case m.Unknown != "":
		ok, _, err := conn.SendRequest(m.Unknown+"@prototest", true, []byte(m.Unknown))
		return message{Done: true, Refused: !ok}, err == nil
	}
	ch, reqs, err := conn.OpenChannel("session", nil)
	if err != nil {
		return message{}, false
	}
	defer ch.Close()
	if m.Oversized {
		ok, err := ch.SendRequest("exec", true, []byte{0x3f, 0xff, 0xff, 0xff})
		return message{Done: true, Refused: !ok}, err == nil
	}
	code := -1
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for req := range reqs {
			var p struct{ Status uint32 }
			if req.Type == "exit-status" && gossh.Unmarshal(req.Payload, &p) == nil {
				code = int(p.Status)
			}
		}
	})
	if ok, err := ch.SendRequest("exec", true, gossh.Marshal(&struct{ Text string }{m.Exec})); err != nil || !ok {
		_ = ch.Close()
		return message{Done: true, Refused: true}, err == nil
	}
	_ = ch.CloseWrite()
	var out, errOut []byte
	var copying sync.WaitGroup
	copying.Go(func() { out, _ = io.ReadAll(ch) })
	copying.Go(func() { errOut, _ = io.ReadAll(ch.Stderr()) })
	copying.Wait()
	_ = ch.Close()
	wg.Wait()
	return message{Done: true, Out: string(out), Err: string(errOut), Code: code}, code >= 0
}

// wire is what the client is told.
type wire struct{ dir string }

func line(m message) []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return append(b, '\n')
}

func whole(b []byte) (int, bool) {
	i := bytes.IndexByte(b, '\n')
	return i + 1, i >= 0
}

func read(b []byte) (m message) {
	_ = json.Unmarshal(bytes.TrimSpace(b), &m) // no answer is the zero one
	return m
}

func (wire) Greeting() []byte            { return line(message{Greet: true}) }
func (wire) Ready(b []byte) (int, bool)  { return whole(b) }
func (wire) Answer(b []byte) (int, bool) { return whole(b) }
func (wire) Run(mark string) []byte      { return line(message{Exec: "echo " + mark}) }
func (wire) Slow(mark string) []byte     { return line(message{Exec: "echo " + mark + "; sleep 60"}) }
func (wire) Unknown(mark string) []byte  { return line(message{Unknown: mark}) }
func (wire) Oversized() []byte           { return line(message{Oversized: true}) }
func (wire) Succeeded(answer []byte) bool {
	m := read(answer)
	return m.Done && m.Code == 0 && !m.Refused
}

func (wire) Refused(answer []byte) (string, bool) {
	m := read(answer)
	_, detail, ok := strings.Cut(m.Err, "DETAIL: ")
	return strings.TrimSpace(detail), m.Refused || ok && m.Code == 126
}

func (w wire) Reveal() []byte { return line(message{Exec: "cat " + w.dir + "/protected"}) }

func (w wire) Leaks() map[string][]byte {
	leaks := map[string][]byte{}
	for name, text := range map[string]string{
		"a redirection": "cat < D/protected", "a pipe": "head -c 100 D/protected | cat", "a directory first": "cd D && cat protected", "a glob": "cat D/prot*",
		"a home": "cat protected", "a shell": "sh -c 'cat D/protected'", "an eval": "eval cat D/protected", "a substitution": "echo $(cat D/protected)", "a backquote": "echo `cat D/protected`",
		"a variable": "X=D/protected; cat $X", "a copy": "cp D/protected D/plain2; cat D/plain2", "a move": "mv D/protected D/plain3", "a link": "ln -s D/protected D/plain4; cat D/plain4",
		"a hard link": "ln D/protected D/plain5 && cat D/plain5", "find": "find D -exec cat {} +", "xargs": "echo D/protected | xargs cat", "grep -r": "grep -r canary D", "tar": "tar cf - D",
		"a loop": "for f in D/p*; do cat $f; done", "dots": "cat D/x/../protected", "an error": "sh D/protected", "sudo": "sudo -n cat D/protected", "dd": "dd if=D/protected", "diff": "diff D/protected /dev/null",
		"sed": "sed -n p D/protected", "awk": "awk 1 D/protected", "python": "python3 -c 'print(open(\"D/protected\").read())'", "a here document": "cat <<E\n$(cat D/protected)\nE", "scp": "scp -f D/protected",
		"rsync": "rsync --server --sender -e.LsfxCIvu . D/", "quotes": "c''at D/pro\"tect\"ed", "od": "od -c D/protected", "base64": "base64 D/protected | base64 -d", "tail of all": "tail -n +1 D/plain D/protected",
	} {
		leaks[name] = line(message{Exec: strings.ReplaceAll(text, "D/", w.dir+"/")})
	}
	return leaks
}
