package main

import (
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
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/keyfile"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel/client"
	"github.com/sallyport/sallyport/tunnel/uplink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// stack is what of a broker a relay needs: its CA, its keys, its two public pages.
type stack struct {
	ca     *token.CA
	issuer *token.Issuer
	pool   *x509.CertPool
	url    string
}

func newStack(t *testing.T) *stack {
	keys := must(keyfile.Open(t.TempDir()))
	caKey := must(keys.Signer("ca"))
	s := &stack{ca: must(token.NewCA(caKey, must(token.CreateCA(t.Context(), caKey, time.Now())))), pool: x509.NewCertPool()}
	s.pool.AddCert(s.ca.Cert())
	mux := http.NewServeMux()
	server := httptest.NewUnstartedServer(mux)
	base := "https://" + server.Listener.Addr().String()
	s.issuer = token.NewIssuer(base, must(keys.Signer("token")), 1)
	mux.HandleFunc(api.PathDiscovery, func(w http.ResponseWriter, _ *http.Request) {
		api.Write(w, api.Discovery{Issuer: base, Epoch: s.issuer.Epoch()})
	})
	mux.HandleFunc(api.PathJWKS, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(s.issuer.JWKS()) })
	server.TLS = &tls.Config{Certificates: []tls.Certificate{s.server(t, token.URIBroker)}, MinVersion: tls.VersionTLS13}
	server.StartTLS()
	t.Cleanup(server.Close)
	s.url = base + "/#ca=" + s.ca.Pin()
	return s
}

func (s *stack) server(t *testing.T, uri string) tls.Certificate {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der := must(s.ca.IssueServer(t.Context(), &key.PublicKey, token.ServerNames{URI: uri, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now()))
	return tls.Certificate{Certificate: [][]byte{der, s.ca.Cert().Raw}, PrivateKey: key, Leaf: must(x509.ParseCertificate(der))}
}

func (s *stack) agent(t *testing.T) tls.Certificate {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	csr := must(x509.ParseCertificateRequest(must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))))
	der := must(s.ca.IssueAgent(t.Context(), csr, "inside", []access.TargetName{"app"}, time.Now()))
	return tls.Certificate{Certificate: [][]byte{der, s.ca.Cert().Raw}, PrivateKey: key, Leaf: must(x509.ParseCertificate(der))}
}

// files writes a relay's configuration and what it names, and returns its path and the ready file's.
func (s *stack) files(t *testing.T, cert tls.Certificate) (config, ready string) {
	dir := t.TempDir()
	writeCert(t, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), cert)
	write(t, filepath.Join(dir, "ca.pem"), s.ca.PEM())
	ready = filepath.Join(dir, "ready")
	config = filepath.Join(dir, "relay.yaml")
	write(t, config, fmt.Appendf(nil, `listen: 127.0.0.1:0
certificate: %[1]s/cert.pem
key: %[1]s/key.pem
ca: %[1]s/ca.pem
broker: %[2]q
ready_file: %[3]s
limits: {streams: 10, window_kib: 512, uplink_memory_mib: 8, drain: 5s}
`, dir, s.url, ready))
	return config, ready
}

func write(t *testing.T, file string, b []byte) {
	t.Helper()
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func writeCert(t *testing.T, certFile, keyFile string, cert tls.Certificate) {
	t.Helper()
	var b bytes.Buffer
	for _, der := range cert.Certificate {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	write(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(cert.PrivateKey))}))
	write(t, certFile, b.Bytes())
}

