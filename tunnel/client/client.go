package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel"
)

// relayTimeout is for one relay, agent included, before the next is tried: four round trips, two signatures and the agent's look at the
// proof take well under a second anywhere on earth.
const relayTimeout = 2 * tunnel.HandshakeTimeout

// Config is what Dial needs, all of it but Accept.
type Config struct {
	Relays   []string       // host:port, tried in order
	CA       *x509.CertPool // of the stack: signs relays and agents
	Ticket   string         // for the relay, from PathTicket
	Target   access.TargetName
	Endpoint string
	// Prove signs the session proof for the agent key (RFC 7638 thumbprint) and TLS exporter (32 bytes, token.ExporterLabel) of this channel.
	Prove func(agentKey string, exporter []byte) (proof string, err error)
	// Accept says whether the agent will do, of which so far only the certificate is known; nil: any will that the stack's CA signed for the target.
	// One that will not learns nothing of who asks.
	Accept func(token.Agent) error
	// Preamble goes to the agent inside the TLS. V, Endpoint and Proof are filled in.
	Preamble api.Preamble
}

// Conn is the channel to the agent. Its Read ends with io.EOF only if the agent ended it, with tunnel.ErrCut if anything in between did.
type Conn struct {
	*tunnel.Channel
}

// Dial connects. A refusal by relay or agent is an *api.Error in the chain; when no relay can be reached the error is of kind api.ErrUnavailable.
func Dial(ctx context.Context, cfg Config) (*Conn, error) {
	if cfg.CA == nil || cfg.Prove == nil || cfg.Target == "" || cfg.Endpoint == "" {
		return nil, errors.New("dial target: a CA, a proof, a target and an endpoint are needed")
	}
	if len(cfg.Relays) == 0 {
		return nil, fmt.Errorf("dial target: %w", api.Because(api.ErrUnavailable, "ask whoever runs the broker", "the broker names no relay"))
	}
	var errs []error
	for _, relay := range cfg.Relays {
		conn, err := dialRelay(ctx, cfg, relay)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("relay %s: %w", relay, err))
		if ctx.Err() != nil || final(err) {
			break
		}
	}
	err := errors.Join(errs...)
	if refusal := (*api.Error)(nil); errors.As(err, &refusal) {
		return nil, fmt.Errorf("dial target %s: %w", cfg.Target, err)
	}
	return nil, fmt.Errorf("dial target %s: %w: %w", cfg.Target, api.Because(api.ErrUnavailable, "", "no relay leads there"), err)
}

// final says whether another relay would only say the same: what the broker's ticket or the proof is refused for does not change by
// asking elsewhere, where an agent is connected may.
func final(err error) bool {
	refusal := (*api.Error)(nil)
	return errors.As(err, &refusal) && !errors.Is(refusal, api.ErrUnavailable) && !errors.Is(refusal, api.ErrBusy)
}

func dialRelay(ctx context.Context, cfg Config, relay string) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", relay)
	if err != nil {
		return nil, err // says what it did
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) }) // the reads and writes below fail and tell
	conn, err := open(raw, cfg)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = raw.Close() // err is the one to tell
		return nil, err
	}
	return conn, nil
}

// open does the whole handshake on a connection to a relay. The hello and the first words to the agent go out without waiting for the
// relay's answer, which is read before the agent's: a refusal costs no round trip and neither does a welcome.
func open(raw net.Conn, cfg Config) (*Conn, error) {
	outer := tunnel.ClientLeg(raw, tunnel.TLSTo(tunnel.ALPNStream, cfg.CA, token.URIRelay))
	if err := outer.Handshake(); err != nil {
		return nil, fmt.Errorf("handshake with the relay: %w", err)
	}
	if err := tunnel.WriteFrame(outer, tunnel.Hello{V: tunnel.Version, Target: cfg.Target, Ticket: cfg.Ticket}); err != nil {
		return nil, fmt.Errorf("hello: %w", err)
	}
	tcfg := tunnel.TLSTo(tunnel.ALPNInner, cfg.CA, token.URITarget(cfg.Target))
	tcfg.ServerName = string(cfg.Target) // for the agent: what the relay told it must be what we say
	inner := tls.Client(tunnel.Carry(&afterWelcome{Conn: outer}), tcfg)
	if err := inner.Handshake(); err != nil {
		return nil, fmt.Errorf("handshake with the agent: %w", err)
	}
	if cfg.Accept != nil {
		agent, err := token.ParseAgent(inner.ConnectionState().PeerCertificates[0])
		if err == nil {
			err = cfg.Accept(agent)
		}
		if err != nil {
			_ = inner.Close() // it is told nothing
			return nil, fmt.Errorf("agent's certificate: %w", err)
		}
	}
	ch := tunnel.NewChannel(inner)
	if err := introduce(ch, cfg); err != nil {
		return nil, err
	}
	return &Conn{ch}, nil
}

// introduce proves to the agent, whose certificate has been verified, who asks.
func introduce(ch *tunnel.Channel, cfg Config) error {
	exporter, err := ch.Exporter()
	if err != nil {
		return err
	}
	agentKey, err := ch.PeerKey()
	if err != nil {
		return err
	}
	p := cfg.Preamble
	p.V, p.Endpoint = tunnel.Version, cfg.Endpoint
	if p.Proof, err = cfg.Prove(agentKey, exporter); err != nil {
		return fmt.Errorf("prove the session: %w", err)
	}
	if err := tunnel.WriteFrame(ch, p); err != nil {
		return fmt.Errorf("preamble: %w", err)
	}
	if err := tunnel.ReadWelcome(ch); err != nil {
		return fmt.Errorf("agent's answer: %w", err)
	}
	return nil
}

// afterWelcome is a connection whose first Read takes the relay's answer off first. Only the handshake reads it then, from one goroutine.
type afterWelcome struct {
	net.Conn
	welcomed bool
}

func (c *afterWelcome) Read(b []byte) (int, error) {
	if !c.welcomed {
		if err := tunnel.ReadWelcome(c.Conn); err != nil {
			return 0, fmt.Errorf("relay's answer: %w", err)
		}
		c.welcomed = true
	}
	return c.Conn.Read(b)
}
