package approve

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/idtoken"
	"github.com/sallyport/sallyport/internal/token"
)

// viewer is who looks at a page.
type viewer struct {
	browser
	All bool // auditors and administrators see everybody's
}

// who is the signed-in viewer; false where nobody is.
func (p *pages) who(r *http.Request) (viewer, bool) {
	var v viewer
	if !p.cookies.get(r, sessionCookie, &v.browser) || v.Subject == "" {
		return viewer{}, false
	}
	b, err := p.Bundles.Active(r.Context())
	if err != nil {
		p.Log.Warn("roles are not known", "error", err) // they see their own, no more
		return v, true
	}
	v.All = b.Roles.Auditor(v.Groups) || b.Roles.Administrator(v.Groups)
	return v, true
}

// signIn sends the browser to the identity provider. It keeps nothing here: the flow travels in the browser's cookie.
func (p *pages) signIn(w http.ResponseWriter, r *http.Request) {
	next := r.URL.Query().Get("next")
	if !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n") {
		next = "/"
	}
	p.startFlow(w, r, next, "")
}

func (p *pages) startFlow(w http.ResponseWriter, r *http.Request, next string, approval access.ApprovalID) {
	oauth, _, err := p.oauth()
	if err != nil {
		p.fail(w, r, viewer{}, err)
		return
	}
	f := flow{State: token.NewRandom(), Nonce: token.NewRandom(), Verifier: oauth2.GenerateVerifier(), Next: next, For: approval, Started: p.Now()}
	if err := p.cookies.set(w, flowCookie, f, flowLife); err != nil {
		p.fail(w, r, viewer{}, err)
		return
	}
	opts := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(f.Verifier), oauth2.SetAuthURLParam("nonce", f.Nonce)}
	if approval != "" { // a verdict needs a login made for it: both words, since providers honour one or the other
		opts = append(opts, oauth2.SetAuthURLParam("prompt", "login"), oauth2.SetAuthURLParam("max_age", "0"))
	}
	http.Redirect(w, r, oauth.AuthCodeURL(f.State, opts...), http.StatusFound)
}

func (p *pages) oauth() (*oauth2.Config, *http.Client, error) {
	endpoint, client, err := p.provider.Endpoint()
	if err != nil {
		p.Log.Warn("identity provider", "error", err)
		return nil, nil, api.Because(api.ErrUnavailable, "try again", "the identity provider could not be asked")
	}
	endpoint.AuthStyle = oauth2.AuthStyleInParams
	return &oauth2.Config{ClientID: p.OIDC.ClientID, Endpoint: endpoint, RedirectURL: p.Base + "/callback", Scopes: []string{"openid", "groups"}}, client, nil
}

// callback ends a sign-in.
func (p *pages) callback(w http.ResponseWriter, r *http.Request) {
	var f flow
	ok := p.cookies.get(r, flowCookie, &f)
	p.cookies.clear(w, flowCookie)
	if !ok {
		p.fail(w, r, viewer{}, api.Because(api.ErrLogin, "start again", "this browser has no sign-in under way, or it took too long"))
		return
	}
	b, err := p.finish(r.Context(), r.URL.Query(), f)
	if err == nil {
		err = p.cookies.set(w, sessionCookie, b, browserLife)
	}
	if err != nil {
		p.fail(w, r, viewer{}, err)
		return
	}
	http.Redirect(w, r, f.Next, http.StatusSeeOther)
}

func (p *pages) finish(ctx context.Context, q url.Values, f flow) (browser, error) {
	again := func(format string, args ...any) error {
		return api.Because(api.ErrLogin, "start again", format, args...)
	}
	switch {
	case subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(f.State)) != 1:
		return browser{}, again("the answer is not for this browser's sign-in")
	case q.Get("iss") != "" && q.Get("iss") != p.OIDC.Issuer: // RFC 9207
		return browser{}, again("the answer is of another identity provider")
	case q.Get("error") != "":
		return browser{}, again("the identity provider refused: %.80q", q.Get("error"))
	}
	if err := token.Spend(ctx, p.Items, token.UsedOnce("signin", []byte(f.State), f.Started.Add(flowLife)), "the sign-in"); err != nil {
		return browser{}, err
	}
	oauth, client, err := p.oauth()
	if err != nil {
		return browser{}, err
	}
	t, err := oauth.Exchange(context.WithValue(ctx, oauth2.HTTPClient, client), q.Get("code"), oauth2.VerifierOption(f.Verifier))
	if err != nil {
		return browser{}, again("the code could not be redeemed")
	}
	raw, ok := t.Extra("id_token").(string)
	if !ok {
		return browser{}, again("the identity provider sent no ID token")
	}
	id, err := p.provider.Verify(ctx, raw)
	if errors.Is(err, idtoken.ErrProvider) {
		return browser{}, api.Because(api.ErrUnavailable, "try again", "the identity provider could not be asked")
	}
	if err != nil {
		return browser{}, again("ID token: %v", err)
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(f.Nonce)) != 1 {
		return browser{}, again("the ID token is not for this sign-in")
	}
	return p.fresh(browser{ID: token.NewRandom(), Subject: id.Subject, Groups: id.Groups, AuthTime: id.AuthTime}, f)
}

// fresh marks a login as made for an approval only where the provider says that the person logged in after the flow began:
// prompt and max_age can be cut out of the address, so that only auth_time counts. Whole seconds, as the token has them.
func (p *pages) fresh(b browser, f flow) (browser, error) {
	if f.For == "" {
		return b, nil
	}
	if b.AuthTime.IsZero() || b.AuthTime.Before(f.Started.Truncate(time.Second).Add(-approval.ClockSkew)) {
		return browser{}, api.Because(api.ErrLogin, "log in with your password for this approval", "the identity provider answered from an old login")
	}
	b.For = f.For
	return b, nil
}

func (p *pages) signOut(w http.ResponseWriter, r *http.Request) {
	v, ok := p.who(r)
	if ok && !p.cookies.checkForm(v.browser, "signout", r.FormValue("form")) {
		p.fail(w, r, v, api.Because(api.ErrDenied, "send the form from its own page", "the form is not of this session"))
		return
	}
	p.cookies.clear(w, sessionCookie)
	p.render(w, http.StatusOK, "message.html", map[string]any{"Title": "Signed out", "Text": "This browser is signed out of Sallyport.", "Link": "/", "LinkText": "Sign in again"})
}

// ask sends whoever is not signed in to the provider, and back here.
func (p *pages) ask(w http.ResponseWriter, r *http.Request) (viewer, bool) {
	v, ok := p.who(r)
	if !ok {
		p.startFlow(w, r, r.URL.Path, "")
	}
	return v, ok
}
