package approve_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/functions/approve"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/localstack/idp"
)

func TestNewRefuses(t *testing.T) {
	w := newWorld(t)
	for name, edit := range map[string]func(*approve.Config){
		"no items":          func(c *approve.Config) { c.Items = nil },
		"no bundles":        func(c *approve.Config) { c.Bundles = nil },
		"no verifier":       func(c *approve.Config) { c.Verifier = nil },
		"short key":         func(c *approve.Config) { c.StateKey = c.StateKey[:31] },
		"no API":            func(c *approve.Config) { c.API = "" },
		"no base":           func(c *approve.Config) { c.Base = "" },
		"final slash":       func(c *approve.Config) { c.Base += "/" },
		"plain http":        func(c *approve.Config) { c.Base = "http://sallyport.example" },
		"a name in it":      func(c *approve.Config) { c.Base = "https://x@sallyport.example" },
		"plain http issuer": func(c *approve.Config) { c.OIDC.Issuer = "http://login.example" },
		"no client":         func(c *approve.Config) { c.OIDC.ClientID = "" },
	} {
		c := w.config()
		if edit(&c); true {
			if _, err := approve.New(c); err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
	}
	c := w.config()
	c.Now, c.Log, c.Base = nil, nil, "https://sallyport.example"
	if _, err := approve.New(c); err != nil {
		t.Error(err)
	}
}

func TestSignIn(t *testing.T) {
	w := newWorld(t)
	v := w.visitor()
	p := v.stop().get("/")
	to, err := url.Parse(p.header.Get("Location"))
	brokertest.Must(t, err)
	q := to.Query()
	if p.status != http.StatusFound || !strings.HasPrefix(to.String(), w.op.URL) || q.Get("code_challenge_method") != "S256" || len(q.Get("nonce")) != 43 || len(q.Get("state")) != 43 ||
		q.Get("redirect_uri") != w.pages.URL+"/callback" || q.Has("prompt") {
		t.Fatalf("%d %v", p.status, q)
	}
	for _, c := range p.header.Values("Set-Cookie") {
		if !strings.Contains(c, "HttpOnly") || !strings.Contains(c, "SameSite=Lax") || !strings.Contains(c, "Path=/") {
			t.Errorf("cookie %s", c)
		}
	}
	if p = v.signIn("/", "alice"); p.status != 200 || p.url.Path != "/" || !p.says("alice") {
		t.Errorf("%d %s: %s", p.status, p.url, p.text())
	}
	// A login for an approval is made anew, whoever is logged in at the provider.
	rec := w.hold(w.alice)
	if p = v.get("/approve/" + string(rec.ID) + "?login=1"); p.url.Query().Get("prompt") != "login" || p.url.Query().Get("max_age") != "0" {
		t.Errorf("%s", p.url)
	}
	if p = w.visitor().get("/signin?as=other"); p.url.Query().Get("prompt") != "login" || p.url.Query().Has("max_age") {
		t.Errorf("%s", p.url)
	}
}

func TestSecureCookies(t *testing.T) {
	w := newWorld(t)
	c := w.config()
	c.Base = "https://sallyport.example"
	h, err := approve.New(c)
	brokertest.Must(t, err)
	rec := serve(h, "GET", "/", nil)
	set := rec.Header().Get("Set-Cookie")
	if !strings.HasPrefix(set, "__Host-sallyport_flow=") || !strings.Contains(set, "Secure") || rec.Header().Get("Strict-Transport-Security") == "" {
		t.Errorf("%v", rec.Header())
	}
}

// callbackOf logs in and stops before the callback.
func (v *visitor) callbackOf(target, user string) string {
	v.w.t.Helper()
	p := v.get(target)
	p = v.stop().login(p, user)
	l := p.header.Get("Location")
	if !strings.HasPrefix(l, v.w.pages.URL+"/callback?") {
		v.w.t.Fatalf("%d %s: %s", p.status, l, p.text())
	}
	return l
}

func edited(raw string, f func(url.Values)) string {
	u, _ := url.Parse(raw)
	q := u.Query()
	f(q)
	u.RawQuery = q.Encode()
	return u.String()
}

func TestCallbackRefuses(t *testing.T) {
	const path = "/"
	for _, c := range []struct {
		name   string
		edit   func(url.Values)
		lie    func(idp.TokenRequest) idp.TokenRequest
		before func(*world, *visitor)
		status int
		words  string
	}{
		{name: "another state", edit: func(q url.Values) { q.Set("state", strings.Repeat("x", 43)) }, status: 401, words: "not for this browser's sign-in"},
		{name: "no state", edit: func(q url.Values) { q.Del("state") }, status: 401, words: "not for this browser's sign-in"},
		{name: "another issuer", edit: func(q url.Values) { q.Set("iss", "https://evil.example") }, status: 401, words: "another identity provider"},
		{name: "no issuer, though the provider promises it", edit: func(q url.Values) { q.Del("iss") }, status: 401, words: "another identity provider"},
		{name: "an error", edit: func(q url.Values) { q.Set("error", "access_denied") }, status: 401, words: `refused: "access_denied"`},
		{name: "no code", edit: func(q url.Values) { q.Del("code") }, status: 401, words: "no code"},
		{name: "a code that is too long", edit: func(q url.Values) { q.Set("code", strings.Repeat("x", 4097)) }, status: 401, words: "no code"},
		{name: "a code of nobody", edit: func(q url.Values) { q.Set("code", "x") }, status: 401, words: "could not be redeemed"},
		{name: "another browser", before: func(w *world, v *visitor) { *v = *w.visitor() }, status: 401, words: "no sign-in under way"},
		{name: "too late", before: func(w *world, _ *visitor) { w.Advance(10 * time.Minute) }, status: 401, words: "no sign-in under way"},
		{name: "another nonce", lie: func(r idp.TokenRequest) idp.TokenRequest { r.Nonce = "x"; return r }, status: 401, words: "not for this sign-in"},
		{name: "no nonce", lie: func(r idp.TokenRequest) idp.TokenRequest { r.Nonce = ""; return r }, status: 401, words: "not for this sign-in"},
		{name: "another client", lie: func(r idp.TokenRequest) idp.TokenRequest { r.ClientID = "sallyport-cli"; return r }, status: 401, words: "ID token was refused; the broker's log says why"},
		{name: "an old token", lie: func(r idp.TokenRequest) idp.TokenRequest { r.Now = r.Now.Add(-time.Hour); return r }, status: 401, words: "ID token was refused"},
		{name: "no ID token", lie: func(r idp.TokenRequest) idp.TokenRequest { r.User = "nothing"; return r }, status: 401, words: "no ID token"},
		{name: "the provider is away", before: func(w *world, _ *visitor) { w.breaks(true) }, status: 401, words: "could not be redeemed"},
		{name: "the provider is gone", before: func(w *world, _ *visitor) { w.op.Close() }, status: 503, words: "could not be asked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			v := w.visitor()
			to := v.callbackOf(path, "alice")
			rows := w.rows()
			if c.before != nil {
				c.before(w, v)
			}
			w.lies(c.lie)
			if c.edit != nil {
				to = edited(to, c.edit)
			}
			p := v.get(to)
			if p.status != c.status || !p.says(c.words) || strings.Contains(p.body, "canary") {
				t.Errorf("%d %s, want %d with %q", p.status, p.text(), c.status, c.words)
			}
			w.lies(nil)
			w.breaks(false)
			for _, ck := range v.client.Jar.Cookies(p.url) {
				if strings.HasSuffix(ck.Name, "session") {
					t.Error("the browser is signed in")
				}
			}
			if w.rows() != rows {
				t.Error("a refused sign-in was stored")
			}
		})
	}
}

