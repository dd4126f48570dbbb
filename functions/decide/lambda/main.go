// Command lambda runs functions/decide behind a Lambda function URL.
// It refuses to start with a setting missing, or with stores that this build has no adapter for.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"

	"github.com/aws/aws-lambda-go/lambdaurl"

	"github.com/sallyport/sallyport/functions/decide"
)

func main() {
	h, err := handler(context.Background(), os.Getenv, slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	if err != nil {
		fmt.Fprintln(os.Stderr, "decide:", err)
		os.Exit(1)
	}
	lambdaurl.Start(h)
}

func handler(ctx context.Context, getenv func(string) string, log *slog.Logger) (http.Handler, error) {
	base, console := getenv("SALLYPORT_URL"), getenv("SALLYPORT_CONSOLE")
	if base == "" || console == "" {
		return nil, errors.New("SALLYPORT_URL and SALLYPORT_CONSOLE must be set")
	}
	c, err := open(ctx, getenv("SALLYPORT_STORE"), base)
	if err != nil {
		return nil, err
	}
	c.Base, c.Console, c.Log = base, console, log
	return decide.New(c)
}
