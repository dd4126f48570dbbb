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
	err := lambda.Serve("enroll", os.Getenv, handler)
	fmt.Fprintln(os.Stderr, "enroll:", err) // it returns only before it has begun
	os.Exit(1)
}

func handler(ctx context.Context, getenv lambda.Getenv, log *slog.Logger) (http.Handler, error) {
	s := stack.Open(getenv)
	c := enroll.Config{Items: s.Items(), Verifier: s.Verifier(ctx), CA: s.CA(ctx), Bundles: s.Bundles(), Relays: s.Relays(), Log: log}
	return s.Serve(func(base string) (http.Handler, error) { c.Base = base; return enroll.New(c) })
}
