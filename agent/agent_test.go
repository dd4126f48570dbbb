package agent

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/agent/config"
	"github.com/sallyport/sallyport/agent/credential"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/spool"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel/client"
	"github.com/sallyport/sallyport/tunnel/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a broker and a relay. It answers what an agent asks beside decisions, over TLS and with every call's signature verified.
type world struct {
	t     *testing.T
	ca    *token.CA
	url   string // with the pin
	relay string

	name   access.AgentName
	mu     sync.Mutex
	join   string
	names  []access.TargetName
	opened []api.OpenRequest
	closed []api.CloseRequest

	changes func() error // nil: fine
}

type signer struct{ key *ecdsa.PrivateKey }

func (s signer) Public() *ecdsa.PublicKey { return &s.key.PublicKey }
func (s signer) Sign(_ context.Context, d []byte) ([]byte, error) {
	return ecdsa.SignASN1(rand.Reader, s.key, d)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return k
}

const joinToken = "sallyport-join-canary"

func newWorld(t *testing.T) *world {
	t.Helper()
	s := signer{newKey(t)}
	der, err := token.CreateCA(t.Context(), s, time.Now())
	must(t, err)
	b := &world{t: t, name: "agent", join: joinToken, names: []access.TargetName{"app"}}
	b.ca, err = token.NewCA(s, der)
	must(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+api.PathEnroll, b.enroll)
	mux.HandleFunc("GET "+api.PathDiscovery, func(w http.ResponseWriter, _ *http.Request) {
		api.Write(w, api.Discovery{Issuer: "x", Relays: []string{b.relay}})
	})
	signed(b, mux, api.PathRecertify, func(r api.RecertifyRequest) (any, error) { return b.issue(r.CSR) })
	signed(b, mux, api.PathOpen, func(r api.OpenRequest) (any, error) {
		b.opened = append(b.opened, r)
		return api.OpenResponse{Session: r.Session, State: "sealed", DigestKey: make([]byte, 32), Expires: time.Now().Add(time.Hour),
			Lineage: access.Lineage{Principal: "alice", Path: []access.Node{{ID: "R", Name: "alice"}}}}, nil
	})
	signed(b, mux, api.PathClose, func(r api.CloseRequest) (any, error) { b.closed = append(b.closed, r); return struct{}{}, nil })
	signed(b, mux, api.PathChanges, func(api.ChangesRequest) (any, error) {
		if b.changes != nil {
			return nil, b.changes()
		}
		return api.ChangesResponse{}, nil
	})
	srv := httptest.NewUnstartedServer(mux)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{b.server(token.ServerNames{URI: token.URIBroker, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})}, MinVersion: tls.VersionTLS13}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	b.url = srv.URL + "/#ca=" + b.ca.Pin()
	b.startRelay()
	return b
}

func signed[T any](b *world, mux *http.ServeMux, path string, do func(T) (any, error)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		var req T
		_, err := token.ReadAgent(r, b.ca.Cert(), time.Now(), &req)
		if err == nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			var out any
			if out, err = do(req); err == nil {
				api.Write(w, out)
				return
			}
		}
		api.Fail(w, nil, err)
	})
}

func (b *world) server(names token.ServerNames) tls.Certificate {
	b.t.Helper()
	key := newKey(b.t)
	der, err := b.ca.IssueServer(b.t.Context(), &key.PublicKey, names, time.Now())
	must(b.t, err)
	return tls.Certificate{Certificate: [][]byte{der, b.ca.Cert().Raw}, PrivateKey: key}
}

func (b *world) enroll(w http.ResponseWriter, r *http.Request) {
	var req api.EnrollRequest
	err := api.Read(r, &req)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil && (req.JoinToken == "" || req.JoinToken != b.join) {
		err = api.Because(api.ErrDenied, "", "join token")
	}
	var resp api.EnrollResponse
	if err == nil {
		b.join = ""
		resp, err = b.issue(req.CSR)
	}
	if err != nil {
		api.Fail(w, nil, err)
		return
	}
	api.Write(w, resp)
}

func (b *world) issue(text string) (api.EnrollResponse, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return api.EnrollResponse{}, api.ErrBadRequest
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return api.EnrollResponse{}, err
	}
	der, err := b.ca.IssueAgent(context.Background(), csr, b.name, b.names, time.Now())
	return api.EnrollResponse{Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), CA: string(b.ca.PEM()),
		Agent: "agent", Targets: b.names}, err
}

