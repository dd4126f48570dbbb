// Command lambda runs functions/notify behind the approvals table's stream and a schedule.
// It refuses to start with a setting missing.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/sallyport/sallyport/functions/notify"
	"github.com/sallyport/sallyport/internal/lambda"
	"github.com/sallyport/sallyport/internal/stack"
)

func main() {
	err := lambda.Changes("notify", os.Getenv, notifier)
	fmt.Fprintln(os.Stderr, "notify:", err) // it returns only before it has begun
	os.Exit(1)
}

func notifier(ctx context.Context, getenv lambda.Getenv, log *slog.Logger) (*notify.Notifier, error) {
	s := stack.Open(getenv)
	c, err := channels(notify.Config{Items: s.Items(), Console: s.Console(), Log: log}, s.Notify(ctx))
	if err := errors.Join(s.Err(), err); err != nil {
		return nil, err
	}
	return notify.New(c)
}
