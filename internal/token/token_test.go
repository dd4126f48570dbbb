package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

const issuerName = "https://broker.example"

// at is the tests' clock. It stands at today, because the store may forget at any time what has expired.
var at = time.Now().UTC().Truncate(time.Second)

type fileKey struct{ *ecdsa.PrivateKey }

func (k fileKey) Public() *ecdsa.PublicKey { return &k.PublicKey }

func (k fileKey) Sign(_ context.Context, digest []byte) ([]byte, error) {
	return ecdsa.SignASN1(rand.Reader, k.PrivateKey, digest)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newID(t testing.TB) string {
	t.Helper()
	id, err := NewID(at)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func sampleClaims(t testing.TB, jkt string) Claims {
	g, err := access.ParseGrantlet("read,write:app/public.*")
	if err != nil {
		t.Fatal(err)
	}
	return Claims{
		ID: newID(t), Principal: "alice", Groups: []string{"engineers"}, Assurance: access.Exchanged, AuthTime: at.Add(-time.Minute),
		Path: []access.Node{{ID: access.ActorID(newID(t)), Name: "alice"}, {ID: access.ActorID(newID(t)), Name: "coder", Purpose: "fix a bug"},
			{ID: access.ActorID(newID(t)), Name: "tester", Purpose: "test it"}},
		Capability: access.Capability{g}, Thumbprint: jkt, Issued: at, Expires: at.Add(AccessLife), GrantExpires: at.Add(time.Hour),
	}
}

// wire is what the issuer would sign for sampleClaims, for forging.
func wire(t testing.TB, jkt string) map[string]any {
	k := newKey(t)
	raw, err := NewIssuer(issuerName, fileKey{k}, 1).Access(t.Context(), sampleClaims(t, jkt))
	if err != nil {
		t.Fatal(err)
	}
	jws, err := jose.ParseSignedCompact(raw, algorithms)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{}
	if err := json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// compact signs anything with anything, as an attacker would.
func compact(t testing.TB, alg jose.SignatureAlgorithm, key any, o *jose.SignerOptions, claims any) string {
	t.Helper()
	b, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, o)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := s.Sign(b)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// handmade writes the three parts itself: for algorithms that no library would sign with.
func handmade(t testing.TB, header, claims map[string]any, sign func(string) []byte) string {
	t.Helper()
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	c, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	s := encode(h) + "." + encode(c)
	return s + "." + encode(sign(s))
}

func TestAccessTokenSaysWhatWasSigned(t *testing.T) {
	key, client := newKey(t), newKey(t)
	want := sampleClaims(t, Thumbprint(&client.PublicKey))
	raw, err := NewIssuer(issuerName, fileKey{key}, 3).Access(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := NewVerifier(issuerName, 3, &key.PublicKey).Access(raw, at)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	jws, err := jose.ParseSignedCompact(raw, algorithms)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(jws.UnsafePayloadWithoutVerification()); !strings.Contains(s, `"act":{"sub":"tester","act":{"sub":"coder"}}`) {
		t.Errorf("act does not nest the present actor outermost: %s", s)
	}
}

func TestVerifierFromJWKS(t *testing.T) {
	key := newKey(t)
	i := NewIssuer(issuerName, fileKey{key}, 1)
	keys, err := ParseJWKS(i.JWKS())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := i.Ticket(t.Context(), Ticket{ID: newID(t), Endpoint: NewRandom(), Target: "app", Expires: at.Add(TicketLife)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewVerifier(issuerName, 1, keys...).Ticket(raw, at); err != nil {
		t.Error(err)
	}
	for name, set := range map[string]string{"empty": `{"keys":[]}`, "symmetric": `{"keys":[{"kty":"oct","k":"AAAA"}]}`, "not JSON": `x`,
		"P-384":   string(must(json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)).PublicKey}}}))),
		"private": string(must(json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key}}})))} {
		if keys, err := ParseJWKS([]byte(set)); err == nil {
			t.Errorf("%s: accepted %d keys", name, len(keys))
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestAccessTokenForgeries(t *testing.T) {
	key, client := newKey(t), newKey(t)
	jkt := Thumbprint(&client.PublicKey)
	v := NewVerifier(issuerName, 1, &key.PublicKey)
	kid := Thumbprint(&key.PublicKey)
	typed := func(typ string) *jose.SignerOptions { return (&jose.SignerOptions{}).WithType(jose.ContentType(typ)) }
	ours := jose.JSONWebKey{Key: key, KeyID: kid}
	signed := func(change func(m map[string]any)) string {
		m := wire(t, jkt)
		change(m)
		return compact(t, jose.ES256, ours, typed(typAccess), m)
	}
	path := func(m map[string]any, i int) map[string]any { return m["path"].([]any)[i].(map[string]any) }
	tests := map[string]string{
		"alg none": handmade(t, map[string]any{"alg": "none", "typ": typAccess, "kid": kid}, wire(t, jkt), func(string) []byte { return nil }),
		"HS256 with the public key as the secret": handmade(t, map[string]any{"alg": "HS256", "typ": typAccess, "kid": kid}, wire(t, jkt), func(s string) []byte {
			m := hmac.New(sha256.New, NewIssuer("", fileKey{key}, 0).JWKS())
			m.Write([]byte(s))
			return m.Sum(nil)
		}),
		"RS256":                  compact(t, jose.RS256, jose.JSONWebKey{Key: must(rsa.GenerateKey(rand.Reader, 2048)), KeyID: kid}, typed(typAccess), wire(t, jkt)),
		"another key":            compact(t, jose.ES256, jose.JSONWebKey{Key: newKey(t), KeyID: kid}, typed(typAccess), wire(t, jkt)),
		"unknown kid":            compact(t, jose.ES256, jose.JSONWebKey{Key: key, KeyID: "x"}, typed(typAccess), wire(t, jkt)),
		"no kid":                 compact(t, jose.ES256, key, typed(typAccess), wire(t, jkt)),
		"its own key":            compact(t, jose.ES256, newKey(t), &jose.SignerOptions{EmbedJWK: true, ExtraHeaders: map[jose.HeaderKey]any{"typ": typAccess, "kid": kid}}, wire(t, jkt)),
		"jku":                    compact(t, jose.ES256, ours, typed(typAccess).WithHeader("jku", "https://evil.example/jwks"), wire(t, jkt)),
		"crit":                   compact(t, jose.ES256, ours, typed(typAccess).WithHeader("crit", []string{"x"}).WithHeader("x", 1), wire(t, jkt)),
		"typ of a ticket":        compact(t, jose.ES256, ours, typed(typTicket), wire(t, jkt)),
		"typ JWT":                compact(t, jose.ES256, ours, typed("JWT"), wire(t, jkt)),
		"no typ":                 compact(t, jose.ES256, ours, nil, wire(t, jkt)),
		"wrong issuer":           signed(func(m map[string]any) { m["iss"] = "https://evil.example" }),
		"wrong audience":         signed(func(m map[string]any) { m["aud"] = audienceRelay }),
		"audience list":          signed(func(m map[string]any) { m["aud"] = []string{audienceBroker} }),
		"expired":                signed(func(m map[string]any) { m["iat"], m["exp"] = at.Unix()-300, at.Unix() }),
		"iat in the future":      signed(func(m map[string]any) { m["iat"], m["exp"] = at.Add(Skew).Unix()+1, at.Add(Skew).Unix()+100 }),
		"no iat":                 signed(func(m map[string]any) { delete(m, "iat") }),
		"no exp":                 signed(func(m map[string]any) { delete(m, "exp") }),
		"lives a day":            signed(func(m map[string]any) { m["exp"], m["gexp"] = at.Unix()+86400, at.Unix()+86400 }),
		"outlives its grant":     signed(func(m map[string]any) { m["gexp"] = at.Unix() + 1 }),
		"older epoch":            signed(func(m map[string]any) { m["epoch"] = 0 }),
		"unknown claim":          signed(func(m map[string]any) { m["admin"] = true }),
		"no key binding":         signed(func(m map[string]any) { delete(m, "cnf") }),
		"empty key binding":      signed(func(m map[string]any) { m["cnf"] = map[string]any{"jkt": ""} }),
		"empty subject":          signed(func(m map[string]any) { m["sub"] = "" }),
		"another subject":        signed(func(m map[string]any) { m["sub"] = "rita" }),
		"another root":           signed(func(m map[string]any) { m["root"] = newID(t) }),
		"empty path":             signed(func(m map[string]any) { m["path"], m["depth"] = []any{}, -1 }),
		"depth too small":        signed(func(m map[string]any) { m["depth"] = 1 }),
		"cycle":                  signed(func(m map[string]any) { path(m, 2)["id"] = path(m, 1)["id"] }),
		"cycle through the root": signed(func(m map[string]any) { path(m, 2)["id"] = path(m, 0)["id"] }),
		"step without id":        signed(func(m map[string]any) { path(m, 1)["id"] = "" }),
		"forged act": signed(func(m map[string]any) {
			m["act"] = map[string]any{"sub": "rita", "act": map[string]any{"sub": "coder"}}
		}),
		"act left out": signed(func(m map[string]any) { delete(m, "act") }),
		"act one deeper": signed(func(m map[string]any) {
			m["act"] = map[string]any{"sub": "tester", "act": map[string]any{"sub": "coder", "act": map[string]any{"sub": "x"}}}
		}),
		"ill-formed capability": signed(func(m map[string]any) { m["cap"] = []string{"everything"} }),
		"unknown effect":        signed(func(m map[string]any) { m["cap"] = []string{"unknown:app/*"} }),
		"too deep": signed(func(m map[string]any) {
			steps, act := []any{path(m, 0)}, any(nil)
			for range MaxDepth + 1 {
				steps = append(steps, map[string]any{"id": newID(t), "name": "x"})
				if act == nil {
					act = map[string]any{"sub": "x"}
				} else {
					act = map[string]any{"sub": "x", "act": act}
				}
			}
			m["path"], m["depth"], m["act"] = steps, len(steps)-1, act
		}),
		"too long":  strings.Repeat("a", MaxToken+1),
		"empty":     "",
		"two parts": "a.b",
		"JSON":      `{"payload":"","signatures":[]}`,
	}
	for name, raw := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := v.Access(raw, at)
			if !errors.Is(err, api.ErrLogin) {
				t.Errorf("got %+v, %v; want ErrLogin", c, err)
			}
		})
	}
	// The same wire form, unchanged, is accepted: each case above fails for its own reason.
	if _, err := v.Access(signed(func(map[string]any) {}), at); err != nil {
		t.Error(err)
	}
	if _, err := new(Verifier).Access(signed(func(map[string]any) {}), at); err == nil {
		t.Error("the zero Verifier accepts")
	}
}

