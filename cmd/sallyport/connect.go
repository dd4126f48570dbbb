package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client/endpoint"
	"github.com/sallyport/sallyport/client/run"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// connectView is what `connect -o json` prints.
type connectView struct {
	DSN    string `json:"dsn"`
	Host   string `json:"host"`
	Port   int    `json:"port"`   // 0 inside a run: there is only the socket
	Socket string `json:"socket"` // its path
}

func (a *app) connectCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "connect TARGET",
		Short: "Open a local endpoint to a target until interrupted",
		Long: `Open a local endpoint that no other user of this machine can use: a unix socket (mode 0600, in a directory of mode 0700, callers
checked by their credentials), and a port on 127.0.0.1 that asks for a password made for this time only. A target keeps its port
from one time to the next; another is taken if somebody else has it.

Inside a run there is only the run's socket, which tells its callers apart by process.`,
		Example: `  sallyport connect app
  sallyport connect app -o json &        # {"dsn":…,"host":…,"port":…,"socket":…}`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(cmd, output); err != nil {
				return err
			}
			return a.connect(cmd.Context(), access.TargetName(args[0]), output == "json")
		},
	}
	addOutput(c, &output)
	return c
}

func (a *app) connect(ctx context.Context, target access.TargetName, asJSON bool) error {
	around, err := a.enclosing(ctx)
	if err != nil {
		return err
	}
	if around != nil {
		return a.connectInside(ctx, around, target, asJSON)
	}
	o, err := a.open(ctx, target, true)
	if err != nil {
		return err
	}
	err = a.printConnect(o.protocol, o.local, o.socket.Path, asJSON)
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-o.failed:
		}
	}
	return errors.Join(err, o.close())
}

func (a *app) connectInside(ctx context.Context, around *run.Enclosing, target access.TargetName, asJSON bool) error {
	e, err := around.Endpoint(ctx, target)
	if err := errors.Join(err, around.Close()); err != nil {
		return err
	}
	p, ok := protocols[e.Protocol]
	if !ok {
		return unknownProtocol(target, e.Protocol)
	}
	local := endpoint.Local{Target: target, Database: e.Database, Dir: e.Dir}
	if err := a.printConnect(p, local, e.Path, asJSON); err != nil {
		return err
	}
	<-ctx.Done() // the run serves it; staying keeps scripts the same inside and outside
	return nil
}

func (a *app) printConnect(p endpoint.Protocol, l endpoint.Local, socket string, asJSON bool) error {
	v := connectView{DSN: p.DSN(l), Host: "127.0.0.1", Port: l.Port, Socket: socket}
	if l.Port == 0 {
		v.Host = l.Dir
	}
	if asJSON {
		return printJSON(a.stdout, v)
	}
	_, err := fmt.Fprintf(a.stdout, "dsn     %s\nsocket  %s\nInterrupt (Ctrl-C) to close.\n", v.DSN, v.Socket)
	return err
}

// opened is a local endpoint served by this process.
type opened struct {
	protocol endpoint.Protocol
	local    endpoint.Local
	socket   *endpoint.Socket
	failed   chan error // takes what ended a door, or the token's renewal, before close
	stop     func()
	wg       sync.WaitGroup
}

// open serves a target as the person who logged in, with a port or only the socket.
func (a *app) open(ctx context.Context, target access.TargetName, port bool) (*opened, error) {
	i, err := a.principal(ctx)
	if err != nil {
		return nil, err
	}
	s, err := newStack(ctx, i)
	if err != nil {
		return nil, err
	}
	t, err := s.reach(ctx, target)
	if err != nil {
		return nil, err
	}
	p, ok := protocols[t.Protocol]
	if !ok {
		return nil, unknownProtocol(target, t.Protocol)
	}
	ep, err := endpoint.New(endpoint.Config{Target: target, Protocol: p, Way: t.Way, Log: a.log()})
	if err != nil {
		return nil, err
	}
	o := &opened{protocol: p, local: endpoint.Local{Target: target, Database: t.Database}, failed: make(chan error, 3)}
	if o.local.Database == "" {
		o.local.Database = string(target)
	}
	if o.socket, err = endpoint.NewSocket(p.SocketFile(), nil); err != nil {
		return nil, err
	}
	o.local.Dir = o.socket.Dir
	doors := []endpoint.Door{{Listener: o.socket.Listener, Admit: endpoint.SameUser(os.Geteuid())}}
	if port {
		d, err := a.portDoor(target, &o.local)
		if err != nil {
			return nil, errors.Join(err, o.socket.Remove())
		}
		doors = append(doors, d)
	}
	// Not ended by a signal directly: the program that uses the endpoint ends first.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	o.stop = func() { stop(); i.Actor().CloseIdle() }
	for _, d := range doors {
		o.wg.Go(func() { o.fail(ep.Serve(serving, d)) })
	}
	o.wg.Go(func() { o.fail(i.Keep(serving)) })
	return o, nil
}

