package run

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/sallyport/sallyport/client/process"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
)

// Voice is the actor that the run speaks as.
type Voice interface {
	Do(ctx context.Context, method, path string, in, out any) error
	Delegate(ctx context.Context, d broker.Delegation) (api.TokenResponse, error)
}

// control serves the run's socket.
type control struct {
	tree     *tree
	hello    Hello
	voice    Voice
	fresh    func(context.Context) error // renews the token if it is due
	endpoint func(ctx context.Context, t access.TargetName) (Endpoint, error)
	log      *slog.Logger
	slots    chan struct{}
}

// Limits of the socket.
const (
	maxCallers = 128
	// callLimit bounds one request: a call to the broker, which answers within seconds or not at all.
	callLimit = 30 * time.Second
	// refuseLimit is how long a refused caller may take to ask: it must not hold a place for long.
	refuseLimit = 2 * time.Second
	// idleLimit ends a connection that asks nothing. A registered run keeps its own for life.
	idleLimit = 30 * time.Second
)

func (s *control) serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // out of descriptors: somebody has to end first
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		select {
		case s.slots <- struct{}{}:
			wg.Go(func() {
				defer func() { <-s.slots }()
				s.handle(ctx, conn.(*net.UnixConn))
			})
		default:
			_ = conn.Close()
		}
	}
}

func (s *control) handle(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	p, err := process.PeerOf(conn)
	if err == nil {
		if err = s.tree.admit(p, p.UID); err != nil {
			p.Close()
		}
	}
	if err != nil {
		s.log.Debug("caller refused", "error", err)
		_ = conn.SetDeadline(time.Now().Add(refuseLimit))
		_ = readMessage(conn, new(request), maxRequest) // so that the caller hears the answer, not a broken pipe
		_ = writeMessage(conn, answer{V: version, Error: apiError(err)}, maxAnswer)
		return
	}
	registered := false
	defer func() {
		if !registered {
			p.Close()
		}
	}()
	for ctx.Err() == nil {
		limit := time.Now().Add(idleLimit)
		if registered {
			limit = time.Time{}
		}
		if conn.SetReadDeadline(limit) != nil || ctx.Err() != nil {
			return
		}
		var r request
		err := readMessage(conn, &r, maxRequest)
		if errors.Is(err, io.EOF) || (err != nil && !isAPI(err)) {
			return
		}
		a := answer{V: version}
		if err == nil {
			a, err = s.answer(ctx, r, p, &registered)
		}
		if err != nil {
			a = answer{V: version, Error: apiError(err)}
		}
		if conn.SetWriteDeadline(time.Now().Add(callLimit)) != nil || writeMessage(conn, a, maxAnswer) != nil || a.Error != nil {
			return
		}
	}
}

func (s *control) answer(ctx context.Context, r request, p *process.Peer, registered *bool) (answer, error) {
	a := answer{V: version}
	if err := r.check(); err != nil {
		return a, err
	}
	if *registered {
		return a, api.Because(api.ErrDenied, "", "this process is a run of its own now, and speaks for itself")
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if err := s.fresh(ctx); err != nil {
		return a, err
	}
	switch r.Op {
	case opHello:
		a.Hello = &s.hello
	case opCall:
		var in, out any
		if r.Call.Body != nil {
			in = r.Call.Body
		}
		if r.Call.Path != api.PathRevoke {
			out = &a.Body
		}
		return a, s.voice.Do(ctx, r.Call.Method, r.Call.Path, in, out)
	case opEndpoint:
		e, err := s.endpoint(ctx, r.Target)
		if err != nil {
			return a, err
		}
		a.Endpoint = &e
	case opDelegate:
		t, err := s.voice.Delegate(ctx, broker.Delegation(*r.Delegate))
		if err != nil {
			return a, err
		}
		// Before the answer: the run inside has no key to speak with until it hears from us, and by then it is known.
		if err := s.tree.add(r.Delegate.Name, p); err != nil {
			return a, err
		}
		*registered = true
		a.Token = &t
	}
	return a, nil
}

func isAPI(err error) bool {
	e := (*api.Error)(nil)
	return errors.As(err, &e)
}

// apiError is what an error comes to on the socket: nothing that is not meant for callers leaves.
func apiError(err error) *api.Error {
	if e := (*api.Error)(nil); errors.As(err, &e) {
		return e
	}
	if d := (*access.Denied)(nil); errors.As(err, &d) {
		return api.Because(api.ErrDenied, d.Hint, "%s", d.Error())
	}
	return api.Because(api.ErrUnavailable, "try again", "no decision: the gate is closed: %v", err)
}
