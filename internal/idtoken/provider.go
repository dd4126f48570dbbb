package idtoken

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"

	tokens "github.com/sallyport/sallyport/internal/token"
)

// Limits around the Identity provider.
const (
	maxIDToken    = 16 << 10
	idTokenAge    = 10 * time.Minute // from iat: an ID token is traded at once, whatever its exp says
	maxAuthAge    = tokens.RootMax   // of the provider's own login, where it tells
	maxGroups     = 2 << 10          // bytes of all group names: they travel in every token and in the root item
	keysLife      = 15 * time.Minute // a key that the provider withdrew is refused then
	fetchTimeout  = 10 * time.Second
	fetchBurst    = 6 // discovery and keys, thrice
	fetchInterval = 5 * time.Second
	maxFetch      = 1 << 20
)

// idAlgorithms are what an ID token may be signed with: public-key algorithms in wide use. Never none, never a shared secret.
var idAlgorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.PS256, jose.ES384, jose.EdDSA}

// Provider verifies ID tokens. go-oidc checks signature, issuer, audience and expiry; the rest is ours (see check).
type Provider struct {
	c      Config
	client *http.Client
	now    func() time.Time

	mu       sync.Mutex
	verifier *oidc.IDTokenVerifier
	endpoint oauth2.Endpoint
	sendsIss bool
	fetched  time.Time
}

// Config names a provider and who we are there. Issuer and ClientID are required.
type Config struct {
	Issuer     string // https, or http on loopback
	ClientID   string
	HTTPClient *http.Client     // nil: the default transport
	Now        func() time.Time // nil: time.Now
}

// New checks the configuration. It calls nobody yet.
func New(c Config) (*Provider, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	now := c.Now
	u, err := url.Parse(c.Issuer)
	if err != nil || u.Host == "" || !safe(u) {
		return nil, fmt.Errorf("OIDC issuer %q: want an https URL, or http on loopback", c.Issuer)
	}
	if c.ClientID == "" {
		return nil, errors.New("OIDC client id is required")
	}
	inner := http.DefaultTransport
	if c.HTTPClient != nil && c.HTTPClient.Transport != nil {
		inner = c.HTTPClient.Transport
	}
	limited := &limitedTransport{inner: inner, now: now, tokens: fetchBurst, last: now()}
	return &Provider{c: c, now: now, client: &http.Client{Transport: limited, Timeout: fetchTimeout}}, nil
}

// safe says whether what is fetched from u can be believed.
func safe(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())
}

// ErrProvider means that the provider could not be asked: nothing is known about the token.
var ErrProvider = errors.New("the Identity provider did not answer")

func (p *Provider) current() (*oidc.IDTokenVerifier, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if age := p.now().Sub(p.fetched); p.verifier != nil && age >= 0 && age < keysLife {
		return p.verifier, nil
	}
	// go-oidc keeps the context for later fetches of keys; the client's timeout bounds each.
	ctx := oidc.ClientContext(context.Background(), p.client)
	op, err := oidc.NewProvider(ctx, p.c.Issuer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvider, err)
	}
	algs := make([]string, len(idAlgorithms))
	for i, a := range idAlgorithms {
		algs[i] = string(a)
	}
	p.verifier = op.Verifier(&oidc.Config{ClientID: p.c.ClientID, SupportedSigningAlgs: algs, Now: p.now})
	var more struct {
		SendsIss bool `json:"authorization_response_iss_parameter_supported"`
	}
	if err := op.Claims(&more); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvider, err)
	}
	p.endpoint, p.sendsIss, p.fetched = op.Endpoint(), more.SendsIss, p.now()
	return p.verifier, nil
}

// Endpoint is where people are sent and codes are traded; the client is what must be used for the latter.
func (p *Provider) Endpoint() (oauth2.Endpoint, *http.Client, error) {
	if _, err := p.current(); err != nil {
		return oauth2.Endpoint{}, nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.endpoint, p.client, nil
}

// SendsIssuer says whether the provider promises to name itself in its answers (RFC 9207): one that does not is then no answer.
// It is known once Endpoint has answered.
func (p *Provider) SendsIssuer() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sendsIss
}

// Identity is what an ID token says, verified.
type Identity struct {
	Subject  string
	Groups   []string
	AuthTime time.Time // zero: the provider did not say
	Nonce    string
	// Payload is what was signed. It is what single use is about: the signature of the same payload can be written in several ways.
	Payload []byte
	Until   time.Time // after that it would not be accepted any more
}