// TestServe runs the relay as the command does, with the broker's own tickets and certificates, and stops it under a stream.
func TestServe(t *testing.T) {
	s := newStack(t)
	config, ready := s.files(t, s.server(t, token.URIRelay))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"--config", config}, os.Getenv, io.Discard, io.Discard) }()
	addr := ""
	for deadline := time.Now().Add(patience); addr == ""; time.Sleep(time.Millisecond) {
		b, _ := os.ReadFile(ready)
		if addr = strings.TrimSpace(string(b)); time.Now().After(deadline) {
			t.Fatal("the relay is not ready")
		}
	}
	s.startAgent(t, addr)

	endpoint := token.NewRandom()
	dial := func(t token.Ticket) (*client.Conn, error) {
		raw, err := s.issuer.Ticket(ctx, t)
		if err != nil {
			return nil, err
		}
		dctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return client.Dial(dctx, client.Config{Relays: []string{addr}, CA: s.pool, Ticket: raw, Target: "app", Endpoint: endpoint,
			Prove: func(string, []byte) (string, error) { return "proof", nil }, Preamble: api.Preamble{Token: "token"}})
	}
	c, err := dial(token.Ticket{ID: must(token.NewID(time.Now())), Endpoint: endpoint, Target: "app", Expires: time.Now().Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // a test's
	if _, err := dial(token.Ticket{ID: must(token.NewID(time.Now())), Endpoint: endpoint, Target: "other", Expires: time.Now().Add(time.Minute)}); !errors.Is(err, api.ErrDenied) {
		t.Errorf("a ticket for another target: %v", err)
	}
	if _, err := dial(token.Ticket{ID: must(token.NewID(time.Now())), Endpoint: endpoint, Target: "app", Expires: time.Now().Add(-time.Minute)}); !errors.Is(err, api.ErrLogin) {
		t.Errorf("a ticket of yesterday: %v", err)
	}

	stop() // as SIGTERM does
	if _, err := c.Write([]byte("good-bye")); err != nil {
		t.Fatal(err)
	}
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "good-bye" {
		t.Errorf("while draining: %q, %v", got, err)
	}
	_ = c.Close()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("the relay does not stop")
	}
	if _, err := os.Stat(ready); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the ready file is still there: %v", err)
	}
}

