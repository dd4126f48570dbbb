package idp_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/sallyport/sallyport/localstack/idp"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

type bench struct {
	t      *testing.T
	mu     sync.Mutex
	now    time.Time
	dir    string
	server *httptest.Server
	p      *idp.Provider
	op     *oidc.Provider
}

const callback = "http://127.0.0.1:5555/callback"

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, now: time.Now(), dir: filepath.Join(t.TempDir(), "idp")}
	b.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.p.ServeHTTP(w, r) }))
	t.Cleanup(b.server.Close)
	b.p = must(idp.New(idp.Config{
		Issuer: b.server.URL, Dir: b.dir,
		Clients: []idp.Client{{ID: "cli", RedirectURIs: []string{"http://127.0.0.1/callback"}}, {ID: "console", RedirectURIs: []string{"http://127.0.0.1:8080/callback"}}},
		Users:   []idp.User{{Name: "alice", Groups: []string{"engineers"}, Password: "right"}, {Name: "nobody"}},
		Now:     func() time.Time { b.mu.Lock(); defer b.mu.Unlock(); return b.now },
	}))
	b.op = must(oidc.NewProvider(t.Context(), b.server.URL))
	return b
}

func (b *bench) add(d time.Duration) { b.mu.Lock(); defer b.mu.Unlock(); b.now = b.now.Add(d) }

