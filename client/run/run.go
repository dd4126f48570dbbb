package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"

	"github.com/sallyport/sallyport/client/endpoint"
	"github.com/sallyport/sallyport/client/process"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// Identity is the actor of a run.
type Identity interface {
	Voice() Voice
	Lineage() access.Lineage
	Capability() access.Capability
	URL() string
	Fresh(ctx context.Context) error
	Keep(ctx context.Context) error
}

// Target is a way to a target, and what it speaks.
type Target struct {
	Name     access.TargetName
	Protocol string
	Database string
	Way      endpoint.Way
}

// Config is what a run needs.
type Config struct {
	Identity  Identity
	Reach     func(ctx context.Context, t access.TargetName) (Target, error) // finds the way; asks the broker
	Protocols map[string]endpoint.Protocol
	Targets   []access.TargetName // ready before the program starts
	Argv      []string
	Env       []string // of this process; the program's is made from it
	User      *User    // nil: this process' own
	Stdin     *os.File
	Stdout    *os.File
	Stderr    *os.File
	// Around is the run that this one is in; nil outside. When it ends, nobody can speak through this one any more.
	Around *Enclosing
	Log    *slog.Logger
}

// Run marks this process, opens the socket and the endpoints, and waits for the program. Its error is an *Exit where the
// program ended with something else than 0. Everything that it opened is gone when it returns.
func Run(ctx context.Context, c Config) (err error) {
	if len(c.Argv) == 0 || c.Identity == nil || c.Reach == nil || c.Log == nil {
		return errors.New("run: identity, reach, log and a program are all needed")
	}
	// Caught, not ignored: an ignored signal stays ignored in the program. And caught now, so that none ends this process between
	// the first socket and the program's start.
	signals, release := catchSignals(c.User)
	defer release()
	r, err := begin(c)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	defer func() {
		stop()
		r.wg.Wait()
		err = errors.Join(err, r.close())
	}()
	sock, err := r.open(serving)
	if err != nil {
		return err
	}
	add := []string{EnvSock + "=" + sock}
	ready := make([]Endpoint, 0, len(c.Targets))
	for _, t := range c.Targets {
		e, err := r.endpoint(serving, t)
		if err != nil {
			return fmt.Errorf("target %s: %w", t, err)
		}
		ready = append(ready, e)
		add = append(add, dsnVariable(t)+"="+c.Protocols[e.Protocol].DSN(e.local()))
	}
	add = append(add, r.only(ready)...)
	r.wg.Go(func() { r.keep(serving) })
	if c.Around != nil {
		r.wg.Go(func() {
			if c.Around.Ended(serving) {
				fmt.Fprintln(c.Stderr, "sallyport: the run around this one has ended: nobody can speak through this one any more")
				stop()
			}
		})
	}
	return Command{
		Argv: c.Argv, Env: environment(c.Env, c.User, r.clears(ready), add), User: c.User,
		Stdin: c.Stdin, Out: c.Stdout, Err: c.Stderr,
	}.wait(ctx, signals)
}

// running is a run in progress.
type running struct {
	c     Config
	tree  *tree
	owner *endpoint.Owner
	wg    sync.WaitGroup

	mu        sync.Mutex
	closers   []io.Closer
	endpoints map[access.TargetName]Endpoint
}

func begin(c Config) (*running, error) {
	if err := process.Protect(); err != nil {
		return nil, err
	}
	self, err := process.Self()
	if err != nil {
		return nil, fmt.Errorf("run: %w", err)
	}
	mark, err := process.Lower()
	if err != nil {
		return nil, fmt.Errorf("run: %w", err)
	}
	r := &running{c: c, tree: &tree{self: self, mark: mark, uid: os.Geteuid()}, endpoints: map[access.TargetName]Endpoint{}}
	if c.User != nil {
		r.owner = &endpoint.Owner{UID: c.User.UID, GID: c.User.GID}
		r.tree.uid = c.User.UID
	}
	return r, nil
}

// open makes the socket of the run and serves it.
func (r *running) open(ctx context.Context) (string, error) {
	s, err := endpoint.NewSocket("actor.sock", r.owner)
	if err != nil {
		return "", err
	}
	r.onClose(s.Remove)
	ctl := &control{
		tree: r.tree, voice: r.c.Identity.Voice(),
		hello: Hello{URL: r.c.Identity.URL(), Lineage: r.c.Identity.Lineage(), Capability: r.c.Identity.Capability()},
		fresh: r.c.Identity.Fresh, log: r.c.Log, slots: make(chan struct{}, maxCallers),
		endpoint: func(asking context.Context, t access.TargetName) (Endpoint, error) { return r.reach(ctx, asking, t) },
	}
	r.wg.Go(func() {
		if err := ctl.serve(ctx, s.Listener); err != nil {
			r.c.Log.Error("the socket of the run has failed", "error", err)
		}
	})
	return s.Path, nil
}

