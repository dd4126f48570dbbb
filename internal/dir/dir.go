// Package dir keeps blobs and heads as files under one directory: the embedded twin of S3.
// It refuses to overwrite a blob, and names that would leave the directory.
package dir

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/sallyport/sallyport/internal/store"
)

// MaxBlob is the largest blob in bytes that Create takes and Open reads.
const MaxBlob = 64 << 20

// tmpPrefix marks files that a crash may leave behind: List does not show them and Open sweeps nothing but them.
const tmpPrefix = ".tmp-"

// Dir implements store.Blobs and store.Heads. One process may write to a directory; readers may be many.
type Dir struct {
	root *os.Root
	path string
	mu   sync.Mutex // Swap reads, then renames
}

// Open makes the directory where it is missing (mode 0700).
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	return &Dir{root: root, path: path}, nil
}

// Close gives up the directory.
func (d *Dir) Close() error { return d.root.Close() }

// Create writes a new object durably. Equal bytes again are success; other bytes are store.ErrConflict.
func (d *Dir) Create(ctx context.Context, name string, b []byte) error {
	if err := d.check(ctx, name, b); err != nil {
		return err
	}
	tmp, err := d.writeTmp(name, b)
	if err != nil {
		return err
	}
	defer func() { _ = d.root.Remove(tmp) }() // gone already after a rename; a leftover is invisible
	// Link, unlike rename, never replaces.
	err = d.root.Link(tmp, name)
	if errors.Is(err, fs.ErrExist) {
		old, err := d.Open(ctx, name)
		if err != nil {
			return err
		}
		if !bytes.Equal(old, b) {
			return fmt.Errorf("create %s: other bytes are there: %w", name, store.ErrConflict)
		}
		return d.syncParents(name)
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	return d.syncParents(name)
}

// Open returns the whole object or store.ErrNotFound.
func (d *Dir) Open(_ context.Context, name string) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	f, err := d.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open %s: %w", name, store.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer func() { _ = f.Close() }() // read only
	b, err := io.ReadAll(io.LimitReader(f, MaxBlob+1))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	if len(b) > MaxBlob {
		return nil, fmt.Errorf("open %s: over %d bytes: %w", name, MaxBlob, store.ErrTooLarge)
	}
	return b, nil
}

// List returns the names under a prefix, sorted.
func (d *Dir) List(ctx context.Context, prefix string) ([]string, error) {
	var names []string
	err := fs.WalkDir(d.root.FS(), ".", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.Type().IsRegular() && strings.HasPrefix(p, prefix) && !strings.HasPrefix(filepath.Base(p), tmpPrefix) {
			names = append(names, p)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	slices.Sort(names)
	return names, nil
}

// Load returns a head or store.ErrNotFound.
func (d *Dir) Load(ctx context.Context, name string) ([]byte, error) { return d.Open(ctx, name) }

// Swap replaces old by new, or returns store.ErrConflict; old nil means that it must not exist.
func (d *Dir) Swap(ctx context.Context, name string, old, new []byte) error {
	if err := d.check(ctx, name, new); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	was, err := d.Open(ctx, name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		was = nil
	case err != nil:
		return err
	}
	if (was == nil) != (old == nil) || !bytes.Equal(was, old) {
		return fmt.Errorf("swap %s: %w", name, store.ErrConflict)
	}
	tmp, err := d.writeTmp(name, new)
	if err != nil {
		return err
	}
	if err := d.root.Rename(tmp, name); err != nil {
		_ = d.root.Remove(tmp) // the first error says why
		return fmt.Errorf("swap %s: %w", name, err)
	}
	return d.syncParents(name)
}

func (d *Dir) check(ctx context.Context, name string, b []byte) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if len(b) > MaxBlob {
		return fmt.Errorf("write %s: %d bytes: %w", name, len(b), store.ErrTooLarge)
	}
	return checkName(name)
}

func checkName(name string) error {
	if !fs.ValidPath(name) || name == "." || len(name) > 512 || strings.HasPrefix(filepath.Base(name), tmpPrefix) {
		return fmt.Errorf("blob name %q is not a clean relative path", name)
	}
	return nil
}

// writeTmp writes and fsyncs a file beside where name will be.
func (d *Dir) writeTmp(name string, b []byte) (string, error) {
	if err := d.root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	var r [8]byte
	if _, err := rand.Read(r[:]); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	tmp := filepath.Join(filepath.Dir(name), tmpPrefix+hex.EncodeToString(r[:]))
	f, err := d.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		_ = d.root.Remove(tmp) // the first error says why
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return tmp, nil
}

// syncParents makes the name itself durable, up to the root.
func (d *Dir) syncParents(name string) error {
	for p := filepath.Dir(name); ; p = filepath.Dir(p) {
		f, err := d.root.Open(p)
		if err != nil {
			return fmt.Errorf("sync directory of %s: %w", name, err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("sync directory of %s: %w", name, err)
		}
		if p == "." {
			return nil
		}
	}
}
