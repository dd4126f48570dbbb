// Command lambda runs functions/decide behind a Lambda function URL.
// It refuses to start with a setting missing.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"

	"github.com/sallyport/sallyport/functions/decide"
	"github.com/sallyport/sallyport/internal/lambda"
	"github.com/sallyport/sallyport/internal/stack"
)

func main() {
	h, err := handler(context.Background(), os.Getenv, slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	if err != nil {
		fmt.Fprintln(os.Stderr, "decide:", err)
		os.Exit(1)
	}
	lambda.Serve(h)
}

func handler(ctx context.Context, getenv func(string) string, log *slog.Logger) (http.Handler, error) {
	s := stack.Open(getenv)
	c := decide.Config{Items: s.Items(), Bundles: s.Bundles(), Verifier: s.Verifier(ctx), CA: s.CACertificate(ctx), StateKey: s.StateKey(ctx),
		Console: s.Console(), Log: log}
	return s.Serve(func(base string) (http.Handler, error) { c.Base = base; return decide.New(c) })
}
