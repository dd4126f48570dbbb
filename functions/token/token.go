package token

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/agents"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/idtoken"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/store"
	tokens "github.com/sallyport/sallyport/internal/token"
)

// Bundles gives the active policy bundle: its targets and roles.
type Bundles interface {
	Active(ctx context.Context) (*policy.Bundle, error)
}

// OIDC is the identity provider that principals log in at.
type OIDC struct {
	Issuer     string       // https, or http on loopback
	ClientID   string       // the one audience of its ID tokens
	HTTPClient *http.Client // nil: http.DefaultClient's transport
}

// Config is what the function needs; every field without a comment about its zero is required.
type Config struct {
	Items    store.Items
	Issuer   *tokens.Issuer
	Verifier *tokens.Verifier
	CA       *tokens.CA
	StateKey []byte // 32 bytes, shared with functions/decide
	OIDC     OIDC
	Bundles  Bundles
	Relays   []string // host:port, told to clients
	Console  string   // URL of the browser's pages, told to clients
	// Functions are the https URLs of functions that are not served under Base, told to clients; nil when all are.
	Functions map[string]string
	// FunctionsIAM are the same for agents with an AWS identity; nil when there are none.
	FunctionsIAM map[string]string
	Base         string           // our own public URL: what DPoP proofs must name
	Now          func() time.Time // nil: time.Now
	Log          *slog.Logger     // nil: none
}

type function struct {
	Config
	provider *idtoken.Provider
	revoked  *agents.Revoked
	mux      *http.ServeMux
}

// New returns the handler of api.PathDiscovery, PathJWKS, PathToken, PathRenew, PathTicket, PathRevoke and PathWhoami. It calls nobody yet.
func New(c Config) (http.Handler, error) {
	switch {
	case c.Items == nil || c.Issuer == nil || c.Verifier == nil || c.CA == nil || c.Bundles == nil:
		return nil, errors.New("functions/token: Items, Issuer, Verifier, CA and Bundles are required")
	case len(c.StateKey) < 32:
		return nil, errors.New("functions/token: StateKey has fewer than 32 bytes")
	case c.Base == "":
		return nil, errors.New("functions/token: Base is required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	p, err := idtoken.New(idtoken.Config{Issuer: c.OIDC.Issuer, ClientID: c.OIDC.ClientID, HTTPClient: c.OIDC.HTTPClient, Now: c.Now})
	if err != nil {
		return nil, fmt.Errorf("functions/token: %w", err)
	}
	f := &function{Config: c, provider: p, revoked: agents.NewRevoked(c.Items, c.Now), mux: http.NewServeMux()}
	f.handle("GET "+api.PathDiscovery, f.discovery)
	f.handle("POST "+api.PathToken, f.exchange)
	f.handle("POST "+api.PathRenew, f.renew)
	f.handle("POST "+api.PathTicket, f.ticket)
	f.handle("POST "+api.PathRevoke, f.revoke)
	f.handle("GET "+api.PathWhoami, f.whoami)
	f.mux.HandleFunc("GET "+api.PathJWKS, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		w.Header().Set("Cache-Control", "max-age=60")
		_, _ = w.Write(c.Issuer.JWKS()) // the client went away: there is nobody to tell
	})
	return f.mux, nil
}

// handle answers with what h returns: a value, or an error by the one table.
func (f *function) handle(pattern string, h func(*http.Request) (any, error)) {
	f.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		v, err := h(r)
		if err != nil {
			api.Fail(w, f.Log, err)
			return
		}
		api.Write(w, v)
	})
}

func (f *function) discovery(*http.Request) (any, error) {
	return api.Discovery{
		Issuer: f.Issuer.Name(), OIDC: f.OIDC.Issuer, ClientID: f.OIDC.ClientID, CA: string(f.CA.PEM()), Relays: f.Relays, Console: f.Console,
		Functions: f.Functions, FunctionsIAM: f.FunctionsIAM, Epoch: f.Issuer.Epoch(),
	}, nil
}

// caller authenticates a request and reads its root strongly: who is revoked gets nothing here either.
func (f *function) caller(r *http.Request, now time.Time) (tokens.Claims, tokens.Root, store.Item, error) {
	c, err := f.Verifier.Request(r.Context(), r, f.Base, f.Items, now)
	if err != nil {
		return tokens.Claims{}, tokens.Root{}, store.Item{}, err
	}
	root, it, err := tokens.Live(r.Context(), f.Items, c, now)
	return c, root, it, err
}

