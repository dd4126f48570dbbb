package token_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	tokenfn "github.com/sallyport/sallyport/functions/token"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
	"github.com/sallyport/sallyport/internal/token"
)

const clientID = "sallyport-cli"

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

// remote is a key that refuses to sign while it is away.
type remote struct {
	fileKey
	away atomic.Bool
}

var errAway = errors.New("sign with kms key arn:aws:kms:secret: AccessDeniedException")

func (k *remote) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	if k.away.Load() {
		return nil, errAway
	}
	return k.fileKey.Sign(ctx, digest)
}

// clock is the whole bench's time. It starts today, because the store may forget what has expired.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// provider is an identity provider that signs whatever it is told to.
type provider struct {
	*httptest.Server
	mu      sync.Mutex
	keys    map[string]any // by kid
	fetches atomic.Int32   // of keys
	now     func() time.Time
}

func newProvider(t *testing.T, now func() time.Time) *provider {
	p := &provider{keys: map[string]any{"one": newKey()}, now: now}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": p.URL, "jwks_uri": p.URL + "/jwks", "authorization_endpoint": p.URL + "/a", "token_endpoint": p.URL + "/t"})
	})
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, _ *http.Request) {
		p.fetches.Add(1)
		p.mu.Lock()
		defer p.mu.Unlock()
		var set jose.JSONWebKeySet
		for kid, k := range p.keys {
			jwk := jose.JSONWebKey{Key: k, KeyID: kid}
			set.Keys = append(set.Keys, jwk.Public())
		}
		_ = json.NewEncoder(w).Encode(set)
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

func (p *provider) claims(change map[string]any) map[string]any {
	c := map[string]any{"iss": p.URL, "aud": clientID, "sub": "alice", "iat": p.now().Unix(), "exp": p.now().Add(5 * time.Minute).Unix(), "auth_time": p.now().Unix(),
		"groups": []string{"engineers"}, "jti": token.NewRandom()}
	maps.Copy(c, change)
	for k, v := range c {
		if v == nil {
			delete(c, k)
		}
	}
	return c
}

// sign makes an ID token of the claims with the provider's key, header fields beside.
func (p *provider) sign(claims map[string]any, header map[jose.HeaderKey]any) string {
	return signWith(jose.ES256, jose.JSONWebKey{Key: p.keys["one"], KeyID: "one"}, claims, header)
}

func (p *provider) idToken(change map[string]any) string { return p.sign(p.claims(change), nil) }

func signWith(alg jose.SignatureAlgorithm, key any, claims map[string]any, header map[jose.HeaderKey]any) string {
	s := must(jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, &jose.SignerOptions{ExtraHeaders: header}))
	return must(must(s.Sign(must(json.Marshal(claims)))).CompactSerialize())
}

type bundle struct{ *policy.Bundle }

func (b bundle) Active(context.Context) (*policy.Bundle, error) { return b.Bundle, nil }

// bench is functions/token behind real TLS, with the store and the clients of production.
type bench struct {
	t     *testing.T
	clock *clock
	op    *provider
	db    *sqlite.DB
	fault *storetest.Faults
	key   *remote // signs tokens
	ca    *token.CA
	state []byte
	v     *token.Verifier
	iss   *token.Issuer
	base  string
	url   string
	h     http.Handler
}

// handler posts to the function without a client of ours in between.
type handler struct{ b *bench }