func (s *stack) startAgent(t *testing.T, addr string) {
	cert := s.agent(t)
	up := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- uplink.Run(ctx, uplink.Config{
			Relay: addr, CA: s.pool, Log: slog.New(slog.DiscardHandler), Connections: 1,
			Certificate: func() (tls.Certificate, error) { return cert, nil },
			Changed:     func(int) { up <- struct{}{} },
			Handle: func(ctx context.Context, conn net.Conn) {
				s, err := uplink.Accept(ctx, conn, cert)
				if err != nil {
					t.Errorf("accept: %v", err)
					return
				}
				defer s.Close() //nolint:errcheck // a test's
				if s.Welcome(nil) == nil {
					_, _ = io.Copy(s, s)
					_ = s.CloseWrite()
				}
			},
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-up:
	case <-time.After(patience):
		t.Fatal("the agent is not up")
	}
}

func TestUsage(t *testing.T) {
	s := newStack(t)
	good := s.server(t, token.URIRelay)
	readable, _ := s.files(t, good)
	if err := os.Chmod(filepath.Join(filepath.Dir(readable), "key.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	notRelay, _ := s.files(t, s.server(t, token.URIBroker))
	for name, args := range map[string][]string{
		"no configuration":            nil,
		"one that is not there":       {"--config", filepath.Join(t.TempDir(), "none")},
		"an argument":                 {"--config", readable, "x"},
		"an unknown flag":             {"--verbose"},
		"a key that others can read":  {"--config", readable},
		"a certificate of the broker": {"--config", notRelay},
	} {
		if err := run(t.Context(), args, os.Getenv, io.Discard, io.Discard); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	var out strings.Builder
	if err := run(t.Context(), []string{"--version"}, os.Getenv, &out, io.Discard); err != nil || out.String() != version+"\n" {
		t.Errorf("version: %q, %v", out.String(), err)
	}
}

// TestFromTheEnvironment: nothing of a relay's configuration needs a disk, nor does its key.
func TestFromTheEnvironment(t *testing.T) {
	s := newStack(t)
	config, ready := s.files(t, s.server(t, token.URIRelay))
	dir := filepath.Dir(config)
	env := map[string]string{"CONFIG": strings.NewReplacer(dir+"/cert.pem", "env:CERTIFICATE", dir+"/key.pem", "env:KEY", dir+"/ca.pem", "env:CA").Replace(string(must(os.ReadFile(config))))}
	for name, file := range map[string]string{"CERTIFICATE": "cert.pem", "KEY": "key.pem", "CA": "ca.pem"} {
		env[name] = string(must(os.ReadFile(filepath.Join(dir, file))))
		if err := os.Remove(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"--config", "env:CONFIG"}, func(k string) string { return env[k] }, io.Discard, io.Discard)
	}()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if b, _ := os.ReadFile(ready); len(b) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the relay is not ready")
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for name := range env {
		without := func(k string) string {
			if k == name {
				return ""
			}
			return env[k]
		}
		if err := run(t.Context(), []string{"--config", "env:CONFIG"}, without, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "env:"+name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	if _, err := (inputs{func(string) string { return strings.Repeat("x", maxConfig+1) }}).read("env:BIG"); err == nil {
		t.Error("a variable of any size is taken")
	}
}

// TestStopBeforeReady: a relay that waits for its broker stops when told to.
func TestStopBeforeReady(t *testing.T) {
	s := newStack(t)
	s.url = "https://127.0.0.1:1/#ca=" + s.ca.Pin()
	config, ready := s.files(t, s.server(t, token.URIRelay))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := run(ctx, []string{"--config", config}, os.Getenv, io.Discard, io.Discard); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(ready); err == nil {
		t.Error("it said that it was ready")
	}
}

const minimal = "listen: a\ncertificate: b\nkey: c\nca: d\nbroker: e\n"

func TestParseConfig(t *testing.T) {
	for name, c := range map[string]struct {
		in string
		ok bool
	}{
		"minimal":           {minimal, true},
		"limits":            {minimal + "limits: {streams: 5, drain: 1m}\nepoch: 3\nlog: debug\n", true},
		"empty":             {"", false},
		"something missing": {strings.Replace(minimal, "broker: e\n", "", 1), false},
		"an unknown key":    {minimal + "fail_open: true\n", false},
		"an unknown limit":  {minimal + "limits: {stream: 5}\n", false},
		"a key twice":       {minimal + "listen: b\n", false},
		"two documents":     {minimal + "---\nlisten: b\n", false},
		"a negative limit":  {minimal + "limits: {streams: -1}\n", false},
		"an enormous one":   {minimal + "limits: {window_kib: 99999999}\n", false},
		"another log level": {minimal + "log: loud\n", false},
		"a list":            {"- a\n", false},
		"an epoch below 1":  {minimal + "epoch: -1\n", false},
		"an enormous epoch": {minimal + "epoch: 9223372036854775807\n", false},
	} {
		got, err := parseConfig([]byte(c.in))
		if (err == nil) != c.ok {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if c := must(parseConfig([]byte(minimal))); c.Epoch != 1 {
		t.Errorf("epoch %d", c.Epoch)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(minimal + "limits: {streams: 5, drain: 1m}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parseConfig(b); err == nil && (c.Listen == "" || c.Broker == "" || c.Limits.Streams < 0) {
			t.Errorf("accepted %+v", c)
		}
	})
}

// fakeSource is a broker that may be away.
type fakeSource struct {
	issuer string
	epoch  int64
	looks  int
	keys   []*ecdsa.PublicKey
	err    error
}

func (f *fakeSource) Discovery(context.Context) (api.Discovery, error) {
	f.looks++
	return api.Discovery{Issuer: f.issuer, Epoch: f.epoch}, f.err
}
func (f *fakeSource) Keys(context.Context) ([]*ecdsa.PublicKey, error) { return f.keys, f.err }

func TestKeys(t *testing.T) {
	first, second := must(must(keyfile.Open(t.TempDir())).Signer("token")), must(must(keyfile.Open(t.TempDir())).Signer("token"))
	now := time.Now()
	from := &fakeSource{issuer: "https://broker", epoch: 1, err: errors.New("away")}
	k := newKeys(from, 1, slog.New(slog.DiscardHandler))
	k.now = func() time.Time { return now }
	ticket := func(key interface {
		Public() *ecdsa.PublicKey
		Sign(context.Context, []byte) ([]byte, error)
	}) error {
		raw := must(token.NewIssuer("https://broker", key, 1).Ticket(t.Context(), token.Ticket{ID: must(token.NewID(time.Now())), Endpoint: token.NewRandom(), Target: "app", Expires: now.Add(time.Minute)}))
		_, err := k.ticket(raw)
		return err
	}
	check := func(what string, got, want error) {
		t.Helper()
		if !errors.Is(got, want) || want == nil && got != nil {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("before the first", ticket(first), api.ErrUnavailable)
	if k.refresh(t.Context()) {
		t.Error("refreshed from a broker that is away")
	}
	from.err = nil
	if k.refresh(t.Context()) {
		t.Error("took an empty set of keys")
	}
	from.keys = []*ecdsa.PublicKey{first.Public()}
	if !k.refresh(t.Context()) {
		t.Error("not refreshed")
	}
	check("a known key", ticket(first), nil)
	check("an unknown key", ticket(second), api.ErrLogin)
	from.keys = []*ecdsa.PublicKey{second.Public()}
	k.refresh(t.Context())
	check("a withdrawn key", ticket(first), api.ErrLogin)
	check("a new key", ticket(second), nil)
	from.err = errors.New("away")
	now = now.Add(staleAfter)
	k.refresh(t.Context())
	check("a key that could not be refreshed", ticket(second), nil)
	now = now.Add(time.Second)
	check("a key that is stale", ticket(second), api.ErrUnavailable)
}

// A relay takes the broker's epoch where it is higher than its own, at once where a ticket shows it, and never a lower one.
func TestEpoch(t *testing.T) {
	key, other := must(must(keyfile.Open(t.TempDir())).Signer("token")), must(must(keyfile.Open(t.TempDir())).Signer("token"))
	now := time.Now()
	from := &fakeSource{issuer: "https://broker", epoch: 3, keys: []*ecdsa.PublicKey{key.Public()}}
	k := newKeys(from, 2, slog.New(slog.DiscardHandler))
	k.now = func() time.Time { return now }
	check := func(what string, signer store.Signer, epoch int64, rule string) {
		t.Helper()
		raw := must(token.NewIssuer("https://broker", signer, epoch).Ticket(t.Context(), token.Ticket{ID: must(token.NewID(time.Now())), Endpoint: token.NewRandom(), Target: "app", Expires: now.Add(time.Minute)}))
		_, err := k.ticket(raw)
		e := (*api.Error)(nil)
		if rule == "" && err != nil || rule != "" && (!errors.As(err, &e) || e.Rule != rule) {
			t.Errorf("%s: %v, want %q", what, err, rule)
		}
	}
	looked := func(want int) {
		t.Helper()
		if from.looks != want {
			t.Errorf("looked %d times, want %d", from.looks, want)
		}
		from.looks = 0
	}
	k.refresh(t.Context())
	check("the broker's", key, 3, "")
	check("the configuration's, which is over", key, 2, api.RuleEpochOver)
	looked(1)
	check("ahead of the broker", key, 4, api.RuleEpochAhead)
	check("again", key, 4, api.RuleEpochAhead)
	looked(1) // a moment ago
	from.epoch, now = 4, now.Add(aheadAgain)
	check("a later one that another key signed", other, 4, "login-needed")
	looked(0)
	check("raised", key, 4, "")
	check("raised, and over", key, 3, api.RuleEpochOver)
	looked(1)
	for _, lower := range []int64{3, 1, 0, -1, token.MaxEpoch + 1} {
		from.epoch = lower
		if ok := k.refresh(t.Context()); ok != (lower == 3 || lower == 1) {
			t.Errorf("an answer with epoch %d: %v", lower, ok)
		}
		check("after a lower answer", key, 4, "")
		check("after a lower answer", key, 3, api.RuleEpochOver)
	}
	// A restart forgets what was heard, not what is configured.
	from.epoch = 1
	k = newKeys(from, 2, slog.New(slog.DiscardHandler))
	k.now = func() time.Time { return now }
	k.refresh(t.Context())
	check("below the least", key, 1, api.RuleEpochOver)
	check("the least", key, 2, "")
}

func TestRenewedCertificate(t *testing.T) {
	s := newStack(t)
	file, _ := s.files(t, s.server(t, token.URIRelay))
	dir := filepath.Dir(file)
	c := must(newCertificates(inputs{os.Getenv}, config{Certificate: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}, slog.New(slog.DiscardHandler)))
	first := c.current()
	next := s.server(t, token.URIRelay)
	write(t, filepath.Join(dir, "cert.pem"), []byte("half of it"))
	c.refresh()
	if c.current() != first {
		t.Error("a certificate that is no good replaced one that is")
	}
	writeCert(t, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), next)
	c.refresh()
	if !bytes.Equal(c.current().Certificate[0], next.Certificate[0]) {
		t.Error("the new certificate was not taken")
	}
}
