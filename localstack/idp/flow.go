package idp

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed login.html
var files embed.FS

var page = template.Must(template.ParseFS(files, "login.html"))

const cookie = "sallyport_idp"

// maxGuesses is how many wrong passwords in a row a user may have; then only a restart helps. Passwords are random.
const maxGuesses = 100

// ask is an authorization request, checked.
type ask struct {
	client           Client
	redirect, state  string
	challenge, nonce string
	prompt           string
	maxAge           time.Duration
	limited          bool // max_age was given
	raw              url.Values
}

// readAsk checks an authorization request. A refusal with where=="" must be shown here: the client or its address is not known.
func (p *Provider) readAsk(v url.Values) (a ask, where, code, why string) {
	i := slices.IndexFunc(p.c.Clients, func(c Client) bool { return c.ID == v.Get("client_id") })
	if i < 0 {
		return a, "", "invalid_request", "the client is not known"
	}
	a.client, a.redirect, a.state = p.c.Clients[i], v.Get("redirect_uri"), v.Get("state")
	if !a.client.redirects(a.redirect) {
		return a, "", "invalid_request", "the redirect URI is not the client's"
	}
	a.challenge, a.nonce, a.prompt, a.raw = v.Get("code_challenge"), v.Get("nonce"), v.Get("prompt"), v
	for k, vs := range v {
		if len(vs) > 1 || len(vs[0]) > 2048 {
			return a, a.redirect, "invalid_request", "a parameter twice or too long: " + k
		}
	}
	switch {
	case v.Get("response_type") != "code":
		return a, a.redirect, "unsupported_response_type", "only code is served"
	case !slices.Contains(strings.Fields(v.Get("scope")), "openid"):
		return a, a.redirect, "invalid_scope", "openid is missing"
	case v.Get("code_challenge_method") != "S256" || len(a.challenge) != 43:
		return a, a.redirect, "invalid_request", "PKCE with S256 is required"
	case a.prompt != "" && a.prompt != "login" && a.prompt != "none":
		return a, a.redirect, "invalid_request", "prompt is neither login nor none"
	case v.Has("request") || v.Has("request_uri") || v.Has("registration"):
		return a, a.redirect, "request_not_supported", "request objects are not served"
	}
	if s := v.Get("max_age"); s != "" {
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil || n < 0 {
			return a, a.redirect, "invalid_request", "max_age is not a number of seconds"
		}
		a.maxAge, a.limited = time.Duration(n)*time.Second, true
	}
	return a, a.redirect, "", ""
}

// authorize shows the login page (GET), or checks a password (POST), or answers at once from a session that is fresh enough.
func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "the form is not well formed or too large", http.StatusBadRequest)
		return
	}
	a, where, code, why := p.readAsk(r.URL.Query())
	if code != "" {
		if where == "" {
			http.Error(w, why, http.StatusBadRequest)
			return
		}
		p.back(w, r, a, url.Values{"error": {code}, "error_description": {why}})
		return
	}
	if r.Method == http.MethodPost {
		p.password(w, r, a)
		return
	}
	if s, ok := p.session(r); ok && a.prompt != "login" && (!a.limited || p.c.Now().Sub(s.auth) <= a.maxAge && a.maxAge > 0) {
		p.grant(w, r, a, s)
		return
	}
	if a.prompt == "none" {
		p.back(w, r, a, url.Values{"error": {"login_required"}})
		return
	}
	p.show(w, http.StatusOK, a, "")
}

func (p *Provider) show(w http.ResponseWriter, status int, a ask, problem string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	// No form-action: browsers apply it to the redirect after the form, which goes to the client.
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'")
	w.Header().Set("Referrer-Policy", "same-origin")
	w.WriteHeader(status)
	_ = page.Execute(w, map[string]string{"Client": a.client.ID, "Problem": problem, "Action": "/authorize?" + a.raw.Encode()}) // the browser went away
}

// password checks the form. Its own origin only: nobody else's page may log a browser in.
func (p *Provider) password(w http.ResponseWriter, r *http.Request, a ask) {
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		http.Error(w, "the form comes from another site", http.StatusForbidden)
		return
	}
	name, given := r.PostForm.Get("username"), r.PostForm.Get("password")
	user, ok := p.check(name, given)
	if !ok {
		p.show(w, http.StatusUnauthorized, a, "Wrong name or password.")
		return
	}
	s := session{user: user, auth: p.c.Now()}
	id := random()
	p.mu.Lock()
	p.forget()
	p.sessions[id] = s
	p.mu.Unlock()
	http.SetCookie(w, &http.Cookie{Name: cookie, Value: id, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: strings.HasPrefix(p.c.Issuer, "https:")})
	p.grant(w, r, a, s)
}