func browser() *http.Client {
	return &http.Client{Jar: must(cookiejar.New(nil)), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (b *bench) config() oauth2.Config {
	return oauth2.Config{ClientID: "cli", Endpoint: b.op.Endpoint(), RedirectURL: callback, Scopes: []string{"openid"}}
}

// get asks for a page and returns the status, and the query of where it sends us.
func (b *bench) get(c *http.Client, u string) (int, url.Values) {
	b.t.Helper()
	resp := must(c.Get(u))
	defer resp.Body.Close()
	return where(resp)
}

func where(resp *http.Response) (int, url.Values) {
	if l, err := resp.Location(); err == nil {
		return resp.StatusCode, l.Query()
	}
	return resp.StatusCode, nil
}

func (b *bench) login(c *http.Client, u, name, password string) (int, url.Values) {
	b.t.Helper()
	resp := must(c.PostForm(u, url.Values{"username": {name}, "password": {password}}))
	defer resp.Body.Close()
	return where(resp)
}

func TestLogin(t *testing.T) {
	b := newBench(t)
	cfg, verifier, c := b.config(), oauth2.GenerateVerifier(), browser()
	u := cfg.AuthCodeURL("state", oauth2.S256ChallengeOption(verifier), oidc.Nonce("nonce"))
	resp := must(c.Get(u))
	page := string(must(io.ReadAll(resp.Body)))
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !strings.Contains(page, "<form") || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	if status, q := b.login(c, u, "alice", "wrong"); status != 401 || q != nil {
		t.Errorf("wrong password: %d %v", status, q)
	}
	if status, _ := b.login(c, u, "nobody", ""); status != 401 {
		t.Errorf("a user without password: %d", status)
	}
	status, q := b.login(c, u, "alice", "right")
	if status != http.StatusSeeOther || q.Get("state") != "state" || q.Get("iss") != b.server.URL || q.Get("code") == "" {
		t.Fatalf("%d %v", status, q)
	}
	tok, err := cfg.Exchange(t.Context(), q.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := tok.Extra("id_token").(string)
	id, err := b.op.Verifier(&oidc.Config{ClientID: "cli"}).Verify(t.Context(), raw)
	var claims struct {
		Groups   []string
		AuthTime int64 `json:"auth_time"`
	}
	if err != nil || id.Claims(&claims) != nil || id.Subject != "alice" || id.Nonce != "nonce" || claims.Groups[0] != "engineers" || claims.AuthTime != b.now.Unix() {
		t.Errorf("%+v %+v %v", id, claims, err)
	}
	if _, err := cfg.Exchange(t.Context(), q.Get("code"), oauth2.VerifierOption(verifier)); err == nil {
		t.Error("a code was used twice")
	}
}

func TestSingleSignOnAndFreshness(t *testing.T) {
	b := newBench(t)
	cfg, c := b.config(), browser()
	url := func(o ...oauth2.AuthCodeOption) string {
		return cfg.AuthCodeURL("s", append(o, oauth2.S256ChallengeOption(oauth2.GenerateVerifier()))...)
	}
	param := oauth2.SetAuthURLParam
	if status, q := b.get(c, url(param("prompt", "none"))); status != 303 || q.Get("error") != "login_required" {
		t.Errorf("prompt=none before login: %d %v", status, q)
	}
	if status, _ := b.login(c, url(), "alice", "right"); status != 303 {
		t.Fatal(status)
	}
	b.add(time.Minute)
	for name, tt := range map[string]struct {
		url  string
		form bool
	}{
		"again":             {url(), false},
		"prompt=none":       {url(param("prompt", "none")), false},
		"prompt=login":      {url(param("prompt", "login")), true},
		"max_age=0":         {url(param("max_age", "0")), true},
		"max_age=30":        {url(param("max_age", "30")), true},
		"max_age=90":        {url(param("max_age", "90")), false},
		"login and max_age": {url(param("prompt", "login"), param("max_age", "0")), true},
	} {
		if status, q := b.get(c, tt.url); (status == 200) != tt.form {
			t.Errorf("%s: %d %v", name, status, q)
		}
	}
	b.add(9 * time.Hour)
	if status, _ := b.get(c, url()); status != 200 {
		t.Errorf("after 9 hours: %d", status)
	}
}

func TestAuthorizeRefuses(t *testing.T) {
	b := newBench(t)
	h := sha256.Sum256([]byte("v"))
	fine := url.Values{"client_id": {"cli"}, "redirect_uri": {callback}, "response_type": {"code"}, "scope": {"openid"}, "state": {"s"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(h[:])}, "code_challenge_method": {"S256"}}
	for name, tt := range map[string]struct {
		k, v   string
		status int
	}{
		"fine":                      {"state", "s", 200},
		"unknown client":            {"client_id", "x", 400},
		"another host":              {"redirect_uri", "http://evil.example/callback", 400},
		"another path":              {"redirect_uri", "http://127.0.0.1:5555/other", 400},
		"a user in it":              {"redirect_uri", "http://127.0.0.1:1@evil.example/callback", 400},
		"another loopback name":     {"redirect_uri", "http://localhost:5555/callback", 400},
		"a fragment":                {"redirect_uri", callback + "#x", 400},
		"https":                     {"redirect_uri", "https://127.0.0.1/callback", 400},
		"a query":                   {"redirect_uri", callback + "?x=1", 400},
		"no PKCE":                   {"code_challenge", "", 303},
		"plain PKCE":                {"code_challenge_method", "plain", 303},
		"implicit":                  {"response_type", "id_token", 303},
		"no openid":                 {"scope", "email", 303},
		"prompt we do not know":     {"prompt", "consent", 303},
		"max_age that is no number": {"max_age", "x", 303},
		"a request object":          {"request", "x", 303},
		"a very long state":         {"state", strings.Repeat("s", 3000), 303},
	} {
		v := url.Values{}
		for k := range fine {
			v.Set(k, fine.Get(k))
		}
		v.Set(tt.k, tt.v)
		status, q := b.get(browser(), b.server.URL+"/authorize?"+v.Encode())
		if status != tt.status || status == 303 && (q.Get("error") == "" || q.Get("code") != "") {
			t.Errorf("%s: %d %v", name, status, q)
		}
	}
	// A client whose port is fixed is held to it.
	fine.Set("client_id", "console")
	if status, _ := b.get(browser(), b.server.URL+"/authorize?"+fine.Encode()); status != 400 {
		t.Errorf("another port: %d", status)
	}
	// A page of another site may not log a browser in.
	fine.Set("client_id", "cli")
	r := must(http.NewRequest(http.MethodPost, b.server.URL+"/authorize?"+fine.Encode(), strings.NewReader("username=alice&password=right")))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	resp := must(browser().Do(r))
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("cross-site: %d", resp.StatusCode)
	}
}

func TestTokenRefuses(t *testing.T) {
	b := newBench(t)
	cfg := b.config()
	verifier := oauth2.GenerateVerifier()
	code := func() string {
		u := cfg.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier))
		_, q := b.login(browser(), u, "alice", "right")
		return q.Get("code")
	}
	other := cfg
	other.ClientID = "console"
	elsewhere := cfg
	elsewhere.RedirectURL = "http://127.0.0.1:6666/callback"
	for name, try := range map[string]func(string) error{
		"another verifier": func(c string) error {
			_, err := cfg.Exchange(t.Context(), c, oauth2.VerifierOption(oauth2.GenerateVerifier()))
			return err
		},
		"no verifier": func(c string) error { _, err := cfg.Exchange(t.Context(), c); return err },
		"another client": func(c string) error {
			_, err := other.Exchange(t.Context(), c, oauth2.VerifierOption(verifier))
			return err
		},
		"another address": func(c string) error {
			_, err := elsewhere.Exchange(t.Context(), c, oauth2.VerifierOption(verifier))
			return err
		},
		"too late": func(c string) error {
			b.add(time.Minute)
			_, err := cfg.Exchange(t.Context(), c, oauth2.VerifierOption(verifier))
			return err
		},
		"unknown code": func(string) error {
			_, err := cfg.Exchange(t.Context(), "x", oauth2.VerifierOption(verifier))
			return err
		},
	} {
		c := code()
		if err := try(c); err == nil {
			t.Errorf("%s: exchanged", name)
		}
		if name != "unknown code" && name != "too late" {
			// Whoever tried used it up.
			if _, err := cfg.Exchange(t.Context(), c, oauth2.VerifierOption(verifier)); err == nil {
				t.Errorf("%s: the code lives on", name)
			}
		}
	}
	if _, err := cfg.Exchange(t.Context(), code(), oauth2.VerifierOption(verifier)); err != nil {
		t.Error(err)
	}
}

