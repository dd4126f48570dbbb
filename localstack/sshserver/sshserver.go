// Package sshserver starts throw-away OpenSSH servers on loopback, for demos and tests.
// It refuses to listen on anything but 127.0.0.1 and keeps everything in a temporary directory that Stop removes.
package sshserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/localstack/child"
)

// ErrNotInstalled tells how to get the server.
var ErrNotInstalled = errors.New("no OpenSSH server found: on Debian or Ubuntu `apt-get install openssh-server`; on macOS it is part of the system")

// startLimit is for a machine under load.
const startLimit = 20 * time.Second

// Server is a running sshd. It lets in the user that started it, by one private key.
type Server struct {
	Addr    string // 127.0.0.1:PORT
	User    string
	Key     string // private, PEM: what the agent logs in with
	HostKey string // public, as authorized_keys and host_key write it
	LogFile string

	dir  string
	cmd  *exec.Cmd
	done chan struct{}
}

// Config changes what Start starts. The zero Config is good.
type Config struct {
	Options []string // more lines of sshd_config, before the defaults: the first value counts
	// Unprivileged has root start the server as another user, whom it then lets in: hosts treat root in ways of their own.
	Unprivileged bool
}

// Start starts a server and waits until it answers.
func Start(c Config) (*Server, error) {
	bin, err := find()
	if err != nil {
		return nil, err
	}
	me, err := user.Current()
	if err == nil && c.Unprivileged && os.Geteuid() == 0 {
		me, err = anybody()
	}
	if err != nil {
		return nil, fmt.Errorf("start sshd: %w", err)
	}
	dir, err := os.MkdirTemp("", "sallyport-sshd-")
	if err != nil {
		return nil, fmt.Errorf("start sshd: %w", err)
	}
	s := &Server{User: me.Username, LogFile: filepath.Join(dir, "log"), dir: dir, done: make(chan struct{})}
	if err := s.start(bin, me, c); err != nil {
		return nil, errors.Join(fmt.Errorf("start sshd: %w", err), s.Stop())
	}
	return s, nil
}

func find() (string, error) {
	for _, p := range []string{"/usr/sbin/sshd", "/usr/local/sbin/sshd", "/opt/homebrew/sbin/sshd"} {
		if _, err := os.Stat(p); err == nil {
			return p, nil // sshd wants to be started by its whole path
		}
	}
	return "", ErrNotInstalled
}

// anybody is a user other than root with a shell of POSIX: PostgreSQL's, which the tests need anyway, or who else there is.
func anybody() (*user.User, error) {
	b, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return nil, err
	}
	found := ""
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) == 7 && f[2] != "0" && slices.Contains([]string{"sh", "bash", "dash"}, filepath.Base(f[6])) && (found == "" || f[0] == "postgres") {
			found = f[0]
		}
	}
	if found == "" {
		return nil, errors.New("there is no user but root that has a shell: install PostgreSQL, which brings one")
	}
	return user.Lookup(found)
}

// become makes the server another user's, if that is not whose process this is.
func (s *Server) become(me *user.User) error {
	uid, err1 := strconv.ParseUint(me.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(me.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil || int(uid) == os.Geteuid() {
		return err
	}
	s.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, name := range []string{"", "host", "authorized", "conf"} {
		if err := os.Chown(s.path(name), int(uid), int(gid)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) start(bin string, me *user.User, c Config) error {
	hostKey, err := newKey()
	if err != nil {
		return err
	}
	login, err := newKey()
	if err != nil {
		return err
	}
	s.Key, s.HostKey = login.private, hostKey.public
	port, err := freePort()
	if err != nil {
		return err
	}
	s.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // Debian's sshd, for privilege separation
			return err
		}
	}
	conf := new(bytes.Buffer)
	for _, o := range c.Options {
		fmt.Fprintln(conf, o)
	}
	fmt.Fprintf(conf, "ListenAddress 127.0.0.1\nPort %d\nHostKey %s\nAuthorizedKeysFile %s\nPidFile none\nStrictModes no\nUsePAM no\n"+
		"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nMaxSessions 100\nMaxStartups 100\nLogLevel VERBOSE\n"+
		"AcceptEnv LANG LC_* SECRET_*\nSubsystem sftp internal-sftp\n", port, s.path("host"), s.path("authorized"))
	for name, text := range map[string]string{"host": hostKey.private, "authorized": login.public + "\n", "conf": conf.String()} {
		if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	s.cmd = exec.Command(bin, "-D", "-e", "-f", s.path("conf"))
	s.cmd.SysProcAttr = child.Attr(syscall.SIGTERM)
	if err := s.become(me); err != nil {
		s.cmd = nil
		return err
	}
	log, err := os.OpenFile(s.LogFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the server has its own descriptor
	s.cmd.Stderr = log
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return err
	}
	go func() { defer close(s.done); _ = s.cmd.Wait() }() // how it ended is in its log
	return s.waitReady()
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Server) waitReady() error {
	late := time.Now().Add(startLimit)
	for {
		conn, err := net.DialTimeout("tcp", s.Addr, time.Second)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-s.done:
			b, _ := os.ReadFile(s.LogFile) // what it said is the reason, if anything
			return fmt.Errorf("it ended: %s", bytes.TrimSpace(b))
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(late) {
			return fmt.Errorf("it does not answer: %w", err)
		}
	}
}

// Dial reaches the server.
func (s *Server) Dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", s.Addr)
}

// Stop ends the server and removes its directory.
func (s *Server) Stop() error {
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(syscall.SIGTERM) // already gone is fine
		select {
		case <-s.done:
		case <-time.After(5 * time.Second):
			_ = s.cmd.Process.Kill() // it had its chance
			<-s.done
		}
	}
	return os.RemoveAll(s.dir)
}

type pair struct{ private, public string }

func newKey() (pair, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return pair{}, err
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return pair{}, err
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return pair{}, err
	}
	return pair{string(pem.EncodeToMemory(block)), string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(public)))}, nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }() // it has served its purpose
	return l.Addr().(*net.TCPAddr).Port, nil
}
