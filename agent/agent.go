package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport/agent/config"
	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/recording"
	"github.com/sallyport/sallyport/agent/session"
	"github.com/sallyport/sallyport/agent/spool"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/keyfile"
	"github.com/sallyport/sallyport/internal/mask"
	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/internal/sigv4"
	"github.com/sallyport/sallyport/internal/telemetry"
	"github.com/sallyport/sallyport/tunnel/mux"
	"github.com/sallyport/sallyport/tunnel/uplink"
)

// Config is what Run needs; all of it.
type Config struct {
	config.Config
	Rooms  map[string]protocol.Protocol // by the name that targets use
	Getenv func(string) string          // for credentials
	Ready  func(Ready) error            // called once, when the agent serves its targets on a relay
	Log    *slog.Logger
}

// Ready is what an agent that serves says of itself.
type Ready struct {
	Agent   access.AgentName    `json:"agent"`
	Targets []access.TargetName `json:"targets"`
	Relays  []string            `json:"relays"`
	PID     int                 `json:"pid"`
}

// uplinkWindow is what a client may send ahead of its room: half of the mux's own, so that the windows of 500 sessions, all full, are half a
// gigabyte of this process. What rooms send is in the relay's windows.
const uplinkWindow = mux.DefaultWindow / 2

const (
	// dialTimeout is for a target in the same network.
	dialTimeout = 10 * time.Second
	// discoveryWait is how often a broker that is away is asked for its relays at start.
	discoveryWait = time.Second
)

// Run serves until ctx ends, then ends its sessions in order.
func Run(ctx context.Context, c Config) error {
	if err := c.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	// The spool's lock comes first: it keeps a second agent off the same key.
	sp, err := spool.Open(spool.Config{Dir: filepath.Join(c.StateDir, "spool"), Limit: c.Spool, Log: c.Log})
	if err != nil {
		return err
	}
	keeper, err := recording.Open(recording.Config{Dir: filepath.Join(c.StateDir, "recordings"), Limit: c.Recordings, Log: c.Log})
	if err != nil {
		return errors.Join(err, sp.Close())
	}
	err = c.run(ctx, sp, keeper)
	return errors.Join(err, keeper.Close(), sp.Close())
}

func (c *Config) check() error {
	if c.Getenv == nil || c.Ready == nil || c.Log == nil {
		return errors.New("run agent: Getenv, Ready and Log are required")
	}
	for name, t := range c.Targets {
		if c.Rooms[t.Protocol] == nil {
			return fmt.Errorf("target %q: this agent has no protocol %q", name, t.Protocol)
		}
	}
	return nil
}

func (c *Config) run(ctx context.Context, sp *spool.Spool, keeper *recording.Keeper) error {
	id, err := Enroll(ctx, c.Config, c.Getenv)
	if err != nil {
		return err
	}
	if err := id.Kept(); err != nil {
		c.Log.Warn("the join token was not taken: the agent goes on with the certificate that it has", "error", err)
	}
	if err := id.covers(c.Targets); err != nil {
		return err
	}
	key, err := c.maskKey(ctx)
	if err != nil {
		return err
	}
	b, tel, err := c.caller(id)
	if err != nil {
		return err
	}
	defer b.CloseIdle()
	if err := counts(ctx, b, id.agent.Name); err != nil {
		return err
	}
	tracing, stopTracing := context.WithCancel(context.WithoutCancel(ctx))
	var traced sync.WaitGroup
	traced.Go(func() { tel.Keep(tracing) })
	defer func() { stopTracing(); traced.Wait() }()
	batcher := gate.NewBatcher(id.agent.Name, b)
	defer batcher.Close()
	srv, err := session.New(session.Config{Agent: id.agent.Name, Broker: b, Batcher: batcher, Spool: sp, Recordings: keeper, Targets: c.targets(), Floor: c.Floor,
		MaskKey: key, Certificate: id.Certificate, Log: c.Log,
		Undelivered: func() api.Spool { return api.Spool{Bytes: sp.Waiting(), OldestSeconds: sp.Oldest().Seconds()} }})
	if err != nil {
		return err
	}
	relays, err := c.relays(ctx)
	if err != nil {
		return err
	}
	srv.CloseLeft(ctx, sp.Left())
	c.serve(ctx, serving{id.agent.Name, id, b, srv, sp, keeper, relays})
	return nil
}

// counts asks once whether the broker still takes this agent for one: a revoked one would hold its places at the relays, look ready, and serve
// nobody. A broker that does not answer says nothing of that.
func counts(ctx context.Context, b *broker.Agent, name access.AgentName) error {
	ctx, cancel := context.WithTimeout(ctx, countsLimit)
	defer cancel()
	_, err := b.Changes(ctx, api.ChangesRequest{Agent: name})
	if e := (*api.Error)(nil); errors.As(err, &e) && (e.Rule == api.RuleAgentRevoked || e.Rule == api.RuleAgentExpired) {
		return fmt.Errorf("agent %s: %w", name, err)
	}
	return nil
}

// countsLimit is for one question at the start: a function may have to start for it.
const countsLimit = 10 * time.Second

