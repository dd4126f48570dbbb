package endpoint_test

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/client/endpoint"
	"github.com/sallyport/sallyport/client/endpoint/postgres"
	"github.com/sallyport/sallyport/client/state"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wayFunc is a way to a target.
type wayFunc func(ctx context.Context, c api.Client, v *api.Verifier) (tunnel.Duplex, error)

func (f wayFunc) Open(ctx context.Context, c api.Client, v *api.Verifier) (tunnel.Duplex, error) {
	return f(ctx, c, v)
}

// serve opens an endpoint of PostgreSQL on a socket; the returned directory is what libpq takes for a host.
func serve(t *testing.T, w endpoint.Way, admit func(net.Conn) (api.Client, error)) string {
	t.Helper()
	e, err := endpoint.New(endpoint.Config{Target: "app", Protocol: postgres.Protocol{}, Way: w, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := endpoint.NewSocket(postgres.Protocol{}.SocketFile(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := e.Serve(ctx, endpoint.Door{Listener: s.Listener, Admit: admit}); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(s.Dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s stays: %v", s.Dir, err)
		}
	})
	return s.Dir
}

func connect(t *testing.T, dsn string) *pgconn.PgError {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, dsn)
	if err == nil {
		_ = c.Close(ctx)
		t.Fatal("connected")
	}
	pe := (*pgconn.PgError)(nil)
	if !errors.As(err, &pe) {
		t.Fatalf("not an error of the server: %v", err)
	}
	return pe
}

func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		err                         error
		code, message, detail, hint string
	}{
		"relay away":     {errors.New("dial tcp: connection refused"), "42501", "no decision: the gate is closed", `"code":"no_decision"`, "connection refused"},
		"broker away":    {api.Because(api.ErrUnavailable, "wait", "the store does not answer"), "42501", "no decision: the gate is closed", `"retryable":true`, "the store does not answer; wait"},
		"bug":            {api.Because(api.ErrInternal, "", "internal error"), "42501", "no decision: the gate is closed", `"code":"no_decision"`, "internal error"},
		"denied":         {api.Because(api.ErrDenied, "ask for it", "target app is not yours"), "42501", "target app is not yours", `"code":"denied"`, "ask for it"},
		"revoked":        {api.Because(api.ErrRevoked, "ask alice", "coder was revoked"), "28000", "coder was revoked", `"code":"revoked"`, "ask alice"},
		"login":          {fmt.Errorf("renew: %w", state.NeedLogin("the login has ended")), "28000", "the login has ended", `"code":"revoked"`, "sallyport login"},
		"busy":           {api.Because(api.ErrBusy, "", "too many"), "53300", "too many", `"retryable":true`, ""},
		"denied by gate": {&access.Denied{Code: access.CodeDenied, Rule: "floor.x", Hint: "no"}, "42501", `denied by rule "floor.x"`, `"rule":"floor.x"`, "no"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := serve(t, wayFunc(func(context.Context, api.Client, *api.Verifier) (tunnel.Duplex, error) { return nil, tc.err }), endpoint.SameUser(os.Geteuid()))
			pe := connect(t, postgres.Protocol{}.DSN(endpoint.Local{Target: "app", Database: "shop", Dir: dir}))
			if pe.Severity != "FATAL" || pe.Code != tc.code || pe.Message != tc.message || !strings.Contains(pe.Detail, tc.detail) || !strings.Contains(pe.Hint, tc.hint) {
				t.Errorf("got %+v", pe)
			}
		})
	}
}

func TestAnotherUserIsRefused(t *testing.T) {
	dir := serve(t, wayFunc(func(context.Context, api.Client, *api.Verifier) (tunnel.Duplex, error) {
		t.Error("a way was opened")
		return nil, errors.New("no")
	}), endpoint.SameUser(os.Geteuid()+1))
	pe := connect(t, "host="+dir+" user=x database=x")
	if pe.Code != "42501" || !strings.Contains(pe.Hint, "belongs to another user") || !strings.Contains(pe.Detail, "endpoint.caller") {
		t.Errorf("got %+v", pe)
	}
}

func TestCarriesBothWaysAndHalfClose(t *testing.T) {
	dir := serve(t, wayFunc(func(_ context.Context, c api.Client, v *api.Verifier) (tunnel.Duplex, error) {
		if c.PID != os.Getpid() || c.UID != os.Geteuid() || c.Program == "" || v != nil {
			t.Errorf("client %+v, verifier %v", c, v)
		}
		return echo(t)
	}), endpoint.SameUser(os.Geteuid()))
	c, err := net.Dial("unix", filepath.Join(dir, postgres.Protocol{}.SocketFile()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "some bytes"); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil || string(b) != "some bytes, and that was all" {
		t.Errorf("got %q, %v", b, err)
	}
}

// echo is a far end that repeats everything, and says something more once its caller has said all.
func echo(t *testing.T) (tunnel.Duplex, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	far, err := l.Accept()
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		defer far.Close()
		_, _ = io.Copy(far, far)
		_, _ = io.WriteString(far, ", and that was all")
	}()
	return near.(*net.TCPConn), nil
}

