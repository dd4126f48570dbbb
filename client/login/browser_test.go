package login

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// provider is an identity provider that can misbehave.
type provider struct {
	srv   *httptest.Server
	key   *ecdsa.PrivateKey
	asked url.Values // the authorization request
	// change spoils the ID token's claims.
	change func(map[string]any)
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{key: key, change: func(map[string]any) {}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, map[string]any{
			"issuer": p.srv.URL, "authorization_endpoint": p.srv.URL + "/authorize", "token_endpoint": p.srv.URL + "/token",
			"jwks_uri": p.srv.URL + "/jwks", "id_token_signing_alg_values_supported": []string{"ES256"},
			"scopes_supported": []string{"openid", "groups", "offline_access"},
		})
	})
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		if r.FormValue("code") != "the-code" || base64.RawURLEncoding.EncodeToString(sum[:]) != p.asked.Get("code_challenge") {
			w.WriteHeader(http.StatusBadRequest)
			reply(w, map[string]any{"error": "invalid_grant"})
			return
		}
		claims := map[string]any{
			"iss": p.srv.URL, "aud": "cli", "sub": "alice", "nonce": p.asked.Get("nonce"),
			"iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
		}
		p.change(claims)
		reply(w, map[string]any{"access_token": "a", "token_type": "Bearer", "id_token": p.sign(t, claims)})
	})
	p.srv = httptest.NewServer(mux)
	t.Cleanup(p.srv.Close)
	return p
}

func (p *provider) sign(t *testing.T, claims map[string]any) string {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: p.key, KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.Sign(b)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := o.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// login runs the flow; answer is what the browser brings back, given the state.
func (p *provider) login(t *testing.T, answer func(redirect, state string) string) (idToken, salt string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return Browser(ctx, BrowserConfig{
		Discovery: api.Discovery{OIDC: p.srv.URL, ClientID: "cli"}, Thumbprint: "thumb",
		Show: func(link string) error {
			u, err := url.Parse(link)
			if err != nil {
				return err
			}
			p.asked = u.Query()
			c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			resp, err := c.Get(answer(p.asked.Get("redirect_uri"), p.asked.Get("state")))
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
				return fmt.Errorf("policy %q", csp)
			}
			b, err := io.ReadAll(resp.Body)
			if strings.Contains(string(b), "<script") {
				return errors.New("the page repeats markup from the address")
			}
			return err
		},
	})
}

func good(redirect, state string) string {
	return redirect + "?code=the-code&state=" + url.QueryEscape(state)
}

func TestBrowser(t *testing.T) {
	p := newProvider(t)
	raw, salt, err := p.login(t, func(redirect, state string) string {
		return good(redirect, state) + "&iss=" + url.QueryEscape(p.srv.URL)
	})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(raw, ".") != 2 || salt == "" {
		t.Errorf("token %q, salt %q", raw, salt)
	}
	for k, want := range map[string]string{
		"response_type": "code", "client_id": "cli", "code_challenge_method": "S256", "scope": "openid groups",
		"nonce": token.LoginNonce("thumb", salt),
	} {
		if got := p.asked.Get(k); got != want {
			t.Errorf("%s = %q, want %q", k, got, want)
		}
	}
	if r := p.asked.Get("redirect_uri"); !strings.HasPrefix(r, "http://127.0.0.1:") || !strings.HasSuffix(r, "/callback") {
		t.Errorf("redirect to %q", r)
	}
}

func TestBrowserRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		answer func(redirect, state string) string
		change func(map[string]any)
		want   string
	}{
		"refused":          {func(r, s string) string { return r + "?error=access_denied&error_description=%3Cscript%3E&state=" + s }, nil, "access_denied"},
		"another provider": {func(r, s string) string { return good(r, s) + "&iss=https://evil.example" }, nil, "another provider"},
		"no code":          {func(r, s string) string { return r + "?state=" + s }, nil, "no code"},
		"wrong code":       {func(r, s string) string { return r + "?code=x&state=" + s }, nil, "redeem code"},
		"another nonce":    {good, func(c map[string]any) { c["nonce"] = "x" }, "nonce"},
		"no nonce":         {good, func(c map[string]any) { delete(c, "nonce") }, "nonce"},
		"another audience": {good, func(c map[string]any) { c["aud"] = "other" }, "ID token"},
		"expired":          {good, func(c map[string]any) { c["exp"] = time.Now().Add(-time.Hour).Unix() }, "ID token"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProvider(t)
			if tc.change != nil {
				p.change = tc.change
			}
			if _, _, err := p.login(t, tc.answer); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestAnswersOfOtherLoginsChangeNothing(t *testing.T) {
	p := newProvider(t)
	raw, _, err := p.login(t, func(redirect, state string) string {
		for _, wrong := range []string{redirect + "?code=evil&state=x", redirect + "?error=x", strings.TrimSuffix(redirect, "/callback") + "/?code=evil&state=" + state} {
			c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			resp, err := c.Get(wrong)
			if err != nil {
				t.Error(err)
				continue
			}
			_ = resp.Body.Close()
			if resp.StatusCode < 400 {
				t.Errorf("%s: %s", wrong, resp.Status)
			}
		}
		return good(redirect, state)
	})
	if err != nil || raw == "" {
		t.Errorf("got %q, %v", raw, err)
	}
}

func TestPlainIssuerElsewhereIsRefused(t *testing.T) {
	_, _, err := Browser(t.Context(), BrowserConfig{
		Discovery: api.Discovery{OIDC: "http://idp.example", ClientID: "cli"},
		Show:      func(string) error { return errors.New("shown") },
	})
	if err == nil || !strings.Contains(err.Error(), "want https") {
		t.Errorf("got %v", err)
	}
}

func TestGivingUp(t *testing.T) {
	p := newProvider(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err := Browser(ctx, BrowserConfig{
		Discovery: api.Discovery{OIDC: p.srv.URL, ClientID: "cli"}, Thumbprint: "thumb",
		Show: func(string) error { cancel(); return nil },
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