func TestAnyFlippedCharacterIsRefused(t *testing.T) {
	key, client := newKey(t), newKey(t)
	raw := must(NewIssuer(issuerName, fileKey{key}, 1).Access(t.Context(), sampleClaims(t, Thumbprint(&client.PublicKey))))
	v := NewVerifier(issuerName, 1, &key.PublicKey)
	want := must(v.Access(raw, at))
	for i := range raw {
		b := []byte(raw)
		b[i] ^= 1
		// Base64's unused last bits may change without changing what is said; what is said must never change.
		if c, err := v.Access(string(b), at); err == nil && !reflect.DeepEqual(c, want) {
			t.Fatalf("byte %d flipped: accepted %+v", i, c)
		}
	}
}

func TestRenewableNeedsALivingGrant(t *testing.T) {
	key, client := newKey(t), newKey(t)
	c := sampleClaims(t, Thumbprint(&client.PublicKey))
	raw := must(NewIssuer(issuerName, fileKey{key}, 1).Access(t.Context(), c))
	v := NewVerifier(issuerName, 1, &key.PublicKey)
	for _, tt := range []struct {
		now  time.Time
		good bool
	}{{at, true}, {c.Expires, true}, {c.GrantExpires.Add(-time.Second), true}, {c.GrantExpires, false}, {at.Add(-time.Minute), false}} {
		if _, err := v.Renewable(raw, tt.now); (err == nil) != tt.good {
			t.Errorf("at %s: %v", tt.now, err)
		}
		if _, err := v.Access(raw, c.Expires); err == nil {
			t.Error("an expired token opens something")
		}
	}
	if _, err := NewVerifier(issuerName, 1, &newKey(t).PublicKey).Renewable(raw, at); err == nil {
		t.Error("renewable under another key")
	}
}

