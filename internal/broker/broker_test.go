package broker

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

type fileKey struct{ *ecdsa.PrivateKey }

func (k fileKey) Public() *ecdsa.PublicKey { return &k.PublicKey }

func (k fileKey) Sign(_ context.Context, digest []byte) ([]byte, error) {
	return ecdsa.SignASN1(rand.Reader, k.PrivateKey, digest)
}

func newCA(t testing.TB) *token.CA {
	key := fileKey{newKey()}
	return must(token.NewCA(key, must(token.CreateCA(t.Context(), key, time.Now()))))
}

// serve runs h under a certificate of ca with these names.
func serve(t testing.TB, ca *token.CA, names token.ServerNames, chain bool, h http.Handler) *httptest.Server {
	t.Helper()
	key := newKey()
	cert := tls.Certificate{Certificate: [][]byte{must(ca.IssueServer(t.Context(), &key.PublicKey, names, time.Now()))}, PrivateKey: key}
	if chain {
		cert.Certificate = append(cert.Certificate, ca.Cert().Raw)
	}
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	s.Config.ErrorLog = discard()
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// discard takes what net/http says of the handshakes that these tests make fail.
func discard() *log.Logger { return log.New(io.Discard, "", 0) }

var loopback = token.ServerNames{URI: token.URIBroker, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}

func fine() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { api.Write(w, api.Discovery{Issuer: "x"}) })
}

func TestAddress(t *testing.T) {
	pin := token.NewRandom()
	for _, good := range []string{"https://broker.example", "https://broker.example/", "https://127.0.0.1:4433/#ca=" + pin, "https://[::1]:4433#ca=" + pin} {
		a, err := parseAddress(good)
		if err != nil || strings.HasSuffix(a.base, "/") || strings.Contains(good, "#") != (a.pin != nil) {
			t.Errorf("%s: %+v %v", good, a, err)
		}
	}
	for _, bad := range []string{"", "broker.example", "http://127.0.0.1", "HTTP://x", "ftp://x", "https://", "https://u:p@x", "https://x/path", "https://x/?q", "https://x/#", "https://x/#ca=",
		"https://x/#ca=short", "https://x/#pin=" + pin, "https://x/#ca=" + pin + "A", "https://x/#ca=" + pin + "&x=1", "https://x:port"} {
		if a, err := parseAddress(bad); err == nil {
			t.Errorf("%q: accepted as %+v", bad, a)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	f.Add("https://127.0.0.1:4433/#ca=" + token.NewRandom())
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseAddress(s)
		if err != nil {
			return
		}
		if !strings.HasPrefix(a.base, "https://") || a.host == "" || a.pin != nil && len(a.pin) != 32 || strings.Contains(s, "#") && a.pin == nil {
			t.Errorf("%q: %+v", s, a)
		}
	})
}

