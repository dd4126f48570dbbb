// Command lambda runs functions/decide behind a Lambda function URL.
// It refuses to start with a setting missing.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"

	"github.com/sallyport/sallyport/functions/decide"
	"github.com/sallyport/sallyport/internal/lambda"
	"github.com/sallyport/sallyport/internal/stack"
)

func main() {
	err := lambda.Serve("decide", os.Getenv, handler)
	fmt.Fprintln(os.Stderr, "decide:", err) // it returns only before it has begun
	os.Exit(1)
}

func handler(ctx context.Context, getenv lambda.Getenv, log *slog.Logger) (http.Handler, error) {
	s := stack.Open(getenv)
	policy := s.Bundles()
	var compiled sync.WaitGroup
	if s.Err() == nil { // beside the rest, and not at the first question; what fails here fails there again, and denies
		compiled.Go(func() { _, _ = policy.Active(ctx) })
	}
	defer compiled.Wait()
	c := decide.Config{Items: s.Items(), Evidence: s.Evidence(), Uploads: s.Uploads(), Bundles: policy, Verifier: s.Verifier(ctx), CA: s.CACertificate(ctx), StateKey: s.StateKey(ctx),
		Console: s.Console(), Log: log}
	return s.Serve(func(base string) (http.Handler, error) { c.Base = base; return decide.New(c) })
}
