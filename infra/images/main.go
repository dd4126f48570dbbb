// Command images writes OCI image layouts of the relay and the agent, without a container engine, and proves that what is in them runs.
// It refuses a binary that is not static or not for the platform it is said to be for, and puts nothing else into an image than the binary, the roots of the web and two empty directories.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

const usage = `usage: images build --name NAME --version VERSION --out DIR PLATFORM=BINARY...
       images verify --name NAME DIR`

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	if args[0] == again {
		return become(args[1:])
	}
	flags := flag.NewFlagSet("images "+args[0], flag.ContinueOnError)
	name := flags.String("name", "", "the program, for example sallyport-relay")
	version := flags.String("version", "unknown", "its version")
	into := flags.String("out", "", "the layout's directory; what is there is replaced")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch {
	case *name == "" || strings.ContainsAny(*name, "/ "):
		return errors.New(usage)
	case args[0] == "build" && *into != "" && flags.NArg() > 0:
		digest, err := build(Image{Name: *name, Version: *version, Binaries: flags.Args()}, *into)
		if err != nil {
			return fmt.Errorf("%s: %w", *name, err)
		}
		_, err = fmt.Fprintln(out, digest, *into)
		return err
	case args[0] == "verify" && flags.NArg() == 1:
		said, err := verify(ctx, *name, flags.Arg(0))
		if err != nil {
			return fmt.Errorf("%s: %w", *name, err)
		}
		_, err = fmt.Fprintf(out, "%s: runs as %d in a read-only root of its own: %s\n", *name, user, said)
		return err
	}
	return errors.New(usage)
}
