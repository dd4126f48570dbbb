package token

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// otherSignature replaces s by n-s in a compact ES256 JWS.
func otherSignature(t testing.TB, raw string) string {
	i := strings.LastIndex(raw, ".")
	sig := must(decode(raw[i+1:]))
	s := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(sig[32:]))
	return raw[:i+1] + encode(append(sig[:32:32], s.FillBytes(make([]byte, 32))...))
}

func newCA(t testing.TB) *CA {
	t.Helper()
	key := fileKey{newKey(t)}
	ca, err := NewCA(key, must(CreateCA(t.Context(), key, at)))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func newCSR(t testing.TB, key any) *x509.CertificateRequest {
	t.Helper()
	return must(x509.ParseCertificateRequest(must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))))
}

func newAgent(t testing.TB, ca *CA, now time.Time) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := newKey(t)
	der := must(ca.IssueAgent(t.Context(), newCSR(t, key), "edge", []access.TargetName{"app", "db"}, now))
	return must(x509.ParseCertificate(der)), key
}

func call(t testing.TB, path, body string, cert *x509.Certificate, key *ecdsa.PrivateKey, now time.Time) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(body))
	if err := SignAgent(r, []byte(body), cert, key, now); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAgentCall(t *testing.T) {
	ca := newCA(t)
	cert, key := newAgent(t, ca, at)
	var v struct{ A int }
	for range 2 { // the second time from the cache
		a, err := ReadAgent(call(t, "/decide/check", `{"A":1}`, cert, key, at), ca.Cert(), at, &v)
		if err != nil || a.Name != "edge" || !a.Serves("app") || !a.Serves("db") || a.Serves("prod") || a.Thumbprint != Thumbprint(&key.PublicKey) || v.A != 1 {
			t.Errorf("%+v, %v", a, err)
		}
	}
}

func TestAgentCallForgeries(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	cert, key := newAgent(t, ca, at)
	foreign, foreignKey := newAgent(t, other, at)
	// Warm the cache: a refusal must not depend on who called before.
	if _, err := VerifyAgent(call(t, "/decide/check", "{}", cert, key, at), []byte("{}"), ca.Cert(), at); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyAgent(call(t, "/decide/check", "{}", foreign, foreignKey, at), []byte("{}"), other.Cert(), at); err != nil {
		t.Fatal(err)
	}
	relayKey := newKey(t)
	relay := must(x509.ParseCertificate(must(ca.IssueServer(t.Context(), &relayKey.PublicKey, ServerNames{URI: URIRelay}, at))))
	set := func(h, v string) func(*http.Request) { return func(r *http.Request) { r.Header.Set(h, v) } }
	replace := func(h, old, new string) func(*http.Request) {
		return func(r *http.Request) {
			s := r.Header.Get(h)
			if !strings.Contains(s, old) {
				t.Fatalf("%s %q has no %q", h, s, old)
			}
			r.Header.Set(h, strings.Replace(s, old, new, 1))
		}
	}
	second := must(x509.ParseCertificate(must(ca.IssueAgent(t.Context(), newCSR(t, key), "edge", []access.TargetName{"prod"}, at))))
	tests := map[string]struct {
		request func() *http.Request
		change  func(*http.Request)
		body    string
		now     time.Time
	}{
		"altered body":          {body: `{"x":1}`},
		"wrong path":            {change: func(r *http.Request) { r.URL.Path = "/decide/claim" }},
		"wrong method":          {change: func(r *http.Request) { r.Method = "PUT" }},
		"a query":               {change: func(r *http.Request) { r.URL.RawQuery = "x=1" }},
		"old":                   {now: at.Add(Window + time.Second)},
		"from the future":       {now: at.Add(-Window - time.Second)},
		"later created":         {change: replace("Signature-Input", ";created=", ";created=1"), now: at},
		"agent of another CA":   {request: func() *http.Request { return call(t, "/decide/check", "{}", foreign, foreignKey, at) }},
		"a relay's certificate": {request: func() *http.Request { return call(t, "/decide/check", "{}", relay, relayKey, at) }},
		"the CA's own certificate": {request: func() *http.Request {
			return call(t, "/decide/check", "{}", ca.Cert(), ca.signer.(fileKey).PrivateKey, at)
		}},
		"certificate expired":                 {request: func() *http.Request { return call(t, "/decide/check", "{}", cert, key, at.Add(CertificateLife)) }, now: at.Add(CertificateLife)},
		"certificate not valid yet":           {request: func() *http.Request { return call(t, "/decide/check", "{}", cert, key, at.Add(-time.Hour)) }, now: at.Add(-time.Hour)},
		"another certificate of the same key": {change: set(HeaderCertificate, base64.StdEncoding.EncodeToString(second.Raw))},
		"another agent's certificate":         {change: set(HeaderCertificate, base64.StdEncoding.EncodeToString(must2(newAgent(t, ca, at)).Raw))},
		"no certificate":                      {change: func(r *http.Request) { r.Header.Del(HeaderCertificate) }},
		"certificate twice":                   {change: func(r *http.Request) { r.Header.Add(HeaderCertificate, r.Header.Get(HeaderCertificate)) }},
		"certificate too long":                {change: set(HeaderCertificate, strings.Repeat("A", maxCertificate+4))},
		"certificate garbage":                 {change: set(HeaderCertificate, "AAAA")},
		"no signature":                        {change: func(r *http.Request) { r.Header.Del("Signature") }},
		"no input":                            {change: func(r *http.Request) { r.Header.Del("Signature-Input") }},
		"no digest":                           {change: func(r *http.Request) { r.Header.Del("Content-Digest") }},
		"digest of another algorithm":         {change: replace("Content-Digest", "sha-256", "sha-512")},
		"unsigned header: body not covered":   {change: replace("Signature-Input", ` "content-digest"`, "")},
		"unsigned header: path not covered":   {change: replace("Signature-Input", ` "@path"`, "")},
		"unsigned header: certificate":        {change: replace("Signature-Input", ` "sallyport-certificate"`, "")},
		"nothing covered":                     {change: replace("Signature-Input", callComponents, "()")},
		"another algorithm":                   {change: replace("Signature-Input", "ecdsa-p256-sha256", "hmac-sha256")},
		"another tag":                         {change: replace("Signature-Input", "sallyport-agent", "other")},
		"another label":                       {change: replace("Signature-Input", "sallyport=(", "sig1=(")},
		"a second signature":                  {change: func(r *http.Request) { r.Header.Add("Signature-Input", "x=()") }},
		"leading zero":                        {change: replace("Signature-Input", ";created=", ";created=0")},
		"another keyid":                       {change: replace("Signature-Input", Thumbprint(&key.PublicKey), NewRandom())},
		"signature of zeroes":                 {change: set("Signature", callLabel+"=:"+base64.StdEncoding.EncodeToString(make([]byte, 64))+":")},
		"short signature":                     {change: set("Signature", callLabel+"=:AAAA:")},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := call(t, "/decide/check", "{}", cert, key, at)
			if tt.request != nil {
				r = tt.request()
			}
			if tt.change != nil {
				tt.change(r)
			}
			body, now := tt.body, tt.now
			if body == "" {
				body = "{}"
			}
			if now.IsZero() {
				now = at
			}
			if a, err := VerifyAgent(r, []byte(body), ca.Cert(), now); !errors.Is(err, api.ErrLogin) {
				t.Errorf("got %+v, %v; want ErrLogin", a, err)
			}
		})
	}
	if _, err := VerifyAgent(call(t, "/decide/check", "{}", cert, key, at), []byte("{}"), nil, at); err == nil {
		t.Error("accepted without a CA")
	}
}

