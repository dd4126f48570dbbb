package state

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

func sample(t *testing.T) Login {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return Login{URL: "https://b/#ca=x", Key: k}.With(api.TokenResponse{
		AccessToken: "token-canary", ExpiresIn: 300, GrantExpires: time.Unix(2000, 0),
		Lineage:    access.Lineage{Principal: "alice", Path: []access.Node{{ID: "R", Name: "alice"}}},
		Capability: access.Everything(),
	}, time.Unix(1000, 0))
}

func open(t *testing.T) Dir {
	t.Helper()
	d, err := Open(filepath.Join(t.TempDir(), "a", "b"), "")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestLoginComesBack(t *testing.T) {
	d := open(t)
	if _, err := d.Load(); !errors.Is(err, api.ErrLogin) {
		t.Errorf("before login: %v", err)
	}
	want := sample(t)
	if err := d.Save(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	if !got.Key.Equal(want.Key) || got.Token.Reveal() != "token-canary" || !got.Expires.Equal(time.Unix(1300, 0)) || got.Lineage.Root() != "R" || got.URL != want.URL {
		t.Errorf("got %+v", got)
	}
	for file, mode := range map[string]os.FileMode{".": 0o700, loginFile: 0o600, lockFile: 0o600} {
		if fi, err := os.Stat(d.path(file)); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v, want %o", file, fi.Mode(), err, mode)
		}
	}
	if err := errors.Join(d.Forget(), d.Forget()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Load(); !errors.Is(err, api.ErrLogin) {
		t.Errorf("after logout: %v", err)
	}
}

func TestNothingPrintsSecrets(t *testing.T) {
	l := sample(t)
	b, err := json.Marshal(map[string]any{"l": l, "s": l.Token})
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %+v %#v %s", l, l, l, b) + fmt.Sprintf("%v %+v %#v %x %d", l.Token, l.Token, l.Token, l.Token, l.Token)
	raw, err := l.Key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	d := new(big.Int).SetBytes(raw)
	for _, secret := range []string{"token-canary", d.String(), d.Text(16)} {
		if strings.Contains(all, secret) {
			t.Errorf("%s is in %s", secret, all)
		}
	}
}

func TestOthersMustNotLookIn(t *testing.T) {
	d := open(t)
	if err := d.Save(sample(t)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(d.path(loginFile), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Load(); err == nil || !strings.Contains(err.Error(), "others can look into it") {
		t.Errorf("a file of mode 0640: %v", err)
	}
	if err := os.Chmod(d.name, 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(d.name, ""); err == nil || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("a directory of mode 0750: %v", err)
	}
	if err := os.Chmod(d.name, 0o700); err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "x")
	if err := errors.Join(os.Rename(d.path(loginFile), elsewhere), os.Chmod(elsewhere, 0o600), os.Symlink(elsewhere, d.path(loginFile))); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Load(); err == nil {
		t.Error("a symbolic link was followed")
	}
}

func TestDecodeLoginRefuses(t *testing.T) {
	d := open(t)
	if err := d.Save(sample(t)); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(d.path(loginFile))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeLogin(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(string) string{
		"unknown field":    func(s string) string { return strings.Replace(s, `{"v"`, `{"x":1,"v"`, 1) },
		"another version":  func(s string) string { return strings.Replace(s, `"v":1`, `"v":2`, 1) },
		"something behind": func(s string) string { return s + "{}" },
		"no token":         func(s string) string { return strings.Replace(s, "token-canary", "", 1) },
		"no lineage":       func(s string) string { return strings.Replace(s, `[{"id":"R","name":"alice"}]`, "[]", 1) },
		"broken key":       func(s string) string { return strings.Replace(s, `"key":"M`, `"key":"A`, 1) },
		"cut":              func(s string) string { return s[:len(s)/2] },
		"empty":            func(string) string { return "" },
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := decodeLogin([]byte(change(string(good)))); err == nil {
				t.Error("taken")
			}
		})
	}
}

func TestUpdateIsAlone(t *testing.T) {
	d := open(t)
	if err := d.Save(sample(t)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := d.Update(func(l Login) (Login, bool, error) {
				l.Expires = l.Expires.Add(time.Second)
				return l, true, nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	l, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Unix(1320, 0); !l.Expires.Equal(want) {
		t.Errorf("%v after 20 changes, want %v", l.Expires, want)
	}
}

func TestPorts(t *testing.T) {
	d := open(t)
	a, remembered, err := d.Port("app")
	if err != nil || remembered || a < firstPort || a >= firstPort+portCount {
		t.Errorf("%d, %v, %v", a, remembered, err)
	}
	if again, _, _ := d.Port("app"); again != a {
		t.Errorf("%d, then %d", a, again)
	}
	if err := errors.Join(d.RememberPort("app", 25000), d.RememberPort("other", 25001)); err != nil {
		t.Fatal(err)
	}
	if p, remembered, err := d.Port("app"); p != 25000 || !remembered || err != nil {
		t.Errorf("%d, %v, %v", p, remembered, err)
	}
	for p, want := range map[int]int{20000: 20001, 29999: 20000, 1024: 20000, 65535: 20000} {
		if got := NextPort(p); got != want {
			t.Errorf("after %d comes %d, want %d", p, got, want)
		}
	}
	for _, bad := range []string{``, `{}`, `{"v":1,"ports":{"app":80}}`, `{"v":1,"ports":{"app":70000}}`, `{"v":1,"x":1}`, `{"v":1}x`} {
		if _, err := decodePorts([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"v":1,"ports":{"app":25000}}`))
	f.Add([]byte(`{"v":1,"url":"https://b","key":"AA==","token":"x","lineage":{"path":[{"id":"R"}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := decodeLogin(b); err == nil && (l.Key == nil || l.Lineage.Root() == "" && len(l.Lineage.Path) == 0) {
			t.Errorf("half a login: %v", l)
		}
		if p, err := decodePorts(b); err == nil {
			for _, port := range p.Ports {
				if port < 1024 || port > 65535 {
					t.Errorf("port %d", port)
				}
			}
		}
	})
}