// maskKey is the configured one, so that several agents make the same of a value, or one of this agent's own.
func (c *Config) maskKey(ctx context.Context) (secret.Secret, error) {
	if c.MaskKey.Check() == nil {
		key, err := c.MaskKey.Fetch(ctx, c.Getenv)
		if err == nil && len(key.Reveal()) < mask.LeastKey {
			err = fmt.Errorf("it is under %d bytes", mask.LeastKey)
		}
		if err != nil {
			return secret.Secret{}, fmt.Errorf("mask_key: %w", err)
		}
		return key, nil
	}
	keys, err := keyfile.Open(filepath.Join(c.StateDir, "keys"))
	if err != nil {
		return secret.Secret{}, fmt.Errorf("mask key: %w", err)
	}
	key, err := keys.Secret("mask")
	if err != nil {
		return secret.Secret{}, fmt.Errorf("mask key: %w", err)
	}
	return secret.New(string(key)), nil
}

// caller is who asks the broker: by the agent's key, and by the machine's AWS identity where the configuration says so.
func (c *Config) caller(id *Identity) (*broker.Agent, *telemetry.Telemetry, error) {
	tel, err := telemetry.New(telemetry.Config{Function: "sallyport-agent", Getenv: c.Getenv, Log: c.Log.Handler()})
	if err != nil {
		return nil, nil, err
	}
	cfg := broker.AgentConfig{URL: c.Broker, Certificate: id.Certificate, Telemetry: tel}
	if c.AWSRegion != "" {
		s, err := sigv4.New(sigv4.Config{Region: c.AWSRegion, Getenv: c.Getenv})
		if err != nil {
			return nil, nil, err
		}
		c.Log.Info("calls are signed by an AWS identity too", "region", c.AWSRegion, "source", s.Source())
		cfg.AWS = s
	}
	b, err := broker.NewAgent(cfg)
	return b, tel, err
}

// serving is everything that is at work while the agent serves.
type serving struct {
	name   access.AgentName
	id     *Identity
	broker *broker.Agent
	srv    *session.Server
	spool  *spool.Spool
	keeper *recording.Keeper
	relays []string
}

// serve stops in this order: streams, then the word of the broker and the last closes, then what is left to deliver.
func (c *Config) serve(ctx context.Context, s serving) {
	after, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { s.srv.Poll(after) })
	wg.Go(func() { s.id.keep(after, s.broker, c.Log) })
	spooling, stopSpooling := context.WithCancel(after)
	var spooled sync.WaitGroup
	spooled.Go(func() { s.spool.Run(spooling, s.name, s.broker) })
	spooled.Go(func() { s.keeper.Run(spooling, s.name, s.broker) })

	up := &uplinks{ready: c.Ready, log: c.Log, up: make([]int, len(s.relays)),
		what: Ready{Agent: s.name, Targets: names(c.Targets), Relays: s.relays, PID: os.Getpid()}}
	var streams sync.WaitGroup
	for i, relay := range s.relays {
		streams.Go(func() {
			err := uplink.Run(ctx, uplink.Config{Relay: relay, Certificate: s.id.Certificate, CA: s.id.pool(), Handle: s.srv.Handle,
				Mux: mux.Config{Window: uplinkWindow}, Changed: func(n int) { up.changed(i, n) }, Log: c.Log})
			if err != nil {
				c.Log.Error("uplink", "relay", relay, "error", err)
			}
		})
	}
	streams.Wait()
	s.srv.Wait()
	stopSpooling()
	spooled.Wait()
	stop()
	wg.Wait()
}

// uplinks tells once that the agent is ready.
type uplinks struct {
	ready func(Ready) error
	what  Ready
	log   *slog.Logger

	mu   sync.Mutex
	up   []int
	told bool
}

func (u *uplinks) changed(i, n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.up[i] = n
	if n == 0 || u.told {
		return
	}
	u.told = true
	u.log.Info("ready", "agent", u.what.Agent, "targets", u.what.Targets)
	if err := u.ready(u.what); err != nil {
		u.log.Error("readiness was not told", "error", err)
	}
}

// relays are the configured ones, or those that the broker names; it is asked until it answers.
func (c *Config) relays(ctx context.Context) ([]string, error) {
	if len(c.Relays) > 0 {
		return c.Relays, nil
	}
	p, err := broker.NewPublic(c.Broker)
	if err != nil {
		return nil, err
	}
	defer p.CloseIdle()
	for {
		d, err := p.Discovery(ctx)
		if err == nil && len(d.Relays) > 0 {
			return d.Relays, nil
		}
		if err == nil {
			return nil, errors.New("the broker names no relay: set relays")
		}
		c.Log.Warn("the broker does not say where its relays are", "error", err)
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(discoveryWait):
		}
	}
}

func (c *Config) targets() map[access.TargetName]session.Target {
	all := make(map[access.TargetName]session.Target, len(c.Targets))
	for name, t := range c.Targets {
		all[name] = session.Target{
			Room: c.Rooms[t.Protocol],
			Login: func(ctx context.Context) (protocol.Login, error) {
				secret, err := t.Password.Fetch(ctx, c.Getenv)
				return protocol.Login{User: t.User, Password: secret, Database: t.Database, Peer: t.Peer}, err
			},
			Dial: func(ctx context.Context) (net.Conn, error) {
				return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, t.Network, t.Address)
			},
		}
	}
	return all
}

func names(targets map[access.TargetName]config.Target) []access.TargetName {
	all := make([]access.TargetName, 0, len(targets))
	for name := range targets {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

func (i *Identity) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(i.ca)
	return p
}