func (b *world) startRelay() {
	b.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(b.t, err)
	b.relay = ln.Addr().String()
	r, err := relay.New(relay.Config{Certificate: b.server(token.ServerNames{URI: token.URIRelay}), CA: b.pool(), Log: slog.New(slog.DiscardHandler),
		Limits: relay.Limits{Drain: time.Second},
		Ticket: func(raw string) (token.Ticket, error) {
			return token.Ticket{ID: raw, Endpoint: raw, Target: "app", Expires: time.Now().Add(time.Minute)}, nil
		}})
	must(b.t, err)
	ctx, cancel := context.WithCancel(b.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Serve(ctx, ln) })
	b.t.Cleanup(func() { cancel(); wg.Wait() })
}

func (b *world) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(b.ca.Cert())
	return p
}

// echo is a room that answers each line.
type echo struct{ login chan protocol.Login }

func (e echo) Serve(ctx context.Context, c net.Conn, s *protocol.Session) error {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	e.login <- s.Login
	for lines := bufio.NewScanner(c); lines.Scan(); {
		if _, err := fmt.Fprintln(c, "echo", lines.Text()); err != nil {
			return err
		}
	}
	return nil
}

// started is an agent that runs.
type started struct {
	ready chan Ready
	done  chan error
	log   *buffer
	stop  context.CancelFunc
	room  echo
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) { b.mu.Lock(); defer b.mu.Unlock(); return b.b.Write(p) }
func (b *buffer) String() string              { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

const password = "canary-password"

func start(t *testing.T, c config.Config) *started {
	t.Helper()
	s := &started{ready: make(chan Ready, 1), done: make(chan error, 1), log: &buffer{}, room: echo{make(chan protocol.Login, 8)}}
	ctx, cancel := context.WithCancel(t.Context())
	s.stop = cancel
	go func() {
		s.done <- Run(ctx, Config{Config: c, Rooms: map[string]protocol.Protocol{"echo": s.room},
			Getenv: func(name string) string { return map[string]string{"JOIN": joinToken, "PW": password}[name] },
			Ready:  func(r Ready) error { s.ready <- r; return nil }, Log: slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	}()
	t.Cleanup(func() {
		s.end(t)
		if text := s.log.String(); strings.Contains(text, password) || strings.Contains(text, joinToken) {
			t.Errorf("a secret is in the log: %s", text)
		}
	})
	return s
}

func (s *started) end(t *testing.T) error {
	t.Helper()
	s.stop()
	select {
	case err := <-s.done:
		s.done <- err
		return err
	case <-time.After(20 * time.Second):
		t.Fatalf("the agent does not stop: %s", s.log)
		return nil
	}
}

func (s *started) waitReady(t *testing.T) Ready {
	t.Helper()
	select {
	case r := <-s.ready:
		return r
	case err := <-s.done:
		s.done <- err
		t.Fatalf("the agent ended: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatalf("the agent is not ready: %s", s.log)
	}
	return Ready{}
}

func settings(t *testing.T, b *world) config.Config {
	return config.Config{Broker: b.url, StateDir: filepath.Join(t.TempDir(), "state"), JoinToken: credential.Source{Env: "JOIN"},
		Targets: map[access.TargetName]config.Target{"app": {Protocol: "echo", Network: "tcp", Address: "127.0.0.1:1", User: "u", Password: credential.Source{Env: "PW"}}}}
}

func (b *world) connect(t *testing.T) (net.Conn, error) {
	t.Helper()
	key, endpoint := newKey(t), token.NewRandom()
	return client.Dial(t.Context(), client.Config{Relays: []string{b.relay}, CA: b.pool(), Ticket: "ticket", Target: "app", Endpoint: endpoint,
		Prove: func(agentKey string, exporter []byte) (string, error) {
			return token.SignProof(key, token.Proof{Target: "app", AgentKey: agentKey, Exporter: exporter, Endpoint: endpoint, TokenHash: token.HashToken("T"),
				Nonce: token.NewNonce(make([]byte, 32), token.Thumbprint(&key.PublicKey), "app", endpoint, time.Now()), IssuedAt: time.Now()})
		}, Preamble: api.Preamble{Token: "T"}})
}

func TestEnrolServeStopAndStartAgain(t *testing.T) {
	b := newWorld(t)
	c := settings(t, b)
	s := start(t, c)
	if r := s.waitReady(t); r.Agent != "agent" || !slices.Equal(r.Targets, []access.TargetName{"app"}) || r.PID != os.Getpid() || !slices.Equal(r.Relays, []string{b.relay}) {
		t.Errorf("ready %+v", r)
	}
	conn, err := b.connect(t)
	must(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "hello\n")
	must(t, err)
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "echo hello\n" {
		t.Fatalf("%q %v", line, err)
	}
	if l := <-s.room.login; l.User != "u" || l.Password.Reveal() != password {
		t.Errorf("login of %q", l.User)
	}
	st, err := os.Stat(filepath.Join(c.StateDir, "agent.pem"))
	must(t, err)
	if st.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode is %04o", st.Mode().Perm())
	}
	if err := s.end(t); err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	if len(b.opened) != 1 || len(b.closed) != 1 || b.closed[0].Session != b.opened[0].Session || b.closed[0].Reason != "the agent stopped" {
		t.Errorf("opened %d, closed %+v", len(b.opened), b.closed)
	}
	b.mu.Unlock()

	// The join token is used up, the certificate is not; and what a crash leaves open is closed.
	sp, err := spool.Open(spool.Config{Dir: filepath.Join(c.StateDir, "spool")})
	must(t, err)
	must(t, sp.Opened(spool.Session{ID: "CRASHED", State: "sealed"}))
	must(t, sp.Close())
	s = start(t, c)
	s.waitReady(t)
	if err := s.end(t); err != nil {
		t.Fatal(err)
	}
	if last := b.closed[len(b.closed)-1]; last.Session != "CRASHED" || last.Reason != "lost" {
		t.Errorf("closed %+v", last)
	}
}

// An agent that was revoked does not look ready. A broker that fails says nothing of it: the agent goes on, and its gate is closed.
func TestARevokedAgentDoesNotStart(t *testing.T) {
	b := newWorld(t)
	b.changes = func() error {
		return api.Because(api.ErrLogin, "enrol it anew", "agent was revoked").By(api.RuleAgentRevoked)
	}
	s := start(t, settings(t, b))
	select {
	case err := <-s.done:
		s.done <- err
		if e := (*api.Error)(nil); !errors.As(err, &e) || e.Rule != api.RuleAgentRevoked || e.Hint == "" {
			t.Errorf("%v", err)
		}
	case <-s.ready:
		t.Error("it started")
	}
	b.mu.Lock()
	b.join, b.changes = joinToken, func() error { return errors.New("broken") }
	b.mu.Unlock()
	s = start(t, settings(t, b))
	s.waitReady(t)
	if err := s.end(t); err != nil {
		t.Error(err)
	}
}

func TestRefusesToStart(t *testing.T) {
	b := newWorld(t)
	for name, c := range map[string]struct {
		edit func(*config.Config)
		want string
	}{
		"unknown protocol":    {func(c *config.Config) { t := c.Targets["app"]; t.Protocol = "gopher"; c.Targets["app"] = t }, `no protocol "gopher"`},
		"no join token":       {func(c *config.Config) { c.JoinToken = credential.Source{} }, "set join_token"},
		"join token not set":  {func(c *config.Config) { c.JoinToken.Env = "NOPE" }, "NOPE is not set"},
		"wrong join token":    {func(c *config.Config) { c.JoinToken.Env = "PW" }, "enroll"},
		"other CA":            {func(c *config.Config) { c.Broker = strings.Replace(b.url, "#ca=", "#ca=A", 1) }, ""},
		"target not enrolled": {func(c *config.Config) { c.Targets["app2"] = c.Targets["app"] }, `"app2"`},
		"key that others can read": {func(c *config.Config) {
			must(t, os.MkdirAll(c.StateDir, 0o700))
			must(t, os.WriteFile(filepath.Join(c.StateDir, "agent.pem"), []byte("x"), 0o600))
			must(t, os.Chmod(filepath.Join(c.StateDir, "agent.pem"), 0o644))
		}, "others can read"},
		"damaged key": {func(c *config.Config) {
			must(t, os.MkdirAll(c.StateDir, 0o700))
			must(t, os.WriteFile(filepath.Join(c.StateDir, "agent.pem"), []byte("canary-key"), 0o600))
		}, "want a key"},
		"second agent": {func(c *config.Config) {
			sp, err := spool.Open(spool.Config{Dir: filepath.Join(c.StateDir, "spool")})
			must(t, err)
			t.Cleanup(func() { _ = sp.Close() })
		}, "in use"},
	} {
		t.Run(name, func(t *testing.T) {
			b.mu.Lock()
			b.join = joinToken
			b.mu.Unlock()
			cfg := settings(t, b)
			c.edit(&cfg)
			s := start(t, cfg)
			select {
			case err := <-s.done:
				s.done <- err
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, want %q", err, c.want)
				}
				if err != nil && (strings.Contains(err.Error(), "canary") || errors.Is(err, context.Canceled)) {
					t.Errorf("error %v", err)
				}
			case <-s.ready:
				t.Error("it started")
			}
		})
	}
}

func TestRenew(t *testing.T) {
	w := newWorld(t)
	c := settings(t, w)
	must(t, os.MkdirAll(c.StateDir, 0o700))
	getenv := func(string) string { return joinToken }
	id, err := Enroll(t.Context(), c, getenv)
	must(t, err)
	b, err := broker.NewAgent(broker.AgentConfig{URL: c.Broker, Certificate: id.Certificate})
	must(t, err)
	defer b.CloseIdle()
	before, err := id.Certificate()
	must(t, err)
	must(t, id.renew(t.Context(), b))
	after, err := id.Certificate()
	must(t, err)
	if after.Leaf.Equal(before.Leaf) || after.PrivateKey.(*ecdsa.PrivateKey).Equal(before.PrivateKey) {
		t.Error("the certificate or its key is the old one")
	}
	again, err := Enroll(t.Context(), c, getenv) // without the join token, which is used up
	must(t, err)
	if !again.cert.Leaf.Equal(after.Leaf) {
		t.Error("the new certificate is not kept")
	}
	must(t, id.renew(t.Context(), b)) // by the new key
	w.mu.Lock()
	w.name = "another"
	w.mu.Unlock()
	if err := id.renew(t.Context(), b); err == nil || !strings.Contains(err.Error(), `"another"`) {
		t.Errorf("a certificate of another agent was taken: %v", err)
	}
	id.cert.Leaf.NotAfter = time.Now().Add(-time.Second)
	if _, err := id.Certificate(); err == nil {
		t.Error("a certificate that has ended is used")
	}
}

// A join token that was not tried before makes a new key, also where an identity is there; one that is not taken leaves what is still good.
func TestEnrolAnew(t *testing.T) {
	w := newWorld(t)
	c := settings(t, w)
	must(t, os.MkdirAll(c.StateDir, 0o700))
	join := joinToken
	getenv := func(string) string { return join }
	enrol := func() *Identity {
		t.Helper()
		id, err := Enroll(t.Context(), c, getenv)
		must(t, err)
		return id
	}
	first := enrol()
	if again := enrol(); again.agent.Thumbprint != first.agent.Thumbprint || again.Kept() != nil {
		t.Errorf("a used token: %v", again.Kept())
	}
	join = "unknown"
	if again := enrol(); again.agent.Thumbprint != first.agent.Thumbprint || again.Kept() == nil {
		t.Errorf("a token that the broker does not take: %v", again.Kept())
	}
	if again := enrol(); again.Kept() != nil {
		t.Errorf("it is asked about twice: %v", again.Kept())
	}
	w.mu.Lock()
	w.join = "fresh"
	w.mu.Unlock()
	join = "fresh"
	second := enrol()
	if second.agent.Thumbprint == first.agent.Thumbprint {
		t.Error("a fresh token makes no new key")
	}
	if again := enrol(); again.agent.Thumbprint != second.agent.Thumbprint {
		t.Error("the new key is not kept")
	}
	join, c.Broker = "later", "https://127.0.0.1:1"
	for range 2 {
		if again := enrol(); again.agent.Thumbprint != second.agent.Thumbprint || again.Kept() == nil {
			t.Errorf("without the broker: %v", again.Kept())
		}
	}
}

func FuzzIdentity(f *testing.F) {
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := parse(b); err == nil && (id.agent.Name == "" || id.ca == nil || id.cert.Leaf == nil) {
			t.Fatalf("%+v", id.agent)
		}
	})
}

func TestRunWantsEverything(t *testing.T) {
	if err := Run(t.Context(), Config{}); err == nil {
		t.Error("an agent without anything runs")
	}
}
