package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	endpointssh "github.com/sallyport/sallyport/client/endpoint/ssh"
	"github.com/sallyport/sallyport/client/run"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/tunnel"
)

// sshSuffix marks hosts that ssh reaches through us.
const sshSuffix = ".sallyport"

func (a *app) sshCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ssh TARGET [-- ARGS…]",
		Short: "Run the real ssh through the gate",
		Long: `Run ssh to a target, with no key of it: ARGS are the command, after options of ssh's own where there are any. The exit code is ssh's, which is
the command's; 126 is a command that was denied, and standard error says why.`,
		Example: `  sallyport ssh web -- uptime
  sallyport ssh web -- 'tail -n 100 /var/log/app.log | grep -c error'`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch dash := cmd.ArgsLenAtDash(); {
			case len(args) == 0 || dash == 0:
				return errors.New("which target?")
			case dash > 1 || (dash < 0 && len(args) > 1):
				return errors.New("the command follows --")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ssh(cmd.Context(), access.TargetName(args[0]), args[1:])
		},
	}
}

func (a *app) ssh(ctx context.Context, target access.TargetName, args []string) error {
	if err := access.CheckName("target", string(target)); err != nil {
		return api.Because(api.ErrBadRequest, "", "%v", err)
	}
	program, err := exec.LookPath("ssh")
	if err != nil {
		return api.Because(api.ErrBadRequest, "install it (Debian: apt install openssh-client)", "ssh is not in PATH")
	}
	known, err := a.knownHosts(ctx, target)
	if err != nil {
		return err
	}
	argv := []string{program, "-F", "none"}
	options, err := sshOptions(known)
	if err != nil {
		return err
	}
	for _, o := range options {
		argv = append(argv, "-o", o)
	}
	argv = append(append(argv, string(target)+sshSuffix), args...)
	return run.Command{Argv: argv, Env: a.environ, Stdin: a.stdin, Out: a.stdout, Err: a.stderr}.Wait(context.WithoutCancel(ctx))
}

// knownHosts is where the agents' keys for targets are kept: with the login, or with the run for as long as that lasts. `sallyport proxy` puts a key
// there which comes over a channel that has proved the agent, before ssh sees it; ssh itself believes no other.
func (a *app) knownHosts(ctx context.Context, target access.TargetName) (string, error) {
	around, err := a.enclosing(ctx)
	if err != nil {
		return "", err
	}
	if around == nil {
		d, err := a.state()
		return d.File("known_hosts"), err
	}
	e, err := around.Endpoint(ctx, target)
	return filepath.Join(e.Dir, "known_hosts"), errors.Join(err, around.Close())
}

// sshOptions are what a plain client needs, and what it had better leave.
func sshOptions(known string) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("ssh: %w", err)
	}
	if strings.ContainsAny(self+known, "'\"\\%\n") {
		return nil, fmt.Errorf("ssh: cannot be started from a path like %q", self)
	}
	return []string{
		"ProxyCommand='" + self + "' proxy --stdio %h",
		"UserKnownHostsFile=\"" + known + "\"",
		"GlobalKnownHostsFile=none", "StrictHostKeyChecking=yes", "UpdateHostKeys=no", "CheckHostIP=no", "HashKnownHosts=no",
		"IdentityFile=none", "IdentityAgent=none", "PubkeyAuthentication=no", "GSSAPIAuthentication=no",
		"ForwardAgent=no", "ForwardX11=no", // LogLevel stays: below INFO, ssh would not say why there is no connection
	}, nil
}

func (a *app) proxyCommand() *cobra.Command {
	var stdio bool
	c := &cobra.Command{
		Use:   "proxy --stdio TARGET",
		Short: "Carry one connection to a target over standard input and output",
		Long: `Carry one connection to a target over standard input and output: what ssh's ProxyCommand wants. TARGET may end in ` + sshSuffix + `.
Who may connect is who may log in here: the person, or the actor of the run around this process.`,
		Example: `  ssh -o ProxyCommand='sallyport proxy --stdio %h' web.sallyport uptime`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !stdio {
				return usage(cmd, "--stdio is the only way that there is: say so")
			}
			return a.proxy(cmd.Context(), access.TargetName(strings.TrimSuffix(args[0], sshSuffix)))
		},
	}
	c.Flags().BoolVar(&stdio, "stdio", false, "over standard input and output")
	return c
}

func (a *app) proxy(ctx context.Context, target access.TargetName) error {
	known, err := a.knownHosts(ctx, target)
	if err != nil {
		return err
	}
	far, done, err := a.stream(ctx, target)
	if err != nil {
		return err
	}
	defer done()
	stop := context.AfterFunc(ctx, func() { _ = far.Close() })
	defer stop()
	go func() { // ends with the process: a read of standard input cannot be called off
		_, _ = io.Copy(far, a.stdin)
		_ = far.CloseWrite()
	}()
	_, err = io.Copy(a.stdout, endpointssh.Learn(far, func(k endpointssh.HostKey) error {
		return endpointssh.Remember(known, string(target)+sshSuffix, k)
	}))
	_ = far.Close()
	if ctx.Err() != nil {
		return nil // interrupted, together with ssh: there is nothing to tell
	}
	return err
}

// stream is one connection to a target: through the run around this process, or as the person who logged in.
func (a *app) stream(ctx context.Context, target access.TargetName) (tunnel.Duplex, func(), error) {
	around, err := a.enclosing(ctx)
	if err != nil {
		return nil, nil, err
	}
	if around != nil {
		e, err := around.Endpoint(ctx, target)
		if err := errors.Join(err, around.Close()); err != nil {
			return nil, nil, err
		}
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: e.Path, Net: "unix"})
		return conn, func() {}, err
	}
	i, err := a.principal(ctx)
	if err != nil {
		return nil, nil, err
	}
	s, err := newStack(ctx, i)
	if err != nil {
		return nil, nil, err
	}
	t, err := s.reach(ctx, target)
	if err != nil {
		return nil, nil, err
	}
	far, err := t.Way.Open(ctx, api.Client{Program: "sallyport proxy", PID: os.Getpid(), UID: os.Geteuid()}, nil)
	return far, i.Actor().CloseIdle, err
}
