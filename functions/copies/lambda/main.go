// Command lambda runs functions/copies on a schedule.
// It refuses to start with a setting missing.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/sallyport/sallyport/functions/copies"
	"github.com/sallyport/sallyport/internal/lambda"
	"github.com/sallyport/sallyport/internal/stack"
)

func main() {
	err := lambda.Schedule("copies", os.Getenv, handler)
	fmt.Fprintln(os.Stderr, "copies:", err) // it returns only before it has begun
	os.Exit(1)
}

func handler(_ context.Context, getenv lambda.Getenv, log *slog.Logger) (func(context.Context) error, error) {
	s := stack.Open(getenv)
	c := copies.Config{Log: s.Evidence(), Files: s.Copies()}
	if err := s.Err(); err != nil {
		return nil, err
	}
	copier, err := copies.New(c)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		st, err := copier.Run(ctx)
		log.Info("copies", "log", st.Log, "copied", st.Copied, "files", st.Files)
		return err
	}, nil
}
