package keyfile_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/internal/keyfile"
)

func TestSignerIsTheSameAfterReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	digest := sha256.Sum256([]byte("x"))
	var sig []byte
	for i := range 2 {
		keys, err := keyfile.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		s, err := keys.Signer("token")
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if sig, err = s.Sign(t.Context(), digest[:]); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Sign(t.Context(), []byte("short")); err == nil {
				t.Fatal("signed something that is not a digest")
			}
			continue
		}
		if !ecdsa.VerifyASN1(s.Public(), digest[:], sig) {
			t.Fatal("another key after reopening")
		}
	}
}

func TestConcurrentFirstUseMakesOneKey(t *testing.T) {
	dir := t.TempDir()
	secrets := make([][]byte, 20)
	var wg sync.WaitGroup
	for i := range secrets {
		wg.Go(func() {
			keys, err := keyfile.Open(dir)
			if err != nil {
				t.Error(err)
				return
			}
			if secrets[i], err = keys.Secret("state"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, s := range secrets {
		if len(s) != 32 || !bytes.Equal(s, secrets[0]) {
			t.Fatal("two secrets under one name")
		}
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	keys, err := keyfile.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "../x", "A", "a/b"} {
		if _, err := keys.Secret(name); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
	if _, err := keys.Signer("ca"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "ca.pem")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Signer("ca"); err == nil {
		t.Error("a key that everybody can read was taken")
	}
	if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Signer("ca"); err == nil {
		t.Error("garbage was taken for a key")
	}
}
