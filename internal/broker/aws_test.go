package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/sigv4"
	"github.com/sallyport/sallyport/internal/telemetry"
	"github.com/sallyport/sallyport/internal/token"
)

type failing struct{}

func (failing) Sign(context.Context, *http.Request, []byte) error {
	return errors.New("no credentials")
}

// With an AWS identity the functions' other URLs are called, signed by it around the agent's own signature; without one nothing of it is there.
func TestAgentWithAnAWSIdentity(t *testing.T) {
	ca := newCA(t)
	leaf := agentCert(t, ca)
	cert := func() (tls.Certificate, error) { return leaf, nil }
	var traced string
	decide := func(iam bool) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			auth := r.Header.Get("Authorization")
			if iam != strings.HasPrefix(auth, "AWS4-HMAC-SHA256 Credential=AKID/") || iam != (strings.Contains(auth, "signature") && strings.Contains(auth, "sallyport-certificate") && strings.Contains(auth, "content-digest")) {
				t.Errorf("iam %v: %q", iam, auth)
			}
			if strings.Contains(auth, "traceparent") {
				t.Error("the trace is signed")
			}
			traced = r.Header.Get("Traceparent")
			var in api.CheckRequest
			if _, err := token.ReadAgent(r, ca.Cert(), time.Now(), &in); err != nil {
				t.Errorf("the agent's signature: %v", err)
			}
			api.Write(w, api.CheckResponse{})
		})
	}
	plain, iam := httptest.NewTLSServer(decide(false)), httptest.NewTLSServer(decide(true))
	defer plain.Close()
	defer iam.Close()
	front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		api.Write(w, api.Discovery{Functions: map[string]string{"decide": plain.URL}, FunctionsIAM: map[string]string{"decide": iam.URL}})
	}))
	defer front.Close()
	roots := x509.NewCertPool()
	for _, s := range []*httptest.Server{plain, iam, front} {
		roots.AddCert(s.Certificate())
	}
	s, err := sigv4.New(sigv4.Config{Region: "eu-west-1", Getenv: func(k string) string {
		return map[string]string{"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "hidden"}[k]
	}})
	if err != nil {
		t.Fatal(err)
	}
	tel, err := telemetry.New(telemetry.Config{Function: "agent", Out: io.Discard, Getenv: func(k string) string {
		return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}[k]
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []AgentConfig{{}, {AWS: s}, {AWS: s, Telemetry: tel}} {
		c.URL, c.Certificate = front.URL, cert
		a, err := NewAgent(c)
		if err != nil {
			t.Fatal(err)
		}
		a.caller.http.Transport.(*http.Transport).TLSClientConfig.RootCAs = roots
		if _, err := a.Check(t.Context(), api.CheckRequest{Agent: "edge"}); err != nil {
			t.Error(err)
		}
		if _, ok := telemetry.ParseTraceparent(traced); ok != (c.Telemetry != nil) {
			t.Errorf("traceparent %q", traced)
		}
		a.CloseIdle()
	}
	a, err := NewAgent(AgentConfig{URL: front.URL, Certificate: cert, AWS: failing{}})
	if err != nil {
		t.Fatal(err)
	}
	a.caller.http.Transport.(*http.Transport).TLSClientConfig.RootCAs = roots
	defer a.CloseIdle()
	if _, err := a.Check(t.Context(), api.CheckRequest{Agent: "edge"}); err == nil || !strings.Contains(err.Error(), "no credentials") {
		t.Errorf("without credentials: %v", err)
	}
}