func TestGuessingIsLimited(t *testing.T) {
	b := newBench(t)
	cfg := b.config()
	u := cfg.AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier()))
	for range 100 {
		if status, _ := b.login(browser(), u, "alice", "wrong"); status != 401 {
			t.Fatal(status)
		}
	}
	if status, _ := b.login(browser(), u, "alice", "right"); status != 401 {
		t.Errorf("the hundred and first guess may be right: %d", status)
	}
}

func TestMintOffline(t *testing.T) {
	b := newBench(t)
	raw := must(idp.Mint(b.dir, idp.TokenRequest{Issuer: b.server.URL, ClientID: "cli", User: "carol", Groups: []string{"g"}, Now: time.Now()}))
	id, err := b.op.Verifier(&oidc.Config{ClientID: "cli"}).Verify(context.Background(), raw)
	if err != nil || id.Subject != "carol" || id.Nonce != "" {
		t.Errorf("%+v %v", id, err)
	}
	for name, r := range map[string]idp.TokenRequest{"no issuer": {ClientID: "c", User: "u", Now: time.Now()}, "no user": {Issuer: "i", ClientID: "c", Now: time.Now()}, "no time": {Issuer: "i", ClientID: "c", User: "u"}} {
		if _, err := idp.Mint(b.dir, r); err == nil {
			t.Errorf("%s: minted", name)
		}
	}
	// A key file that others can read is no secret.
	if err := os.Chmod(filepath.Join(b.dir, "idp.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := idp.Mint(b.dir, idp.TokenRequest{Issuer: "i", ClientID: "c", User: "u", Now: time.Now()}); err == nil {
		t.Error("minted with a key that others can read")
	}
}

func TestKeyIsMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	var wg sync.WaitGroup
	kids := make([]string, 10)
	for i := range kids {
		wg.Go(func() {
			raw := must(idp.Mint(dir, idp.TokenRequest{Issuer: "i", ClientID: "c", User: "u", Now: time.Now()}))
			head, _, _ := strings.Cut(raw, ".")
			var h struct{ Kid string }
			if err := json.Unmarshal(must(base64.RawURLEncoding.DecodeString(head)), &h); err != nil {
				t.Error(err)
			}
			kids[i] = h.Kid
		})
	}
	wg.Wait()
	for _, k := range kids {
		if k == "" || k != kids[0] {
			t.Fatalf("%v", kids)
		}
	}
}

func FuzzAuthorize(f *testing.F) {
	dir := f.TempDir()
	p := must(idp.New(idp.Config{Issuer: "http://127.0.0.1:1", Dir: dir, Clients: []idp.Client{{ID: "cli", RedirectURIs: []string{"http://127.0.0.1/callback"}}},
		Users: []idp.User{{Name: "alice", Password: "right"}}}))
	f.Add("client_id=cli&redirect_uri=http%3A%2F%2F127.0.0.1%3A5%2Fcallback&response_type=code&scope=openid", "username=alice&password=x")
	f.Fuzz(func(t *testing.T, query, form string) {
		for _, method := range []string{"GET", "POST"} {
			r := httptest.NewRequest(method, "/authorize", strings.NewReader(form))
			r.URL.RawQuery = query
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			w := httptest.NewRecorder()
			p.ServeHTTP(w, r)
			if l := w.Header().Get("Location"); l != "" {
				u, err := url.Parse(l)
				if err != nil || u.Hostname() != "127.0.0.1" || u.Path != "/callback" {
					t.Errorf("sends people to %q", l)
				}
				if u.Query().Get("code") != "" && !strings.Contains(form, "right") {
					t.Errorf("a code without the password: %q", form)
				}
			}
			r = httptest.NewRequest(http.MethodPost, "/token", strings.NewReader(form))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			w = httptest.NewRecorder()
			p.ServeHTTP(w, r)
			if w.Code == 200 {
				t.Errorf("a token for %q", form)
			}
		}
	})
}