func (f *function) active(ctx context.Context) (*policy.Bundle, error) {
	b, err := f.Bundles.Active(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", api.Because(api.ErrUnavailable, "try again; if it stays so, the stack's operator publishes one: `sallyport stack publish DIR --stack NAME`", "no active policy"), err)
	}
	return b, nil
}

// issue signs an access token for a node; its life ends with the grant's and with the root's lease.
func (f *function) issue(ctx context.Context, c tokens.Claims, root tokens.Root, now time.Time) (any, error) {
	id, err := tokens.NewID(now)
	if err != nil {
		return nil, err
	}
	c.ID, c.Issued, c.Expires = id, now, now.Add(tokens.AccessLife)
	for _, end := range []time.Time{c.GrantExpires, root.RenewedUntil, root.End()} {
		if c.Expires.After(end) {
			c.Expires = end
		}
	}
	if c.Expires.Sub(now) < time.Second {
		return nil, api.Because(api.ErrLogin, "log in again: sallyport login", "the grant has ended")
	}
	raw, err := f.Issuer.Access(ctx, c)
	if err != nil {
		return nil, err
	}
	return api.TokenResponse{
		AccessToken: raw, IssuedTokenType: api.TypeAccessToken, TokenType: tokens.SchemeDPoP, ExpiresIn: int(c.Expires.Sub(now) / time.Second),
		GrantExpires: c.GrantExpires, Lineage: c.Lineage(), Capability: c.Capability,
	}, nil
}

// store writes one item together with the entry that tells of it: neither is ever there alone.
func (f *function) store(ctx context.Context, w store.Write, e audit.Entry) error {
	line, err := audit.Put(e)
	if err != nil {
		return err
	}
	return f.Items.Transact(ctx, w, line)
}

func unavailable(err error) error {
	return fmt.Errorf("%w: %w", api.Because(api.ErrUnavailable, "try again", "the store did not answer"), err)
}

// renew returns a fresh token for the same node and extends the root's lease.
func (f *function) renew(r *http.Request) (any, error) {
	now := f.Now()
	c, err := f.Verifier.RenewRequest(r.Context(), r, f.Base, f.Items, now)
	if err != nil {
		return nil, err
	}
	for range attempts {
		root, it, err := tokens.Live(r.Context(), f.Items, c, now)
		if err != nil {
			return nil, err
		}
		renewed, changed := root.Renew(now)
		if !changed {
			return f.issue(r.Context(), c, root, now)
		}
		w, err := renewed.Put(store.Cond{Version: it.Version})
		if err != nil {
			return nil, err
		}
		switch err := f.Items.Put(r.Context(), w); {
		case err == nil:
			return f.issue(r.Context(), c, renewed, now)
		case !errors.Is(err, store.ErrConflict):
			return nil, unavailable(err)
		}
	}
	return nil, api.Because(api.ErrBusy, "try again", "the login is being changed by many at once")
}

// attempts bounds compare-and-swap loops on a root: its writers are a handful of processes of one person.
const attempts = 10

