// Command sallyport-relay joins the streams of endpoints to the uplinks of agents and can read neither.
// It refuses to start with a configuration that it does not understand in full, and serves nobody before it has the broker's keys.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/tunnel/relay"
)

var version = "unknown" // set by the linker

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "sallyport-relay:", err)
		os.Exit(api.ExitUsage)
	}
}

// run serves until ctx ends and the streams have.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("sallyport-relay", flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("config", "", "the configuration `FILE`, or env:NAME")
	showVersion := flags.Bool("version", false, "print the version")
	if err := flags.Parse(args); err != nil {
		return err // the flag set has told already, and says it well
	}
	if *showVersion {
		_, err := fmt.Fprintln(stdout, version)
		return err
	}
	if *file == "" || flags.NArg() > 0 {
		return errors.New("usage: sallyport-relay --config FILE")
	}
	in := inputs{getenv}
	c, err := loadConfig(in, *file)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: c.level()}))
	certs, err := newCertificates(in, c, log)
	if err != nil {
		return err
	}
	pool, err := readPool(in, c.CA)
	if err != nil {
		return err
	}
	public, err := broker.NewPublic(c.Broker)
	if err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	defer public.CloseIdle()
	k := newKeys(public, c.Epoch, log)
	r, err := relay.New(relay.Config{Certificate: *certs.current(), Renewed: certs.current, CA: pool, Ticket: k.ticket, Limits: c.Limits.relay(), Log: log})
	if err != nil {
		return err
	}
	return serve(ctx, c, r, k, certs, log)
}

func serve(ctx context.Context, c config, r *relay.Relay, k *keys, certs *certificates, log *slog.Logger) error {
	if !k.first(ctx) {
		return nil // stopped before it began
	}
	// Not before: a balancer takes a port that opens for a relay that serves.
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer l.Close() //nolint:errcheck // Serve has closed it; this is for a return before
	log.Info("relay is ready", "listen", l.Addr())
	if c.ReadyFile != "" {
		if err := writeReady(c.ReadyFile, l.Addr().String()); err != nil {
			return err
		}
		defer os.Remove(c.ReadyFile) //nolint:errcheck // it may be gone
	}
	refreshing, stop := context.WithCancel(context.WithoutCancel(ctx)) // while streams drain, too
	var wg sync.WaitGroup
	wg.Go(func() {
		every(refreshing, refresh, func() {
			k.refresh(refreshing)
			certs.refresh()
		})
	})
	err = r.Serve(ctx, l)
	stop()
	wg.Wait()
	if err == nil {
		log.Info("relay has stopped")
	}
	return err
}

// writeReady tells whoever waits for it the address, in one piece.
func writeReady(file, addr string) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".ready-*")
	if err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	_, err = fmt.Fprintln(tmp, addr)
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		_ = os.Remove(tmp.Name()) // err is the one to tell
		return fmt.Errorf("ready file: %w", err)
	}
	return nil
}