func TestKeyIDNamesTheCertificatesKey(t *testing.T) {
	ca := newCA(t)
	cert, key := newAgent(t, ca, at)
	r := call(t, "/record", "{}", cert, key, at)
	params := callParams(at.Unix(), NewRandom()) // signed by the right key, under another name
	hash := callHash("POST", "/record", contentDigest([]byte("{}")), r.Header.Get(HeaderCertificate), params)
	sig := must(rawSignature(must(ecdsa.SignASN1(rand.Reader, key, hash[:]))))
	r.Header.Set("Signature-Input", callLabel+"="+params)
	r.Header.Set("Signature", callLabel+"=:"+base64.StdEncoding.EncodeToString(sig)+":")
	if _, err := VerifyAgent(r, []byte("{}"), ca.Cert(), at); !errors.Is(err, api.ErrLogin) {
		t.Errorf("got %v", err)
	}
}

func must2(c *x509.Certificate, _ *ecdsa.PrivateKey) *x509.Certificate { return c }

func TestReadAgentBodies(t *testing.T) {
	ca := newCA(t)
	cert, key := newAgent(t, ca, at)
	var v struct{ A int }
	for name, body := range map[string]string{"unknown field": `{"B":1}`, "two values": `{"A":1}{}`, "not JSON": `x`, "empty": ``} {
		if _, err := ReadAgent(call(t, "/record", body, cert, key, at), ca.Cert(), at, &v); !errors.Is(err, api.ErrBadRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	big := strings.Repeat(" ", api.MaxBody+1)
	if _, err := ReadAgent(call(t, "/record", big, cert, key, at), ca.Cert(), at, &v); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

// unread fails the test when somebody reads it.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("a stranger's body was read")
	return 0, io.EOF
}

func TestAStrangersBodyIsNotRead(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	foreign, foreignKey := newAgent(t, other, at)
	stranger := call(t, "/decide/check", "{}", foreign, foreignKey, at)
	nobody := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/decide/check", nil)
	for name, r := range map[string]*http.Request{"unsigned": nobody, "of another CA": stranger} {
		r.Body = io.NopCloser(unread{t})
		if _, err := ReadAgent(r, ca.Cert(), at, new(struct{})); !errors.Is(err, api.ErrLogin) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignAgentRefuses(t *testing.T) {
	ca := newCA(t)
	cert, key := newAgent(t, ca, at)
	r := httptest.NewRequest(http.MethodPost, "/x?y=1", nil)
	if err := SignAgent(r, nil, cert, key, at); err == nil {
		t.Error("signed a query")
	}
	if err := SignAgent(httptest.NewRequest(http.MethodPost, "/x", nil), nil, cert, newKey(t), at); err == nil {
		t.Error("signed with another key than the certificate's")
	}
}

func TestCacheIsBounded(t *testing.T) {
	k := &known{agents: make(map[[32]byte]knownAgent)}
	for i := range maxKnown {
		k.agents[[32]byte{byte(i), byte(i >> 8), 1}] = knownAgent{}
	}
	ca := newCA(t)
	cert, _ := newAgent(t, ca, at)
	if _, err := k.agent(base64.StdEncoding.EncodeToString(cert.Raw), ca.Cert(), at); err != nil {
		t.Fatal(err)
	}
	if len(k.agents) > maxKnown {
		t.Errorf("%d certificates kept", len(k.agents))
	}
}

func TestParseAgentRefuses(t *testing.T) {
	ca := newCA(t)
	key := newKey(t)
	issue := func(uris ...string) *x509.Certificate {
		der, err := ca.issue(t.Context(), &x509.Certificate{}, &key.PublicKey, uris, CertificateLife, at)
		if err != nil {
			t.Fatal(err)
		}
		return must(x509.ParseCertificate(der))
	}
	many := []string{URIAgent("edge")}
	for i := range MaxTargets + 1 {
		many = append(many, URITarget(access.TargetName("t"+strings.Repeat("x", i))))
	}
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: at, URIs: []*url.URL{must(url.Parse(URIAgent("edge"))), must(url.Parse(URITarget("app")))}}
	for name, cert := range map[string]*x509.Certificate{
		"none":          nil,
		"no names":      issue(),
		"no target":     issue(URIAgent("edge")),
		"no agent":      issue(URITarget("app")),
		"two agents":    issue(URIAgent("edge"), URIAgent("other"), URITarget("app")),
		"unknown name":  issue(URIAgent("edge"), URITarget("app"), "sallyport:admin"),
		"a relay":       issue(URIRelay),
		"bad agent":     issue("sallyport:agent:Edge", URITarget("app")),
		"bad target":    issue(URIAgent("edge"), "sallyport:target:"),
		"too many":      issue(many...),
		"a CA":          ca.Cert(),
		"another curve": must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, &p384.PublicKey, p384)))),
	} {
		if a, err := ParseAgent(cert); err == nil {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

func TestIssueAgentTakesOnlyTheKey(t *testing.T) {
	ca, key := newCA(t), newKey(t)
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "admin"}, DNSNames: []string{"broker.example"}, URIs: []*url.URL{must(url.Parse(URITarget("prod")))},
	}, key))
	cert := must(x509.ParseCertificate(must(ca.IssueAgent(t.Context(), must(x509.ParseCertificateRequest(der)), "edge", []access.TargetName{"app"}, at))))
	if a := must(ParseAgent(cert)); len(a.Targets) != 1 || a.Targets[0] != "app" || cert.Subject.CommonName != "edge" || len(cert.DNSNames) != 0 || cert.IsCA {
		t.Errorf("%+v %+v", a, cert.Subject)
	}
	if _, err := ca.IssueAgent(t.Context(), newCSR(t, must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))), "edge", []access.TargetName{"app"}, at); !errors.Is(err, api.ErrBadRequest) {
		t.Errorf("P-384: %v", err)
	}
	forged := newCSR(t, key)
	forged.PublicKey = &newKey(t).PublicKey // somebody else's key under the old signature
	if _, err := ca.IssueAgent(t.Context(), forged, "edge", []access.TargetName{"app"}, at); !errors.Is(err, api.ErrBadRequest) {
		t.Errorf("forged CSR: %v", err)
	}
	for _, n := range []access.AgentName{"", "Edge", "a:b"} {
		if _, err := ca.IssueAgent(t.Context(), newCSR(t, key), n, []access.TargetName{"app"}, at); err == nil {
			t.Errorf("issued for %q", n)
		}
	}
	if _, err := ca.IssueServer(t.Context(), &key.PublicKey, ServerNames{URI: URITarget("app"), IPs: []net.IP{net.IPv6loopback}}, at); err == nil {
		t.Error("a server's certificate with a target's name")
	}
}

func TestLoadCAIsStable(t *testing.T) {
	items, key := newItems(t), fileKey{newKey(t)}
	a := must(LoadCA(t.Context(), items, key, at))
	b := must(LoadCA(t.Context(), items, key, at.Add(time.Hour)))
	if !bytes.Equal(a.Cert().Raw, b.Cert().Raw) || a.Pin() != b.Pin() || !bytes.Contains(a.PEM(), []byte("BEGIN CERTIFICATE")) {
		t.Error("a second start has another CA")
	}
	if _, err := LoadCA(t.Context(), items, fileKey{newKey(t)}, at); err == nil {
		t.Error("a CA whose key is another one")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := LoadCA(ctx, newItems(t), key, at); err == nil {
		t.Error("a CA although the store did not answer")
	}
}
