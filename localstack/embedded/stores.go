package embedded

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"time"

	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/keyfile"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/store"
)

// CopiesDir is where the evidence lies a second time below a data directory, as Parquet.
const CopiesDir = "copies"

// stores are what the handlers stand on: the embedded twins, or those of a local AWS.
type stores struct {
	items interface {
		store.Items
		store.Feed
	}
	evidence, copies interface {
		store.Blobs
		store.Heads
	}
	blobs store.Blobs
	keys  keys
	// uploads takes commands that fit no call, for a broker at base; its handler serves them where nothing else does.
	uploads func(base string) (store.Uploads, http.Handler, error)
	close   func() error
}

// keys are by name: token, ca and checkpoint sign, state is a secret of 32 bytes.
type keys interface {
	Signer(name string) (store.Signer, error)
	Secret(name string) ([]byte, error)
}

func openStores(ctx context.Context, c Config) (*stores, error) {
	if c.AWS != "" {
		return openAWS(ctx, c.Dir, c.AWS, c.AWSTables)
	}
	return openTwins(c.Dir)
}

// openTwins opens SQLite, directories and key files below a directory.
func openTwins(where string) (*stores, error) {
	keys, err := keyfile.Open(filepath.Join(where, "broker", "keys"))
	if err != nil {
		return nil, err
	}
	items, err := sqlite.Open(filepath.Join(where, "broker", "store.db"))
	if err != nil {
		return nil, err
	}
	blobs, err := dir.Open(filepath.Join(where, "broker", "blobs"))
	if err != nil {
		return nil, errors.Join(err, items.Close())
	}
	evidence, err := dir.Open(filepath.Join(where, "evidence"))
	if err != nil {
		return nil, errors.Join(err, items.Close(), blobs.Close())
	}
	copies, err := dir.Open(filepath.Join(where, CopiesDir))
	if err != nil {
		return nil, errors.Join(err, items.Close(), blobs.Close(), evidence.Close())
	}
	uploads := func(base string) (store.Uploads, http.Handler, error) {
		key, err := keys.Secret("upload")
		u := &dir.Uploads{Dir: blobs, Base: base, Key: key, Now: time.Now}
		return u, u, err
	}
	return &stores{items: items, evidence: evidence, copies: copies, blobs: blobs, keys: keys, uploads: uploads,
		close: func() error { return errors.Join(items.Close(), blobs.Close(), evidence.Close(), copies.Close()) }}, nil
}
