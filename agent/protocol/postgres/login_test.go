package postgres

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/secret"
)

// tlsFront ends TLS as a server would, before the real server. It counts what came in TLS.
type tlsFront struct {
	addr   string
	cert   tls.Certificate
	refuse bool // answers N
	mu     sync.Mutex
	taken  int
}

func newTLSFront(t *testing.T, target string) *tlsFront {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "db"}, DNSNames: []string{"db.internal"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &tlsFront{addr: ln.Addr().String(), cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { f.serve(c, target) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	return f
}

func (f *tlsFront) serve(c net.Conn, target string) {
	defer c.Close()
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return
	}
	if f.refuse {
		_, _ = c.Write([]byte{'N'})
		_, _ = c.Read(head[:])
		return
	}
	if _, err := c.Write([]byte{'S'}); err != nil {
		return
	}
	secured := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{f.cert}, MinVersion: tls.VersionTLS12})
	if secured.Handshake() != nil {
		return
	}
	f.mu.Lock()
	f.taken++
	f.mu.Unlock()
	up, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer up.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(up, secured)
		_ = up.Close()
	}()
	_, _ = io.Copy(secured, up)
	_ = c.Close()
	<-done
}

func TestTargetTLS(t *testing.T) {
	spki := func(f *tlsFront) []byte {
		sum := sha256.Sum256(f.cert.Leaf.RawSubjectPublicKeyInfo)
		return sum[:]
	}
	caFile := func(f *tlsFront) string {
		name := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.cert.Certificate[0]}), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	tests := []struct {
		name   string
		mode   func(f *tlsFront) protocol.Peer
		refuse bool
		works  bool
	}{
		{"verify-full", func(f *tlsFront) protocol.Peer {
			return protocol.Peer{Mode: "verify-full", ServerName: "db.internal", CAFile: caFile(f)}
		}, false, true},
		{"verify-full, wrong name", func(f *tlsFront) protocol.Peer {
			return protocol.Peer{Mode: "verify-full", ServerName: "other.internal", CAFile: caFile(f)}
		}, false, false},
		{"verify-full, unknown authority", func(*tlsFront) protocol.Peer {
			return protocol.Peer{Mode: "verify-full", ServerName: "db.internal"}
		}, false, false},
		{"verify-full, no name", func(f *tlsFront) protocol.Peer { return protocol.Peer{Mode: "verify-full", CAFile: caFile(f)} }, false, false},
		{"verify-full, target without TLS", func(f *tlsFront) protocol.Peer {
			return protocol.Peer{Mode: "verify-full", ServerName: "db.internal", CAFile: caFile(f)}
		}, true, false},
		{"pin", func(f *tlsFront) protocol.Peer { return protocol.Peer{Mode: "pin", Pin: spki(f)} }, false, true},
		{"wrong pin", func(*tlsFront) protocol.Peer { return protocol.Peer{Mode: "pin", Pin: make([]byte, 32)} }, false, false},
		{"no pin", func(*tlsFront) protocol.Peer { return protocol.Peer{Mode: "pin"} }, false, false},
		{"zero", func(*tlsFront) protocol.Peer { return protocol.Peer{} }, false, false},
		{"unknown mode", func(*tlsFront) protocol.Peer { return protocol.Peer{Mode: "prefer"} }, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var front *tlsFront
			g := newScript(nil)
			h := openHouse(t, g, func(s *protocol.Session) {
				s.Login.Peer = tt.mode(front)
				s.Dial = func(ctx context.Context) (net.Conn, error) {
					var d net.Dialer
					return d.DialContext(ctx, "tcp", front.addr)
				}
			})
			front = newTLSFront(t, h.srv.Addr)
			front.refuse = tt.refuse
			c, err := pgx.Connect(t.Context(), h.dsn(""))
			if (err == nil) != tt.works {
				t.Fatalf("connect: %v", err)
			}
			if err != nil {
				if strings.Contains(err.Error(), h.srv.Password) || strings.Contains(err.Error(), front.addr) {
					t.Errorf("the client learns too much: %v", err)
				}
				return
			}
			defer c.Close(context.Background())
			done := make(chan error, 1)
			go func() {
				_, err := c.Exec(context.Background(), "select pg_sleep(60)")
				done <- err
			}()
			eventually(t, "query runs", func() bool {
				r := h.srv.Exec(t, "select count(*) from pg_stat_activity where state = 'active' and query = 'select pg_sleep(60)'")
				return string(r[0].Rows[0][0]) == "1"
			})
			if err := c.PgConn().CancelRequest(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-done; codeOf(err) != "57014" {
				t.Fatalf("cancel over TLS: %v", err)
			}
			front.mu.Lock()
			defer front.mu.Unlock()
			if front.taken != 2 {
				t.Errorf("%d connections in TLS, want session and cancel", front.taken)
			}
		})
	}
}

// elsewhere is a connection that says it comes from another machine.
type elsewhere struct{ net.Conn }

