package approve

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/idtoken"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// Bundles gives the active policy bundle: its roles say who may see more than their own.
type Bundles interface {
	Active(ctx context.Context) (*policy.Bundle, error)
}

// OIDC is the identity provider that reviewers sign in at.
type OIDC struct {
	Issuer     string
	ClientID   string       // a client of its own: its redirect URI is Base+"/callback"
	HTTPClient *http.Client // nil: the default transport
}

// Config is all required but Now and Log.
type Config struct {
	Items    store.Items
	Evidence store.Blobs // the chunks of recordings, to be read
	Bundles  Bundles
	Verifier *token.Verifier
	OIDC     OIDC
	Base     string // public URL of the pages, without a path; http only on loopback
	API      string // public URL that the DPoP proofs of the JSON side name
	StateKey []byte // 32 bytes, shared with functions/decide
	Now      func() time.Time
	Log      *slog.Logger
}

type pages struct {
	Config
	provider *idtoken.Provider
	redeem   *http.Client  // trades codes at the provider
	trading  chan struct{} // one place for each code that is being traded
	cookies  cookies
	watch    watch
}

//go:embed assets
var assets embed.FS

// Bounds of what strangers can make us ask the identity provider.
const (
	redeemTimeout = 10 * time.Second
	maxTrading    = 16 // codes at a time
)

// New serves the pages, and api.PathApprovals, PathSessions and PathActors.
func New(c Config) (http.Handler, error) {
	switch {
	case c.Items == nil || c.Evidence == nil || c.Bundles == nil || c.Verifier == nil:
		return nil, errors.New("functions/approve: Items, Evidence, Bundles and Verifier are required")
	case len(c.StateKey) != 32:
		return nil, errors.New("functions/approve: StateKey has not 32 bytes")
	case c.API == "" || !ownURL(c.Base):
		return nil, errors.New("functions/approve: API is required, and Base: an https URL without a path, or http on loopback")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Items, c.Evidence = answering{c.Items}, answeringBlobs{c.Evidence}
	provider, err := idtoken.New(idtoken.Config{Issuer: c.OIDC.Issuer, ClientID: c.OIDC.ClientID, HTTPClient: c.OIDC.HTTPClient, Now: c.Now})
	if err != nil {
		return nil, fmt.Errorf("functions/approve: %w", err)
	}
	k, err := newCookies(c.StateKey, strings.HasPrefix(c.Base, "https://"), c.Now)
	if err != nil {
		return nil, fmt.Errorf("functions/approve: %w", err)
	}
	// Codes are traded by a client of its own: the provider's is held back by what strangers' tokens cost.
	redeem := &http.Client{Timeout: redeemTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if c.OIDC.HTTPClient != nil {
		redeem.Transport = c.OIDC.HTTPClient.Transport
	}
	p := &pages{Config: c, provider: provider, redeem: redeem, trading: make(chan struct{}, maxTrading), cookies: k}
	return p.routes()
}

// ownURL says whether pages can be served under base.
func ownURL(base string) bool {
	u, err := url.Parse(base)
	return err == nil && u.Host != "" && u.Path == "" && u.RawQuery == "" && u.Fragment == "" && u.User == nil && believable(u)
}

// believable says whether what travels to u and back can be believed: TLS, or this machine.
func believable(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())
}

// origin is a URL's origin as browsers write it: without the port that its scheme has anyway.
func origin(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return base
	}
	host := strings.ToLower(u.Host)
	if port := map[string]string{"https": ":443", "http": ":80"}[u.Scheme]; port != "" {
		host = strings.TrimSuffix(host, port)
	}
	return u.Scheme + "://" + host
}

func (p *pages) routes() (http.Handler, error) {
	static, err := fs.Sub(assets, "assets")
	if err != nil {
		return nil, fmt.Errorf("functions/approve: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /assets/{file}", http.StripPrefix("/assets/", cached(http.FileServerFS(static))))
	mux.HandleFunc("GET /{$}", p.live)
	mux.HandleFunc("GET /live", p.fragment)
	mux.HandleFunc("GET /sessions/{id}", p.sessionPage)
	mux.HandleFunc("POST /sessions/{id}/end", p.endPage)
	mux.HandleFunc("GET /sessions/{id}/recordings/{command}", p.recordingPage)
	mux.HandleFunc("GET /signin", p.signIn)
	mux.HandleFunc("GET /callback", p.callback)
	mux.HandleFunc("POST /signout", p.signOut)
	mux.HandleFunc("GET /approve/{id}", p.review)
	mux.HandleFunc("POST /approve/{id}", p.verdict)
	mux.HandleFunc("GET "+api.PathApprovals, p.json(p.listApprovals))
	mux.HandleFunc("GET "+api.PathApprovals+"/{id}", p.json(p.oneApproval))
	mux.HandleFunc("GET "+api.PathSessions, p.json(p.listSessions))
	mux.HandleFunc("GET "+api.PathSessions+"/{id}", p.json(p.oneSession))
	mux.HandleFunc("GET "+api.PathSessions+"/{id}/recordings/{command}", p.json(p.oneRecording))
	mux.HandleFunc("GET "+api.PathSessions+"/{id}/bodies/{command}", p.json(p.oneBody))
	mux.HandleFunc("POST "+api.PathSessions+"/{id}/end", p.json(p.endSession))
	mux.HandleFunc("GET "+api.PathActors, p.json(p.listActors))
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		p.fail(w, r, viewer{}, api.Because(api.ErrNotFound, "check the link", "there is no such page"))
	})
	// Behind a name of its own the pages are asked at another host than browsers see: forms come from Base, or from the host that was asked.
	cross := http.NewCrossOriginProtection()
	if err := cross.AddTrustedOrigin(origin(p.Base)); err != nil {
		return nil, fmt.Errorf("functions/approve: Base: %w", err)
	}
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.fail(w, r, viewer{}, api.Because(api.ErrDenied, "send the form from its own page", "the form comes from another site"))
	}))
	return p.headers(cross.Handler(mux)), nil
}

// maxForm bounds a form's body in bytes: a reason of approval.MaxReason and a token.
const maxForm = 16 << 10

// csp: nothing from elsewhere is loaded, run, framed or sent to. No form of ours is answered by a redirect to another origin.
const csp = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// headers are on every answer.
func (p *pages) headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", csp)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
		h.Set("Cache-Control", "no-store")
		if p.cookies.secure {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		next.ServeHTTP(w, r)
	})
}

func cached(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=300")
		next.ServeHTTP(w, r)
	})
}
