// Command lambda runs functions/seal on a schedule.
// It refuses to start with a setting missing.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/sallyport/sallyport/functions/seal"
	"github.com/sallyport/sallyport/internal/lambda"
	"github.com/sallyport/sallyport/internal/stack"
)

func main() {
	err := lambda.Schedule("seal", os.Getenv, handler)
	fmt.Fprintln(os.Stderr, "seal:", err) // it returns only before it has begun
	os.Exit(1)
}

func handler(ctx context.Context, getenv lambda.Getenv, _ *slog.Logger) (func(context.Context) error, error) {
	s := stack.Open(getenv)
	evidence := s.Evidence()
	c := seal.Config{Items: s.Items(), Feed: s.Feed(), Blobs: evidence, Heads: evidence, Signer: s.Signer(ctx, stack.KeyCheckpoint), Origin: s.Setting(stack.Origin)}
	if err := s.Err(); err != nil {
		return nil, err
	}
	sealer, err := seal.New(c)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		err := sealer.Run(ctx) // first: it must not wait for sessions to be closed, however many there are
		_, lost := sealer.CloseLost(ctx)
		return errors.Join(err, lost)
	}, nil
}