// Verify checks a token. Errors that wrap ErrProvider say nothing about it.
func (p *Provider) Verify(ctx context.Context, raw string) (Identity, error) {
	if err := plainHeader(raw); err != nil {
		return Identity{}, err
	}
	v, err := p.current()
	if err != nil {
		return Identity{}, err
	}
	id, err := v.Verify(ctx, raw)
	if err != nil {
		if strings.Contains(err.Error(), "fetching keys") { // go-oidc wraps what the transport said with %v: there is only the text
			return Identity{}, fmt.Errorf("%w: %w", ErrProvider, err)
		}
		return Identity{}, err
	}
	return p.check(id)
}

// plainHeader refuses, before anything is fetched, what no ID token looks like: another serialisation, another algorithm, another type
// (an access token of the same provider is at+jwt), headers that would change what is verified.
func plainHeader(raw string) error {
	if len(raw) > maxIDToken {
		return fmt.Errorf("longer than %d bytes", maxIDToken)
	}
	jws, err := jose.ParseSignedCompact(raw, idAlgorithms)
	if err != nil {
		return err
	}
	h := jws.Signatures[0].Protected
	if h.JSONWebKey != nil {
		return errors.New("its header carries a key")
	}
	for k, v := range h.ExtraHeaders {
		switch typ, _ := v.(string); {
		case k == jose.HeaderType && strings.EqualFold(typ, "JWT"):
		case k == "x5t" || k == "x5t#S256": // names of the key's certificate, beside kid
		default:
			return fmt.Errorf("header %q is not one of an ID token", k)
		}
	}
	return nil
}

type idClaims struct {
	Authorized string   `json:"azp"`
	AuthTime   int64    `json:"auth_time"`
	Groups     []string `json:"groups"`
}

// check is what go-oidc lets pass (OpenID Connect Core section 3.1.3.7 and more).
func (p *Provider) check(id *oidc.IDToken) (Identity, error) {
	var c idClaims
	var payload json.RawMessage
	if err := errors.Join(id.Claims(&c), id.Claims(&payload)); err != nil {
		return Identity{}, fmt.Errorf("claims: %w", err)
	}
	now := p.now()
	switch {
	case id.Issuer != p.c.Issuer: // go-oidc has an exception for one provider; we have none
		return Identity{}, errors.New("it is of another issuer")
	case len(id.Audience) != 1 || id.Audience[0] != p.c.ClientID:
		return Identity{}, errors.New("it is meant for others too")
	case c.Authorized != "" && c.Authorized != p.c.ClientID:
		return Identity{}, errors.New("azp: it was given to somebody else")
	case id.IssuedAt.After(now.Add(tokens.Skew)):
		return Identity{}, errors.New("iat: it was made in the future")
	case now.Sub(id.IssuedAt) > idTokenAge:
		return Identity{}, fmt.Errorf("iat: it is older than %s", idTokenAge)
	case !PlainText(id.Subject, 255): // Core section 2
		return Identity{}, errors.New("sub is empty, too long, or not plain text")
	}
	out := Identity{Subject: id.Subject, Groups: c.Groups, Nonce: id.Nonce, Payload: payload, Until: id.IssuedAt.Add(idTokenAge)}
	if c.AuthTime != 0 {
		out.AuthTime = time.Unix(c.AuthTime, 0).UTC()
		if out.AuthTime.After(now.Add(tokens.Skew)) || now.Sub(out.AuthTime) > maxAuthAge {
			return Identity{}, fmt.Errorf("auth_time: the login is in the future or older than %s", maxAuthAge)
		}
	}
	size := 0
	for _, g := range c.Groups {
		if !PlainText(g, 256) {
			return Identity{}, errors.New("groups: a name is empty, too long, or not plain text")
		}
		size += len(g) + 3
	}
	if size > maxGroups {
		return Identity{}, fmt.Errorf("groups: over %d bytes: let the provider send those that policies use", maxGroups)
	}
	return out, nil
}

// PlainText says whether s can be shown to people as it is.
func PlainText(s string, most int) bool {
	if s == "" || len(s) > most || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsGraphic(r) {
			return false
		}
	}
	return true
}

var errLimited = errors.New("too many unknown keys lately")

// limitedTransport bounds what strangers can make us fetch: every token with an unknown key id, or a bad signature, costs a fetch.
type limitedTransport struct {
	inner http.RoundTripper
	now   func() time.Time

	mu     sync.Mutex
	tokens float64
	last   time.Time
}

func (t *limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !safe(r.URL) {
		return nil, fmt.Errorf("refuse to fetch %s: neither https nor loopback", r.URL.Redacted())
	}
	if !t.take() {
		return nil, errLimited
	}
	resp, err := t.inner.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxFetch), resp.Body}
	return resp, nil
}

func (t *limitedTransport) take() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if elapsed := t.now().Sub(t.last); elapsed > 0 {
		t.tokens = min(fetchBurst, t.tokens+float64(elapsed)/float64(fetchInterval))
	}
	t.last = t.now()
	if t.tokens < 1 {
		return false
	}
	t.tokens--
	return true
}
