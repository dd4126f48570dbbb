package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/store"
)

func sprint(format string, a ...any) string { return fmt.Sprintf(format, a...) }

func newItems(t testing.TB) store.Items {
	t.Helper()
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

const base = "https://broker.example"

type dpopBench struct {
	v      *Verifier
	client *ecdsa.PrivateKey
	raw    string
	items  store.Items
}

func newDPoPBench(t testing.TB) dpopBench {
	key, client := newKey(t), newKey(t)
	raw, err := NewIssuer(issuerName, fileKey{key}, 1).Access(t.Context(), sampleClaims(t, Thumbprint(&client.PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	return dpopBench{v: NewVerifier(issuerName, 1, &key.PublicKey), client: client, raw: raw, items: newItems(t)}
}

func (b dpopBench) request(t testing.TB, method, path string, proof string) *http.Request {
	r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	r.Header.Set("Authorization", "DPoP "+b.raw)
	r.Header.Set("DPoP", proof)
	return r
}

func TestRequestIsAcceptedOnce(t *testing.T) {
	b := newDPoPBench(t)
	proof := must(SignDPoP(b.client, "POST", base+"/ticket", b.raw, at))
	c, err := b.v.Request(t.Context(), b.request(t, "POST", "/ticket", proof), base, b.items, at)
	if err != nil || c.Principal != "alice" {
		t.Fatalf("%+v, %v", c, err)
	}
	if _, err := b.v.Request(t.Context(), b.request(t, "POST", "/ticket", proof), base, b.items, at); !errors.Is(err, api.ErrConflict) {
		t.Errorf("the same proof again: %v", err)
	}
	// Another spelling of the same URL is the same URL; a trailing slash of ours does not matter.
	proof = must(SignDPoP(b.client, "POST", "HTTPS://BROKER.example:443/ticket", b.raw, at))
	if _, err := b.v.Request(t.Context(), b.request(t, "POST", "/ticket?x=1", proof), base+"/", b.items, at); err != nil {
		t.Error(err)
	}
}

func TestAProofRacesOnlyOnce(t *testing.T) {
	b := newDPoPBench(t)
	proof := must(SignDPoP(b.client, "POST", base+"/ticket", b.raw, at))
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := b.v.Request(t.Context(), b.request(t, "POST", "/ticket", proof), base, b.items, at); err == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 20 won", won.Load())
	}
}

// noItems fails the test when a refusal costs I/O.
type noItems struct {
	store.Items
	t *testing.T
}

func TestRequestForgeriesAreRefusedBeforeAnyIO(t *testing.T) {
	b := newDPoPBench(t)
	b.items = noItems{t: t} // any call panics
	thief := newKey(t)
	dpop := func(key *ecdsa.PrivateKey, method, url, raw string, now time.Time) string {
		return must(SignDPoP(key, method, url, raw, now))
	}
	good := dpopClaims{ID: NewRandom(), Method: "GET", URL: base + "/whoami", IssuedAt: at.Unix(), Hash: HashToken(b.raw)}
	typed := func(typ string) *jose.SignerOptions {
		return (&jose.SignerOptions{EmbedJWK: true}).WithType(jose.ContentType(typ))
	}
	changed := func(f func(*dpopClaims)) string {
		c := good
		f(&c)
		return compact(t, jose.ES256, b.client, typed(typDPoP), c)
	}
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	tests := map[string]string{
		"a thief's key":        dpop(thief, "GET", base+"/whoami", b.raw, at),
		"another method":       dpop(b.client, "POST", base+"/whoami", b.raw, at),
		"another path":         dpop(b.client, "GET", base+"/revoke", b.raw, at),
		"another host":         dpop(b.client, "GET", "https://evil.example/whoami", b.raw, at),
		"another scheme":       dpop(b.client, "GET", "http://broker.example/whoami", b.raw, at),
		"another port":         dpop(b.client, "GET", "https://broker.example:8443/whoami", b.raw, at),
		"a query":              dpop(b.client, "GET", base+"/whoami?x", b.raw, at),
		"another token":        dpop(b.client, "GET", base+"/whoami", b.raw+"x", at),
		"no token hash":        dpop(b.client, "GET", base+"/whoami", "", at),
		"old":                  dpop(b.client, "GET", base+"/whoami", b.raw, at.Add(-Window-time.Second)),
		"from the future":      dpop(b.client, "GET", base+"/whoami", b.raw, at.Add(Window+time.Second)),
		"no jti":               changed(func(c *dpopClaims) { c.ID = "" }),
		"short jti":            changed(func(c *dpopClaims) { c.ID = "x" }),
		"no iat":               changed(func(c *dpopClaims) { c.IssuedAt = 0 }),
		"typ of another thing": compact(t, jose.ES256, b.client, typed(typKeyProof), good),
		"ES384":                compact(t, jose.ES384, p384, typed(typDPoP), good),
		"alg none":             handmade(t, map[string]any{"alg": "none", "typ": typDPoP, "jwk": jose.JSONWebKey{Key: &b.client.PublicKey}}, map[string]any{"htm": "GET"}, func(string) []byte { return nil }),
		"HS256 with an oct key": compact(t, jose.HS256, []byte(strings.Repeat("k", 32)),
			(&jose.SignerOptions{}).WithType(typDPoP).WithHeader("jwk", map[string]string{"kty": "oct", "k": encode([]byte(strings.Repeat("k", 32)))}), good),
		"no key":           compact(t, jose.ES256, b.client, (&jose.SignerOptions{}).WithType(typDPoP), good),
		"a private key":    compact(t, jose.ES256, b.client, (&jose.SignerOptions{}).WithType(typDPoP).WithHeader("jwk", jose.JSONWebKey{Key: b.client}), good),
		"somebody's key":   compact(t, jose.ES256, thief, (&jose.SignerOptions{}).WithType(typDPoP).WithHeader("jwk", jose.JSONWebKey{Key: &b.client.PublicKey}), good),
		"a kid beside":     compact(t, jose.ES256, b.client, typed(typDPoP).WithHeader("kid", "x"), good),
		"unknown claim":    compact(t, jose.ES256, b.client, typed(typDPoP), map[string]any{"jti": good.ID, "htm": "GET", "htu": good.URL, "iat": at.Unix(), "ath": good.Hash, "x": 1}),
		"the access token": b.raw,
		"empty":            "",
	}
	for name, proof := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := b.v.Request(t.Context(), b.request(t, "GET", "/whoami", proof), base, b.items, at); !errors.Is(err, api.ErrLogin) {
				t.Errorf("got %v, want ErrLogin", err)
			}
		})
	}
	fine := compact(t, jose.ES256, b.client, typed(typDPoP), good)
	for name, change := range map[string]func(*http.Request){
		"no authorization":  func(r *http.Request) { r.Header.Del("Authorization") },
		"bearer":            func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+b.raw) },
		"two authorization": func(r *http.Request) { r.Header.Add("Authorization", "DPoP "+b.raw) },
		"two proofs":        func(r *http.Request) { r.Header.Add("DPoP", fine) },
		"no proof":          func(r *http.Request) { r.Header.Del("DPoP") },
		"an expired token":  nil,
	} {
		t.Run(name, func(t *testing.T) {
			r, now := b.request(t, "GET", "/whoami", fine), at
			if change == nil {
				now = at.Add(AccessLife)
				r.Header.Set("DPoP", dpop(b.client, "GET", base+"/whoami", b.raw, now))
			} else {
				change(r)
			}
			if _, err := b.v.Request(t.Context(), r, base, b.items, now); !errors.Is(err, api.ErrLogin) {
				t.Errorf("got %v, want ErrLogin", err)
			}
		})
	}
}

