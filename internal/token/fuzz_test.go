package token

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Fuzzed decoders see what strangers send. They never panic, and what they accept was signed.

// fixedKey is the same in every process, so that seeds which one process of a fuzzing run made are good in the others.
func fixedKey(f *testing.F, n byte) *ecdsa.PrivateKey {
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{n}, 32))
	if err != nil {
		f.Fatal(err)
	}
	return k
}

func fixedCA(f *testing.F) *CA {
	key := fileKey{fixedKey(f, 9)}
	return must(NewCA(key, must(CreateCA(f.Context(), key, at))))
}

func FuzzAccess(f *testing.F) {
	key, client := fixedKey(f, 1), fixedKey(f, 2)
	good := must(NewIssuer(issuerName, fileKey{key}, 1).Access(f.Context(), sampleClaims(f, Thumbprint(&client.PublicKey))))
	v := NewVerifier(issuerName, 1, &key.PublicKey)
	f.Add(good)
	f.Add(must(SignDPoP(client, "GET", base, "", at)))
	f.Add("..")
	f.Fuzz(func(t *testing.T, raw string) {
		if c, err := v.Access(raw, at); err == nil && (c.Principal != "alice" || len(c.Path) != 3) {
			t.Errorf("accepted %+v", c)
		}
		if _, err := v.Ticket(raw, at); err == nil {
			t.Error("accepted as a ticket")
		}
		_, _ = v.Renewable(raw, at)
	})
}

func FuzzProofs(f *testing.F) {
	key := fixedKey(f, 3)
	f.Add(must(SignProof(key, sampleProof(f, "x"))), "https://broker.example/whoami")
	f.Add(must(SignDPoP(key, "GET", base+"/whoami", "", at)), "https://broker.example:443/whoami")
	f.Add(must(SignKeyProof(key, issuerName, at)), "//[::1")
	f.Fuzz(func(t *testing.T, raw, htu string) {
		if p, jkt, err := VerifyProof(raw, at); err == nil && (len(p.Exporter) != 32 || jkt == "") {
			t.Errorf("accepted %+v by %q", p, jkt)
		}
		if p, err := verifyDPoP(raw, "GET", "/whoami", base, "", at); err == nil && p.Thumbprint == "" {
			t.Error("a proof of no key")
		}
		_, _ = VerifyKeyProof(raw, issuerName, at)
		if sameURL(htu, base, "/whoami") && len(htu) < len("https://broker.example/whoami") {
			t.Errorf("%q passes for our URL", htu)
		}
	})
}

func FuzzOpenState(f *testing.F) {
	key := make([]byte, 32)
	f.Add(must(SealState(key, State{Session: "S", DigestKey: key, DataKey: key})))
	f.Add("")
	f.Fuzz(func(t *testing.T, raw string) {
		if s, err := OpenState(key, raw); err == nil && s.Session != "S" {
			t.Errorf("opened a state that was never sealed: %s", s)
		}
		if _, err := CheckNonce(key, raw, "k", "t", "e", time.Time{}); err == nil {
			t.Error("accepted a nonce that was never made")
		}
	})
}

func FuzzVerifyAgent(f *testing.F) {
	ca := fixedCA(f)
	cert, key := newAgent(f, ca, at)
	r := call(f, "/decide/check", "{}", cert, key, at)
	f.Add(r.Header.Get("Signature-Input"), r.Header.Get("Signature"), r.Header.Get("Content-Digest"), r.Header.Get(HeaderCertificate), []byte("{}"))
	f.Add("", "", "", base64.StdEncoding.EncodeToString(ca.Cert().Raw), []byte(nil))
	f.Fuzz(func(t *testing.T, input, signature, digest, certificate string, body []byte) {
		r := httptest.NewRequest(http.MethodPost, "/decide/check", nil)
		r.Header.Set("Signature-Input", input)
		r.Header.Set("Signature", signature)
		r.Header.Set("Content-Digest", digest)
		r.Header.Set(HeaderCertificate, certificate)
		if a, err := VerifyAgent(r, body, ca.Cert(), at); err == nil && (string(body) != "{}" || a.Name != "edge") {
			t.Errorf("accepted %q by %+v", body, a)
		}
	})
}

func FuzzParseAgent(f *testing.F) {
	ca := fixedCA(f)
	cert, _ := newAgent(f, ca, at)
	f.Add(cert.Raw)
	f.Add(ca.Cert().Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		if a, err := ParseAgent(c); err == nil && (a.Name == "" || len(a.Targets) == 0 || a.Thumbprint == "") {
			t.Errorf("an agent without name, target or key: %+v", a)
		}
	})
}

func FuzzParseJWKS(f *testing.F) {
	f.Add(NewIssuer("", fileKey{fixedKey(f, 4)}, 0).JWKS())
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := ParseJWKS(b)
		if err != nil {
			return
		}
		for _, k := range keys {
			if Thumbprint(k) == "" {
				t.Error("a key that is not P-256")
			}
		}
	})
}