func TestPin(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	good := serve(t, ca, loopback, true, fine())
	oldTLS := serve(t, ca, loopback, true, fine())
	oldTLS.TLS.MaxVersion = tls.VersionTLS12 // the listener holds the same configuration
	for name, tt := range map[string]struct {
		url string
		ok  bool
	}{
		"the pinned CA":              {good.URL + "/#ca=" + ca.Pin(), true},
		"no pin, not a system root":  {good.URL, false},
		"another CA":                 {good.URL + "/#ca=" + other.Pin(), false},
		"the leaf pinned, not a CA":  {good.URL + "/#ca=" + token.Pin(good.Certificate()), false},
		"the CA not sent":            {serve(t, ca, loopback, false, fine()).URL + "/#ca=" + ca.Pin(), false},
		"a relay's certificate":      {serve(t, ca, token.ServerNames{URI: token.URIRelay, IPs: loopback.IPs}, true, fine()).URL + "/#ca=" + ca.Pin(), false},
		"a certificate for a name":   {serve(t, ca, token.ServerNames{URI: token.URIBroker, DNS: []string{"other"}}, true, fine()).URL + "/#ca=" + ca.Pin(), false},
		"TLS 1.2":                    {oldTLS.URL + "/#ca=" + ca.Pin(), false},
		"an agent's certificate":     {agentServer(t, ca).URL + "/#ca=" + ca.Pin(), false},
		"a chain with the pinned CA": {borrowed(t, ca, other).URL + "/#ca=" + ca.Pin(), false},
	} {
		t.Run(name, func(t *testing.T) {
			p := must(NewPublic(tt.url))
			defer p.CloseIdle()
			if _, err := p.Discovery(t.Context()); (err == nil) != tt.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

// agentServer answers with an agent's certificate of the same CA.
func agentServer(t *testing.T, ca *token.CA) *httptest.Server {
	cert := agentCert(t, ca)
	cert.Certificate = append(cert.Certificate, ca.Cert().Raw)
	s := httptest.NewUnstartedServer(fine())
	s.Config.ErrorLog = discard()
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// borrowed answers with a leaf of its own CA and the pinned CA's certificate beside, which it may know but has no key of.
func borrowed(t *testing.T, pinned, own *token.CA) *httptest.Server {
	key := newKey()
	der := must(own.IssueServer(t.Context(), &key.PublicKey, loopback, time.Now()))
	s := httptest.NewUnstartedServer(fine())
	s.Config.ErrorLog = discard()
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der, own.Cert().Raw, pinned.Cert().Raw}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func agentCert(t testing.TB, ca *token.CA) tls.Certificate {
	key := newKey()
	csr := must(x509.ParseCertificateRequest(must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))))
	der := must(ca.IssueAgent(t.Context(), csr, "edge", []access.TargetName{"app"}, time.Now()))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: must(x509.ParseCertificate(der))}
}

func TestAnswers(t *testing.T) {
	ca := newCA(t)
	big := strings.Repeat(" ", api.MaxBody+1)
	for name, tt := range map[string]struct {
		status int
		body   string
		want   error // nil: an error that is not the broker's
		ok     bool
	}{
		"fine":                  {200, `{"issuer":"x"}`, nil, true},
		"unknown field":         {200, `{"issuer":"x","surprise":1}`, nil, true}, // in discovery alone
		"two values":            {200, `{"issuer":"x"}{}`, nil, false},
		"not JSON":              {200, `<html>`, nil, false},
		"nothing":               {200, ``, nil, false},
		"too large":             {200, big, nil, false},
		"our error":             {403, `{"code":"revoked","message":"m","hint":"h"}`, api.ErrRevoked, false},
		"login needed":          {401, `{"code":"login_needed","message":"m"}`, api.ErrLogin, false},
		"code and status apart": {200 + 302, `{"code":"revoked","message":"m"}`, nil, false},
		"a proxy's error":       {502, `<html>bad gateway</html>`, nil, false},
		"an error without code": {500, `{"message":"m"}`, nil, false},
		"a redirect":            {302, ``, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, ca, loopback, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != api.PathDiscovery {
					t.Errorf("followed to %s", r.URL)
				}
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			}))
			p := must(NewPublic(s.URL + "/#ca=" + ca.Pin()))
			defer p.CloseIdle()
			_, err := p.Discovery(t.Context())
			var ours *api.Error
			switch {
			case tt.ok != (err == nil):
				t.Errorf("got %v", err)
			case tt.want != nil && !errors.Is(err, tt.want):
				t.Errorf("got %v, want %v", err, tt.want)
			case tt.want == nil && errors.As(err, &ours):
				t.Errorf("%v passes for the broker's own", err)
			}
		})
	}
}

