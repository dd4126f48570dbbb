// Command lambda runs functions/token behind a Lambda function URL.
// It refuses to start with a setting missing.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"

	"github.com/sallyport/sallyport/functions/token"
	"github.com/sallyport/sallyport/internal/lambda"
	"github.com/sallyport/sallyport/internal/stack"
)

func main() {
	err := lambda.Serve("token", os.Getenv, handler)
	fmt.Fprintln(os.Stderr, "token:", err) // it returns only before it has begun
	os.Exit(1)
}

func handler(ctx context.Context, getenv lambda.Getenv, log *slog.Logger) (http.Handler, error) {
	s := stack.Open(getenv)
	s.BehindOrigin(ctx)
	issuer, verifier := s.Issuer(ctx)
	c := token.Config{Items: s.Items(), Issuer: issuer, Verifier: verifier, CA: s.CA(ctx), StateKey: s.StateKey(ctx), Bundles: s.Bundles(),
		OIDC: token.OIDC{Issuer: s.Setting(stack.OIDCIssuer), ClientID: s.Setting(stack.OIDCClient)}, Relays: s.Relays(), Console: s.Console(), Functions: s.Functions(), FunctionsIAM: s.FunctionsIAM(),
		Log: log}
	return s.Serve(func(base string) (http.Handler, error) { c.Base = base; return token.New(c) })
}
