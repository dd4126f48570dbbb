package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client/login"
	"github.com/sallyport/sallyport/client/state"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/token"
)

func (a *app) loginCommand() *cobra.Command {
	var url, file, output string
	var noBrowser bool
	c := &cobra.Command{
		Use:   "login",
		Short: "Log in at the identity provider and get a token bound to a fresh key",
		Long: `Open the identity provider in a browser (authorization code with PKCE over a loopback address) and trade its answer for an access
token of a few minutes, which later commands renew. With --id-token-file, an ID token that was obtained by other means is used.`,
		Example: `  sallyport login
  sallyport login --no-browser                 # prints the URL only
  sallyport dev id-token --dir ./data --user alice --group engineers | sallyport login --id-token-file -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(checkOutput(cmd, output), a.outside()); err != nil {
				return err
			}
			d, err := a.state()
			if err != nil {
				return err
			}
			if url, err = a.brokerURL(cmd, url, d); err != nil {
				return err
			}
			l, err := a.login(cmd.Context(), url, file, noBrowser)
			if err != nil {
				return err
			}
			if err := d.Save(l); err != nil {
				return err
			}
			if output == "json" {
				return printJSON(a.stdout, loginView(l))
			}
			_, err = fmt.Fprintf(a.stdout, "logged in as %s%s until %s\n", l.Lineage.Principal, groupsOf(l.Lineage.Groups), clock(l.Grant))
			return err
		},
	}
	c.Flags().StringVar(&url, "url", "", "the broker (default SALLYPORT_URL, then what `sallyport init` found, then where you were logged in last)")
	c.Flags().StringVar(&file, "id-token-file", "", "file with an ID token instead of the browser; - reads standard input")
	c.Flags().BoolVar(&noBrowser, "no-browser", false, "print the URL, start no browser")
	addOutput(c, &output)
	return c
}

func (a *app) login(ctx context.Context, url, file string, noBrowser bool) (state.Login, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return state.Login{}, fmt.Errorf("make key: %w", err)
	}
	var idToken, salt string
	if file != "" {
		idToken, err = a.readToken(file)
	} else {
		idToken, salt, err = a.browse(ctx, url, token.Thumbprint(&key.PublicKey), noBrowser)
	}
	if err != nil {
		return state.Login{}, err
	}
	actor, err := broker.NewActor(broker.ActorConfig{URL: url, Key: key})
	if err != nil {
		return state.Login{}, api.Because(api.ErrBadRequest, "set SALLYPORT_URL to the URL that the broker's operator gave you", "%v", err)
	}
	defer actor.CloseIdle()
	t, err := actor.Login(ctx, idToken, salt)
	if err != nil {
		return state.Login{}, err
	}
	return state.Login{URL: url, Key: key}.With(t, time.Now()), nil
}

func (a *app) readToken(file string) (string, error) {
	in := a.stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", api.Because(api.ErrBadRequest, "", "--id-token-file: %v", err)
		}
		defer f.Close()
		in = f
	}
	const most = 64 << 10 // providers put groups into ID tokens; the broker has its own limit
	b, err := io.ReadAll(io.LimitReader(in, most+1))
	if err != nil {
		return "", fmt.Errorf("read ID token: %w", err)
	}
	t := strings.TrimSpace(string(b))
	if t == "" || len(b) > most || strings.ContainsAny(t, " \t\r\n") {
		return "", api.Because(api.ErrBadRequest, "give one ID token in compact form", "--id-token-file %s: that is no ID token", file)
	}
	return t, nil
}

func (a *app) browse(ctx context.Context, url, thumbprint string, noBrowser bool) (idToken, salt string, err error) {
	d, err := discover(ctx, url)
	if err != nil {
		return "", "", err
	}
	return login.Browser(ctx, login.BrowserConfig{Discovery: d, Thumbprint: thumbprint, Show: func(link string) error {
		if !noBrowser && openBrowser(link) {
			_, err := fmt.Fprintf(a.stderr, "Your browser should have opened. If it has not, open\n\n  %s\n\n", link)
			return err
		}
		_, err := fmt.Fprintf(a.stderr, "Open this in a browser on this machine:\n\n  %s\n\n", link)
		return err
	}})
}

// openBrowser starts the desktop's browser; false where there is none to start.
func openBrowser(link string) bool {
	program := "xdg-open"
	if runtime.GOOS == "darwin" {
		program = "open"
	} else if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
		return false
	}
	cmd := exec.Command(program, link)
	if cmd.Start() != nil {
		return false
	}
	go func() { _ = cmd.Wait() }() // reaps it; this process ends soon after it
	return true
}

func (a *app) logoutCommand() *cobra.Command {
	var local bool
	c := &cobra.Command{
		Use:   "logout",
		Short: "End the login, and with it every actor under it",
		Long: `Revoke the login at the broker, which stops every actor under it at its next command, and forget key and token. If the broker
cannot be reached they are forgotten all the same, and the exit code says that the actors live on.`,
		Example: "  sallyport logout",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.outside(); err != nil {
				return err
			}
			d, err := a.state()
			if err != nil {
				return err
			}
			l, err := d.Load()
			if errors.Is(err, api.ErrLogin) {
				_, err = fmt.Fprintln(a.stdout, "not logged in")
				return err
			}
			if err == nil && !local {
				err = a.revokeAll(cmd.Context(), d, l)
			}
			if err := errors.Join(err, d.Forget()); err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, "logged out")
			return err
		},
	}
	c.Flags().BoolVar(&local, "local", false, "only forget key and token: actors live on until the login's end")
	return c
}

func (a *app) revokeAll(ctx context.Context, d state.Dir, l state.Login) error {
	i, err := login.Stored(d, nil)
	if err != nil {
		return err
	}
	defer i.Actor().CloseIdle()
	err = i.Fresh(ctx)
	if err == nil {
		err = i.Actor().Revoke(ctx, api.RevokeRequest{Root: l.Lineage.Root(), Actor: l.Lineage.Root(), Reason: "logout"})
	}
	if errors.Is(err, api.ErrLogin) || errors.Is(err, api.ErrRevoked) {
		return nil // it had ended already
	}
	if err != nil {
		return fmt.Errorf("key and token are forgotten, but the login could not be revoked: its actors live on until %s: %w", clock(l.Grant), err)
	}
	return nil
}

func (a *app) whoamiCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:     "whoami",
		Short:   "Say who speaks here: the person, or inside a run its actor",
		Example: "  sallyport whoami\n  sallyport whoami -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(cmd, output); err != nil {
				return err
			}
			v, done, err := a.voice(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			var w api.Whoami
			if err := v.Do(cmd.Context(), http.MethodGet, api.PathWhoami, nil, &w); err != nil {
				return err
			}
			if output == "json" {
				return printJSON(a.stdout, w)
			}
			return printWhoami(a.stdout, w)
		},
	}
	addOutput(c, &output)
	return c
}