func FuzzFailure(f *testing.F) {
	f.Add(403, []byte(`{"code":"revoked","message":"m"}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		err := failure(status, body)
		if e := (*api.Error)(nil); errors.As(err, &e) && e.Status() != status {
			t.Errorf("status %d: %+v", status, e)
		}
		_ = decode(body, new(api.OpenResponse))
	})
}

func TestEveryCallProvesItsKey(t *testing.T) {
	ca := newCA(t)
	key := newKey()
	var base string
	var mu sync.Mutex
	var seen []string
	s := serve(t, ca, loopback, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw := ""
		if r.Header.Get("Authorization") != "" {
			var err error
			if raw, err = token.Bearer(r); err != nil {
				api.Fail(w, nil, err)
				return
			}
		}
		p, err := token.VerifyDPoP(r, base, raw, time.Now())
		if err != nil || p.Thumbprint != token.Thumbprint(&key.PublicKey) {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		mu.Lock()
		seen = append(seen, r.Method+" "+r.URL.String()+" "+raw)
		mu.Unlock()
		_, _ = io.WriteString(w, "null")
	}))
	base = s.URL
	a := must(NewActor(ActorConfig{URL: s.URL + "/#ca=" + ca.Pin(), Key: key, Token: func() string { return "T" }}))
	defer a.CloseIdle()
	ctx := t.Context()
	calls := []func() error{
		func() error { _, err := a.Login(ctx, "id", "salt"); return err },
		func() error {
			_, err := a.Delegate(ctx, Delegation{Name: "n", Capability: access.Everything()})
			return err
		},
		func() error { _, err := a.Renew(ctx); return err },
		func() error { _, err := a.Ticket(ctx, api.TicketRequest{}); return err },
		func() error { return a.Revoke(ctx, api.RevokeRequest{}) },
		func() error { _, err := a.Whoami(ctx); return err },
		func() error { _, err := a.Can(ctx, api.CanRequest{}); return err },
		func() error { _, err := a.Join(ctx, api.JoinRequest{}); return err },
		func() error { _, err := a.Approvals(ctx, "pending"); return err },
		func() error { _, err := a.Approval(ctx, "../x"); return err },
		func() error { _, err := a.Sessions(ctx, 5); return err },
		func() error { _, err := a.Session(ctx, "S"); return err },
		func() error { _, err := a.Actors(ctx); return err },
	}
	for i, c := range calls {
		if err := c(); err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
	want := []string{"POST /token ", "POST /token T", "POST /renew T", "POST /ticket T", "POST /revoke T", "GET /whoami T", "POST /can T", "POST /join T",
		"GET /api/approvals?status=pending T", "GET /api/approvals/..%2Fx T", "GET /api/sessions?limit=5 T", "GET /api/sessions/S T", "GET /api/actors T"}
	if strings.Join(seen, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(seen, "\n"), strings.Join(want, "\n"))
	}
}

func TestAgentCallsAreSigned(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ca := newCA(t)
	cert := agentCert(t, ca)
	var mu sync.Mutex
	var seen []string
	s := serve(t, ca, loopback, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var v map[string]any
		a, err := token.ReadAgent(r, ca.Cert(), time.Now(), &v)
		if err != nil || a.Name != "edge" {
			api.Fail(w, nil, err)
			return
		}
		mu.Lock()
		seen = append(seen, r.URL.Path)
		mu.Unlock()
		_, _ = io.WriteString(w, "{}")
	}))
	defer s.Close()
	a := must(NewAgent(AgentConfig{URL: s.URL + "/#ca=" + ca.Pin(), Certificate: func() (tls.Certificate, error) { return cert, nil }}))
	defer a.CloseIdle()
	ctx := t.Context()
	for i, c := range []func() error{
		func() error { _, err := a.Open(ctx, api.OpenRequest{}); return err },
		func() error { _, err := a.Check(ctx, api.CheckRequest{}); return err },
		func() error { _, err := a.Claim(ctx, api.ClaimRequest{}); return err },
		func() error { return a.Close(ctx, api.CloseRequest{}) },
		func() error { _, err := a.Changes(ctx, api.ChangesRequest{}); return err },
		func() error { return a.Record(ctx, api.RecordRequest{}) },
		func() error { _, err := a.Recertify(ctx, api.RecertifyRequest{}); return err },
	} {
		if err := c(); err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if got := strings.Join(seen, " "); got != "/decide/open /decide/check /decide/claim /decide/close /changes /record /recertify" {
		t.Error(got)
	}
	cert.Leaf = nil
	if _, err := a.Check(ctx, api.CheckRequest{}); err == nil {
		t.Error("called without a leaf")
	}
}

func TestAServerThatNeverAnswers(t *testing.T) {
	ca := newCA(t)
	quit := make(chan struct{})
	s := serve(t, ca, loopback, true, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-quit }))
	defer close(quit)
	p := must(NewPublic(s.URL + "/#ca=" + ca.Pin()))
	defer p.CloseIdle()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Discovery(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	s.CloseClientConnections()
}

func TestAServerThatIsNotThere(t *testing.T) {
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	url := fmt.Sprintf("https://%s/#ca=%s", l.Addr(), token.NewRandom())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var ours *api.Error
	if _, err := must(NewPublic(url)).Discovery(t.Context()); err == nil || errors.As(err, &ours) {
		t.Errorf("got %v", err)
	}
}

// BenchmarkCall is one agent's check over loopback TLS, signature included.
func BenchmarkCall(b *testing.B) {
	for _, http2 := range []bool{false, true} {
		b.Run(fmt.Sprintf("http2=%v", http2), func(b *testing.B) {
			ca := newCA(b)
			cert := agentCert(b, ca)
			key := newKey()
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var v api.CheckRequest
				if _, err := token.ReadAgent(r, ca.Cert(), time.Now(), &v); err != nil {
					api.Fail(w, nil, err)
					return
				}
				api.Write(w, api.CheckResponse{})
			}))
			s.EnableHTTP2 = true
			s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{must(ca.IssueServer(b.Context(), &key.PublicKey, loopback, time.Now())), ca.Cert().Raw}, PrivateKey: key}}}
			s.StartTLS()
			defer s.Close()
			a := must(NewAgent(AgentConfig{URL: s.URL + "/#ca=" + ca.Pin(), Certificate: func() (tls.Certificate, error) { return cert, nil }}))
			defer a.CloseIdle()
			a.caller.http.Transport.(*http.Transport).Protocols.SetHTTP1(!http2)
			a.caller.http.Transport.(*http.Transport).Protocols.SetHTTP2(http2)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Check(b.Context(), api.CheckRequest{Agent: "edge"}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// However much comes at once, one process keeps to its connections, and everybody is served in turn.
func TestConnectionsAreCapped(t *testing.T) {
	ca := newCA(t)
	var mu sync.Mutex
	open, most := 0, 0
	enough := make(chan struct{})
	s := serve(t, ca, loopback, true, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		if open++; open > most {
			if most = open; most == maxConnections {
				close(enough)
			}
		}
		mu.Unlock()
		select {
		case <-enough: // none is answered before the cap is reached
		case <-time.After(10 * time.Second):
		}
		mu.Lock()
		open--
		mu.Unlock()
		api.Write(w, api.Discovery{Issuer: "x"})
	}))
	p := must(NewPublic(s.URL + "/#ca=" + ca.Pin()))
	defer p.CloseIdle()
	var wg sync.WaitGroup
	for range 4 * maxConnections {
		wg.Go(func() {
			if _, err := p.Discovery(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most != maxConnections {
		t.Errorf("%d at a time, want %d", most, maxConnections)
	}
}
