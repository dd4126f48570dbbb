package ssh

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/internal/access"
)

// signer is the key that the agent shows to clients of a target: made at the first session, kept from then on, so that a client that
// knows it is not asked again.
func (r *Room) signer(target access.TargetName) (ssh.Signer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, ok := r.keys[target]; ok {
		return s, nil
	}
	if err := access.CheckName("target", string(target)); err != nil {
		return nil, fmt.Errorf("host key: %w", err)
	}
	key, err := loadKey(r.dir, string(target)+".key")
	if err != nil {
		return nil, fmt.Errorf("host key of target %s: %w", target, err)
	}
	s, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		return nil, fmt.Errorf("host key of target %s: %w", target, err)
	}
	r.keys[target] = s
	return s, nil
}

// loadKey reads a key, or makes and keeps it. Without a directory it lasts as long as the process.
func loadKey(dir, name string) (ed25519.PrivateKey, error) {
	if dir == "" {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(dir, path)
	}
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(b)
	if block == nil || len(rest) > 0 {
		return nil, fmt.Errorf("%s is no key in PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is no Ed25519 key", path)
	}
	return key, nil
}

// makeKey writes a whole file or none: a key that is lost half-way would lock clients out that have seen it.
func makeKey(dir, path string) (ed25519.PrivateKey, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, ".new-") // mode 0600
	if err != nil {
		return nil, err
	}
	err = pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(f.Name()))
	}
	return key, nil
}
