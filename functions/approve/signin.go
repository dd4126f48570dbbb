package approve

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"golang.org/x/oauth2"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/idtoken"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// viewer is who looks at a page.
type viewer struct {
	browser
	All   bool // auditors and administrators see everybody's
	Admin bool // administrators end everybody's
}

// scope is what the viewer may see and end.
func (v viewer) scope() scope { return scope{all: v.All, principal: v.Subject, admin: v.Admin} }

// errNobody: no browser of ours, or one that was signed out.
var errNobody = api.Because(api.ErrLogin, "open the page again and sign in", "nobody is signed in")

// who is the signed-in viewer, or errNobody.
func (p *pages) who(r *http.Request) (viewer, error) {
	var v viewer
	if !p.cookies.get(r, sessionCookie, &v.browser) || v.Subject == "" || v.ID == "" {
		return viewer{}, errNobody
	}
	_, err := p.Items.Get(r.Context(), store.Grants, signedOut(v.browser, p.Now()).Item.Key, true)
	if err == nil {
		return viewer{}, errNobody
	}
	if !errors.Is(err, store.ErrNotFound) {
		return viewer{}, err
	}
	b, err := p.Bundles.Active(r.Context())
	if err != nil {
		p.Log.Warn("roles are not known", "error", err) // they see their own, no more
		return v, nil
	}
	v.Admin = b.Roles.Administrator(v.Groups)
	v.All = v.Admin || b.Roles.Auditor(v.Groups)
	return v, nil
}

// signedOut is the mark of a browser that was signed out: its cookie may have been copied, and would live on.
func signedOut(b browser, now time.Time) store.Write {
	return token.UsedOnce("signedout", []byte(b.ID), now.Add(browserLife))
}

// ownPath is every path that a sign-in goes on to: nothing that a browser could read as another site's address.
var ownPath = regexp.MustCompile(`^/(?:(?:approve|sessions)/[0-7][0-9A-HJKMNP-TV-Z]{25})?$`)

// approvalShape is an id as the broker makes them.
var approvalShape = regexp.MustCompile(`^[0-7][0-9A-HJKMNP-TV-Z]{25}$`)

// signIn sends the browser to the identity provider. It keeps nothing here: the flow travels in the browser's cookie.
func (p *pages) signIn(w http.ResponseWriter, r *http.Request) {
	p.startFlow(w, r, login{next: r.URL.Query().Get("next"), anew: r.URL.Query().Get("as") == "other"})
}

// login says what a sign-in is to be.
type login struct {
	next     string
	approval access.ApprovalID // made for a verdict on it
	anew     bool              // with the password again: to sign in as somebody else
}

func (p *pages) startFlow(w http.ResponseWriter, r *http.Request, l login) {
	if r.Method == http.MethodHead { // a scanner: there is nothing to see
		return
	}
	if !ownPath.MatchString(l.next) {
		l.next = "/"
	}
	oauth, err := p.oauth()
	if err != nil {
		p.fail(w, r, viewer{}, err)
		return
	}
	f := flow{State: token.NewRandom(), Nonce: token.NewRandom(), Verifier: oauth2.GenerateVerifier(), Next: l.next, For: l.approval, Started: p.Now()}
	if err := p.cookies.set(w, flowCookie, f, flowLife); err != nil {
		p.fail(w, r, viewer{}, err)
		return
	}
	opts := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(f.Verifier), oauth2.SetAuthURLParam("nonce", f.Nonce)}
	if l.anew || l.approval != "" {
		opts = append(opts, oauth2.SetAuthURLParam("prompt", "login"))
	}
	if l.approval != "" { // a verdict needs a login made for it: both words, since providers honour one or the other
		opts = append(opts, oauth2.SetAuthURLParam("max_age", "0"))
	}
	http.Redirect(w, r, oauth.AuthCodeURL(f.State, opts...), http.StatusFound)
}

// errProvider is the one refusal of kind unavailable whose words are meant for the browser.
var errProvider = api.Because(api.ErrUnavailable, "try again in a moment", "the identity provider could not be asked")

func (p *pages) oauth() (*oauth2.Config, error) {
	endpoint, _, err := p.provider.Endpoint()
	if err != nil {
		p.Log.Warn("identity provider", "error", err)
		return nil, errProvider
	}
	for _, raw := range []string{endpoint.AuthURL, endpoint.TokenURL} {
		if u, err := url.Parse(raw); err != nil || !believable(u) {
			p.Log.Warn("identity provider: neither https nor loopback", "endpoint", raw)
			return nil, errProvider
		}
	}
	endpoint.AuthStyle = oauth2.AuthStyleInParams
	return &oauth2.Config{ClientID: p.OIDC.ClientID, Endpoint: endpoint, RedirectURL: p.Base + "/callback", Scopes: []string{"openid", "groups"}}, nil
}

