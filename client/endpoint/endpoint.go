package endpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/tunnel"
)

// Way opens one stream to the target.
type Way interface {
	Open(ctx context.Context, client api.Client, v *api.Verifier) (tunnel.Duplex, error)
}

// Protocol is what an endpoint must know of the target's protocol; everything else is the room's, on the agent.
type Protocol interface {
	// Refuse tells a client why it gets no connection. It reads what it must of the handshake, within conn's deadline.
	Refuse(conn net.Conn, r Refusal) error
	// SocketFile is the name that the protocol's clients expect of a socket in a directory.
	SocketFile() string
	// DSN is what programs connect with.
	DSN(l Local) string
	// Env is what programs of the protocol read from their environment to reach the socket.
	Env(l Local) []string
	// Clears says whether the protocol's programs would read the variable and be led elsewhere by it.
	Clears(name string) bool
}

// Refusal is why a client gets no connection.
type Refusal struct {
	Message string // a sentence for people
	Login   bool   // the caller is not, or no longer, known: SQLSTATE class 28
	Denied  access.Denied
}

// Door is one listener of an endpoint.
type Door struct {
	Listener net.Listener
	// Admit says who calls, or why this caller is refused. It is asked before a byte is read.
	Admit func(net.Conn) (api.Client, error)
	// Verifier is what the room holds callers of this door to; nil where Admit knows them by their process or user.
	Verifier *api.Verifier
}

// Config is what an endpoint needs, all of it.
type Config struct {
	Target   access.TargetName
	Protocol Protocol
	Way      Way
	Log      *slog.Logger
}

// Endpoint carries connections to one target.
type Endpoint struct {
	c     Config
	slots chan struct{}
}

// Limits of one endpoint.
const (
	// maxConns bounds the open connections: more than any pool of one program, far fewer than descriptors.
	maxConns = 512
	// openLimit bounds the way to the target: a ticket, a relay, two handshakes.
	openLimit = 20 * time.Second
	// refuseLimit bounds how long a refused client may take to hear why.
	refuseLimit = 5 * time.Second
	// acceptPause keeps a process that is out of descriptors from spinning.
	acceptPause = 50 * time.Millisecond
)

// New makes an endpoint; Serve starts it.
func New(c Config) (*Endpoint, error) {
	if c.Target == "" || c.Protocol == nil || c.Way == nil || c.Log == nil {
		return nil, errors.New("endpoint: target, protocol, way and log are all needed")
	}
	return &Endpoint{c: c, slots: make(chan struct{}, maxConns)}, nil
}

// Serve takes connections at a door until ctx ends, then closes them all and returns nil. It may be called for several doors.
func (e *Endpoint) Serve(ctx context.Context, d Door) error {
	if d.Admit == nil {
		return errors.New("endpoint: a door that admits nobody")
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = d.Listener.Close() })
	defer stop()
	for {
		conn, err := d.Listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("endpoint for %s: %w", e.c.Target, err)
		case err != nil:
			if !pause(ctx, acceptPause) {
				return nil
			}
			continue
		}
		wg.Go(func() { e.handle(ctx, conn, d) })
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (e *Endpoint) handle(ctx context.Context, conn net.Conn, d Door) {
	defer conn.Close()
	local, ok := conn.(tunnel.Duplex)
	if !ok {
		return // neither a unix socket nor TCP: nothing that this package listens on
	}
	client, err := d.Admit(conn)
	if err != nil {
		e.refuse(ctx, conn, err)
		return
	}
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	default:
		e.refuse(ctx, conn, api.Because(api.ErrBusy, "close some of them", "%d connections to %s are open already", maxConns, e.c.Target))
		return
	}
	opening, cancel := context.WithTimeout(ctx, openLimit)
	far, err := e.c.Way.Open(opening, client, d.Verifier)
	cancel()
	if err != nil {
		e.refuse(ctx, conn, err)
		return
	}
	n, err := tunnel.Splice(ctx, local, far)
	e.c.Log.Debug("connection ended", "target", string(e.c.Target), "client", client.Program, "copied", n, "error", err)
}

func (e *Endpoint) refuse(ctx context.Context, conn net.Conn, why error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(refuseLimit))
	r := refusalOf(why)
	err := e.c.Protocol.Refuse(conn, r)
	e.c.Log.Debug("connection refused", "target", string(e.c.Target), "rule", r.Denied.Rule, "why", why, "error", err)
}

// refusalOf is what an error comes to in front of a client. What is not a clear answer closes the gate.
func refusalOf(err error) Refusal {
	if d := (*access.Denied)(nil); errors.As(err, &d) {
		return Refusal{Message: d.Error(), Denied: *d}
	}
	closed := access.Denied{Code: access.CodeNoDecision, Rule: "gate-closed", Retryable: true}
	e := (*api.Error)(nil)
	if !errors.As(err, &e) {
		closed.Hint = "the broker or the relay cannot be reached; try again: " + firstLine(err)
		return Refusal{Message: closed.Error(), Denied: closed}
	}
	d := access.Denied{Code: access.CodeDenied, Rule: cmp.Or(e.Narrow(), "broker."+e.Code), Hint: e.Hint}
	switch {
	case errors.Is(e, api.ErrRevoked):
		d.Code, d.Rule = access.CodeRevoked, cmp.Or(e.Narrow(), "revoked")
		return Refusal{Message: e.Message, Login: true, Denied: d}
	case errors.Is(e, api.ErrLogin):
		d.Code = access.CodeRevoked
		return Refusal{Message: e.Message, Login: true, Denied: d}
	case errors.Is(e, api.ErrDenied), errors.Is(e, api.ErrNotFound), errors.Is(e, api.ErrConflict):
		return Refusal{Message: e.Message, Denied: d}
	case errors.Is(e, api.ErrBusy):
		d.Code, d.Retryable = access.CodeBusy, true
		return Refusal{Message: e.Message, Denied: d}
	}
	closed.Hint, closed.Rule = e.Message, cmp.Or(e.Narrow(), closed.Rule)
	if e.Hint != "" {
		closed.Hint += "; " + e.Hint
	}
	return Refusal{Message: closed.Error(), Denied: closed}
}

// firstLine keeps an error that came from elsewhere short.
func firstLine(err error) string {
	s := err.Error()
	for i, r := range s {
		if r == '\n' || i >= 300 {
			return s[:i]
		}
	}
	return s
}
