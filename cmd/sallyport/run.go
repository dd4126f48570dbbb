package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client/login"
	"github.com/sallyport/sallyport/client/process"
	"github.com/sallyport/sallyport/client/run"
	"github.com/sallyport/sallyport/client/state"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/token"
)

// runFlags are what `sallyport run` is asked for.
type runFlags struct {
	actor, purpose, asUser string
	allow                  []string
	targets                []string
	life                   time.Duration
}

func (a *app) runCommand() *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run --actor NAME --allow GRANTLET… [--purpose TEXT] [--target NAME…] [--as-user USER] -- CMD ARGS…",
		Short: "Run a program as an actor of its own, with fewer rights than yours",
		Long: `Start CMD as an actor under you, or inside another run under that run's actor: with its own key, which never leaves this process,
and with the rights that --allow names, which must be within the parent's. A GRANTLET is EFFECTS:TARGET[/RESOURCE]; '*' stands
for anything in each part.

--target gives the program a ready local endpoint: SALLYPORT_<NAME>_DSN, and PGHOST, PGPORT, PGUSER and PGDATABASE where exactly
one target is a PostgreSQL. Only processes that this run started reach it; those of a run inside it have their own.

Against a hostile process of the same user only another user isolates: as root, --as-user runs CMD as that user, in a session of its own
(it cannot type into your terminal, and has no job control), with none of your open files but the standard three, its home and
a clean environment.`,
		Example: `  sallyport run --actor coder --purpose 'fix ticket 4711' --allow 'read,write:app/public.*' --target app -- your-agent
  sallyport run --actor tester --allow read:app --target app -- pytest      # also inside the run above
  sudo -E sallyport run --actor coder --allow read:app --target app --as-user agent -- your-agent`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd, args); err != nil {
				return err
			}
			if f.purpose == "" {
				f.purpose = "run " + filepath.Base(args[0]) // the broker wants one: reviewers must read something
			}
			return a.run(cmd.Context(), f, args)
		},
	}
	c.Flags().SetInterspersed(false)
	c.Flags().StringVar(&f.actor, "actor", "", "the actor's name: a-z, 0-9 and '-'")
	c.Flags().StringVar(&f.purpose, "purpose", "", "what it is for, in a sentence; reviewers and auditors read it (default: \"run CMD\")")
	c.Flags().StringArrayVar(&f.allow, "allow", nil, "a right, EFFECTS:TARGET[/RESOURCE]; may be given more than once")
	c.Flags().StringSliceVar(&f.targets, "target", nil, "a target to open an endpoint for; may be given more than once")
	c.Flags().DurationVar(&f.life, "for", 0, "how long the actor lives at most, for example 1h (default: as long as its parent)")
	c.Flags().StringVar(&f.asUser, "as-user", "", "run CMD as this user (root only)")
	return c
}

func (f runFlags) check(cmd *cobra.Command, args []string) error {
	switch {
	case f.actor == "":
		return usage(cmd, "--actor is missing")
	case len(f.allow) == 0:
		return usage(cmd, "--allow is missing: an actor without rights could do nothing")
	case len(args) == 0:
		return usage(cmd, "which program? Name it after --")
	case f.life < 0 || f.life%time.Second != 0:
		return usage(cmd, "--for %s: want whole seconds", f.life)
	}
	if err := access.CheckName("actor", f.actor); err != nil {
		return usage(cmd, "%v", err)
	}
	if _, err := f.capability(); err != nil {
		return usage(cmd, "--allow: %v", err)
	}
	for _, t := range f.targets {
		if err := access.CheckName("target", t); err != nil {
			return usage(cmd, "--target: %v", err)
		}
	}
	return nil
}

func (f runFlags) capability() (access.Capability, error) {
	var c access.Capability
	for _, s := range f.allow {
		g, err := access.ParseGrantlet(s)
		if err != nil {
			return nil, err
		}
		c = append(c, g)
	}
	return c, nil
}

func (a *app) run(ctx context.Context, f runFlags, argv []string) error {
	if _, err := process.Self(); err != nil { // before anything is delegated for nothing
		return err
	}
	var user *run.User
	if f.asUser != "" {
		u, err := run.LookupUser(f.asUser)
		if err != nil {
			return err
		}
		user = u
	}
	around, err := a.enclosing(ctx)
	if err != nil {
		return err
	}
	if around != nil {
		defer around.Close()
	}
	s, err := a.delegate(ctx, f, around)
	if err != nil {
		return err
	}
	defer s.identity.Actor().CloseIdle()
	if err := ctx.Err(); err != nil {
		return err
	}
	targets := make([]access.TargetName, len(f.targets))
	for i, t := range f.targets {
		targets[i] = access.TargetName(t)
	}
	// From here on signals are the program's: it ends, then this does.
	return run.Run(context.WithoutCancel(ctx), run.Config{
		Identity: run.Speaking(s.identity), Reach: s.reach, Protocols: protocols, Targets: targets, Argv: argv, Env: a.environ,
		User: user, Stdin: a.stdin, Stdout: a.stdout, Stderr: a.stderr, Around: around, Log: a.log(),
	})
}

// delegate makes a key, and has the parent ask for a child that is bound to it. The parent is the run around this process, which
// only sees the public key, or the person who logged in, whose own key is let go of afterwards.
func (a *app) delegate(ctx context.Context, f runFlags, around *run.Enclosing) (*stack, error) {
	capability, err := f.capability()
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	p, err := a.parent(ctx, around)
	if err != nil {
		return nil, err
	}
	defer p.done()
	if !p.capability.Covers(capability) {
		return nil, api.Because(api.ErrDenied, "ask for less with --allow; `sallyport whoami` shows what there is",
			"%s may not pass on %v: it has %v", p.name, capability, p.capability)
	}
	d, err := discover(ctx, p.url)
	if err != nil {
		return nil, err
	}
	proof, err := token.SignKeyProof(key, d.Issuer, time.Now())
	if err != nil {
		return nil, fmt.Errorf("show key: %w", err)
	}
	t, err := p.delegate(ctx, broker.Delegation{
		Name: f.actor, Purpose: f.purpose, Capability: capability, Life: f.life, KeyProof: proof,
	})
	if errors.Is(err, api.ErrDenied) {
		return nil, fmt.Errorf("start actor %s: %w", f.actor, err)
	}
	if err != nil {
		return nil, err
	}
	i, err := login.Fixed(state.Login{URL: p.url, Key: key}.With(t, time.Now()), nil)
	if err != nil {
		return nil, err
	}
	return stackOf(d, i)
}

// parent is who delegates.
type parent struct {
	name, url  string
	capability access.Capability
	delegate   func(context.Context, broker.Delegation) (api.TokenResponse, error)
	done       func()
}

func (a *app) parent(ctx context.Context, around *run.Enclosing) (parent, error) {
	if around != nil {
		h, err := around.Hello(ctx)
		if err != nil {
			return parent{}, err
		}
		return parent{name: h.Lineage.Chain(), url: h.URL, capability: h.Capability, delegate: around.Delegate, done: func() {}}, nil
	}
	i, err := a.principal(ctx)
	if err != nil {
		return parent{}, err
	}
	return parent{
		name: i.Lineage().Chain(), url: i.URL(), capability: i.Capability(), delegate: i.Actor().Delegate, done: i.Actor().CloseIdle,
	}, nil
}