func TestIssuerRefusesWhatVerifiersWould(t *testing.T) {
	i := NewIssuer(issuerName, fileKey{newKey(t)}, 1)
	for name, change := range map[string]func(*Claims){
		"no path":   func(c *Claims) { c.Path = nil },
		"no key":    func(c *Claims) { c.Thumbprint = "" },
		"principal": func(c *Claims) { c.Principal = "rita" },
		"grant":     func(c *Claims) { c.GrantExpires = c.Expires.Add(-time.Second) },
		"too large": func(c *Claims) { c.Groups = []string{strings.Repeat("g", MaxToken)} },
	} {
		c := sampleClaims(t, Thumbprint(&newKey(t).PublicKey))
		change(&c)
		if raw, err := i.Access(t.Context(), c); err == nil {
			t.Errorf("%s: signed %.20s…", name, raw)
		}
	}
}

func TestTicketForgeries(t *testing.T) {
	key := newKey(t)
	i, v := NewIssuer(issuerName, fileKey{key}, 1), NewVerifier(issuerName, 1, &key.PublicKey)
	want := Ticket{ID: newID(t), Endpoint: NewRandom(), Target: "app", Expires: at.Add(TicketLife)}
	raw := must(i.Ticket(t.Context(), want))
	if got, err := v.Ticket(raw, at); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if s := must(jose.ParseSignedCompact(raw, algorithms)).UnsafePayloadWithoutVerification(); strings.Contains(string(s), "alice") || strings.Contains(string(s), "sub") {
		t.Errorf("a ticket with an identity: %s", s)
	}
	if _, err := v.Access(raw, at); err == nil {
		t.Error("a ticket passes for an access token")
	}
	token := must(i.Access(t.Context(), sampleClaims(t, Thumbprint(&newKey(t).PublicKey))))
	if _, err := v.Ticket(token, at); err == nil {
		t.Error("an access token passes for a ticket")
	}
	if _, err := v.Ticket(raw, want.Expires); err == nil {
		t.Error("an expired ticket passes")
	}
	if _, err := v.Ticket(raw, at.Add(-Skew-time.Second)); err == nil {
		t.Error("a ticket from the future passes")
	}
	for _, bad := range []Ticket{{}, {ID: newID(t), Endpoint: "x", Target: "app", Expires: at}, {ID: newID(t), Endpoint: NewRandom(), Target: "App", Expires: at}} {
		if _, err := i.Ticket(t.Context(), bad); err == nil {
			t.Errorf("signed %+v", bad)
		}
	}
}

