package idp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/oklog/ulid/v2"
)

// Config is what a Provider needs.
type Config struct {
	Issuer  string // URL where the handler is served, without a slash at the end
	Dir     string // holds the signing key; made with mode 0700
	Clients []Client
	Users   []User
	Now     func() time.Time // nil: time.Now
}

// Client may send people here. All clients are public: they prove themselves by PKCE alone.
type Client struct {
	ID           string
	RedirectURIs []string // exact; of one on a loopback address the port is not compared (RFC 8252 section 7.3)
}

// User can log in. An empty password never matches.
type User struct {
	Name     string
	Groups   []string
	Password string
}

// Limits.
const (
	tokenLife   = 5 * time.Minute // of an ID token
	codeLife    = time.Minute
	sessionLife = 8 * time.Hour
	maxKept     = 1000 // codes, and sessions, at a time
	maxForm     = 16 << 10
)

// Provider is the http.Handler of one issuer.
type Provider struct {
	c   Config
	key *ecdsa.PrivateKey
	mux *http.ServeMux

	mu       sync.Mutex
	codes    map[string]grant
	sessions map[string]session
	guesses  map[string]int // wrong passwords in a row, by user
}

// grant is what an authorization code stands for.
type grant struct {
	client, redirect, challenge, nonce string
	user                               User
	auth, expires                      time.Time
}

// session is a browser's login, for single sign-on.
type session struct {
	user User
	auth time.Time
}

// New reads or makes the key and returns the provider.
func New(c Config) (*Provider, error) {
	u, err := url.Parse(c.Issuer)
	if err != nil || u.Host == "" || u.Path != "" {
		return nil, fmt.Errorf("identity provider: issuer %q is not a URL without path", c.Issuer)
	}
	key, err := loadKey(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("identity provider: %w", err)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	p := &Provider{c: c, key: key, mux: http.NewServeMux(), codes: map[string]grant{}, sessions: map[string]session{}, guesses: map[string]int{}}
	p.mux.HandleFunc("GET /.well-known/openid-configuration", p.discovery)
	p.mux.HandleFunc("GET /jwks", p.jwks)
	p.mux.HandleFunc("GET /authorize", p.authorize)
	p.mux.HandleFunc("POST /authorize", p.authorize)
	p.mux.HandleFunc("POST /token", p.token)
	return p, nil
}

// ServeHTTP serves discovery, keys, the login page and the token endpoint.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	p.mux.ServeHTTP(w, r)
}

func (p *Provider) discovery(w http.ResponseWriter, _ *http.Request) {
	write(w, http.StatusOK, map[string]any{
		"issuer": p.c.Issuer, "authorization_endpoint": p.c.Issuer + "/authorize", "token_endpoint": p.c.Issuer + "/token", "jwks_uri": p.c.Issuer + "/jwks",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"ES256"},
		"code_challenge_methods_supported": []string{"S256"}, "token_endpoint_auth_methods_supported": []string{"none"},
		"grant_types_supported": []string{"authorization_code"}, "scopes_supported": []string{"openid", "groups"}, "prompt_values_supported": []string{"none", "login"},
		"claims_supported": []string{"sub", "groups", "auth_time", "nonce"},
		"authorization_response_iss_parameter_supported": true,
	})
}

func (p *Provider) jwks(w http.ResponseWriter, _ *http.Request) {
	write(w, http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public(p.key)}})
}

func write(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b) // the client went away: there is nobody to tell
}

// TokenRequest says what an ID token shall say.
type TokenRequest struct {
	Issuer   string
	ClientID string
	User     string
	Groups   []string
	Nonce    string    // "" leaves it out
	AuthTime time.Time // zero: Now
	Now      time.Time
}

// Mint signs an ID token with the key in dir, whether or not a Provider runs: for scripts on the same machine, whose file permissions
// decide who may.
func Mint(dir string, t TokenRequest) (string, error) {
	if t.Issuer == "" || t.ClientID == "" || t.User == "" || t.Now.IsZero() {
		return "", errors.New("mint ID token: issuer, client, user and time are required")
	}
	key, err := loadKey(dir)
	if err != nil {
		return "", fmt.Errorf("mint ID token: %w", err)
	}
	return mint(key, t)
}

// IDToken signs an ID token as the provider itself would.
func (p *Provider) IDToken(t TokenRequest) (string, error) {
	t.Issuer = p.c.Issuer
	if t.Now.IsZero() {
		t.Now = p.c.Now()
	}
	return mint(p.key, t)
}

type idToken struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience string   `json:"aud"`
	IssuedAt int64    `json:"iat"`
	Expires  int64    `json:"exp"`
	AuthTime int64    `json:"auth_time"`
	ID       string   `json:"jti"`
	Nonce    string   `json:"nonce,omitempty"`
	Groups   []string `json:"groups,omitempty"`
}

func mint(key *ecdsa.PrivateKey, t TokenRequest) (string, error) {
	if t.AuthTime.IsZero() {
		t.AuthTime = t.Now
	}
	payload, err := json.Marshal(idToken{
		Issuer: t.Issuer, Subject: t.User, Audience: t.ClientID, IssuedAt: t.Now.Unix(), Expires: t.Now.Add(tokenLife).Unix(), AuthTime: t.AuthTime.Unix(),
		ID: ulid.Make().String(), Nonce: t.Nonce, Groups: t.Groups,
	})
	if err != nil {
		return "", fmt.Errorf("encode ID token: %w", err)
	}
	jwk := jose.JSONWebKey{Key: key, KeyID: public(key).KeyID}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jwk}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("sign ID token: %w", err)
	}
	jws, err := s.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign ID token: %w", err)
	}
	return jws.CompactSerialize()
}

// public is the public half, named by its thumbprint.
func public(key *ecdsa.PrivateKey) jose.JSONWebKey {
	k := jose.JSONWebKey{Key: &key.PublicKey, Algorithm: string(jose.ES256), Use: "sig"}
	if t, err := k.Thumbprint(crypto.SHA256); err == nil {
		k.KeyID = base64.RawURLEncoding.EncodeToString(t)
	}
	return k
}

const keyFile = "idp.pem"

// loadKey reads the key in dir, or makes it: written aside and linked into place, so that of two that make one at once both use the same.
func loadKey(dir string) (*ecdsa.PrivateKey, error) {
	if dir == "" {
		return nil, errors.New("no directory for the key")
	}
	path := filepath.Join(dir, keyFile)
	key, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("key directory: %w", err)
	}
	fresh, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(fresh)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	tmp, err := os.CreateTemp(dir, keyFile+".*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // linked by then, or not wanted
	_, err = tmp.Write(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return readKey(path)
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 || info.Size() > 4<<10 {
		return nil, fmt.Errorf("read key: %s can be read by others, or is no key", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "EC PRIVATE KEY" {
		return nil, fmt.Errorf("read key: %s holds no EC private key", path)
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	return key, nil
}

// redirects says whether a client may be answered at uri.
func (c Client) redirects(uri string) bool {
	u, err := url.Parse(uri)
	if err != nil || u.Fragment != "" || u.User != nil {
		return false
	}
	for _, known := range c.RedirectURIs {
		if uri == known {
			return true
		}
		k, err := url.Parse(known)
		if err != nil {
			continue
		}
		if ip := net.ParseIP(k.Hostname()); ip != nil && ip.IsLoopback() && k.Port() == "" && u.Scheme == k.Scheme && u.Hostname() == k.Hostname() &&
			u.Path == k.Path && u.RawQuery == k.RawQuery {
			return true
		}
	}
	return false
}