type brokenItems struct{ store.Items }

func TestAStoreThatDoesNotAnswerRefuses(t *testing.T) {
	b := newDPoPBench(t)
	r := b.request(t, "GET", "/whoami", must(SignDPoP(b.client, "GET", base+"/whoami", b.raw, at)))
	closed, err := sqlite.Open(filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.v.Request(t.Context(), r, base, brokenItems{closed}, at); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}

func sampleProof(t testing.TB, raw string) Proof {
	return Proof{Target: "app", AgentKey: NewRandom(), Exporter: must(decode(NewRandom())), Nonce: NewNonce(make([]byte, 32), NewRandom(), "app", NewRandom(), at),
		TokenHash: HashToken(raw), Endpoint: NewRandom(), IssuedAt: at}
}

func TestSessionProof(t *testing.T) {
	key := newKey(t)
	want := sampleProof(t, "token")
	raw := must(SignProof(key, want))
	got, jkt, err := VerifyProof(raw, at)
	if err != nil || jkt != Thumbprint(&key.PublicKey) || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %s, %v", got, jkt, err)
	}
	for name, now := range map[string]time.Time{"old": at.Add(Window + time.Second), "from the future": at.Add(-Window - time.Second)} {
		if _, _, err := VerifyProof(raw, now); !errors.Is(err, api.ErrLogin) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*Proof){
		"no target":      func(p *Proof) { p.Target = "" },
		"short exporter": func(p *Proof) { p.Exporter = p.Exporter[:31] },
		"no exporter":    func(p *Proof) { p.Exporter = nil },
		"no nonce":       func(p *Proof) { p.Nonce = "" },
		"no agent key":   func(p *Proof) { p.AgentKey = "" },
		"no token":       func(p *Proof) { p.TokenHash = "" },
		"no endpoint":    func(p *Proof) { p.Endpoint = "" },
	} {
		p := want
		change(&p)
		if _, err := SignProof(key, p); err == nil {
			t.Errorf("%s: signed", name)
		}
		c := proofClaims{string(p.Target), p.AgentKey, encode(p.Exporter), p.Nonce, p.TokenHash, p.Endpoint, at.Unix()}
		forged := compact(t, jose.ES256, key, (&jose.SignerOptions{EmbedJWK: true}).WithType(typProof), c)
		if _, _, err := VerifyProof(forged, at); !errors.Is(err, api.ErrLogin) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A DPoP proof of the same key is no session proof, and the other way round.
	if _, _, err := VerifyProof(must(SignDPoP(key, "GET", base, "", at)), at); err == nil {
		t.Error("a DPoP proof passes for a session proof")
	}
	if _, err := verifyDPoP(raw, "GET", "/", base, "", at); err == nil {
		t.Error("a session proof passes for a DPoP proof")
	}
	for i := range raw {
		b := []byte(raw)
		b[i] ^= 1
		if p, k, err := VerifyProof(string(b), at); err == nil && (k != jkt || !reflect.DeepEqual(p, want)) {
			t.Fatalf("byte %d flipped: %+v", i, p)
		}
	}
}

func TestKeyProof(t *testing.T) {
	key := newKey(t)
	raw := must(SignKeyProof(key, issuerName, at))
	p, err := VerifyKeyProof(raw, issuerName, at)
	if err != nil || p.Thumbprint != Thumbprint(&key.PublicKey) {
		t.Fatalf("%+v, %v", p, err)
	}
	items := newItems(t)
	if err := Spend(t.Context(), items, p.Used, "it"); err != nil {
		t.Fatal(err)
	}
	if err := Spend(t.Context(), items, must(VerifyKeyProof(raw, issuerName, at)).Used, "it"); !errors.Is(err, api.ErrConflict) {
		t.Errorf("the same key proof again: %v", err)
	}
	for name, raw := range map[string]string{
		"another issuer": must(SignKeyProof(key, "https://evil.example", at)),
		"old":            must(SignKeyProof(key, issuerName, at.Add(-2*Window))),
		"a DPoP proof":   must(SignDPoP(key, "GET", base, "", at)),
		"empty":          "",
	} {
		if _, err := VerifyKeyProof(raw, issuerName, at); !errors.Is(err, api.ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := VerifyKeyProof(raw, "", at); err == nil {
		t.Error("accepted without an issuer")
	}
	if _, err := SignKeyProof(nil, issuerName, at); err == nil {
		t.Error("signed without a key")
	}
}

func TestReplayIsAboutWhatWasSigned(t *testing.T) {
	// (r, s) and (r, n-s) are both signatures of one message: a replay store that remembered the text would take the second.
	key := newKey(t)
	raw := must(SignDPoP(key, "GET", base+"/whoami", "", at))
	other := otherSignature(t, raw)
	a, err := verifyDPoP(raw, "GET", "/whoami", base, "", at)
	if err != nil {
		t.Fatal(err)
	}
	b, err := verifyDPoP(other, "GET", "/whoami", base, "", at)
	if err != nil {
		t.Fatal(err)
	}
	if raw == other || a.Used.Item.Key != b.Used.Item.Key {
		t.Error("two signatures of one proof count as two proofs")
	}
}