// The flow's cookie may have been copied, and a provider may be lax about codes: a sign-in succeeds once.
func TestStateIsGoodOnce(t *testing.T) {
	w := newWorld(t)
	w.lies(func(r idp.TokenRequest) idp.TokenRequest { return r })
	v := w.visitor()
	to := v.callbackOf("/", "alice")
	u, err := url.Parse(w.pages.URL)
	brokertest.Must(t, err)
	thief := w.visitor()
	thief.client.Jar.SetCookies(u, v.client.Jar.Cookies(u))
	if p := v.get(to); p.status != 200 {
		t.Fatalf("%d %s", p.status, p.text())
	}
	if p := thief.get(to); p.status != 409 || !p.says("used before") {
		t.Errorf("a used flow signs in: %d %s", p.status, p.text())
	}
}

func TestHeadEndsNoSignIn(t *testing.T) {
	w := newWorld(t)
	v := w.visitor()
	to := v.callbackOf("/", "alice")
	rows := w.rows()
	if p := v.do("HEAD", to, nil); p.status != http.StatusMethodNotAllowed || len(p.header.Values("Set-Cookie")) != 0 || w.rows() != rows {
		t.Errorf("%d %v", p.status, p.header)
	}
	if p := v.get(to); p.status != 200 {
		t.Errorf("%d %s", p.status, p.text())
	}
}

