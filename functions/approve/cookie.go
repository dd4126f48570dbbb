package approve

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// cookies seals what browsers keep for us: AES-256-GCM, the cookie's name as additional data, an expiry inside.
type cookies struct {
	aead    cipher.AEAD
	formKey []byte
	secure  bool
	now     func() time.Time
}

// Names. The __Host- prefix keeps other hosts of a domain from planting them; browsers take it over TLS only.
const (
	flowCookie    = "sallyport_flow"
	sessionCookie = "sallyport_session"
)

// flow is a sign-in under way: it lives between startFlow and the callback.
type flow struct {
	State    string            `json:"s"`
	Nonce    string            `json:"n"`
	Verifier string            `json:"v"`
	Next     string            `json:"p"`           // path on our pages to go on to
	For      access.ApprovalID `json:"a,omitempty"` // the approval that the login is made for
	Started  time.Time         `json:"t"`
}

const flowLife = 10 * time.Minute

// browser is a signed-in browser.
type browser struct {
	ID       string            `json:"i"` // random: form tokens and signing out hang on it
	Subject  string            `json:"s"`
	Groups   []string          `json:"g,omitempty"`
	AuthTime time.Time         `json:"t"`
	For      access.ApprovalID `json:"a,omitempty"` // what the login was made for: good for that verdict alone
}

const browserLife = time.Hour

type sealed struct {
	Until time.Time       `json:"u"`
	V     json.RawMessage `json:"v"`
}

func newCookies(stateKey []byte, secure bool, now func() time.Time) (cookies, error) {
	seal, err := hkdf.Key(sha256.New, stateKey, nil, "sallyport approve cookies v1", 32)
	if err != nil {
		return cookies{}, fmt.Errorf("cookie key: %w", err)
	}
	form, err := hkdf.Key(sha256.New, stateKey, nil, "sallyport approve forms v1", 32)
	if err != nil {
		return cookies{}, fmt.Errorf("form key: %w", err)
	}
	block, err := aes.NewCipher(seal)
	if err != nil {
		return cookies{}, fmt.Errorf("cookie key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	return cookies{aead: aead, formKey: form, secure: secure, now: now}, err
}

func (c cookies) name(n string) string {
	if c.secure {
		return "__Host-" + n
	}
	return n
}

func (c cookies) set(w http.ResponseWriter, name string, v any, life time.Duration) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode cookie: %w", err)
	}
	plain, err := json.Marshal(sealed{Until: c.now().Add(life), V: body})
	if err != nil {
		return fmt.Errorf("encode cookie: %w", err)
	}
	nonce := make([]byte, c.aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails (crypto/rand since Go 1.24)
	value := base64.RawURLEncoding.EncodeToString(c.aead.Seal(nonce, nonce, plain, []byte(name)))
	if len(value) > 3800 { // browsers keep 4096 bytes of a cookie
		return errors.New("cookie: the names and groups of this login are too long for a cookie")
	}
	// Lax: the identity provider's redirect and a link in a mail must bring it along; changes need a POST from our own page.
	http.SetCookie(w, &http.Cookie{Name: c.name(name), Value: value, Path: "/", HttpOnly: true, Secure: c.secure, SameSite: http.SameSiteLaxMode, MaxAge: int(life.Seconds())})
	return nil
}

func (c cookies) clear(w http.ResponseWriter, name string) {
	http.SetCookie(w, &http.Cookie{Name: c.name(name), Path: "/", HttpOnly: true, Secure: c.secure, SameSite: http.SameSiteLaxMode, MaxAge: -1})
}

// get opens a cookie; false where there is none, or one that is not ours, or that is over.
func (c cookies) get(r *http.Request, name string, v any) bool {
	k, err := r.Cookie(c.name(name))
	if err != nil {
		return false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(k.Value)
	if err != nil || len(raw) < c.aead.NonceSize() {
		return false
	}
	plain, err := c.aead.Open(nil, raw[:c.aead.NonceSize()], raw[c.aead.NonceSize():], []byte(name))
	if err != nil {
		return false
	}
	var s sealed
	return json.Unmarshal(plain, &s) == nil && c.now().Before(s.Until) && json.Unmarshal(s.V, v) == nil
}

// formToken ties a form to the browser that it was made for and to what it is about.
func (c cookies) formToken(b browser, about string) string {
	h := hmac.New(sha256.New, c.formKey)
	_, _ = fmt.Fprintf(h, "%s\x00%s", b.ID, about) // a hash takes everything
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

func (c cookies) checkForm(b browser, about, got string) bool {
	return b.ID != "" && hmac.Equal([]byte(c.formToken(b, about)), []byte(got))
}