func (h handler) post(body, contentType, query string) int {
	r := httptest.NewRequestWithContext(h.b.t.Context(), http.MethodPost, api.PathToken+query, strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("DPoP", must(token.SignDPoP(newKey(), http.MethodPost, h.b.base+api.PathToken, "", h.b.clock.now())))
	w := httptest.NewRecorder()
	h.b.h.ServeHTTP(w, r)
	return w.Code
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, clock: &clock{t: time.Now().UTC().Truncate(time.Second)}, state: make([]byte, 32)}
	b.op = newProvider(t, b.clock.now)
	b.db = must(sqlite.Open(filepath.Join(t.TempDir(), "store.db")))
	t.Cleanup(func() { _ = b.db.Close() })
	caKey, key := fileKey{newKey()}, &remote{fileKey: fileKey{newKey()}}
	b.key = key
	b.ca = must(token.LoadCA(t.Context(), b.db, caKey, b.clock.now()))
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	b.base = "https://" + l.Addr().String()
	b.iss, b.v = token.NewIssuer(b.base, key, 1), token.NewVerifier(b.base, 1, key.Public())
	b.fault = new(storetest.Faults)
	h := must(tokenfn.New(tokenfn.Config{
		Items: storetest.FaultyItems{Items: b.db, Faults: b.fault}, Issuer: b.iss, Verifier: b.v, CA: b.ca, StateKey: b.state, OIDC: tokenfn.OIDC{Issuer: b.op.URL, ClientID: clientID},
		Bundles: bundle{&policy.Bundle{Targets: []policy.Target{{Name: "app", Protocol: "postgres", Database: "appdb"}}, Roles: policy.Roles{Administrators: []string{"administrators"}}}},
		Relays:  []string{"127.0.0.1:9"}, Console: "http://127.0.0.1:8", Base: b.base, Now: b.clock.now,
	}))
	b.h = h
	serverKey := newKey()
	der := must(b.ca.IssueServer(t.Context(), &serverKey.PublicKey, token.ServerNames{URI: token.URIBroker, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now()))
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}, TLS: &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der, b.ca.Cert().Raw}, PrivateKey: serverKey}}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	b.url = b.base + "/#ca=" + b.ca.Pin()
	return b
}

// person is a client with a key and, after login or delegation, a token.
type person struct {
	*broker.Actor
	b   *bench
	key *ecdsa.PrivateKey
	res api.TokenResponse
}

func (b *bench) person() *person {
	p := &person{b: b, key: newKey()}
	p.Actor = must(broker.NewActor(broker.ActorConfig{URL: b.url, Key: p.key, Token: func() string { return p.res.AccessToken }, Now: b.clock.now}))
	b.t.Cleanup(p.CloseIdle)
	return p
}

func (b *bench) login(name string, groups ...string) *person {
	b.t.Helper()
	p := b.person()
	var err error
	if p.res, err = p.Login(b.t.Context(), b.op.idToken(map[string]any{"sub": name, "groups": groups}), ""); err != nil {
		b.t.Fatal(err)
	}
	return p
}

func grantlets(specs ...string) access.Capability {
	var c access.Capability
	for _, s := range specs {
		c = append(c, must(access.ParseGrantlet(s)))
	}
	return c
}

func (p *person) delegate(change func(*broker.Delegation)) (*person, error) {
	c := p.b.person()
	d := broker.Delegation{Name: "coder", Purpose: "fix a bug", Capability: grantlets("read,write:app/public.*"),
		KeyProof: must(token.SignKeyProof(c.key, p.b.base, p.b.clock.now()))}
	if change != nil {
		change(&d)
	}
	var err error
	c.res, err = p.Delegate(p.b.t.Context(), d)
	return c, err
}

func (p *person) child(name string, caps ...string) *person {
	p.b.t.Helper()
	c, err := p.delegate(func(d *broker.Delegation) { d.Name, d.Capability = name, grantlets(caps...) })
	if err != nil {
		p.b.t.Fatal(err)
	}
	return c
}

func (p *person) id() access.ActorID { return p.res.Lineage.Actor().ID }

func (p *person) alive() error {
	_, err := p.Whoami(p.b.t.Context())
	return err
}

// entries reads the audit table.
func (b *bench) entries(kind audit.Kind) []audit.Entry {
	b.t.Helper()
	var out []audit.Entry
	items, _, err := b.db.Since(b.t.Context(), store.Audit, "", 1000)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, it := range items {
		for _, e := range must(audit.Decode(it)) {
			if e.Kind == kind {
				out = append(out, e)
			}
		}
	}
	return out
}