// endpoint opens a target's endpoint, or returns the one that is open. It lives until ctx ends.
func (r *running) endpoint(ctx context.Context, t access.TargetName) (Endpoint, error) {
	return r.reach(ctx, ctx, t)
}

func (r *running) reach(serving, asking context.Context, name access.TargetName) (Endpoint, error) {
	r.mu.Lock()
	defer r.mu.Unlock() // also while the broker is asked: callers of one run may wait for each other
	if e, ok := r.endpoints[name]; ok {
		return e, nil
	}
	t, err := r.c.Reach(asking, name)
	if err != nil {
		return Endpoint{}, err
	}
	p, ok := r.c.Protocols[t.Protocol]
	if !ok {
		return Endpoint{}, api.Because(api.ErrBadRequest, "use a newer sallyport", "target %s speaks %q, which this sallyport does not", name, t.Protocol)
	}
	ep, err := endpoint.New(endpoint.Config{Target: name, Protocol: p, Way: t.Way, Log: r.c.Log})
	if err != nil {
		return Endpoint{}, err
	}
	s, err := endpoint.NewSocket(p.SocketFile(), r.owner)
	if err != nil {
		return Endpoint{}, err
	}
	r.closers = append(r.closers, closer(s.Remove))
	r.wg.Go(func() {
		if err := ep.Serve(serving, endpoint.Door{Listener: s.Listener, Admit: r.admit}); err != nil {
			r.c.Log.Error("an endpoint has failed", "target", string(name), "error", err)
		}
	})
	database := t.Database
	if database == "" {
		database = string(name)
	}
	e := Endpoint{Target: name, Protocol: t.Protocol, Database: database, Dir: s.Dir, Path: s.Path}
	r.endpoints[name] = e
	return e, nil
}

func (e Endpoint) local() endpoint.Local {
	return endpoint.Local{Target: e.Target, Database: e.Database, Dir: e.Dir}
}

// admit is asked for every connection to an endpoint of the run.
func (r *running) admit(c net.Conn) (api.Client, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return api.Client{}, refused("run.unknown", "did not come through the socket", "use the run's endpoint")
	}
	p, err := process.PeerOf(u)
	if err != nil {
		return api.Client{}, refused("run.gone", "cannot be told from others: "+err.Error(), "connect again")
	}
	defer p.Close()
	if err := r.tree.admit(p, p.UID); err != nil {
		return api.Client{}, err
	}
	return api.Client{Program: p.Program(), PID: p.PID, UID: p.UID}, nil
}

// only is what lets programs that never heard of Sallyport find the one target of their protocol.
func (r *running) only(ready []Endpoint) []string {
	count := map[string]int{}
	for _, e := range ready {
		count[e.Protocol]++
	}
	var env []string
	for _, e := range ready {
		if count[e.Protocol] == 1 {
			env = append(env, r.c.Protocols[e.Protocol].Env(e.local())...)
		}
	}
	return env
}

// clears says which variables would lead programs past the endpoints, or to those of the run around this one.
func (r *running) clears(ready []Endpoint) func(string) bool {
	return func(name string) bool {
		for _, e := range ready {
			if r.c.Protocols[e.Protocol].Clears(name) {
				return true
			}
		}
		if r.c.Around == nil {
			return false
		}
		for _, p := range r.c.Protocols {
			if p.Clears(name) {
				return true
			}
		}
		return false
	}
}

// keep renews the token; when that cannot go on, every command is refused anyway, and the person should know why.
func (r *running) keep(ctx context.Context) {
	if err := r.c.Identity.Keep(ctx); err != nil {
		fmt.Fprintf(r.c.Stderr, "sallyport: %s can no longer speak: %v\n", r.c.Identity.Lineage().Chain(), err)
	}
}

type closer func() error

func (c closer) Close() error { return c() }

func (r *running) onClose(f func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closers = append(r.closers, closer(f))
}

func (r *running) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	for _, c := range r.closers {
		err = errors.Join(err, c.Close())
	}
	r.tree.close()
	return err
}
