package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client/endpoint"
	"github.com/sallyport/sallyport/client/endpoint/postgres"
	"github.com/sallyport/sallyport/client/endpoint/ssh"
	"github.com/sallyport/sallyport/client/login"
	"github.com/sallyport/sallyport/client/process"
	"github.com/sallyport/sallyport/client/run"
	"github.com/sallyport/sallyport/client/state"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
)

// protocols are what local endpoints carry; a new one is one line here.
var protocols = map[string]endpoint.Protocol{
	"postgres": postgres.Protocol{},
	"ssh":      ssh.Protocol{},
}

// app is one call of the program.
type app struct {
	getenv                func(string) string
	environ               []string
	stdin, stdout, stderr *os.File
	begun                 bool // a command's own code has begun: an error before is one of usage
}

func (a *app) main(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return api.ExitOK
	}
	if !a.begun {
		err = api.Because(api.ErrBadRequest, "see `"+cmd.CommandPath()+" --help`", "%v", err)
	}
	return report(a.stderr, err, wantsJSON(cmd))
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "sallyport",
		Short: "Stand between AI agents and infrastructure: every command decided, masked and recorded",
		Long: `Sallyport lets AI agents, scripts and people use databases and hosts with no credential of theirs. Every command that they send is
decided by policy, can be held for a person, is masked on the way back, and leaves evidence.

Exit codes: 0 ok, 2 usage, 3 login needed, 4 denied, 5 held or timed out, 6 broker or target unreachable, 10 and above verification.
run, psql and ssh end with the code of the program that they ran.

Environment: SALLYPORT_URL names the broker, SALLYPORT_HOME holds the login (default ~/.config/sallyport), SALLYPORT_SOCK is set
inside a run and names whom to speak through.`,
		Example: `  sallyport login
  sallyport psql app -- -c 'select 1'
  sallyport run --actor coder --purpose 'fix ticket 4711' --allow 'read,write:app/public.*' --target app -- your-agent`,
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.AddCommand(
		a.loginCommand(), a.logoutCommand(), a.whoamiCommand(), a.runCommand(), a.connectCommand(), a.psqlCommand(), a.sshCommand(), a.proxyCommand(), a.configCommand(), a.canCommand(), a.classifyCommand(),
		a.approvalsCommand(), a.sessionsCommand(), a.actorsCommand(), a.revokeCommand(), a.agentCommand(), a.initCommand(), a.doctorCommand(), versionCommand(),
	)
	root.AddCommand(moreCommands()...)
	a.prepare(root)
	return root
}

// prepare makes every command tell when it begins, and groups of commands refuse to do nothing.
func (a *app) prepare(c *cobra.Command) {
	for _, sub := range c.Commands() {
		a.prepare(sub)
	}
	own := c.RunE
	switch {
	case own != nil:
		c.RunE = func(cmd *cobra.Command, args []string) error {
			a.begun = true
			return own(cmd, args)
		}
	case c.HasSubCommands() && c.HasParent():
		var names []string
		for _, sub := range c.Commands() {
			names = append(names, sub.Name())
		}
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q, want one of %s", args[0], strings.Join(names, ", "))
			}
			return fmt.Errorf("say which: %s", strings.Join(names, ", "))
		}
	}
}

// log says on stderr what is worth knowing only when something is looked for (SALLYPORT_DEBUG=1).
func (a *app) log() *slog.Logger {
	if a.getenv("SALLYPORT_DEBUG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// voice asks the broker: as the actor of the run around this process, else as the person who logged in.
type voice interface {
	Do(ctx context.Context, method, path string, in, out any) error
}

func (a *app) voice(ctx context.Context) (v voice, done func(), err error) {
	e, err := a.enclosing(ctx)
	if err != nil {
		return nil, nil, err
	}
	if e != nil {
		return e, func() { _ = e.Close() }, nil
	}
	i, err := a.principal(ctx)
	if err != nil {
		return nil, nil, err
	}
	return i.Actor(), i.Actor().CloseIdle, nil
}

// enclosing is the run around this process; nil outside of every run.
func (a *app) enclosing(ctx context.Context) (*run.Enclosing, error) {
	if sock := a.getenv(run.EnvSock); sock != "" {
		return run.Enter(ctx, sock)
	}
	return nil, a.outside()
}

// outside refuses to be a person inside a run whose environment was lost.
func (a *app) outside() error {
	m, err := process.Own()
	if err != nil {
		return err
	}
	if m != 0 || a.getenv(run.EnvSock) != "" {
		return api.Because(api.ErrDenied, "keep "+run.EnvSock+" in the environment, and do this outside of the run if a person is to do it",
			"this process is inside a `sallyport run`, and speaks as its actor only")
	}
	return nil
}

func (a *app) state() (state.Dir, error) {
	return state.Open(a.getenv("SALLYPORT_HOME"), a.getenv("HOME"))
}

// principal is the person who logged in, with a token that is good.
func (a *app) principal(ctx context.Context) (*login.Identity, error) {
	d, err := a.state()
	if err != nil {
		return nil, err
	}
	i, err := login.Stored(d, nil)
	if err != nil {
		return nil, err
	}
	if url := a.getenv("SALLYPORT_URL"); url != "" && url != i.URL() {
		return nil, state.NeedLogin("the login is for another broker than SALLYPORT_URL names")
	}
	return i, i.Fresh(ctx)
}

// stack is what a process needs to reach targets as one identity.
type stack struct {
	identity *login.Identity
	issuer   string
	ca       *x509.CertPool
}

func newStack(ctx context.Context, i *login.Identity) (*stack, error) {
	d, err := i.Actor().Discovery(ctx)
	if err != nil {
		return nil, err
	}
	return stackOf(d, i)
}

func stackOf(d api.Discovery, i *login.Identity) (*stack, error) {
	s := &stack{identity: i, issuer: d.Issuer, ca: x509.NewCertPool()}
	if !s.ca.AppendCertsFromPEM([]byte(d.CA)) {
		return nil, errors.New("discovery: the broker names no CA")
	}
	return s, nil
}

// discover asks a broker that nobody has logged in to yet.
func discover(ctx context.Context, url string) (api.Discovery, error) {
	p, err := broker.NewPublic(url)
	if err != nil {
		return api.Discovery{}, api.Because(api.ErrBadRequest, "set SALLYPORT_URL to the URL that the broker's operator gave you", "%v", err)
	}
	defer p.CloseIdle()
	return p.Discovery(ctx)
}

// reach finds the way to a target.
func (s *stack) reach(ctx context.Context, name access.TargetName) (run.Target, error) {
	if err := access.CheckName("target", string(name)); err != nil {
		return run.Target{}, api.Because(api.ErrBadRequest, "", "%v", err)
	}
	t, err := endpoint.NewTunnel(endpoint.TunnelConfig{Target: name, CA: s.ca, Identity: s.identity, Tickets: s.identity.Actor()})
	if err != nil {
		return run.Target{}, err
	}
	tk, err := t.Ticket(ctx)
	if err != nil {
		return run.Target{}, err
	}
	return run.Target{Name: name, Protocol: tk.Protocol, Database: tk.Database, Way: t}, nil
}
