// Package pgserver starts a throw-away PostgreSQL on loopback for demos, development and tests, as an unprivileged user.
// It refuses to listen on anything but 127.0.0.1, and leaves nothing behind when stopped.
package pgserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/localstack/child"
)

// Config says what to start. The zero value starts the newest installed server with a random password in a temporary
// directory.
type Config struct {
	// Bin is the directory of initdb and postgres; empty looks in PATH and in the usual places.
	Bin string
	// Version is the major version wanted, where Bin is empty: one that localstack/scripts/postgres.sh installed, or the system's. Zero is the
	// newest of the system's.
	Version int
	// Parameters are settings beside those that the package needs.
	Parameters map[string]string
	// Seed is SQL run once the server is up.
	Seed string
	// Certificate and Key, in PEM, have the server take TLS beside plain connections; empty: it does not.
	Certificate, Key []byte
}

// Server is a running PostgreSQL with SCRAM-SHA-256 for everybody and a log of every statement.
type Server struct {
	Host     string // 127.0.0.1
	Port     int
	User     string // a superuser: "postgres"
	Password string
	Database string // "postgres"
	LogFile  string // every statement, as the server got it

	dir  string
	cmd  *exec.Cmd
	done chan struct{}
}

// startLimit is how long initdb and the server's start may take on a slow machine.
const startLimit = 60 * time.Second

// ErrNotInstalled says how to install what is missing.
var ErrNotInstalled = errors.New("no PostgreSQL server found: on Debian or Ubuntu `apt-get install postgresql`, on macOS `brew install postgresql@17`; " +
	"or put the directory of initdb and postgres into PATH")

// Start makes a cluster and waits until it answers.
func Start(ctx context.Context, c Config) (*Server, error) {
	bin, err := c.bin()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "sallyport-pg-")
	if err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	s := &Server{Host: "127.0.0.1", User: "postgres", Password: rand.Text(), Database: "postgres",
		LogFile: filepath.Join(dir, "server.log"), dir: dir, done: make(chan struct{})}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := s.start(ctx, bin, c); err != nil {
		return nil, errors.Join(fmt.Errorf("start postgres: %w", err), s.Stop())
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, bin string, c Config) error {
	cred, err := Unprivileged()
	if err != nil {
		return err
	}
	pw := filepath.Join(s.dir, "pw")
	if err := os.WriteFile(pw, []byte(s.Password), 0o600); err != nil {
		return err
	}
	if cred != nil {
		for _, p := range []string{s.dir, pw} {
			if err := os.Chown(p, int(cred.Uid), int(cred.Gid)); err != nil {
				return err
			}
		}
	}
	data := filepath.Join(s.dir, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", s.User, "--pwfile", pw, "-A", "scram-sha-256",
		"--locale=C", "--encoding=UTF8", "--no-sync")
	initdb.SysProcAttr, initdb.Dir, initdb.Env = &syscall.SysProcAttr{Credential: cred}, s.dir, cleanEnv()
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	if s.Port, err = freePort(); err != nil {
		return err
	}
	if len(c.Certificate) > 0 {
		if err := s.secure(cred, &c); err != nil {
			return err
		}
	}
	logFile, err := os.OpenFile(s.LogFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = logFile.Close() }() // the server has its own descriptor
	s.cmd = exec.Command(filepath.Join(bin, "postgres"), s.args(data, c)...)
	s.cmd.SysProcAttr, s.cmd.Dir, s.cmd.Env = child.Attr(syscall.SIGQUIT), s.dir, cleanEnv()
	s.cmd.SysProcAttr.Credential = cred
	s.cmd.Stdout, s.cmd.Stderr = logFile, logFile
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return err
	}
	go func() { defer close(s.done); _ = s.cmd.Wait() }() // how it ended is in its log
	return s.waitReady(ctx, c.Seed)
}

// secure writes certificate and key where the server alone can read them.
func (s *Server) secure(cred *syscall.Credential, c *Config) error {
	set := map[string]string{"ssl": "on", "ssl_cert_file": filepath.Join(s.dir, "server.crt"), "ssl_key_file": filepath.Join(s.dir, "server.key")}
	for name, pem := range map[string][]byte{set["ssl_cert_file"]: c.Certificate, set["ssl_key_file"]: c.Key} {
		if err := os.WriteFile(name, pem, 0o600); err != nil {
			return err
		}
		if cred != nil {
			if err := os.Chown(name, int(cred.Uid), int(cred.Gid)); err != nil {
				return err
			}
		}
	}
	maps.Copy(set, c.Parameters)
	c.Parameters = set
	return nil
}

