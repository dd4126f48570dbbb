package relay

import (
	"fmt"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel"
	"github.com/sallyport/sallyport/tunnel/mux"
)

// uplink serves one connection of an agent, whose certificate TLS has verified: it is a route until it breaks.
func (r *Relay) uplink(p *peer) error {
	agent, err := token.ParseAgent(p.ConnectionState().PeerCertificates[0])
	if err != nil {
		return refuse(p, api.Because(api.ErrDenied, "enroll the agent again", "the certificate is not an agent's: %v", err))
	}
	l := &link{agent: agent, ready: make(chan struct{})}
	if err := r.routes.add(l); err != nil {
		return refuse(p, err)
	}
	defer r.routes.remove(l)
	// The welcome is the last thing before the mux: nothing may be opened before it.
	if err := tunnel.WriteFrame(p, api.Welcome{V: tunnel.Version}); err != nil {
		return fmt.Errorf("welcome: %w", err)
	}
	if err := p.settled(); err != nil {
		return err
	}
	session, err := mux.New(p.Leg, p.raw.Close, mux.Opener, r.cfg.Limits.Mux)
	if err != nil {
		return err
	}
	defer session.Close()
	if !r.routes.up(l, session) {
		return errStopping
	}
	r.cfg.Log.Info("agent is connected", "agent", agent.Name, "targets", len(agent.Targets), "key", agent.Thumbprint, "remote", p.raw.RemoteAddr())
	<-session.Done()
	r.cfg.Log.Info("agent is gone", "agent", agent.Name, "remote", p.raw.RemoteAddr())
	return nil
}