func TestStateSealing(t *testing.T) {
	key, other := make([]byte, 32), append(make([]byte, 31), 1)
	want := State{Session: "S", Agent: "a", Target: "app", DigestKey: []byte(strings.Repeat("d", 32)), DataKey: []byte(strings.Repeat("k", 32)), Opened: at, Expires: at,
		Lineage: access.Lineage{Principal: "alice"}, Capability: access.Everything()}
	raw := must(SealState(key, want))
	if got, err := OpenState(key, raw); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v, %v", got, err)
	}
	if again := must(SealState(key, want)); again == raw {
		t.Error("sealing twice gives the same text: the nonce is not random")
	}
	if strings.Contains(string(must(decode(raw))), "alice") {
		t.Error("the state can be read")
	}
	if _, err := OpenState(other, raw); !errors.Is(err, api.ErrDenied) {
		t.Errorf("opened with another key: %v", err)
	}
	for i := range raw {
		b := []byte(raw)
		b[i] ^= 1
		if _, err := OpenState(key, string(b)); err == nil {
			t.Fatalf("opened with byte %d flipped", i)
		}
	}
	for _, bad := range []string{"", "x", raw[:20], raw + "A", strings.Repeat("A", maxState+1)} {
		if _, err := OpenState(key, bad); err == nil {
			t.Errorf("opened %.20q", bad)
		}
	}
	if _, err := SealState(key, State{Session: "S"}); err == nil {
		t.Error("sealed a state without keys")
	}
	for _, s := range []string{want.String(), want.GoString(), sprint("%v", want), sprint("%+v", want), sprint("%#v", &want), sprint("%s", []State{want})} {
		if strings.Contains(s, "dddd") || strings.Contains(s, "100 100") || strings.Contains(s, "0x64") || strings.Contains(s, "kkkk") {
			t.Errorf("keys printed: %s", s)
		}
	}
}

