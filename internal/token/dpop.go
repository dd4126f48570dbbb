package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

// HeaderDPoP carries a proof of possession (RFC 9449); SchemeDPoP stands before the access token in Authorization.
const (
	HeaderDPoP = "DPoP"
	SchemeDPoP = "DPoP"
)

type dpopClaims struct {
	ID       string `json:"jti"`
	Method   string `json:"htm"`
	URL      string `json:"htu"`
	IssuedAt int64  `json:"iat"`
	Hash     string `json:"ath,omitempty"`
}

// SignDPoP proves, for one request, possession of key. url is the request's, without query and fragment. accessToken is empty
// only where there is none yet, at login.
func SignDPoP(key *ecdsa.PrivateKey, method, url, accessToken string, now time.Time) (string, error) {
	c := dpopClaims{ID: NewRandom(), Method: method, URL: url, IssuedAt: now.Unix()}
	if accessToken != "" {
		c.Hash = HashToken(accessToken)
	}
	raw, err := signEmbedded(key, typDPoP, c)
	if err != nil {
		return "", fmt.Errorf("DPoP proof: %w", err)
	}
	return raw, nil
}

// Possession is a verified DPoP proof.
type Possession struct {
	Thumbprint string
	Used       store.Write // put it: store.ErrConflict means that the proof was used before
}

// VerifyDPoP verifies the proof of a request, without any I/O. base is the broker's own public URL: what the client thinks it is
// calling must be that, whatever a proxy made of the request. accessToken is what the proof must be bound to.
func VerifyDPoP(r *http.Request, base, accessToken string, now time.Time) (Possession, error) {
	hs := r.Header.Values(HeaderDPoP)
	if len(hs) != 1 {
		return Possession{}, api.Because(api.ErrLogin, "", "want exactly one DPoP proof, got %d", len(hs))
	}
	p, err := verifyDPoP(hs[0], r.Method, r.URL.EscapedPath(), base, accessToken, now)
	if err != nil {
		return Possession{}, api.Because(api.ErrLogin, "", "DPoP proof: %v", err)
	}
	return p, nil
}

func verifyDPoP(raw, method, path, base, accessToken string, now time.Time) (Possession, error) {
	var c dpopClaims
	jkt, err := verifyEmbedded(raw, typDPoP, &c)
	if err != nil {
		return Possession{}, err
	}
	hash := ""
	if accessToken != "" {
		hash = HashToken(accessToken)
	}
	switch {
	case c.Method != method:
		return Possession{}, fmt.Errorf("made for method %q", c.Method)
	case !sameURL(c.URL, base, path):
		return Possession{}, fmt.Errorf("made for %q", c.URL)
	case subtle.ConstantTimeCompare([]byte(c.Hash), []byte(hash)) != 1:
		return Possession{}, errors.New("made for another access token")
	case !within(c.IssuedAt, now):
		return Possession{}, fmt.Errorf("its time is more than %s from ours: set the clock", Window)
	case len(c.ID) < 16 || len(c.ID) > 128:
		return Possession{}, errors.New("its jti is not 16 to 128 bytes")
	}
	return Possession{Thumbprint: jkt, Used: UsedOnce("jti", []byte(jkt+"\x00"+c.ID), time.Unix(c.IssuedAt, 0).Add(Window))}, nil
}

// sameURL compares a proof's URL with our own, normalised as RFC 9449 section 4.3 says. A query or fragment is not ours.
func sameURL(htu, base, path string) bool {
	a, err := url.Parse(htu)
	if err != nil || a.User != nil || a.RawQuery != "" || a.ForceQuery || a.Fragment != "" || strings.HasSuffix(htu, "#") {
		return false
	}
	b, err := url.Parse(base)
	if err != nil || b.Host == "" {
		return false
	}
	return strings.EqualFold(a.Scheme, b.Scheme) && host(a) == host(b) && a.EscapedPath() == strings.TrimSuffix(b.EscapedPath(), "/")+path
}

func host(u *url.URL) string {
	port := u.Port()
	if port == "" {
		switch strings.ToLower(u.Scheme) {
		case "https":
			port = "443"
		case "http":
			port = "80"
		}
	}
	return strings.ToLower(u.Hostname()) + " " + port
}

// UsedOnce is the put-if-absent that makes something single use. It is kept for as long as the thing itself would still be
// accepted, and a minute more for clocks that differ.
func UsedOnce(kind string, what []byte, until time.Time) store.Write {
	h := sha256.Sum256(what)
	return store.Write{Table: store.Grants, Item: store.Item{
		Key: store.Key{PK: kind + "#" + encode(h[:]), SK: kind}, Expires: until.Add(time.Minute).Truncate(time.Second), Body: []byte(`{}`),
	}}
}

// Spend stores a used-once write. A second time is ErrConflict's kind of api error; a store that does not answer refuses too.
func Spend(ctx context.Context, items store.Items, w store.Write, what string) error {
	switch err := items.Put(ctx, w); {
	case errors.Is(err, store.ErrConflict):
		return api.Because(api.ErrConflict, "", "%s was used before", what)
	case err != nil:
		return fmt.Errorf("%w: %w", api.Because(api.ErrUnavailable, "try again", "the store did not answer"), err)
	}
	return nil
}

// Bearer takes the access token out of "Authorization: DPoP TOKEN".
func Bearer(r *http.Request) (string, error) {
	hs := r.Header.Values("Authorization")
	if len(hs) != 1 {
		return "", api.Because(api.ErrLogin, loginHint, "no access token")
	}
	scheme, raw, ok := strings.Cut(hs[0], " ")
	if !ok || !strings.EqualFold(scheme, SchemeDPoP) || raw == "" {
		return "", api.Because(api.ErrLogin, loginHint, "the authorization is not a DPoP-bound token")
	}
	return raw, nil
}

// Request authenticates a request of a principal or actor: its access token, and the proof that the caller holds the token's key,
// each signature verified before any I/O, the proof good once. Whether the lineage is alive is asked with Live.
func (v *Verifier) Request(ctx context.Context, r *http.Request, base string, items store.Items, now time.Time) (Claims, error) {
	return v.request(ctx, r, base, items, now, v.Access)
}

// RenewRequest is Request for a token that is Renewable: only for renewing it.
func (v *Verifier) RenewRequest(ctx context.Context, r *http.Request, base string, items store.Items, now time.Time) (Claims, error) {
	return v.request(ctx, r, base, items, now, v.Renewable)
}

func (v *Verifier) request(ctx context.Context, r *http.Request, base string, items store.Items, now time.Time, verify func(string, time.Time) (Claims, error)) (Claims, error) {
	raw, err := Bearer(r)
	if err != nil {
		return Claims{}, err
	}
	c, err := verify(raw, now)
	if err != nil {
		return Claims{}, err
	}
	p, err := VerifyDPoP(r, base, raw, now)
	if err != nil {
		return Claims{}, err
	}
	if subtle.ConstantTimeCompare([]byte(p.Thumbprint), []byte(c.Thumbprint)) != 1 {
		return Claims{}, api.Because(api.ErrLogin, loginHint, "the access token is bound to another key")
	}
	if err := Spend(ctx, items, p.Used, "the DPoP proof"); err != nil {
		return Claims{}, err
	}
	return c, nil
}
