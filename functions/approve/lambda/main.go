// Command lambda runs functions/approve behind a Lambda function URL.
// It refuses to start with a setting missing.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/sallyport/sallyport/functions/approve"
	"github.com/sallyport/sallyport/internal/lambda"
	"github.com/sallyport/sallyport/internal/stack"
)

func main() {
	err := lambda.Serve("approve", os.Getenv, handler)
	fmt.Fprintln(os.Stderr, "approve:", err) // it returns only before it has begun
	os.Exit(1)
}

func handler(ctx context.Context, getenv lambda.Getenv, log *slog.Logger) (http.Handler, error) {
	s := stack.Open(getenv)
	s.BehindOrigin(ctx)
	c := approve.Config{Items: s.Items(), Evidence: s.Evidence(), Bundles: s.Bundles(), Verifier: s.Verifier(ctx), StateKey: s.StateKey(ctx), Log: log,
		OIDC: approve.OIDC{Issuer: s.Setting(stack.OIDCIssuer), ClientID: s.Setting(stack.OIDCClient)}}
	return s.Serve(func(base string) (http.Handler, error) {
		c.API, c.Base = base, strings.TrimSuffix(cmp.Or(getenv(stack.Console), base), "/")
		return approve.New(c)
	})
}