func TestNonce(t *testing.T) {
	key, jkt, endpoint := make([]byte, 32), NewRandom(), NewRandom()
	n := NewNonce(key, jkt, "app", endpoint, at)
	used, err := CheckNonce(key, n, jkt, "app", endpoint, at.Add(59*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if used.Table != store.Grants || used.Cond != (store.Cond{}) || !used.Item.Expires.After(at.Add(nonceLife)) {
		t.Errorf("the write does not make it single use: %+v", used)
	}
	if again := must(CheckNonce(key, n, jkt, "app", endpoint, at)); again.Item.Key != used.Item.Key {
		t.Error("the same nonce has two keys")
	}
	bad := func(name string, err error) {
		t.Helper()
		if !errors.Is(err, api.ErrLogin) {
			t.Errorf("%s: %v", name, err)
		}
	}
	check := func(key []byte, n, jkt string, target access.TargetName, endpoint string, now time.Time) error {
		_, err := CheckNonce(key, n, jkt, target, endpoint, now)
		return err
	}
	bad("expired", check(key, n, jkt, "app", endpoint, at.Add(60*time.Second)))
	bad("another client key", check(key, n, NewRandom(), "app", endpoint, at))
	bad("another target", check(key, n, jkt, "prod", endpoint, at))
	bad("another endpoint", check(key, n, jkt, "app", NewRandom(), at))
	bad("another broker", check(append(make([]byte, 31), 9), n, jkt, "app", endpoint, at))
	bad("empty", check(key, "", jkt, "app", endpoint, at))
	for i := range n {
		b := []byte(n)
		b[i] ^= 1
		bad("flipped", check(key, string(b), jkt, "app", endpoint, at))
	}
}

func TestThumbprint(t *testing.T) {
	if got := Thumbprint(nil); got != "" {
		t.Errorf("nil: %q", got)
	}
	if got := Thumbprint(&must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)).PublicKey); got != "" {
		t.Errorf("P-384: %q", got)
	}
	// RFC 7517 appendix A.1's EC key, and RFC 7638 section 3 spelt out.
	var k jose.JSONWebKey
	if err := k.UnmarshalJSON([]byte(`{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}`)); err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}`))
	if got := Thumbprint(k.Key.(*ecdsa.PublicKey)); got != encode(want[:]) {
		t.Errorf("got %s", got)
	}
}
