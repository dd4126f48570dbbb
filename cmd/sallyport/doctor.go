package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/stack/inspect"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel"
)

func (a *app) doctorCommand() *cobra.Command {
	var w which
	var output, url string
	c := &cobra.Command{
		Use:   "doctor --stack NAME",
		Short: "Check a deployment on AWS from outside",
		Long: `Look at a deployed stack as an operator and as a stranger: its outputs and release, whether every function answers and refuses who does
not sign, clocks, discovery and keys, what the tables and the evidence bucket promise, the age of the checkpoint, alarms, relays. Nothing is
changed. Each finding that is not ok says what to do.

Exit codes: 0 nothing failed (there may be warnings), 10 something failed. AWS credentials and region are taken from the environment, as by
` + "`sallyport init`" + `; they need what infra/doctor-policy.json lists.`,
		Example: "  sallyport doctor --stack sallyport\n  sallyport doctor --stack sallyport -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(cmd, output); err != nil {
				return err
			}
			d, err := w.deployment(cmd)
			if err != nil {
				return err
			}
			if url == "" {
				url = a.getenv("SALLYPORT_URL")
			}
			r := inspect.Run(cmd.Context(), inspect.Config{Deployment: d, Getenv: a.getenv, URL: url, Relay: knock, Now: time.Now})
			if output == "json" {
				err = printJSON(a.stdout, r)
			} else {
				err = printInspection(a.stdout, r)
			}
			if err == nil && !r.OK {
				return exitStatus(api.ExitVerify)
			}
			return err
		},
	}
	w.flags(c)
	c.Flags().StringVar(&url, "url", "", "the broker's URL with its pin, where it has a CA of its own (default SALLYPORT_URL, then the stack's output)")
	addOutput(c, &output)
	return c
}

// knockLimit is for one relay: a connection and a handshake.
const knockLimit = 5 * time.Second

// knock connects to a relay as a client does, and leaves before it would have to show a ticket.
func knock(ctx context.Context, address string, ca *x509.CertPool) error {
	ctx, cancel := context.WithTimeout(ctx, knockLimit)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = raw.Close() }() // nothing was said
	if d, ok := ctx.Deadline(); ok {
		if err := raw.SetDeadline(d); err != nil {
			return err
		}
	}
	if err := tunnel.ClientLeg(raw, tunnel.TLSTo(tunnel.ALPNStream, ca, token.URIRelay)).Handshake(); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	return nil
}

func printInspection(w io.Writer, r inspect.Report) error {
	failed, warned := 0, 0
	for _, c := range r.Checks {
		switch c.Status {
		case inspect.Fail:
			failed++
		case inspect.Warn:
			warned++
		}
		if _, err := fmt.Fprintf(w, "%-4s  %-20s %s\n", c.Status, c.Name, inline(c.Found)); err != nil {
			return err
		}
		if c.Next != "" {
			if _, err := fmt.Fprintf(w, "      %-20s next: %s\n", "", inline(c.Next)); err != nil {
				return err
			}
		}
	}
	_, err := fmt.Fprintf(w, "%d checks, %d warnings, %d failed\n", len(r.Checks), warned, failed)
	return err
}
