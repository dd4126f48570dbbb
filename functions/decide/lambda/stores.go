package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport/sallyport/functions/decide"
	"github.com/sallyport/sallyport/internal/bundles"
	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/keyfile"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/token"
)

// bundleRefresh is how long a replaced policy may still decide.
const bundleRefresh = time.Second

// epoch is that of a store that was never restored: tokens of another one are refused.
const epoch = 1

// open opens the stores that a URL names. "dir:PATH" is the embedded layout, for one instance on a disk of its own.
func open(ctx context.Context, store, issuer string) (c decide.Config, err error) {
	path, ok := strings.CutPrefix(store, "dir:")
	if !ok || path == "" {
		return c, fmt.Errorf("SALLYPORT_STORE=%q: this build has adapters for dir:PATH alone", store)
	}
	items, err := sqlite.Open(filepath.Join(path, "store.db"))
	if err != nil {
		return c, err
	}
	defer func() {
		if err != nil {
			_ = items.Close() // err says what went wrong first
		}
	}()
	blobs, err := dir.Open(filepath.Join(path, "blobs"))
	if err != nil {
		return c, err
	}
	keys, err := keyfile.Open(filepath.Join(path, "keys"))
	if err != nil {
		return c, err
	}
	tokens, err := keys.Signer("token")
	if err != nil {
		return c, err
	}
	caKey, err := keys.Signer("ca")
	if err != nil {
		return c, err
	}
	ca, err := token.LoadCA(ctx, items, caKey, time.Now())
	if err != nil {
		return c, err
	}
	state, err := keys.Secret("state")
	if err != nil {
		return c, err
	}
	return decide.Config{Items: items, Bundles: bundles.NewSource(items, blobs, bundleRefresh), CA: ca.Cert(), StateKey: state,
		Verifier: token.NewVerifier(issuer, epoch, tokens.Public())}, nil
}