func TestNextStaysHere(t *testing.T) {
	w := newWorld(t)
	id := w.ID()
	for next, want := range map[string]string{
		"/": "/", "": "/", "/approve/" + id: "/approve/" + id, "/sessions/" + id: "/sessions/" + id,
		"https://evil.example/": "/", "//evil.example": "/", "/\\evil.example": "/", "/\t/evil.example": "/", "/\n/evil.example": "/", "\t//evil.example": "/",
		"/signout": "/", "/approve/" + id + "/../..//evil.example": "/", "/approve/" + id + "\n": "/", "/%09/evil.example": "/", "javascript:alert(1)": "/", "/approve/x": "/",
	} {
		v := w.visitor()
		to := v.callbackOf("/signin?"+url.Values{"next": {next}}.Encode(), "alice")
		if p := v.stop().get(to); p.status != http.StatusSeeOther || p.header.Get("Location") != want {
			t.Errorf("%q: %d %q, want %q", next, p.status, p.header.Get("Location"), want)
		}
	}
}

func TestFreshLogin(t *testing.T) {
	for _, c := range []struct {
		name string
		ago  time.Duration // of the provider's login, before the flow began; -1: it does not say
		ok   bool
	}{{"now", 0, true}, {"by a clock that is behind", 2 * time.Second, true}, {"single sign-on", 4 * time.Second, false}, {"an hour ago", time.Hour, false}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			rec := w.hold(w.alice)
			w.lies(func(r idp.TokenRequest) idp.TokenRequest { r.AuthTime = r.AuthTime.Add(-c.ago); return r })
			v, p := w.reviewing("rita", rec.ID)
			if c.ok != (p.status == 200) || c.ok != (formOf(p) != "") {
				t.Errorf("%d %s", p.status, p.text())
			}
			if !c.ok && !p.says("answered from an old login") {
				t.Errorf("%s", p.text())
			}
			if q := v.stop().get("/"); !c.ok && q.status != http.StatusFound {
				t.Errorf("an old login signs in: %d", q.status)
			}
		})
	}
}

// Whoever cuts prompt and max_age out of the address is answered by single sign-on, and told so.
func TestStrippedPromptIsNoFreshLogin(t *testing.T) {
	w := newWorld(t)
	v := w.as("rita")
	w.Advance(time.Minute)
	rec := w.hold(w.alice)
	l := v.stop().get("/approve/" + string(rec.ID) + "?login=1").header.Get("Location")
	p := v.get(edited(l, func(q url.Values) { q.Del("prompt"); q.Del("max_age") }))
	if p.status != 401 || !p.says("answered from an old login") || formOf(p) != "" {
		t.Errorf("%d %s", p.status, p.text())
	}
}

func TestProviderDown(t *testing.T) {
	w := newWorld(t)
	w.breaks(true)
	p := w.visitor().get("/")
	if p.status != 503 || !p.says("identity provider could not be asked") || strings.Contains(p.body, "canary") {
		t.Errorf("%d %s", p.status, p.text())
	}
}

func TestSignOut(t *testing.T) {
	w := newWorld(t)
	v := w.as("alice")
	u, err := url.Parse(w.pages.URL)
	brokertest.Must(t, err)
	copied := v.client.Jar.Cookies(u)
	for _, form := range []url.Values{{}, {"form": {"x"}}} {
		if p := v.do("POST", "/signout", form); p.status != 403 {
			t.Errorf("%v: %d", form, p.status)
		}
	}
	v.site = "cross-site"
	if p := v.do("POST", "/signout", url.Values{}); p.status != 403 || !p.says("comes from another site") {
		t.Errorf("%d", p.status)
	}
	v.site = "same-origin"
	m := signOutShape.FindStringSubmatch(v.get("/").body)
	if p := v.do("POST", "/signout", url.Values{"form": {m[1]}}); p.status != 200 || !p.says("signed out") {
		t.Errorf("%d %s", p.status, p.text())
	}
	if p := v.stop().get("/"); p.status != http.StatusFound {
		t.Errorf("still signed in: %d", p.status)
	}
	thief := w.visitor()
	thief.client.Jar.SetCookies(u, copied)
	if p := thief.stop().get("/"); p.status != http.StatusFound {
		t.Errorf("a copied cookie lives on: %d", p.status)
	}
	if p := thief.get("/live"); p.status != 401 {
		t.Errorf("a copied cookie lives on: %d", p.status)
	}
	if p := w.visitor().do("POST", "/signout", url.Values{}); p.status != 200 {
		t.Errorf("signing out twice: %d", p.status)
	}
}