// ticket gives the way to a target: a ticket for the relay, which says nothing of who asks, and a nonce for the session's proof.
func (f *function) ticket(r *http.Request) (any, error) {
	now := f.Now()
	c, _, _, err := f.caller(r, now)
	if err != nil {
		return nil, err
	}
	var in api.TicketRequest
	if err := api.Read(r, &in); err != nil {
		return nil, err
	}
	if err := access.CheckName("target", string(in.Target)); err != nil {
		return nil, api.Because(api.ErrBadRequest, "", "%v", err)
	}
	b, err := f.active(r.Context())
	if err != nil {
		return nil, err
	}
	if !reaches(c.Capability, in.Target) {
		return nil, api.Because(api.ErrDenied, "ask for it: sallyport run --allow EFFECTS:"+string(in.Target), "target %q is outside the capability of %s", in.Target, c.Lineage().Actor().Name)
	}
	t, ok := b.Target(in.Target)
	if !ok {
		return nil, api.Because(api.ErrNotFound, "the policy's targets.yaml names them", "no target %q", in.Target)
	}
	revoked, err := f.revoked.Agents(r.Context())
	if err != nil {
		return nil, err
	}
	id, err := tokens.NewID(now)
	if err != nil {
		return nil, err
	}
	raw, err := f.Issuer.Ticket(r.Context(), tokens.Ticket{ID: id, Endpoint: in.Endpoint, Target: in.Target, Expires: now.Add(tokens.TicketLife)})
	switch {
	case errors.Is(err, api.ErrUnavailable):
		return nil, err
	case err != nil:
		return nil, api.Because(api.ErrBadRequest, "", "%v", err)
	}
	return api.TicketResponse{
		Ticket: raw, Nonce: tokens.NewNonce(f.StateKey, c.Thumbprint, in.Target, in.Endpoint, now), Relays: f.Relays,
		Protocol: t.Protocol, Database: t.Database, Name: t.Name, Revoked: revoked,
	}, nil
}

func reaches(c access.Capability, t access.TargetName) bool {
	for _, g := range c {
		if access.Match(g.Target, string(t)) {
			return true
		}
	}
	return false
}

func (f *function) whoami(r *http.Request) (any, error) {
	c, _, _, err := f.caller(r, f.Now())
	if err != nil {
		return nil, err
	}
	b, err := f.active(r.Context())
	if err != nil {
		return nil, err
	}
	return api.Whoami{
		Lineage: c.Lineage(), Capability: c.Capability, TokenExpires: c.Expires, GrantExpires: c.GrantExpires,
		Administrator: b.Roles.Administrator(c.Groups), Auditor: b.Roles.Auditor(c.Groups),
	}, nil
}

// exchange is RFC 8693: an ID token becomes a login, an access token a child's.
func (f *function) exchange(r *http.Request) (any, error) {
	form, err := readForm(r)
	if err != nil {
		return nil, err
	}
	if g := form.Get(api.FieldGrant); g != api.GrantExchange {
		return nil, api.Because(api.ErrBadRequest, "", "%s %q is not served", api.FieldGrant, g)
	}
	switch t := form.Get(api.FieldSubjectType); t {
	case api.TypeIDToken:
		return f.login(r, form)
	case api.TypeAccessToken:
		return f.delegate(r, form)
	default:
		return nil, api.Because(api.ErrBadRequest, "", "%s %q is not served", api.FieldSubjectType, t)
	}
}

// Limits of the form: an ID token with many groups, and a child's capability.
const (
	maxForm      = 64 << 10
	maxGrantlets = 32
)

var formFields = map[string]int{
	api.FieldGrant: 1, api.FieldSubject: 1, api.FieldSubjectType: 1, api.FieldActor: 1, api.FieldActorType: 1, api.FieldSalt: 1,
	api.FieldName: 1, api.FieldPurpose: 1, api.FieldCapability: maxGrantlets, api.FieldLife: 1,
}

// readForm reads the body's form strictly: no query, no unknown field, nothing twice but capabilities.
func readForm(r *http.Request) (url.Values, error) {
	if ct, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); ct != "application/x-www-form-urlencoded" || r.URL.RawQuery != "" {
		return nil, api.Because(api.ErrBadRequest, "", "want a form in the body, and no query")
	}
	r.Body = http.MaxBytesReader(nil, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			return nil, api.Because(api.ErrTooLarge, "", "the form is over %d bytes", maxForm)
		}
		return nil, api.Because(api.ErrBadRequest, "", "form: %v", err)
	}
	for k, vs := range r.PostForm {
		if most, ok := formFields[k]; !ok || len(vs) > most {
			return nil, api.Because(api.ErrBadRequest, "", "form: field %.64q is not known, or given too often", k)
		}
	}
	return r.PostForm, nil
}

// only refuses fields that belong to another kind of exchange.
func only(form url.Values, fields ...string) error {
	allowed := append([]string{api.FieldGrant, api.FieldSubject, api.FieldSubjectType}, fields...)
	for k := range form {
		found := false
		for _, a := range allowed {
			found = found || a == k
		}
		if !found {
			return api.Because(api.ErrBadRequest, "", "form: field %q has no meaning here", k)
		}
	}
	return nil
}