func (a *app) portDoor(target access.TargetName, l *endpoint.Local) (endpoint.Door, error) {
	d, err := a.state()
	if err != nil {
		return endpoint.Door{}, err
	}
	password, verifier, err := endpoint.NewPassword()
	if err != nil {
		return endpoint.Door{}, err
	}
	var listener net.Listener
	if listener, l.Port, err = endpoint.ListenPort(d, target); err != nil {
		return endpoint.Door{}, err
	}
	l.Password = password
	return endpoint.Door{Listener: listener, Admit: endpoint.Anybody, Verifier: verifier}, nil
}

func (o *opened) fail(err error) {
	if err != nil {
		o.failed <- err
	}
}

func (o *opened) close() error {
	o.stop()
	o.wg.Wait()
	return o.socket.Remove()
}

func unknownProtocol(target access.TargetName, protocol string) error {
	return api.Because(api.ErrBadRequest, "use a newer sallyport", "target %s speaks %q, which this sallyport does not", target, protocol)
}

func (a *app) psqlCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "psql TARGET [-- ARGS…]",
		Short: "Run the real psql through the gate",
		Long:  "Run psql, with ARGS, on a private endpoint to a PostgreSQL target. The exit code is psql's.",
		Example: `  sallyport psql app
  sallyport psql app -- -c 'select * from orders limit 5'`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch dash := cmd.ArgsLenAtDash(); {
			case len(args) == 0 || dash == 0:
				return errors.New("which target?")
			case dash > 1 || (dash < 0 && len(args) > 1):
				return errors.New("psql's own arguments follow --")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.psql(cmd.Context(), access.TargetName(args[0]), args[1:])
		},
	}
}

func (a *app) psql(ctx context.Context, target access.TargetName, args []string) error {
	program, err := exec.LookPath("psql")
	if err != nil {
		return api.Because(api.ErrBadRequest, "install it (Debian: apt install postgresql-client)", "psql is not in PATH")
	}
	local, done, err := a.postgres(ctx, target)
	if err != nil {
		return err
	}
	err = run.Command{
		Argv: append([]string{program}, args...), Env: run.ClientEnv(a.environ, protocols["postgres"], local),
		Stdin: a.stdin, Out: a.stdout, Err: a.stderr,
	}.Wait(context.WithoutCancel(ctx))
	return errors.Join(err, done())
}

// postgres opens a private endpoint to a PostgreSQL target, or takes the one of the run around this process.
func (a *app) postgres(ctx context.Context, target access.TargetName) (endpoint.Local, func() error, error) {
	none := api.Because(api.ErrBadRequest, "", "target %s is no PostgreSQL", target)
	around, err := a.enclosing(ctx)
	if err != nil {
		return endpoint.Local{}, nil, err
	}
	if around != nil {
		e, err := around.Endpoint(ctx, target)
		if err := errors.Join(err, around.Close()); err != nil {
			return endpoint.Local{}, nil, err
		}
		if e.Protocol != "postgres" {
			return endpoint.Local{}, nil, none
		}
		return endpoint.Local{Target: target, Database: e.Database, Dir: e.Dir}, func() error { return nil }, nil
	}
	o, err := a.open(ctx, target, false)
	if err != nil {
		return endpoint.Local{}, nil, err
	}
	if o.protocol != protocols["postgres"] {
		return endpoint.Local{}, nil, errors.Join(none, o.close())
	}
	return o.local, o.close, nil
}
