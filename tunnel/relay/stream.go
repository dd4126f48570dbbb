package relay

import (
	"context"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/tunnel"
	"github.com/sallyport/sallyport/tunnel/mux"
)

// stream serves one endpoint: hello, ticket, an agent, and then copying until both sides have ended.
func (r *Relay) stream(hard context.Context, p *peer) error {
	hello, err := tunnel.ReadHello(p)
	if err != nil {
		return refuse(p, api.Because(api.ErrBadRequest, "", "hello: %v", err))
	}
	if !r.begin() {
		return refuse(p, api.Because(api.ErrBusy, "try again, or another relay", "this relay takes no more streams"))
	}
	defer r.end()
	up, err := r.join(hello)
	if err != nil {
		return refuse(p, err)
	}
	defer up.Close() //nolint:errcheck // Splice has closed it; this is for a return before
	// The agent hears the target alone. Its answer is TLS, and none of ours.
	if err := tunnel.WriteFrame(up, tunnel.Hello{V: tunnel.Version, Target: hello.Target}); err != nil {
		return refuse(p, api.Because(api.ErrUnavailable, "try again", "the uplink of the agent broke"))
	}
	if err := tunnel.WriteFrame(p, api.Welcome{V: tunnel.Version}); err != nil {
		return fmt.Errorf("welcome: %w", err)
	}
	if err := p.settled(); err != nil {
		return err
	}
	copied, err := tunnel.Splice(hard, p.Leg, up)
	r.cfg.Log.Debug("stream ended", "target", hello.Target, "sent", copied.AtoB, "received", copied.BtoA)
	return err
}

// join verifies the ticket and opens a stream to the agent that it leads to. Its errors are *api.Error.
func (r *Relay) join(hello tunnel.Hello) (*mux.Stream, error) {
	t, err := r.cfg.Ticket(hello.Ticket)
	if err != nil {
		return nil, err
	}
	if t.Target != hello.Target {
		return nil, api.Because(api.ErrDenied, "", "the ticket is for another target than %s", hello.Target)
	}
	return r.routes.open(t.Target, t.Endpoint)
}

// begin takes a place for a stream; there is none while the relay stops.
func (r *Relay) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping {
		return false
	}
	select {
	case r.streams <- struct{}{}:
		r.drained.Add(1)
		return true
	default:
		return false
	}
}

func (r *Relay) end() {
	<-r.streams
	r.drained.Done()
}

// refuse tells the peer why; what is not an *api.Error stays in the log.
func refuse(p *peer, why error) error {
	refusal := (*api.Error)(nil)
	if !errors.As(why, &refusal) {
		refusal = api.Because(api.ErrInternal, "the relay's log has the reason", "internal error")
	}
	if err := tunnel.WriteFrame(p, api.Welcome{V: tunnel.Version, Error: refusal}); err != nil {
		return fmt.Errorf("refused: %w (and not told: %w)", why, err)
	}
	_ = p.Close() // in order, so that the refusal arrives
	return fmt.Errorf("refused: %w", why)
}
