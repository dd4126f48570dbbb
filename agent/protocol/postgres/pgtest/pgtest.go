// Package pgtest gives tests one throw-away PostgreSQL per test binary: loopback, SCRAM-SHA-256, every statement in a log, seeded.
// It refuses to go on without a server: a test that needs one fails where none is installed, and never skips.
package pgtest

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/localstack/pgserver"
)

//go:embed seed.sql
var seed string

// Server is the binary's PostgreSQL. The role is a superuser, so that nothing but the gate stands in its way.
type Server struct {
	Addr     string // 127.0.0.1:port
	Port     int
	User     string
	Password string
	Database string
	LogFile  string // every statement as the server got it

	srv *pgserver.Server
}

var (
	mu     sync.Mutex
	shared *Server
)

// Start returns the binary's server, starting it at the first call. It runs until Stop.
func Start(t testing.TB) *Server {
	t.Helper()
	mu.Lock()
	defer mu.Unlock()
	if shared != nil {
		return shared
	}
	// Not t's context: the server outlives the test that happened to come first.
	srv, err := pgserver.Start(context.Background(), pgserver.Config{Seed: seed, Parameters: map[string]string{"shared_buffers": "16MB"}})
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	shared = &Server{Addr: net.JoinHostPort(srv.Host, strconv.Itoa(srv.Port)), Port: srv.Port, User: srv.User, Password: srv.Password,
		Database: srv.Database, LogFile: srv.LogFile, srv: srv}
	return shared
}

// Stop ends the server and removes what it left.
func Stop() error {
	mu.Lock()
	defer mu.Unlock()
	if shared == nil {
		return nil
	}
	err := shared.srv.Stop()
	shared = nil
	return err
}

// Main runs a binary's tests, stops the server and looks for goroutines that are left. Use: func TestMain(m *testing.M) {
// os.Exit(pgtest.Main(m)) }.
func Main(m *testing.M) int {
	code := m.Run()
	if err := errors.Join(Stop(), goleak.Find()); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return 1
	}
	return code
}

// DSN is a connection string past every gate.
func (s *Server) DSN() string { return s.srv.DSN() }

// Exec runs SQL past every gate, and fails the test where it fails: for set-up, and for looking at what really happened.
func (s *Server) Exec(t testing.TB, sql string) []*pgconn.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	res, err := s.srv.Exec(ctx, sql)
	if err != nil {
		t.Fatalf("pgtest: %q: %v", sql, err)
	}
	return res
}

// Seed puts the tables of the seed back to what they were.
func (s *Server) Seed(t testing.TB) {
	t.Helper()
	s.Exec(t, seed)
}

// Logged says whether the server's log, from offset on, holds text. Offset 0 is everything.
func (s *Server) Logged(t testing.TB, offset int64, text string) bool {
	t.Helper()
	b, err := os.ReadFile(s.LogFile)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return strings.Contains(string(b[min(offset, int64(len(b))):]), text)
}

// LogSize is an offset for Logged.
func (s *Server) LogSize(t testing.TB) int64 {
	t.Helper()
	st, err := os.Stat(s.LogFile)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return st.Size()
}