func TestCookiesAreOurs(t *testing.T) {
	w := newWorld(t)
	v := w.as("alice")
	u, err := url.Parse(w.pages.URL)
	brokertest.Must(t, err)
	good := v.client.Jar.Cookies(u)[0]
	flow := w.visitor()
	flow.stop().get("/")
	for name, value := range map[string]string{
		"garbage": "x", "not base64": "!!", "cut": good.Value[:len(good.Value)-4], "changed": "A" + good.Value[1:], "a flow": flow.client.Jar.Cookies(u)[0].Value, "empty": "",
	} {
		x := w.visitor()
		x.client.Jar.SetCookies(u, []*http.Cookie{{Name: good.Name, Value: value, Path: "/"}})
		if p := x.stop().get("/"); p.status != http.StatusFound {
			t.Errorf("%s: %d", name, p.status)
		}
	}
	w.Advance(time.Hour)
	if p := v.stop().get("/"); p.status != http.StatusFound {
		t.Errorf("an hour later: %d", p.status)
	}
}

// Behind CloudFront the function is asked at its own URL's host, while browsers are at the public one: forms may come from these two, and from
// nowhere else.
func TestWhereFormsMayComeFrom(t *testing.T) {
	w := newWorld(t)
	const public, url = "sallyport.example.com", "abc.lambda-url.eu-west-1.on.aws"
	c := w.config()
	c.Base, c.API = "https://"+public, "https://"+public
	h, err := approve.New(c)
	brokertest.Must(t, err)
	for _, tt := range []struct {
		host, origin, site string
		passes             bool
	}{
		{url, "https://" + public, "same-origin", true}, // CloudFront rewrites Host
		{url, "https://" + public, "", true},            // an older browser
		{public, "https://" + public, "same-origin", true},
		{public, "https://" + public, "", true},
		{url, "https://" + url, "same-origin", true}, // without CloudFront
		{url, "https://" + url, "", true},
		{url, "", "none", true}, // no browser, or the address bar: the form's own token decides
		{url, "", "", true},
		{url, "https://evil.example", "cross-site", false},
		{url, "https://evil.example", "", false},
		{public, "https://evil.example", "cross-site", false},
		{url, "https://" + public + ".evil.example", "cross-site", false},
		{url, "https://evil." + public, "same-site", false},
		{url, "http://" + public, "cross-site", false},
		{url, "http://" + public, "", false},
		{url, "https://" + public + ":8443", "", false},
		{url, "null", "cross-site", false},
		{url, "null", "", false},
		{"other.lambda-url.eu-west-1.on.aws", "https://" + url, "cross-site", false},
		{public, "https://" + url, "cross-site", false}, // the function's own name is no origin of the public pages
	} {
		r := httptest.NewRequest(http.MethodPost, "/signout", nil)
		r.Host = tt.host
		if tt.origin != "" {
			r.Header.Set("Origin", tt.origin)
		}
		if tt.site != "" {
			r.Header.Set("Sec-Fetch-Site", tt.site)
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		if refused := strings.Contains(rec.Body.String(), "comes from another site"); refused == tt.passes || refused != (rec.Code == http.StatusForbidden) {
			t.Errorf("%+v: status %d", tt, rec.Code)
		}
	}
	c.Base = "https://Sallyport.example.com:443"
	h, err = approve.New(c)
	brokertest.Must(t, err)
	r := httptest.NewRequest(http.MethodPost, "/signout", nil)
	r.Host = url
	r.Header.Set("Origin", "https://"+public)
	rec := httptest.NewRecorder()
	if h.ServeHTTP(rec, r); rec.Code == http.StatusForbidden {
		t.Error("the origin of a Base with its port is not known")
	}
}
