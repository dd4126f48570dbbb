package approve

import (
	"context"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

// What a store says when it does not answer is for the log. People hear that there is no answer, and not that something is broken here.

type answering struct{ store.Items }

func (s answering) Get(ctx context.Context, table string, k store.Key, strong bool) (store.Item, error) {
	it, err := s.Items.Get(ctx, table, k, strong)
	return it, answered(err)
}

func (s answering) Put(ctx context.Context, w store.Write) error {
	return answered(s.Items.Put(ctx, w))
}

func (s answering) Transact(ctx context.Context, a, b store.Write) error {
	return answered(s.Items.Transact(ctx, a, b))
}

func (s answering) Query(ctx context.Context, table, pk, prefix, cursor string, limit int) (store.Page, error) {
	page, err := s.Items.Query(ctx, table, pk, prefix, cursor, limit)
	return page, answered(err)
}

type answeringBlobs struct{ store.Blobs }

func (s answeringBlobs) Create(ctx context.Context, name string, b []byte) error {
	return answered(s.Blobs.Create(ctx, name, b))
}

func (s answeringBlobs) Open(ctx context.Context, name string) ([]byte, error) {
	b, err := s.Blobs.Open(ctx, name)
	return b, answered(err)
}

func (s answeringBlobs) List(ctx context.Context, prefix string) ([]string, error) {
	names, err := s.Blobs.List(ctx, prefix)
	return names, answered(err)
}

// answered leaves what is an answer as it is.
func answered(err error) error {
	if err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrTooLarge) {
		return err
	}
	return silent(err, "the store did not answer")
}

func silent(err error, what string) error {
	return fmt.Errorf("%w: %w", api.Because(api.ErrUnavailable, "try again", "%s", what), err)
}
