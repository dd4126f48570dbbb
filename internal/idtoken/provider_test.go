package idtoken

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const client = "sallyport-cli"

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// op is a provider that does as it is told.
type op struct {
	*httptest.Server
	mu      sync.Mutex
	now     time.Time
	keys    []jose.JSONWebKey
	issuer  string // what discovery says; "": its URL
	jwks    string // where discovery says that the keys are; "": here
	down    bool
	fetches int
	key     *ecdsa.PrivateKey
}

func newOP(t testing.TB) *op {
	o := &op{now: time.Now().Truncate(time.Second), key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	o.keys = []jose.JSONWebKey{{Key: &o.key.PublicKey, KeyID: "k1", Algorithm: "ES256", Use: "sig"}}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.fetches++
		if o.down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			iss, keys := o.URL, o.URL+"/keys"
			if o.issuer != "" {
				iss = o.issuer
			}
			if o.jwks != "" {
				keys = o.jwks
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"issuer": iss, "authorization_endpoint": o.URL + "/auth", "token_endpoint": o.URL + "/token", "jwks_uri": keys,
				"id_token_signing_alg_values_supported": []string{"ES256", "none", "HS256"}, "authorization_response_iss_parameter_supported": true})
		case "/keys":
			_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: o.keys})
		case "/large":
			_, _ = io.WriteString(w, `{"keys":[`+strings.Repeat(" ", 2<<20)+`]}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(o.Close)
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	return o
}

func (o *op) provider(t testing.TB) *Provider {
	t.Helper()
	p, err := New(Config{Issuer: o.URL, ClientID: client, Now: func() time.Time { o.mu.Lock(); defer o.mu.Unlock(); return o.now }})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (o *op) claims(change map[string]any) map[string]any {
	c := map[string]any{"iss": o.URL, "sub": "alice", "aud": client, "iat": o.now.Unix(), "exp": o.now.Add(time.Hour).Unix(), "auth_time": o.now.Add(-time.Minute).Unix(),
		"nonce": "n", "groups": []string{"engineers"}}
	for k, v := range change {
		if v == nil {
			delete(c, k)
			continue
		}
		c[k] = v
	}
	return c
}

// sign makes a token with any header and any key.
func sign(alg jose.SignatureAlgorithm, key any, header map[string]any, claims map[string]any) string {
	o := (&jose.SignerOptions{}).WithType("JWT")
	kid := "k1"
	h := maps.Clone(header)
	if v, ok := h["kid"].(string); ok {
		kid = v
		delete(h, "kid")
	}
	for k, v := range h {
		o.WithHeader(jose.HeaderKey(k), v)
	}
	s := must(jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, o))
	return must(must(s.Sign(must(json.Marshal(claims)))).CompactSerialize())
}

func (o *op) token(change map[string]any) string {
	return sign(jose.ES256, o.key, nil, o.claims(change))
}

func TestVerify(t *testing.T) {
	o := newOP(t)
	p := o.provider(t)
	id, err := p.Verify(t.Context(), o.token(nil))
	if err != nil || id.Subject != "alice" || len(id.Groups) != 1 || id.Nonce != "n" || !id.AuthTime.Equal(o.now.Add(-time.Minute)) || !id.Until.Equal(o.now.Add(idTokenAge)) || !json.Valid(id.Payload) {
		t.Fatalf("%+v %v", id, err)
	}
	if !p.SendsIssuer() {
		t.Error("RFC 9207 is not seen")
	}
	if id, err := p.Verify(t.Context(), o.token(map[string]any{"auth_time": nil, "groups": nil, "azp": client, "aud": []string{client}})); err != nil || !id.AuthTime.IsZero() || len(id.Groups) != 0 {
		t.Errorf("%+v %v", id, err)
	}
	at := func(d time.Duration) int64 { return o.now.Add(d).Unix() }
	for name, change := range map[string]map[string]any{
		"another issuer":            {"iss": "https://evil.example"},
		"the issuer with a slash":   {"iss": o.URL + "/"},
		"no issuer":                 {"iss": nil},
		"another audience":          {"aud": "another"},
		"two audiences":             {"aud": []string{client, "another"}},
		"no audience":               {"aud": nil},
		"azp of somebody else":      {"azp": "another"},
		"expired":                   {"exp": at(-time.Second)},
		"no expiry":                 {"exp": nil},
		"not valid yet":             {"nbf": at(time.Hour)},
		"made in the future":        {"iat": at(time.Minute)},
		"made long ago":             {"iat": at(-idTokenAge - time.Second)},
		"no time":                   {"iat": nil},
		"no subject":                {"sub": nil},
		"an empty subject":          {"sub": ""},
		"a subject of two lines":    {"sub": "alice\nadmin"},
		"a subject that turns text": {"sub": "alice\u202e"},
		"a subject that is no text": {"sub": 7},
		"a long subject":            {"sub": strings.Repeat("a", 256)},
		"a login in the future":     {"auth_time": at(time.Minute)},
		"a login of long ago":       {"auth_time": at(-maxAuthAge - time.Second)},
		"auth_time as text":         {"auth_time": "yesterday"},
		"a group of two lines":      {"groups": []string{"a\nb"}},
		"an empty group":            {"groups": []string{""}},
		"a group that is no text":   {"groups": []any{1}},
		"groups as one text":        {"groups": "administrators"},
		"groups without end":        {"groups": strings.Split(strings.Repeat("group,", 1000), ",")[:999]},
		"longer than it may be":     {"more": strings.Repeat("x", maxIDToken)},
	} {
		if id, err := p.Verify(t.Context(), o.token(change)); err == nil || errors.Is(err, ErrProvider) {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
}

// What is known to be done to tokens: other algorithms, other types, keys that come along, headers that change what is verified.
func TestTricks(t *testing.T) {
	o := newOP(t)
	p := o.provider(t)
	good := o.token(nil)
	parts := strings.Split(good, ".")
	b64 := base64.RawURLEncoding.EncodeToString
	own := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	shared := must(x509.MarshalPKIXPublicKey(&o.key.PublicKey))
	embedded := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: own}, (&jose.SignerOptions{EmbedJWK: true}).WithType("JWT")))
	rs := must(rsa.GenerateKey(rand.Reader, 2048))
	sig := must(base64.RawURLEncoding.DecodeString(parts[2]))
	other := append([]byte{}, sig...)
	other[10] ^= 1
	der := append([]byte{0x30, 0x44, 0x02, 0x20}, sig[:32]...)
	der = append(append(der, 0x02, 0x20), sig[32:]...)
	for name, raw := range map[string]string{
		"nothing":                            "",
		"two parts":                          parts[0] + "." + parts[1],
		"no signature":                       parts[0] + "." + parts[1] + ".",
		"four parts":                         good + ".x",
		"alg none":                           b64([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".",
		"alg None":                           b64([]byte(`{"alg":"None","typ":"JWT"}`)) + "." + parts[1] + "." + parts[2],
		"HS256 with the public key":          sign(jose.HS256, shared, nil, o.claims(nil)),
		"RS256 under the id of an EC key":    sign(jose.RS256, rs, nil, o.claims(nil)),
		"another key under the same id":      sign(jose.ES256, own, nil, o.claims(nil)),
		"a key that comes along":             must(must(embedded.Sign(must(json.Marshal(o.claims(nil))))).CompactSerialize()),
		"a key's address":                    sign(jose.ES256, own, map[string]any{"jku": o.URL + "/keys"}, o.claims(nil)),
		"a certificate's address":            sign(jose.ES256, own, map[string]any{"x5u": o.URL}, o.claims(nil)),
		"a certificate":                      sign(jose.ES256, own, map[string]any{"x5c": []string{"AAAA"}}, o.claims(nil)),
		"an access token of the provider":    sign(jose.ES256, o.key, map[string]any{"typ": "at+jwt"}, o.claims(nil)),
		"a logout token":                     sign(jose.ES256, o.key, map[string]any{"typ": "logout+jwt"}, o.claims(nil)),
		"a critical extension":               sign(jose.ES256, o.key, map[string]any{"crit": []string{"x"}, "x": 1}, o.claims(nil)),
		"unencoded payload":                  sign(jose.ES256, o.key, map[string]any{"b64": true, "crit": []string{"b64"}}, o.claims(nil)),
		"nested":                             sign(jose.ES256, o.key, map[string]any{"cty": "JWT"}, o.claims(nil)),
		"another payload":                    parts[0] + "." + b64(must(json.Marshal(o.claims(map[string]any{"sub": "eve"})))) + "." + parts[2],
		"another signature":                  parts[0] + "." + parts[1] + "." + b64(other),
		"the signature in DER":               parts[0] + "." + parts[1] + "." + b64(der),
		"the signature's bytes and one more": parts[0] + "." + parts[1] + "." + b64(append(append([]byte{}, sig...), 0)),
		"a signature of noughts":             parts[0] + "." + parts[1] + "." + b64(make([]byte, 64)),
		"another serialisation":              fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, parts[1], parts[0], parts[2]),
		"encrypted":                          "eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..AAAA.AAAA.AAAA",
		"a space before":                     " " + good,
		"padding":                            good + "=",
		"no JSON inside":                     mustSign(o.key, []byte("alice")),
		"a list inside":                      mustSign(o.key, []byte("[]")),
	} {
		before := o.fetches
		if id, err := p.Verify(t.Context(), raw); err == nil {
			t.Errorf("%s: %+v", name, id)
		}
		if fetched := o.fetches - before; fetched > 2 {
			t.Errorf("%s: %d fetches", name, fetched)
		}
		o.mu.Lock()
		o.now = o.now.Add(20 * time.Second) // the budget of fetches comes back
		o.mu.Unlock()
	}
}

func mustSign(key crypto.PrivateKey, payload []byte) string {
	s := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k1"}}, (&jose.SignerOptions{}).WithType("JWT")))
	return must(must(s.Sign(payload)).CompactSerialize())
}

// A new key is found at once; one that was withdrawn is refused when the memory of it ends; strangers cannot make us ask without end.
func TestKeys(t *testing.T) {
	o := newOP(t)
	p := o.provider(t)
	must(p.Verify(t.Context(), o.token(nil)))
	next := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	o.mu.Lock()
	o.keys = append(o.keys, jose.JSONWebKey{Key: &next.PublicKey, KeyID: "k2", Algorithm: "ES256", Use: "sig"})
	o.mu.Unlock()
	if _, err := p.Verify(t.Context(), sign(jose.ES256, next, map[string]any{"kid": "k2"}, o.claims(nil))); err != nil {
		t.Errorf("a new key: %v", err)
	}
	o.mu.Lock()
	o.keys = o.keys[1:] // k1 is withdrawn
	o.now = o.now.Add(keysLife)
	o.mu.Unlock()
	if _, err := p.Verify(t.Context(), o.token(nil)); err == nil {
		t.Error("a withdrawn key counts for longer than its memory")
	}
	before := o.fetches
	for i := range 100 {
		_, err := p.Verify(t.Context(), sign(jose.ES256, next, map[string]any{"kid": fmt.Sprint("unknown", i)}, o.claims(nil)))
		if err == nil {
			t.Fatal("an unknown key counts")
		}
	}
	if n := o.fetches - before; n > fetchBurst {
		t.Errorf("a hundred unknown keys cost %d fetches", n)
	}
	if _, err := p.Verify(t.Context(), sign(jose.ES256, next, map[string]any{"kid": "k2"}, o.claims(nil))); err != nil {
		t.Errorf("who is known is kept out by strangers: %v", err)
	}
}

func TestProvidersThatLie(t *testing.T) {
	for name, lie := range map[string]func(*op){
		"away":                    func(o *op) { o.down = true },
		"another issuer":          func(o *op) { o.issuer = "https://evil.example" },
		"the issuer with a slash": func(o *op) { o.issuer = o.URL + "/" },
		"keys in the clear":       func(o *op) { o.jwks = "http://keys.example/keys" },
		"keys that are not there": func(o *op) { o.jwks = o.URL + "/nothing" },
		"keys without end":        func(o *op) { o.jwks = o.URL + "/large" },
	} {
		o := newOP(t)
		p := o.provider(t)
		raw := o.token(nil)
		lie(o)
		if id, err := p.Verify(t.Context(), raw); !errors.Is(err, ErrProvider) {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
	for _, c := range []Config{{}, {Issuer: "https://x.example"}, {Issuer: "http://x.example", ClientID: "c"}, {Issuer: "ftp://127.0.0.1", ClientID: "c"}, {Issuer: "x", ClientID: "c"}, {Issuer: "https://", ClientID: "c"}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}

func FuzzHeader(f *testing.F) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	f.Add(sign(jose.ES256, key, nil, map[string]any{"sub": "alice"}))
	f.Add(sign(jose.ES256, key, map[string]any{"typ": "at+jwt"}, map[string]any{}))
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("..")
	f.Fuzz(func(t *testing.T, raw string) {
		if plainHeader(raw) != nil {
			return
		}
		parts := strings.Split(raw, ".")
		if len(parts) != 3 {
			t.Fatalf("%q has %d parts", raw, len(parts))
		}
		b, err := base64.RawURLEncoding.DecodeString(parts[0])
		var h map[string]any
		if err != nil || json.Unmarshal(b, &h) != nil {
			t.Fatalf("%q: a header that is none", raw)
		}
		for k := range h {
			switch k {
			case "alg", "kid", "typ", "x5t", "x5t#S256":
			case "nonce", "url", "b64", "crit", "jwk", "x5c", "jku", "x5u", "cty":
				t.Fatalf("header %q in %s", k, b)
			}
		}
	})
}

func FuzzPlainText(f *testing.F) {
	f.Add("alice", 10)
	f.Add("a\u2028b", 10)
	f.Add("\xff", 1)
	f.Fuzz(func(t *testing.T, s string, most int) {
		if PlainText(s, most) && (s == "" || len(s) > most || strings.ContainsAny(s, "\r\n\t\x00\u202e\u2028") || strings.ToValidUTF8(s, "") != s) {
			t.Fatalf("%q is plain text of at most %d", s, most)
		}
	})
}
