// Command lambda runs functions/changes behind a Lambda function URL.
// It refuses to start with a setting missing.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"

	"github.com/sallyport/sallyport/functions/changes"
	"github.com/sallyport/sallyport/internal/lambda"
	"github.com/sallyport/sallyport/internal/stack"
)

func main() {
	err := lambda.Serve("changes", os.Getenv, handler)
	fmt.Fprintln(os.Stderr, "changes:", err) // it returns only before it has begun
	os.Exit(1)
}

func handler(ctx context.Context, getenv lambda.Getenv, log *slog.Logger) (http.Handler, error) {
	s := stack.Open(getenv)
	c := changes.Config{Items: s.Items(), CA: s.CACertificate(ctx), StateKey: s.StateKey(ctx), Bundles: s.Bundles(), Log: log}
	if err := s.Err(); err != nil {
		return nil, err
	}
	return changes.New(c)
}