// callback ends a sign-in. HEAD does not: the code is good once.
func (p *pages) callback(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodHead {
		w.Header().Set("Allow", http.MethodGet)
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
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
		p.failTo(w, r, viewer{}, err, link{f.Next, "Start again"})
		return
	}
	http.Redirect(w, r, f.Next, http.StatusSeeOther)
}

func again(format string, args ...any) error {
	return api.Because(api.ErrLogin, "start again", format, args...)
}

// finish turns the provider's answer into a signed-in browser. Nothing is asked or stored before the answer is known to be to this
// browser's own flow; the flow is used up by the first that succeeds.
func (p *pages) finish(ctx context.Context, q url.Values, f flow) (browser, error) {
	oauth, err := p.oauth()
	if err != nil {
		return browser{}, err
	}
	switch {
	case subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(f.State)) != 1:
		return browser{}, again("the answer is not for this browser's sign-in")
	case q.Get("iss") != p.OIDC.Issuer && (q.Has("iss") || p.provider.SendsIssuer()): // RFC 9207
		return browser{}, again("the answer is of another identity provider")
	case q.Has("error"):
		return browser{}, again("the identity provider refused: %.80q", q.Get("error"))
	case q.Get("code") == "" || len(q.Get("code")) > 4096:
		return browser{}, again("the identity provider sent no code")
	}
	raw, err := p.trade(ctx, oauth, q.Get("code"), f.Verifier)
	if err != nil {
		return browser{}, err
	}
	id, err := p.provider.Verify(ctx, raw)
	if err != nil {
		p.Log.Warn("ID token", "error", err)
	}
	switch {
	case errors.Is(err, idtoken.ErrProvider):
		return browser{}, errProvider
	case err != nil:
		return browser{}, again("the identity provider's ID token was refused; the broker's log says why")
	case subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(f.Nonce)) != 1:
		return browser{}, again("the ID token is not for this sign-in")
	}
	if err := p.fresh(id.AuthTime, f); err != nil {
		return browser{}, err
	}
	if err := token.Spend(ctx, p.Items, token.UsedOnce("signin", []byte(f.State), f.Started.Add(flowLife)), "this sign-in"); err != nil {
		return browser{}, err
	}
	return browser{ID: token.NewRandom(), Subject: id.Subject, Groups: id.Groups, AuthTime: id.AuthTime, For: f.For}, nil
}

// trade redeems a code for an ID token.
func (p *pages) trade(ctx context.Context, oauth *oauth2.Config, code, verifier string) (string, error) {
	select {
	case p.trading <- struct{}{}:
		defer func() { <-p.trading }()
	default:
		return "", api.Because(api.ErrBusy, "try again in a moment", "too many sign-ins at a time")
	}
	t, err := oauth.Exchange(context.WithValue(ctx, oauth2.HTTPClient, p.redeem), code, oauth2.VerifierOption(verifier))
	if answered := (*oauth2.RetrieveError)(nil); errors.As(err, &answered) {
		return "", again("the code could not be redeemed")
	}
	if err != nil {
		p.Log.Warn("redeem a code", "error", err)
		return "", errProvider
	}
	raw, ok := t.Extra("id_token").(string)
	if !ok {
		return "", again("the identity provider sent no ID token")
	}
	return raw, nil
}

// fresh holds a login that is made for an approval to the provider's word that the person logged in after the flow began:
// prompt and max_age can be cut out of the address, so that only auth_time counts. Whole seconds, as the token has them.
func (p *pages) fresh(auth time.Time, f flow) error {
	if f.For != "" && auth.Before(f.Started.Truncate(time.Second).Add(-approval.ClockSkew)) {
		return api.Because(api.ErrLogin, "log in with your password for this approval", "the identity provider answered from an old login")
	}
	return nil
}

// signOut ends the browser's session for good, copies of its cookie included.
func (p *pages) signOut(w http.ResponseWriter, r *http.Request) {
	v, err := p.who(r)
	if err == nil && !p.cookies.checkForm(v.browser, "signout", r.FormValue("form")) {
		err = api.Because(api.ErrDenied, "send the form from its own page", "the form is not of this session")
	} else if err == nil {
		err = token.Spend(r.Context(), p.Items, signedOut(v.browser, p.Now()), "this sign-out")
	}
	if err != nil && !errors.Is(err, errNobody) && !errors.Is(err, api.ErrConflict) {
		p.fail(w, r, v, err)
		return
	}
	p.cookies.clear(w, sessionCookie)
	p.render(w, http.StatusOK, "message.html", map[string]any{"Title": "Signed out", "Text": "This browser is signed out of Sallyport.",
		"Links": []link{{"/signin?as=other", "Sign in again"}}})
}

// ask sends whoever is not signed in to the provider, and back here.
func (p *pages) ask(w http.ResponseWriter, r *http.Request, l login) (viewer, bool) {
	v, err := p.who(r)
	if errors.Is(err, errNobody) {
		p.startFlow(w, r, l)
		return v, false
	}
	if err != nil {
		p.fail(w, r, v, err)
	}
	return v, err == nil
}
