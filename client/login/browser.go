package login

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"html"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
)

// BrowserConfig says where to log in, and for which key.
type BrowserConfig struct {
	Discovery  api.Discovery
	Thumbprint string // of the key that the login is bound to
	// Show is called once with the URL that the person must open; an error gives up.
	Show func(url string) error
}

// browserLimit is how long a person may take at the provider.
const browserLimit = 10 * time.Minute

// Browser logs a person in: authorization code with PKCE (RFC 7636) over a loopback redirect (RFC 8252 section 7.3). It
// returns the ID token, and the salt that ties its nonce to the key.
func Browser(ctx context.Context, c BrowserConfig) (idToken, salt string, err error) {
	ctx, cancel := context.WithTimeout(ctx, browserLimit)
	defer cancel()
	hc, err := httpClient(c.Discovery)
	if err != nil {
		return "", "", err
	}
	defer hc.CloseIdleConnections()
	ctx = oidc.ClientContext(ctx, hc)
	p, err := oidc.NewProvider(ctx, c.Discovery.OIDC)
	if err != nil {
		return "", "", fmt.Errorf("identity provider %s: %w", c.Discovery.OIDC, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", fmt.Errorf("wait for the browser: %w", err)
	}
	salt = token.NewRandom()
	a := &attempted{
		issuer: c.Discovery.OIDC, state: token.NewRandom(), verifier: oauth2.GenerateVerifier(),
		nonce: token.LoginNonce(c.Thumbprint, salt), host: l.Addr().String(), result: make(chan callback, 1),
	}
	if a.oauth, err = oauthConfig(p, c.Discovery.ClientID, l); err != nil {
		return "", "", errors.Join(err, l.Close())
	}
	cb, err := a.wait(ctx, l, c.Show)
	if err != nil {
		return "", "", err
	}
	raw, err := a.redeem(ctx, p, cb)
	return raw, salt, err
}

func oauthConfig(p *oidc.Provider, clientID string, l net.Listener) (oauth2.Config, error) {
	var more struct {
		Scopes []string `json:"scopes_supported"`
	}
	if err := p.Claims(&more); err != nil {
		return oauth2.Config{}, fmt.Errorf("identity provider's metadata: %w", err)
	}
	scopes := []string{oidc.ScopeOpenID}
	for _, s := range []string{"profile", "email", "groups"} {
		if slices.Contains(more.Scopes, s) {
			scopes = append(scopes, s)
		}
	}
	return oauth2.Config{
		ClientID: clientID, Endpoint: p.Endpoint(), Scopes: scopes, RedirectURL: "http://" + l.Addr().String() + "/callback",
	}, nil
}

// attempted is one attempt to log in.
type attempted struct {
	issuer, state, verifier, nonce, host string
	oauth                                oauth2.Config
	result                               chan callback // takes the first answer that belongs to this attempt
}

type callback struct {
	code string
	err  error
}

func (a *attempted) wait(ctx context.Context, l net.Listener, show func(string) error) (callback, error) {
	srv := &http.Server{
		Handler: http.HandlerFunc(a.serve), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second,
		WriteTimeout: 5 * time.Second, MaxHeaderBytes: 32 << 10,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends by Shutdown or Close below
	}()
	defer func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil { // a browser that keeps its connection open
			_ = srv.Close()
		}
		<-done
	}()
	if err := show(a.oauth.AuthCodeURL(a.state, oidc.Nonce(a.nonce), oauth2.S256ChallengeOption(a.verifier))); err != nil {
		return callback{}, err
	}
	select {
	case cb := <-a.result:
		return cb, cb.err
	case <-ctx.Done():
		return callback{}, fmt.Errorf("wait for the browser: %w", context.Cause(ctx))
	}
}

// serve takes the redirect. An answer that does not belong to this attempt changes nothing.
func (a *attempted) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	q := r.URL.Query()
	switch {
	case r.Method != http.MethodGet || r.URL.Path != "/callback" || r.Host != a.host:
		w.WriteHeader(http.StatusNotFound)
		return
	case subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(a.state)) != 1:
		w.WriteHeader(http.StatusBadRequest)
		page(w, "This answer belongs to another login. Go back to the terminal and start again.")
		return
	}
	var cb callback
	switch iss := q.Get("iss"); { // RFC 9207: whose answer is it?
	case iss != "" && iss != a.issuer:
		cb.err = api.Because(api.ErrLogin, "log in again", "the answer came from another provider (%q)", iss)
	case q.Get("error") != "":
		cb.err = api.Because(api.ErrLogin, "log in again", "the provider refused: %s %s", q.Get("error"), q.Get("error_description"))
	case q.Get("code") == "":
		cb.err = api.Because(api.ErrLogin, "log in again", "the provider's answer holds no code")
	default:
		cb.code = q.Get("code")
	}
	select {
	case a.result <- cb:
	default: // the first answer counts
	}
	if cb.err != nil {
		w.WriteHeader(http.StatusBadRequest)
		page(w, cb.err.Error())
		return
	}
	page(w, "The provider has answered. You can close this window and go back to the terminal.")
}

func page(w http.ResponseWriter, text string) {
	// The browser has gone: there is nobody to tell.
	_, _ = fmt.Fprintf(w, "<!doctype html><meta name=viewport content='width=device-width'><title>Sallyport</title>"+
		"<style>body{font:1.1rem/1.5 system-ui;margin:4rem auto;max-width:32rem;padding:0 1rem}</style><h1>Sallyport</h1><p>%s</p>",
		html.EscapeString(text))
}

func (a *attempted) redeem(ctx context.Context, p *oidc.Provider, cb callback) (string, error) {
	t, err := a.oauth.Exchange(ctx, cb.code, oauth2.VerifierOption(a.verifier))
	if err != nil {
		return "", fmt.Errorf("redeem code: %w", err)
	}
	raw, ok := t.Extra("id_token").(string)
	if !ok || raw == "" {
		return "", errors.New("redeem code: the provider sent no ID token")
	}
	// The broker judges the token; this only says early, and in plain words, that it is not ours.
	id, err := p.Verifier(&oidc.Config{ClientID: a.oauth.ClientID}).Verify(ctx, raw)
	if err != nil {
		return "", fmt.Errorf("ID token: %w", err)
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(a.nonce)) != 1 {
		return "", api.Because(api.ErrLogin, "log in again", "the ID token belongs to another login (nonce)")
	}
	return raw, nil
}

// httpClient reaches the provider: under the system's roots, or on this machine also under the stack's CA or without TLS.
func httpClient(d api.Discovery) (*http.Client, error) {
	u, err := url.Parse(d.OIDC)
	if err != nil {
		return nil, fmt.Errorf("identity provider %q: %w", d.OIDC, err)
	}
	local := loopback(u.Hostname())
	if u.Scheme != "https" && (u.Scheme != "http" || !local) {
		return nil, fmt.Errorf("identity provider %q: want https", d.OIDC)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if local {
		cfg.RootCAs, err = x509.SystemCertPool()
		if err != nil {
			cfg.RootCAs = x509.NewCertPool()
		}
		cfg.RootCAs.AppendCertsFromPEM([]byte(d.CA))
	}
	return &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: cfg, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 20 * time.Second, MaxResponseHeaderBytes: 64 << 10,
		},
	}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
