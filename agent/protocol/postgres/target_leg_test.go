package postgres

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/protocol/postgres/pgtest"
	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/localstack/pgserver"
)

// authority signs certificates of a test.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{}
	a.key, a.cert, _ = a.issue(t, name)
	return a
}

// issue makes a certificate; the first of an authority is its own.
func (a *authority) issue(t *testing.T, name string) (*ecdsa.PrivateKey, *x509.Certificate, tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature}
	parent, signer := a.cert, a.key
	if parent == nil {
		template.IsCA, template.KeyUsage, template.DNSNames = true, x509.KeyUsageCertSign, nil
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: cert}
}

func pemOf(t *testing.T, key *ecdsa.PrivateKey, cert *x509.Certificate) (certPEM, keyPEM []byte) {
	t.Helper()
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	if key == nil {
		return certPEM, nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return certPEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func writeFile(t *testing.T, name string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(name, b, 0o644); err != nil { //nolint:gosec // the server runs as another user
		t.Fatal(err)
	}
	return name
}

// shown writes what the agent shows as name.
func (a *authority) shown(t *testing.T, name string) (certFile, keyFile string) {
	t.Helper()
	key, cert, _ := a.issue(t, name)
	certPEM, keyPEM := pemOf(t, key, cert)
	dir := t.TempDir()
	return writeFile(t, filepath.Join(dir, "crt"), certPEM), writeFile(t, filepath.Join(dir, "key"), keyPEM)
}

// leg is a server with TLS and one user for each way to log in.
type leg struct {
	srv    *pgserver.Server
	ca     *authority // of the server, and of its clients
	caFile string
	pin    []byte
}

// users are how each logs in, as pg_hba.conf has it.
const users = `
hostssl all certified   127.0.0.1/32 cert
hostssl all scrammed    127.0.0.1/32 scram-sha-256
host    all digested    127.0.0.1/32 md5
host    all spelled     127.0.0.1/32 password
host    all trusted     127.0.0.1/32 trust
host    all postgres    127.0.0.1/32 scram-sha-256
`

const roles = `set password_encryption = 'md5'; create role digested superuser login password 'leg-secret';
set password_encryption = 'scram-sha-256';
create role certified superuser login; create role scrammed superuser login password 'leg-secret';
create role spelled superuser login password 'leg-secret'; create role trusted superuser login`

func startLeg(t *testing.T, version int) *leg {
	t.Helper()
	l := &leg{ca: newAuthority(t, "leg ca")}
	key, cert, _ := l.ca.issue(t, "db.internal")
	certPEM, keyPEM := pemOf(t, key, cert)
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	l.pin = sum[:]
	var err error
	l.srv, err = pgserver.Start(t.Context(), pgserver.Config{Version: version, Certificate: certPEM, Key: keyPEM, Seed: roles,
		Parameters: map[string]string{"shared_buffers": "16MB"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.srv.Stop(); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Dir(l.srv.LogFile)
	caPEM, _ := pemOf(t, nil, l.ca.cert)
	l.caFile = writeFile(t, filepath.Join(dir, "ca.crt"), caPEM)
	writeFile(t, filepath.Join(dir, "data", "pg_hba.conf"), []byte(users))
	before := l.value(t, "select pg_conf_load_time()")
	l.exec(t, "alter system set ssl_ca_file = '"+l.caFile+"'")
	l.exec(t, "select pg_reload_conf()")
	eventually(t, "reload", func() bool { return l.value(t, "select pg_conf_load_time()") != before })
	return l
}

func (l *leg) exec(t *testing.T, sql string) {
	t.Helper()
	if _, err := l.srv.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func (l *leg) value(t *testing.T, sql string) string {
	t.Helper()
	r, err := l.srv.Exec(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	return string(r[0].Rows[0][0])
}

func (l *leg) addr() string { return net.JoinHostPort(l.srv.Host, strconv.Itoa(l.srv.Port)) }

func (l *leg) verified() protocol.Peer {
	return protocol.Peer{Mode: "verify-full", ServerName: "db.internal", CAFile: l.caFile}
}

func dialTo(addr string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", addr) }
}

// login is one way of the room to a target.
type legLogin struct {
	name     string
	user     string
	peer     protocol.Peer
	settings Settings
	addr     string // empty: the server's own
	code     string // that the client sees; empty: it is let in
	says     string // what the client is told
	state    string // of pg_stat_ssl: "ssl|client_dn"
}

func (l *leg) connect(t *testing.T, in legLogin, password string) (*house, *pgx.Conn, error) {
	t.Helper()
	h := withSettings(t, in.settings, func(s *protocol.Session) {
		s.Login = protocol.Login{User: in.user, Password: secret.New(password), Database: "postgres", Peer: in.peer}
		s.Dial = dialTo(orDefault(in.addr, l.addr()))
	})
	c, err := pgx.Connect(t.Context(), h.dsn(""))
	if err == nil {
		t.Cleanup(func() { _ = c.Close(context.Background()) })
	}
	return h, c, err
}

// try logs in and says what is not as the case wants it.
func (l *leg) try(t *testing.T, in legLogin) {
	t.Helper()
	_, c, err := l.connect(t, in, legSecret)
	if in.code != "" {
		if codeOf(err) != in.code || !strings.Contains(err.Error(), in.says) {
			t.Fatalf("got %v, want %s %q", err, in.code, in.says)
		}
		for _, word := range []string{legSecret, l.addr(), in.user} {
			if strings.Contains(err.Error(), word) {
				t.Errorf("the client learns too much: %v", err)
			}
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	var who string
	if err := c.QueryRow(t.Context(), "select current_user").Scan(&who); err != nil || who != in.user {
		t.Errorf("%q, %v", who, err)
	}
	state := l.value(t, "select ssl::text || '|' || coalesce(client_dn, '') from pg_stat_ssl where pid = "+strconv.Itoa(int(c.PgConn().PID())))
	if state != in.state {
		t.Errorf("the server sees %q, want %q", state, in.state)
	}
}

const legSecret = "leg-secret"

// Every way in which a real server can be told to take the agent, with what it needs and without.
func TestTargetLogin(t *testing.T) {
	l := startLeg(t, 18)
	full, pin, plain := l.verified(), protocol.Peer{Mode: "pin", Pin: l.pin}, protocol.Peer{Mode: "disable"}
	certFile, keyFile := l.ca.shown(t, "certified")
	strange := newAuthority(t, "another ca")
	strangeCert, strangeKey := strange.shown(t, "certified")
	double := newAuthority(t, "leg ca") // of the same name
	doubleCert, doubleKey := double.shown(t, "certified")
	elseCert, elseKey := l.ca.shown(t, "somebody")
	strangeCA, _ := pemOf(t, nil, strange.cert)
	front := newBetween(t, l, strange)
	through := protocol.Peer{Mode: "verify-full", ServerName: "db.internal", CAFile: writeFile(t, filepath.Join(t.TempDir(), "ca"), strangeCA)}
	const notIn, notReached = "28000", "08001"
	for _, tt := range []legLogin{
		{name: "certificate", user: "certified", peer: full, settings: Settings{CertFile: certFile, KeyFile: keyFile}, state: "true|/CN=certified"},
		{name: "certificate, none alone", user: "certified", peer: full, settings: Settings{CertFile: certFile, KeyFile: keyFile, Auth: []string{"none"}}, state: "true|/CN=certified"},
		{name: "certificate, scram demanded", user: "certified", peer: full, settings: Settings{CertFile: certFile, KeyFile: keyFile, Auth: []string{"scram-sha-256"}},
			code: notIn, says: "asked for no proof"},
		{name: "certificate, binding demanded", user: "certified", peer: full, settings: Settings{CertFile: certFile, KeyFile: keyFile, ChannelBinding: "require"},
			code: notIn, says: "asked for no proof"},
		{name: "certificate, direct", user: "certified", peer: pin, settings: Settings{CertFile: certFile, KeyFile: keyFile, DirectTLS: true}, state: "true|/CN=certified"},
		{name: "certificate missing", user: "certified", peer: full, code: notIn, says: "could not log in"},
		{name: "certificate of another authority", user: "certified", peer: full, settings: Settings{CertFile: strangeCert, KeyFile: strangeKey}, code: notIn, says: "could not log in"},
		{name: "certificate of a namesake", user: "certified", peer: full, settings: Settings{CertFile: doubleCert, KeyFile: doubleKey}, code: notReached}, // its last word may be lost with the connection
		{name: "certificate of somebody else", user: "certified", peer: full, settings: Settings{CertFile: elseCert, KeyFile: elseKey}, code: notIn, says: "could not log in"},

		{name: "scram, binding required", user: "scrammed", peer: full, settings: Settings{ChannelBinding: "require"}, state: "true|"},
		{name: "scram, binding required, pinned, direct", user: "scrammed", peer: pin, settings: Settings{ChannelBinding: "require", DirectTLS: true}, state: "true|"},
		{name: "scram, binding preferred", user: "scrammed", peer: full, settings: Settings{ChannelBinding: "prefer"}, state: "true|"},
		{name: "scram, no binding", user: "scrammed", peer: full, settings: Settings{ChannelBinding: "disable"}, state: "true|"},
		{name: "somebody between, binding required", user: "scrammed", peer: through, addr: front, settings: Settings{ChannelBinding: "require"}, code: notIn, says: "could not log in"},
		{name: "somebody between, binding preferred", user: "scrammed", peer: through, addr: front, code: notIn, says: "could not log in"},
		{name: "somebody between, no binding", user: "scrammed", peer: through, addr: front, settings: Settings{ChannelBinding: "disable"}, state: "true|"},
		{name: "scram in the clear, where the server wants TLS", user: "scrammed", peer: plain, code: notIn, says: "could not log in"},

		{name: "md5 unnamed", user: "digested", peer: full, code: notIn, says: "by md5, which"},
		{name: "md5 unnamed, in the clear", user: "digested", peer: plain, code: notIn, says: "by md5, which"},
		{name: "md5 named", user: "digested", peer: full, settings: Settings{Auth: []string{"md5"}}, state: "true|"},
		{name: "md5 named, in the clear", user: "digested", peer: plain, settings: Settings{Auth: []string{"scram-sha-256", "md5"}}, state: "false|"},
		{name: "md5 named, binding required", user: "digested", peer: full, settings: Settings{Auth: []string{"md5"}, ChannelBinding: "require"}, code: notIn, says: "channel binding"},
		{name: "password", user: "spelled", peer: full, state: "true|"},
		{name: "password, scram demanded", user: "spelled", peer: full, settings: Settings{Auth: []string{"scram-sha-256"}}, code: notIn, says: "by password, which"},
		{name: "password, binding required", user: "spelled", peer: full, settings: Settings{ChannelBinding: "require"}, code: notIn, says: "channel binding"},
		{name: "password in the clear", user: "spelled", peer: plain, code: notIn, says: "by password, which"},
		{name: "trust", user: "trusted", peer: plain, state: "false|"},
		{name: "trust, proof demanded", user: "trusted", peer: plain, settings: Settings{Auth: []string{"scram-sha-256", "md5"}}, code: notIn, says: "asked for no proof"},

		{name: "wrong pin", user: "scrammed", peer: protocol.Peer{Mode: "pin", Pin: make([]byte, 32)}, code: notReached, says: "did not prove"},
		{name: "wrong authority", user: "scrammed", peer: through, code: notReached, says: "did not prove"},
		{name: "wrong name", user: "scrammed", peer: protocol.Peer{Mode: "verify-full", ServerName: "other.internal", CAFile: l.caFile}, code: notReached, says: "did not prove"},
	} {
		t.Run(tt.name, func(t *testing.T) { l.try(t, tt) })
	}
	t.Run("protocol 3.2", func(t *testing.T) { l.cancels(t, Settings{Protocol: "3.2"}, 32) })
	t.Run("protocol 3.2, direct", func(t *testing.T) { l.cancels(t, Settings{Protocol: "3.2", DirectTLS: true}, 32) })
	t.Run("protocol 3.0", func(t *testing.T) { l.cancels(t, Settings{}, 4) })
	t.Run("a password that changes between sessions", l.rotates)
}

// What an older server does not know, it is not asked twice for.
func TestTargetLoginOlder(t *testing.T) {
	l := startLeg(t, 15)
	l.try(t, legLogin{user: "scrammed", peer: l.verified(), settings: Settings{ChannelBinding: "require"}, state: "true|"})
	l.try(t, legLogin{user: "scrammed", peer: l.verified(), settings: Settings{DirectTLS: true}, code: "08001", says: "gate could not log in"})
	l.cancels(t, Settings{Protocol: "3.2"}, 4)
}

// A server that refuses TLS is not logged in to without it.
func TestTargetWithoutTLS(t *testing.T) {
	h := withSettings(t, Settings{}, func(s *protocol.Session) {
		s.Login.User, s.Login.Peer = "in_the_clear", protocol.Peer{Mode: "pin", Pin: make([]byte, sha256.Size)}
	})
	size := h.srv.LogSize(t)
	if _, err := pgx.Connect(t.Context(), h.dsn("")); codeOf(err) != "08001" || !strings.Contains(err.Error(), "refuses TLS") {
		t.Errorf("got %v", err)
	}
	if h.srv.Logged(t, size, "in_the_clear") {
		t.Error("a login in the clear")
	}
}

// The room's second connection goes to the host that the session is on, also where one that comes before it is back.
func TestSecondConnectionGoesToTheSameHost(t *testing.T) {
	addr := pgtest.Start(t).Addr
	var dials atomic.Int32
	h := withSettings(t, Settings{Hosts: []Host{{Address: addr}}}, func(s *protocol.Session) {
		s.Dial = func(ctx context.Context) (net.Conn, error) {
			if dials.Add(1) == 1 {
				return nil, io.ErrClosedPipe
			}
			return dialTo(addr)(ctx)
		}
	})
	c := h.connect("")
	for _, sql := range []string{"begin isolation level repeatable read", "select count(*) from customers", "rollback"} {
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	h.room.watch.mu.Lock()
	defer h.room.watch.mu.Unlock()
	open := 0
	for _, w := range h.room.watch.by {
		w.turn <- struct{}{}
		if w.conn != nil && !w.conn.IsClosed() {
			open++
		}
		<-w.turn
	}
	if open != 1 || dials.Load() != 1 {
		t.Errorf("%d second connections; the first host was dialled %d times, want once", open, dials.Load())
	}
}

// cancels logs in and cancels a command; the target's key has so many bytes.
func (l *leg) cancels(t *testing.T, s Settings, size int) {
	t.Helper()
	h, c, err := l.connect(t, legLogin{user: "scrammed", peer: l.verified(), settings: s}, legSecret)
	if err != nil {
		t.Fatal(err)
	}
	h.room.mu.Lock()
	links := h.room.live[c.PgConn().PID()]
	h.room.mu.Unlock()
	if len(links) != 1 || len(links[0].key.secret) != size {
		t.Fatalf("%d sessions, want one with a key of %d bytes", len(links), size)
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(context.Background(), "select pg_sleep(60)")
		done <- err
	}()
	eventually(t, "query runs", func() bool {
		return l.value(t, "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep(60)%'") == "1"
	})
	if err := c.PgConn().CancelRequest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; codeOf(err) != "57014" {
		t.Errorf("cancel: %v", err)
	}
}

// rotates changes the password: who is in stays in, and the next session needs the new one.
func (l *leg) rotates(t *testing.T) {
	in := legLogin{user: "scrammed", peer: l.verified()}
	_, first, err := l.connect(t, in, legSecret)
	if err != nil {
		t.Fatal(err)
	}
	l.exec(t, "alter role scrammed password 'leg-secret-2'")
	if _, err := first.Exec(t.Context(), "select 1"); err != nil {
		t.Errorf("who was in: %v", err)
	}
	if _, _, err := l.connect(t, in, legSecret); codeOf(err) != "28000" || strings.Contains(err.Error(), legSecret) {
		t.Errorf("the old one: %v", err)
	}
	if _, _, err := l.connect(t, in, "leg-secret-2"); err != nil {
		t.Errorf("the new one: %v", err)
	}
}

// newBetween is somebody whom the room trusts by certificate, and who passes on what it says to the server in another TLS.
func newBetween(t *testing.T, l *leg, a *authority) string {
	t.Helper()
	_, _, cert := a.issue(t, "db.internal")
	return serveTLS(t, cert, func(c net.Conn) {
		raw, err := net.Dial("tcp", l.addr())
		if err != nil {
			return
		}
		defer raw.Close()
		key := targetKey{tls: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // whom it speaks to is not the question
		up, err := key.secure(context.Background(), raw)
		if err != nil {
			return
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(up, c)
			_ = up.Close()
		}()
		_, _ = io.Copy(c, up)
		_ = c.Close()
		<-done
	})
}
