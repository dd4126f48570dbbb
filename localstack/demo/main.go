// Command demo plays Sallyport's main job on a real PostgreSQL, or with --stay keeps the same system up to try out.
// It refuses to call anything done that it did not see, and exits 0 only if every step did what it had to.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/sallyport/sallyport/localstack/story"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == "hands" {
		return story.ServeHands(ctx, args[1])
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := story.Config{Bin: filepath.Dir(self), Out: os.Stdout}
	switch {
	case len(args) == 0:
		return story.Play(ctx, c)
	case len(args) == 1 && args[0] == "--stay":
		return story.Stay(ctx, c)
	case len(args) > 0 && args[0] == "--bench":
		return story.Bench(ctx, c, args[1:])
	}
	aws := flag.NewFlagSet("demo", flag.ContinueOnError)
	aws.StringVar(&c.AWS, "aws", "", "play on the SAM template deployed to this local AWS: ministack or localstack")
	stay := aws.Bool("stay", false, "with --aws: keep it up instead")
	if err := aws.Parse(args); err != nil {
		return err
	}
	if c.AWS == "" || aws.NArg() > 0 {
		return errors.New("usage: demo [--stay | --bench [TABLE…] | --aws ministack|localstack [--stay]]")
	}
	c.Root = filepath.Dir(c.Bin)
	if *stay {
		return story.Stay(ctx, c)
	}
	return story.Play(ctx, c)
}
