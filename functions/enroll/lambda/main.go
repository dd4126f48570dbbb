// Command lambda runs functions/enroll behind a Lambda function URL.
// It refuses to start with a setting missing.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"

	"github.com/sallyport/sallyport/functions/enroll"
	"github.com/sallyport/sallyport/internal/lambda"
	"github.com/sallyport/sallyport/internal/stack"
)

func main() {
	h, err := handler(context.Background(), os.Getenv, slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	if err != nil {
		fmt.Fprintln(os.Stderr, "enroll:", err)
		os.Exit(1)
	}
	lambda.Serve(h)
}

func handler(ctx context.Context, getenv func(string) string, log *slog.Logger) (http.Handler, error) {
	s := stack.Open(getenv)
	c := enroll.Config{Items: s.Items(), Verifier: s.Verifier(ctx), CA: s.CA(ctx), Bundles: s.Bundles(), Relays: s.Relays(), Log: log}
	return s.Serve(func(base string) (http.Handler, error) { c.Base = base; return enroll.New(c) })
}