func (elsewhere) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5432} }

func TestPlainOnlyToThisMachine(t *testing.T) {
	h := openHouse(t, newScript(nil), func(s *protocol.Session) {
		real := s.Dial
		s.Dial = func(ctx context.Context) (net.Conn, error) {
			c, err := real(ctx)
			return elsewhere{c}, err
		}
	})
	if _, err := pgx.Connect(t.Context(), h.dsn("")); codeOf(err) != "08001" {
		t.Fatalf("got %v", err)
	}
}

func TestLoginFails(t *testing.T) {
	const canary = "canary-credential"
	var log bytes.Buffer
	var mu sync.Mutex
	h := openHouse(t, newScript(nil), func(s *protocol.Session) {
		s.Login.Password = secret.New(canary)
		s.Log = slog.New(slog.NewTextHandler(&locked{w: &log, mu: &mu}, nil))
	})
	_, err := pgx.Connect(t.Context(), h.dsn(""))
	if codeOf(err) != "28000" || strings.Contains(err.Error(), canary) {
		t.Fatalf("got %v", err)
	}
	<-h.errs
	mu.Lock()
	defer mu.Unlock()
	if strings.Contains(log.String(), canary) || !strings.Contains(log.String(), "login to target failed") {
		t.Errorf("log: %s", log.String())
	}
}

func TestUnreachable(t *testing.T) {
	h := openHouse(t, newScript(nil), func(s *protocol.Session) {
		s.Dial = func(context.Context) (net.Conn, error) { return nil, io.ErrClosedPipe }
	})
	if _, err := pgx.Connect(t.Context(), h.dsn("")); codeOf(err) != "08001" {
		t.Fatalf("got %v", err)
	}
}

// A client cannot tell its own choice from the policy's default: the refusal speaks of both.
func TestAnotherDatabase(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	_, err := pgx.Connect(t.Context(), strings.Replace(h.dsn(""), "dbname="+h.srv.Database, "dbname=shop", 1))
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "42501" || !strings.Contains(pg.Detail, `"rule":"postgres.database"`) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{`if you chose "shop", choose "` + h.srv.Database + `"`, `"shop" is the policy's`, "agent's configuration"} {
		if !strings.Contains(pg.Hint, want) {
			t.Errorf("the hint %q does not say %s", pg.Hint, want)
		}
	}
}

// The agent's environment does not choose where it logs in, or as whom.
func TestEnvironmentIsIgnored(t *testing.T) {
	t.Setenv("PGHOST", "nowhere.invalid")
	t.Setenv("PGUSER", "nobody")
	t.Setenv("PGPASSWORD", "wrong")
	t.Setenv("PGOPTIONS", "-c search_path=evil")
	h := openHouse(t, newScript(nil), nil)
	c := dialRaw(t, h)
	c.startup(t)
	c.write(t, appendQuery(nil, "select current_setting('search_path'), current_user"))
	c.read(t)
	if tag, body := c.read(t); tag != 'D' || bytes.Contains(body, []byte("evil")) || !bytes.Contains(body, []byte(h.srv.User)) {
		t.Fatalf("%c %q", tag, body)
	}
}

// What a client may choose reaches the target.
func TestStartupSettings(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	c := dialRaw(t, h)
	c.write(t, startupPacket(version3, "user", "alice", "database", h.srv.Database, "application_name", "coder", "timezone", "Europe/Zurich", "client_encoding", "'utf-8'", "replication", "false"))
	seen := ""
	for {
		tag, body := c.read(t)
		if tag == 'S' {
			seen += strings.ReplaceAll(string(body), "\x00", "=")
		}
		if tag == 'Z' {
			break
		}
	}
	for _, want := range []string{"application_name=coder", "TimeZone=Europe/Zurich", "client_encoding=UTF8", "standard_conforming_strings=on", "server_version="} {
		if !strings.Contains(seen, want) {
			t.Errorf("%s is missing in %s", want, seen)
		}
	}
}

type locked struct {
	w  io.Writer
	mu *sync.Mutex
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// slowWrites is a connection whose first writes take longer than pgconn waits before it begins to read ahead.
type slowWrites struct {
	net.Conn
	left int
}

func (s *slowWrites) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	if s.left--; s.left >= 0 {
		time.Sleep(40 * time.Millisecond) // the answer comes meanwhile
	}
	return n, err
}

// What a busy machine does to a login: nothing that the target says afterwards is lost.
func TestSlowLogin(t *testing.T) {
	h := openHouse(t, newScript(nil), func(s *protocol.Session) {
		dial := s.Dial
		s.Dial = func(ctx context.Context) (net.Conn, error) {
			c, err := dial(ctx)
			return &slowWrites{Conn: c, left: 3}, err // startup and both messages of SCRAM
		}
	})
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	c, err := pgx.Connect(ctx, h.dsn(""))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	var n int
	if err := c.QueryRow(ctx, "select 1").Scan(&n); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
}
