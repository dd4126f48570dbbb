// Command benchagent is two lanes of the benchmark: an agent whose gate answers in its own process, so that the way of the bytes is
// measured without the way of the decision; and the room alone, reached straight by clients, which decides by policy in its own process.
// It is no part of the product and refuses everything but that: the agent itself has nothing that could open its gate like this.
package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/sallyport/sallyport/agent"
	"github.com/sallyport/sallyport/agent/config"
	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/protocol/postgres"
	"github.com/sallyport/sallyport/agent/recording"
	"github.com/sallyport/sallyport/agent/session"
	"github.com/sallyport/sallyport/agent/spool"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/tunnel/uplink"
)

// collectAt is sallyport-agent's.
const collectAt = 300

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchagent:", err)
		os.Exit(1)
	}
}

// run takes the command line that `sallyport dev` gives an agent, or `straight` and what the room alone needs.
func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	if was := debug.SetGCPercent(collectAt); was != 100 {
		debug.SetGCPercent(was)
	}
	if len(args) == 6 && args[0] == "straight" {
		return straight(ctx, args[1], args[2], args[3], args[4], args[5], stdout)
	}
	if len(args) != 3 || args[0] != "run" || args[1] != "--config" {
		return errors.New("usage: benchagent run --config FILE | straight ADDRESS DATABASE USER PASSWORD-FILE POLICY-DIRECTORY")
	}
	c, err := config.Load(args[2], nil)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return err
	}
	id, err := agent.Enroll(ctx, c, getenv)
	if err != nil {
		return err
	}
	pool, err := ca(c.StateDir)
	if err != nil {
		return err
	}
	b, err := broker.NewAgent(broker.AgentConfig{URL: c.Broker, Certificate: id.Certificate})
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	local := &local{Agent: b, sessions: map[access.SessionID]opened{}}
	batcher := gate.NewBatcher(id.Agent().Name, local)
	defer batcher.Close()
	keeper, err := recording.Open(recording.Config{Dir: filepath.Join(c.StateDir, "recordings"), Log: log}) // never run: nothing here records
	if err != nil {
		return err
	}
	srv, err := session.New(session.Config{Agent: id.Agent().Name, Broker: local, Batcher: batcher, Spool: forgetful{}, Recordings: keeper, Targets: targets(c, getenv),
		Certificate: id.Certificate, Log: log})
	if err != nil {
		return err
	}
	public, err := broker.NewPublic(c.Broker)
	if err != nil {
		return err
	}
	d, err := public.Discovery(ctx)
	if err != nil {
		return err
	}
	if len(d.Relays) == 0 {
		return errors.New("the broker names no relay")
	}
	polling, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go srv.Poll(polling) // ends with the process
	ready := sync.OnceValue(func() error { return os.WriteFile(c.ReadyFile, nil, 0o600) })
	err = uplink.Run(ctx, uplink.Config{Relay: d.Relays[0], Certificate: id.Certificate, CA: pool, Handle: srv.Handle, Log: log,
		Changed: func(up int) {
			if up > 0 {
				if err := ready(); err != nil {
					log.Error("ready", "error", err)
				}
			}
		}})
	srv.Wait()
	return err
}

// ca reads the CA's certificate, which is the last in the agent's identity.
func ca(dir string) (*x509.CertPool, error) {
	b, err := os.ReadFile(filepath.Join(dir, "agent.pem"))
	if err != nil {
		return nil, err
	}
	var last *pem.Block
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		last = block
	}
	if last == nil {
		return nil, errors.New("agent.pem is empty")
	}
	cert, err := x509.ParseCertificate(last.Bytes)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool, nil
}

func targets(c config.Config, getenv func(string) string) map[access.TargetName]session.Target {
	all := map[access.TargetName]session.Target{}
	for name, t := range c.Targets {
		all[name] = session.Target{
			Room: postgres.New(postgres.Config{}),
			Login: func(ctx context.Context) (protocol.Login, error) {
				secret, err := t.Password.Fetch(ctx, getenv)
				return protocol.Login{User: t.User, Password: secret, Database: t.Database, Peer: t.Peer}, err
			},
			Dial: func(ctx context.Context) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, t.Network, t.Address)
			},
		}
	}
	return all
}

// local answers every question itself: yes, masked. Sessions are opened at the broker, because the endpoint's way leads there.
type local struct {
	*broker.Agent
	mu       sync.Mutex
	sessions map[access.SessionID]opened
}

type opened struct {
	key    []byte
	target access.TargetName
	masks  []access.Obligation
}

func (l *local) Open(ctx context.Context, r api.OpenRequest) (api.OpenResponse, error) {
	resp, err := l.Agent.Open(ctx, r)
	if err != nil {
		return resp, err
	}
	o := opened{key: resp.DigestKey, target: r.Target}
	mask := access.Obligation{Kind: access.ObligeMask}
	for _, c := range resp.Classes {
		mask.Classes = append(mask.Classes, c.Name)
	}
	if len(mask.Classes) > 0 {
		o.masks = []access.Obligation{mask}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions[resp.Session] = o
	return resp, nil
}

// Close tells the broker nothing: it knows of no command.
func (l *local) Close(context.Context, api.CloseRequest) error { return nil }

func (l *local) Check(_ context.Context, r api.CheckRequest) (api.CheckResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	resp := api.CheckResponse{Answers: make([]api.Answer, len(r.Asks))}
	for i, a := range r.Asks {
		o := l.sessions[a.Session]
		ans := api.Answer{Session: a.Session}
		for _, c := range a.Commands {
			ans.Decisions = append(ans.Decisions, access.Decision{Command: c.ID, Seq: c.Seq, Digest: access.Digest(o.key, o.target, c),
				Outcome: access.Allow, Rule: "bench", Obligations: o.masks})
		}
		resp.Answers[i] = ans
	}
	return resp, nil
}

// forgetful keeps no outcomes: nobody decided anything.
type forgetful struct{}

func (forgetful) Reserve(int) error          { return nil }
func (forgetful) Release(int)                {}
func (forgetful) Put(api.Outcome)            {}
func (forgetful) Opened(spool.Session) error { return nil }
func (forgetful) Closed(access.SessionID)    {}
