// Package session turns streams into sessions: it proves the client on this channel, opens the session at the broker, and lets a room serve it.
// It refuses a proof for another channel, agent, target or token, more sessions than it can carry, and to go on without word of the broker.
package session

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/recording"
	"github.com/sallyport/sallyport/agent/spool"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel/uplink"
)

// Broker is what sessions ask of it beside decisions: broker.Agent.
type Broker interface {
	gate.Claims
	Open(ctx context.Context, r api.OpenRequest) (api.OpenResponse, error)
	Close(ctx context.Context, r api.CloseRequest) error
	Changes(ctx context.Context, r api.ChangesRequest) (api.ChangesResponse, error)
}

// Spool keeps outcomes, and which sessions are open: spool.Spool.
type Spool interface {
	gate.Outcomes
	Opened(s spool.Session) error
	Closed(id access.SessionID)
}

// Target is one destination.
type Target struct {
	Room  protocol.Protocol
	Login func(ctx context.Context) (protocol.Login, error) // with a freshly fetched credential
	Dial  func(ctx context.Context) (net.Conn, error)
}

// Config is what New needs. All but MaskKey, Max and Now are required.
type Config struct {
	Agent       access.AgentName
	Broker      Broker
	Batcher     *gate.Batcher
	Spool       Spool
	Recordings  *recording.Keeper
	Targets     map[access.TargetName]Target
	Floor       gate.Floor
	MaskKey     secret.Secret                   // see protocol.Session
	Certificate func() (tls.Certificate, error) // current, with Leaf
	Max         int                             // streams at a time; 0: DefaultMax
	Undelivered func() api.Spool                // what waits for the broker, for its figures; nil: nobody tells
	Now         func() time.Time                // nil: time.Now
	Log         *slog.Logger
}

const (
	// DefaultMax bounds memory: a session holds two connections and a few hundred kilobytes.
	DefaultMax = 1000
	// firstBytes is how long a client may take to say what it speaks: drivers do at once.
	firstBytes = 30 * time.Second
	// openTimeout is for the broker to open a session; a client's own connect timeout is rarely longer.
	openTimeout = 10 * time.Second
	// refuseTimeout is for a room to tell a client why there is no session.
	refuseTimeout = 5 * time.Second
	// headTimeout is for the gate to learn how the session's chain ends.
	headTimeout = 6 * time.Second
	// A close that the broker does not take is tried again after firstWait, then less and less often; lastClose is for the last one.
	firstWait = 200 * time.Millisecond
	lastWait  = 30 * time.Second
	lastClose = 2 * time.Second
)

// Server serves the agent's streams.
type Server struct {
	Config
	slots   chan struct{}
	closing sync.WaitGroup
	live    live
	told    time.Time // when the broker was last told what waits in the spool; Poll's alone
	clear   bool      // nothing waited then
}

// New makes a Server. Poll must run while streams are handled.
func New(c Config) (*Server, error) {
	if c.Agent == "" || c.Broker == nil || c.Batcher == nil || c.Spool == nil || c.Recordings == nil || len(c.Targets) == 0 || c.Certificate == nil || c.Log == nil {
		return nil, errors.New("serve sessions: everything but MaskKey, Max and Now is required")
	}
	for name, t := range c.Targets {
		if t.Room == nil || t.Login == nil || t.Dial == nil {
			return nil, fmt.Errorf("serve sessions: target %q has no room, login or way", name)
		}
	}
	if c.Max == 0 {
		c.Max = DefaultMax
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Server{Config: c, slots: make(chan struct{}, c.Max), live: newLive(), clear: true}, nil
}

// Handle owns one stream (uplink.Config.Handle): it returns once the session has ended and its connections are closed.
func (s *Server) Handle(ctx context.Context, stream net.Conn) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		s.Log.Warn("stream refused", "error", "too many sessions")
		_ = stream.Close() // before TLS there is nobody to tell
		return
	}
	cert, err := s.Certificate()
	if err != nil {
		s.Log.Error("stream refused", "error", err)
		_ = stream.Close() // as above
		return
	}
	up, err := uplink.Accept(ctx, stream, cert)
	if err != nil {
		s.Log.Info("stream refused", "error", err)
		return
	}
	defer up.Close() //nolint:errcheck // the room has closed it, or it is over anyway
	target, owner, refusal := s.admit(up, cert)
	if err := up.Welcome(refusal); err != nil || refusal != nil {
		s.Log.Info("stream refused", "target", up.Hello.Target, "refusal", refusal, "error", err)
		return
	}
	client := &peeked{Stream: up, r: bufio.NewReaderSize(up, 4<<10)}
	if aside, ok := target.Room.(protocol.Aside); ok {
		if taken, err := s.aside(ctx, aside, client, owner); taken || err != nil {
			if err != nil {
				s.Log.Info("stream ended before it was a session", "target", up.Hello.Target, "error", err)
			}
			return
		}
	}
	s.serve(ctx, &opening{Server: s, up: up, client: client, target: target, owner: owner})
}

// admit verifies that the endpoint's key signed this very channel. Whether its lineage may do anything is the broker's to say.
func (s *Server) admit(up *uplink.Stream, cert tls.Certificate) (Target, protocol.Owner, *api.Error) {
	refuse := func(format string, args ...any) (Target, protocol.Owner, *api.Error) {
		return Target{}, protocol.Owner{}, api.Because(api.ErrDenied, "connect again", format, args...)
	}
	proof, jkt, err := token.VerifyProof(up.Preamble.Proof, s.Now())
	if err != nil {
		return refuse("session proof: %v", err)
	}
	key, ok := cert.Leaf.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !ok || proof.AgentKey != token.Thumbprint(key):
		return refuse("the session proof is for another agent's key")
	case proof.Target != up.Hello.Target:
		return refuse("the session proof is for target %q", proof.Target)
	case len(up.Exporter) != 32 || subtle.ConstantTimeCompare(proof.Exporter, up.Exporter) != 1:
		return refuse("the session proof is for another channel")
	case proof.Endpoint != up.Preamble.Endpoint:
		return refuse("the session proof is for another endpoint")
	case proof.TokenHash != token.HashToken(up.Preamble.Token):
		return refuse("the session proof is for another token")
	}
	target, ok := s.Targets[up.Hello.Target]
	if !ok {
		return Target{}, protocol.Owner{}, api.Because(api.ErrNotFound, "configure the target at the agent, or enroll another agent for it",
			"the agent's configuration has no target %q", up.Hello.Target)
	}
	return target, protocol.Owner{Endpoint: proof.Endpoint, Thumbprint: jkt}, nil
}

// aside lets the room look whether this is one of its connections that are not sessions.
func (s *Server) aside(ctx context.Context, room protocol.Aside, client *peeked, owner protocol.Owner) (bool, error) {
	if err := client.SetReadDeadline(time.Now().Add(firstBytes)); err != nil {
		return false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = client.SetReadDeadline(time.Now()) }) // the read fails and tells
	taken, err := room.TakeAside(ctx, client.r, owner)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if taken || err != nil {
		return taken, err
	}
	return false, client.SetReadDeadline(time.Time{})
}

// peeked is a stream of which some bytes have been read ahead.
type peeked struct {
	*uplink.Stream
	r *bufio.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }
