// Command lambda runs functions/seal on a schedule.
// It refuses to start with a setting missing.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/aws/aws-lambda-go/lambda"

	"github.com/sallyport/sallyport/functions/seal"
	"github.com/sallyport/sallyport/internal/stack"
)

func main() {
	f, err := handler(context.Background(), os.Getenv)
	if err != nil {
		fmt.Fprintln(os.Stderr, "seal:", err)
		os.Exit(1)
	}
	lambda.Start(f)
}

func handler(ctx context.Context, getenv func(string) string) (func(context.Context) error, error) {
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
		_, lost := sealer.CloseLost(ctx) // whatever becomes of it, entries are sealed
		_, err := sealer.Seal(ctx)
		return errors.Join(lost, err)
	}, nil
}