func TestCancelGetsNoAnswer(t *testing.T) {
	dir := serve(t, wayFunc(func(context.Context, api.Client, *api.Verifier) (tunnel.Duplex, error) {
		return nil, errors.New("closed")
	}), endpoint.SameUser(os.Geteuid()))
	for name, tc := range map[string]struct{ send, want string }{
		"cancel":            {"\x00\x00\x00\x10\x04\xd2\x16\x2e\x00\x00\x00\x01\x00\x00\x00\x02", ""},
		"over long startup": {"\x7f\xff\xff\xff\x00\x03\x00\x00", ""},
		"direct TLS":        {"\x16\x03\x01\x02\x00\x01\x00\x01", ""},
		"TLS asked thrice":  {strings.Repeat("\x00\x00\x00\x08\x04\xd2\x16\x2f", 3), "NNN"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("unix", filepath.Join(dir, postgres.Protocol{}.SocketFile()))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(4 * time.Second)) // less than the endpoint gives a slow client
			if _, err := io.WriteString(c, tc.send); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(c); string(b) != tc.want || err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("got %q, %v", b, err)
			}
		})
	}
}

func TestSocketModes(t *testing.T) {
	s, err := endpoint.NewSocket("x.sock", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Remove()
	for path, want := range map[string]os.FileMode{s.Path: 0o600, s.Dir: 0o700} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %o", path, fi.Mode(), err, want)
		}
	}
}

func TestLongTempDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	s, err := endpoint.NewSocket(".s.PGSQL.5432", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
}

func TestPortIsStable(t *testing.T) {
	if _, err := state.Open(t.TempDir(), ""); err == nil {
		t.Fatal("a directory that others can look into was taken")
	}
	home := filepath.Join(t.TempDir(), "home")
	d, err := state.Open(home, "")
	if err != nil {
		t.Fatal(err)
	}
	first, port, err := endpoint.ListenPort(d, "app")
	if err != nil {
		t.Fatal(err)
	}
	second, next, err := endpoint.ListenPort(d, "app")
	if err != nil {
		t.Fatal(err)
	}
	if next == port || port < 20000 || port >= 30000 {
		t.Errorf("ports %d and %d", port, next)
	}
	if err := errors.Join(first.Close(), second.Close()); err != nil {
		t.Fatal(err)
	}
	again, same, err := endpoint.ListenPort(d, "app")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if same != port {
		t.Errorf("port %d the second time, %d the first", same, port)
	}
	if !strings.HasPrefix(again.Addr().String(), "127.0.0.1:") {
		t.Errorf("listens on %s", again.Addr())
	}
}

func TestVerifierFitsThePassword(t *testing.T) {
	p, v, err := endpoint.NewPassword()
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Reveal()) < 43 || strings.Contains(fmt.Sprintf("%v %+v %#v %s %q", p, p, p, p, p), p.Reveal()) {
		t.Error("the password is short, or prints itself")
	}
	salted, err := pbkdf2.Key(sha256.New, p.Reveal(), v.Salt, v.Iterations, 32)
	if err != nil {
		t.Fatal(err)
	}
	m := hmac.New(sha256.New, salted)
	m.Write([]byte("Client Key"))
	if stored := sha256.Sum256(m.Sum(nil)); !hmac.Equal(stored[:], v.StoredKey) {
		t.Error("stored key")
	}
	m = hmac.New(sha256.New, salted)
	m.Write([]byte("Server Key"))
	if !hmac.Equal(m.Sum(nil), v.ServerKey) || v.Iterations < 4096 || len(v.Salt) < 16 {
		t.Error("server key, iterations or salt")
	}
}

func TestDSN(t *testing.T) {
	p := postgres.Protocol{}
	for dsn, want := range map[string]string{
		p.DSN(endpoint.Local{Database: "my shop", Dir: "/tmp/a b"}):                                         "/tmp/a b my shop ",
		p.DSN(endpoint.Local{Database: "shop", Port: 21000, Password: secret.New("p@ss:/word"), Dir: "/x"}): "127.0.0.1 shop p@ss:/word",
	} {
		c, err := pgx.ParseConfig(dsn)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Host + " " + c.Database + " " + c.Password; got != want {
			t.Errorf("%s: %q, want %q", dsn, got, want)
		}
	}
}