func (s *Server) args(data string, c Config) []string {
	set := map[string]string{
		"listen_addresses": s.Host, "port": strconv.Itoa(s.Port), "unix_socket_directories": "", "fsync": "off",
		"log_statement": "all", "log_destination": "stderr", "logging_collector": "off", "log_min_messages": "warning",
		"password_encryption": "scram-sha-256", "max_connections": "200", "shared_buffers": "64MB",
	}
	for k, v := range c.Parameters {
		set[k] = v
	}
	args := []string{"-D", data}
	for k, v := range set {
		args = append(args, "-c", k+"="+v)
	}
	return args
}

func (s *Server) waitReady(ctx context.Context, seed string) error {
	var last error
	for {
		conn, err := pgconn.Connect(ctx, s.DSN())
		if err == nil {
			if seed != "" {
				_, err = conn.Exec(ctx, seed).ReadAll()
			}
			return errors.Join(err, conn.Close(ctx))
		}
		last = err
		select {
		case <-s.done:
			b, _ := os.ReadFile(s.LogFile) // what it said is the reason, if anything
			return fmt.Errorf("the server ended: %s", bytes.TrimSpace(b))
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w", last)
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// DSN is the superuser's connection string.
func (s *Server) DSN() string {
	return fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=disable", s.Host, s.Port, s.User, s.Password, s.Database)
}

// Exec runs SQL as the superuser, past every gate: for set-up and for checking what really happened.
func (s *Server) Exec(ctx context.Context, sql string) ([]*pgconn.Result, error) {
	conn, err := pgconn.Connect(ctx, s.DSN())
	if err != nil {
		return nil, err
	}
	res, err := conn.Exec(ctx, sql).ReadAll()
	return res, errors.Join(err, conn.Close(ctx))
}

// Stop ends the server at once and removes its directory.
func (s *Server) Stop() error {
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(syscall.SIGQUIT) // immediate shutdown; already gone is fine
		select {
		case <-s.done:
		case <-time.After(10 * time.Second):
			_ = s.cmd.Process.Kill() // it had its chance
			<-s.done
		}
	}
	return os.RemoveAll(s.dir)
}

// FindBin is the directory with the newest initdb and postgres.
func FindBin() (string, error) { return findBin("") }

func (c Config) bin() (string, error) {
	if c.Bin != "" || c.Version == 0 {
		return findBin(c.Bin)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	major := strconv.Itoa(c.Version)
	for {
		if bin := filepath.Join(dir, "build", "postgres", major, "bin"); complete(bin) {
			return bin, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			break
		}
		dir = parent
	}
	for _, bin := range []string{"/usr/lib/postgresql/" + major + "/bin", "/opt/homebrew/opt/postgresql@" + major + "/bin", "/usr/pgsql-" + major + "/bin"} {
		if complete(bin) {
			return bin, nil
		}
	}
	return "", fmt.Errorf("no PostgreSQL %s here: localstack/scripts/postgres.sh %s installs one into build/", major, major)
}

// complete says whether a directory has both programs.
func complete(bin string) bool {
	_, err1 := os.Stat(filepath.Join(bin, "initdb"))
	_, err2 := os.Stat(filepath.Join(bin, "postgres"))
	return err1 == nil && err2 == nil
}

func findBin(bin string) (string, error) {
	if bin != "" {
		return bin, nil
	}
	var found []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin", "/usr/pgsql-*/bin"} {
		m, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		found = append(found, m...)
	}
	slices.SortFunc(found, func(a, b string) int { return version(b) - version(a) })
	if p, err := exec.LookPath("initdb"); err == nil {
		if p, err = filepath.EvalSymlinks(p); err == nil {
			found = append(found, filepath.Dir(p))
		}
	}
	for _, dir := range found {
		if complete(dir) {
			return dir, nil
		}
	}
	return "", ErrNotInstalled
}

func version(path string) int {
	digits := strings.FieldsFunc(path, func(r rune) bool { return r < '0' || r > '9' })
	if len(digits) == 0 {
		return 0
	}
	n, err := strconv.Atoi(digits[len(digits)-1])
	if err != nil {
		return 0
	}
	return n
}

// Unprivileged is whom root runs the server as: initdb refuses root. Nil for everybody else.
func Unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, fmt.Errorf("running as root on %s: no user \"postgres\" or \"nobody\" to run the server as", runtime.GOOS)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }() // freed for the server
	return l.Addr().(*net.TCPAddr).Port, nil
}

// cleanEnv keeps the caller's PG* settings and secrets out of the server.
func cleanEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
}
