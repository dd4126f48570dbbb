package state

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/secret"
)

// Login is a principal's: the key, and the access token that is bound to it.
type Login struct {
	URL     string // of the broker, with its pin
	Key     *ecdsa.PrivateKey
	Token   secret.Secret
	Expires time.Time // of the token
	Grant   time.Time // when the login itself ends, as last heard
	Lineage access.Lineage
	// Capability is what the token carries.
	Capability access.Capability
}

// With is the login after the broker answered with a fresh token at now.
func (l Login) With(t api.TokenResponse, now time.Time) Login {
	l.Token = secret.New(t.AccessToken)
	l.Expires = now.Add(time.Duration(t.ExpiresIn) * time.Second).UTC()
	l.Grant = t.GrantExpires.UTC()
	l.Lineage = t.Lineage
	l.Capability = t.Capability
	return l
}

// String keeps key and token out of whatever prints a login.
func (l Login) String() string { return "login of " + l.Lineage.Principal }

// GoString does the same for %#v.
func (l Login) GoString() string { return l.String() }

// MarshalJSON does the same for encoding/json, which would write the key.
func (l Login) MarshalJSON() ([]byte, error) { return json.Marshal(l.String()) }

// stored is login.json.
type stored struct {
	V          int               `json:"v"`
	URL        string            `json:"url"`
	Key        []byte            `json:"key"` // PKCS #8
	Token      string            `json:"token"`
	Expires    time.Time         `json:"expires"`
	Grant      time.Time         `json:"grant_expires"`
	Lineage    access.Lineage    `json:"lineage"`
	Capability access.Capability `json:"capability"`
}

const (
	loginFile = "login.json"
	lockFile  = "lock"
	// maxFile bounds what is read: a token is at most 8 KiB, a lineage of 8 nodes far less than the rest.
	maxFile = 256 << 10
)

// NeedLogin is the error of having no login.
func NeedLogin(why string) error {
	return api.Because(api.ErrLogin, "run `sallyport login`", "%s", why)
}

// Load reads the login; without one the error is of kind api.ErrLogin.
func (d Dir) Load() (Login, error) {
	b, err := d.read(loginFile)
	if errors.Is(err, fs.ErrNotExist) {
		return Login{}, NeedLogin("not logged in")
	}
	if err != nil {
		return Login{}, fmt.Errorf("load login: %w", err)
	}
	l, err := decodeLogin(b)
	if err != nil {
		return Login{}, fmt.Errorf("load login %s: %w (log in again with `sallyport login`)", d.path(loginFile), err)
	}
	return l, nil
}

func decodeLogin(b []byte) (Login, error) {
	var s stored
	if err := decodeStrict(b, &s); err != nil {
		return Login{}, err
	}
	if s.V != 1 {
		return Login{}, fmt.Errorf("version %d is not 1", s.V)
	}
	k, err := x509.ParsePKCS8PrivateKey(s.Key)
	if err != nil {
		return Login{}, errors.New("the key cannot be read")
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return Login{}, errors.New("the key is not a P-256 key")
	}
	if s.URL == "" || s.Token == "" || len(s.Lineage.Path) == 0 {
		return Login{}, errors.New("something is missing in it")
	}
	return Login{
		URL: s.URL, Key: key, Token: secret.New(s.Token), Expires: s.Expires, Grant: s.Grant,
		Lineage: s.Lineage, Capability: s.Capability,
	}, nil
}

func decodeStrict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// Save replaces the login, durably and at once.
func (d Dir) Save(l Login) error {
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return d.save(l)
}

func (d Dir) save(l Login) error {
	der, err := x509.MarshalPKCS8PrivateKey(l.Key)
	if err != nil {
		return fmt.Errorf("save login: %w", err)
	}
	b, err := json.Marshal(stored{
		V: 1, URL: l.URL, Key: der, Token: l.Token.Reveal(), Expires: l.Expires, Grant: l.Grant,
		Lineage: l.Lineage, Capability: l.Capability,
	})
	if err != nil {
		return fmt.Errorf("save login: %w", err)
	}
	if err := d.write(loginFile, b); err != nil {
		return fmt.Errorf("save login: %w", err)
	}
	return nil
}

// Forget removes the login. Having none is no error.
func (d Dir) Forget() error {
	if err := d.remove(loginFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget login: %w", err)
	}
	return nil
}

// Update loads the login, lets change make a newer one, and saves it, while no other process does the same. If change returns
// false nothing is saved.
func (d Dir) Update(change func(Login) (Login, bool, error)) (Login, error) {
	unlock, err := d.lock()
	if err != nil {
		return Login{}, err
	}
	defer unlock()
	l, err := d.Load()
	if err != nil {
		return Login{}, err
	}
	next, changed, err := change(l)
	if err != nil {
		return Login{}, err
	}
	if !changed {
		return l, nil
	}
	return next, d.save(next)
}
