// Package keyfile keeps the broker's keys as files in one directory: the embedded twin of KMS.
// It refuses files that others may read, and keys of another kind than it makes.
package keyfile

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/sallyport/sallyport/internal/store"
)

// Keys is a directory of keys. Each is made at its first use; two processes that make one at once end up with the same.
type Keys struct{ dir string }

var nameShape = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// Open makes the directory where it is missing (mode 0700).
func Open(dir string) (*Keys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open keys: %w", err)
	}
	return &Keys{dir: dir}, nil
}

// Signer returns the P-256 key of that name.
func (k *Keys) Signer(name string) (store.Signer, error) {
	b, err := k.load(name+".pem", "EC PRIVATE KEY", func() ([]byte, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return x509.MarshalECPrivateKey(key)
	}, name)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParseECPrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", name, err)
	}
	if key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("key %s: curve %s, want P-256", name, key.Curve.Params().Name)
	}
	return signer{key}, nil
}

// Secret returns the 32 random bytes of that name.
func (k *Keys) Secret(name string) ([]byte, error) {
	b, err := k.load(name+".secret", "SALLYPORT SECRET", func() ([]byte, error) {
		b := make([]byte, 32)
		_, err := rand.Read(b)
		return b, err
	}, name)
	if err != nil {
		return nil, err
	}
	if len(b) != 32 {
		return nil, fmt.Errorf("secret %s: %d bytes, want 32", name, len(b))
	}
	return b, nil
}

type signer struct{ key *ecdsa.PrivateKey }

func (s signer) Public() *ecdsa.PublicKey { return &s.key.PublicKey }

func (s signer) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if len(digest) != 32 {
		return nil, fmt.Errorf("sign: digest has %d bytes, want 32", len(digest))
	}
	return ecdsa.SignASN1(rand.Reader, s.key, digest)
}

// load reads a key's file, or makes it: written aside, linked into place, so that it is whole or not there.
func (k *Keys) load(file, kind string, fresh func() ([]byte, error), name string) ([]byte, error) {
	if !nameShape.MatchString(name) {
		return nil, fmt.Errorf("key name %q: want 1 to 32 of a-z, 0-9 and '-', starting with a letter", name)
	}
	path := filepath.Join(k.dir, file)
	b, err := read(path, kind)
	if !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	if b, err = fresh(); err != nil {
		return nil, fmt.Errorf("make key %s: %w", name, err)
	}
	if err := write(k.dir, path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})); err != nil {
		return nil, fmt.Errorf("make key %s: %w", name, err)
	}
	return read(path, kind)
}

func read(path, kind string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read key %s: mode %04o lets others read it; want 0600", path, info.Mode().Perm())
	}
	if info.Size() > 64<<10 {
		return nil, fmt.Errorf("read key %s: too large", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != kind || len(rest) != 0 {
		return nil, fmt.Errorf("read key %s: not one PEM block of type %q", path, kind)
	}
	return block.Bytes, nil
}

func write(dir, path string, b []byte) (err error) {
	f, err := os.CreateTemp(dir, ".tmp-") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
