package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
)

// Enclosing is the run that this process is in, as seen from inside: it speaks, this process only asks.
type Enclosing struct{ conn *net.UnixConn }

// Enter connects to the socket named by SALLYPORT_SOCK.
func Enter(ctx context.Context, sock string) (*Enclosing, error) {
	var d net.Dialer
	d.Timeout = 5 * time.Second
	c, err := d.DialContext(ctx, "unix", sock)
	if err != nil {
		return nil, api.Because(api.ErrDenied, "start again inside a `sallyport run`",
			"the run around this process (SALLYPORT_SOCK) does not answer: %v", err)
	}
	return &Enclosing{conn: c.(*net.UnixConn)}, nil
}

// Close ends the connection. A run that delegated through it must keep it open for life.
func (e *Enclosing) Close() error { return e.conn.Close() }

func (e *Enclosing) ask(ctx context.Context, r request) (answer, error) {
	deadline := time.Now().Add(callLimit + 5*time.Second) // the run gives up first, and says why
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := e.conn.SetDeadline(deadline); err != nil {
		return answer{}, fmt.Errorf("ask the run: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = e.conn.SetDeadline(time.Now()) })
	defer stop()
	r.V = version
	if err := writeMessage(e.conn, r, maxRequest); err != nil {
		return answer{}, fmt.Errorf("ask the run: %w", err)
	}
	var a answer
	if err := readMessage(e.conn, &a, maxAnswer); err != nil {
		return answer{}, fmt.Errorf("ask the run: %w", err)
	}
	if a.V != version {
		return answer{}, fmt.Errorf("ask the run: version %d is not %d", a.V, version)
	}
	if a.Error != nil {
		return answer{}, a.Error
	}
	return a, nil
}

// Hello asks who the run is.
func (e *Enclosing) Hello(ctx context.Context) (Hello, error) {
	a, err := e.ask(ctx, request{Op: opHello})
	if err != nil {
		return Hello{}, err
	}
	if a.Hello == nil {
		return Hello{}, errors.New("ask the run: the answer lacks what was asked for")
	}
	return *a.Hello, nil
}

// Delegate makes this process a run of its own, one step below.
func (e *Enclosing) Delegate(ctx context.Context, d broker.Delegation) (api.TokenResponse, error) {
	del := delegation(d)
	a, err := e.ask(ctx, request{Op: opDelegate, Delegate: &del})
	if err != nil {
		return api.TokenResponse{}, err
	}
	if a.Token == nil {
		return api.TokenResponse{}, errors.New("ask the run: the answer lacks what was asked for")
	}
	return *a.Token, nil
}

// Do asks the broker as the run's actor.
func (e *Enclosing) Do(ctx context.Context, method, path string, in, out any) error {
	c := &call{Method: method, Path: path}
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("ask the run: %w", err)
		}
		c.Body = b
	}
	a, err := e.ask(ctx, request{Op: opCall, Call: c})
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(a.Body, out); err != nil {
		return fmt.Errorf("ask the run: answer to %s %s: %w", method, path, err)
	}
	return nil
}

// Endpoint asks for a socket to a target.
func (e *Enclosing) Endpoint(ctx context.Context, t access.TargetName) (Endpoint, error) {
	a, err := e.ask(ctx, request{Op: opEndpoint, Target: t})
	if err != nil {
		return Endpoint{}, err
	}
	if a.Endpoint == nil {
		return Endpoint{}, errors.New("ask the run: the answer lacks what was asked for")
	}
	return *a.Endpoint, nil
}

// Ended waits, without asking anything any more, until the run ends (true) or ctx does (false).
func (e *Enclosing) Ended(ctx context.Context) bool {
	if err := e.conn.SetDeadline(time.Time{}); err != nil {
		return true
	}
	stop := context.AfterFunc(ctx, func() { _ = e.conn.SetReadDeadline(time.Now()) })
	defer stop()
	var b [1]byte
	_, _ = e.conn.Read(b[:]) // it never says anything unasked: whatever comes back is the end
	return ctx.Err() == nil
}