func (p *Provider) check(name, given string) (User, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.c.Users, func(u User) bool { return u.Name == name })
	if i < 0 || p.c.Users[i].Password == "" || p.guesses[name] >= maxGuesses {
		return User{}, false
	}
	if subtle.ConstantTimeCompare([]byte(p.c.Users[i].Password), []byte(given)) != 1 {
		p.guesses[name]++
		return User{}, false
	}
	delete(p.guesses, name)
	return p.c.Users[i], true
}

func (p *Provider) session(r *http.Request) (session, bool) {
	c, err := r.Cookie(cookie)
	if err != nil {
		return session{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.sessions[c.Value]
	return s, ok && p.c.Now().Sub(s.auth) < sessionLife
}

// grant sends the browser back with a code.
func (p *Provider) grant(w http.ResponseWriter, r *http.Request, a ask, s session) {
	code := random()
	p.mu.Lock()
	p.forget()
	p.codes[code] = grant{client: a.client.ID, redirect: a.redirect, challenge: a.challenge, nonce: a.nonce, user: s.user, auth: s.auth, expires: p.c.Now().Add(codeLife)}
	p.mu.Unlock()
	p.back(w, r, a, url.Values{"code": {code}})
}

// back answers at the client's address, naming ourselves (RFC 9207).
func (p *Provider) back(w http.ResponseWriter, r *http.Request, a ask, v url.Values) {
	v.Set("iss", p.c.Issuer)
	if a.state != "" {
		v.Set("state", a.state)
	}
	u, err := url.Parse(a.redirect)
	if err != nil {
		http.Error(w, "the redirect URI is not a URL", http.StatusBadRequest)
		return
	}
	q := u.Query()
	for k, vs := range v {
		q[k] = vs
	}
	u.RawQuery = q.Encode()
	http.Redirect(w, r, u.String(), http.StatusSeeOther)
}

// forget drops what has expired, and everything when there is too much of it. The caller holds mu.
func (p *Provider) forget() {
	now := p.c.Now()
	for k, g := range p.codes {
		if !now.Before(g.expires) || len(p.codes) >= maxKept {
			delete(p.codes, k)
		}
	}
	for k, s := range p.sessions {
		if now.Sub(s.auth) >= sessionLife || len(p.sessions) >= maxKept {
			delete(p.sessions, k)
		}
	}
}

// token trades a code, once, for an ID token.
func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	refuse := func(code, why string) {
		write(w, http.StatusBadRequest, map[string]string{"error": code, "error_description": why})
	}
	if err := r.ParseForm(); err != nil {
		refuse("invalid_request", "the form is not well formed or too large")
		return
	}
	f := r.PostForm
	if f.Get("grant_type") != "authorization_code" {
		refuse("unsupported_grant_type", "only authorization_code is served")
		return
	}
	if f.Get("client_id") == "" {
		// A client that does not say who it is, or first tries a secret in a header as some libraries do, has not used the code up.
		write(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client", "error_description": "client_id belongs in the form: clients are public"})
		return
	}
	p.mu.Lock()
	g, ok := p.codes[f.Get("code")]
	delete(p.codes, f.Get("code")) // whoever sends it, right or wrong, uses it up
	p.mu.Unlock()
	now := p.c.Now()
	verifier := sha256.Sum256([]byte(f.Get("code_verifier")))
	challenge := base64.RawURLEncoding.EncodeToString(verifier[:])
	switch {
	case !ok || !now.Before(g.expires):
		refuse("invalid_grant", "the code is not known, was used, or has expired")
		return
	case f.Get("client_id") != g.client || f.Get("redirect_uri") != g.redirect:
		refuse("invalid_grant", "the code was given to another client or address")
		return
	case len(f.Get("code_verifier")) < 43 || subtle.ConstantTimeCompare([]byte(challenge), []byte(g.challenge)) != 1:
		refuse("invalid_grant", "the code verifier is not the challenge's")
		return
	}
	raw, err := mint(p.key, TokenRequest{Issuer: p.c.Issuer, ClientID: g.client, User: g.user.Name, Groups: g.user.Groups, Nonce: g.nonce, AuthTime: g.auth, Now: now})
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	// The access token opens nothing here; OAuth wants one in the answer.
	write(w, http.StatusOK, map[string]any{"access_token": random(), "token_type": "Bearer", "expires_in": int(tokenLife / time.Second), "id_token": raw})
}

func random() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails (crypto/rand since Go 1.24)
	return base64.RawURLEncoding.EncodeToString(b)
}
