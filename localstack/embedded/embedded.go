package embedded

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/telemetry"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/localstack/idp"
	"github.com/sallyport/sallyport/policies"
	"github.com/sallyport/sallyport/tunnel/relay"
)

// Config says what to run. Dir is required.
type Config struct {
	Dir         string
	Listen      string // of the broker; "" or port 0: a free one, the same again after a restart
	AgentConfig string // the agent's targets; "" starts no agent
	PolicyDir   string // "" uses the pack guarded-postgres
	AgentBinary string
	// AWS is the URL of an emulator on loopback: the stores are DynamoDB, S3 and KMS there, as in a deployment, and DIR/aws.json says
	// which. "" uses the embedded twins. AWSTables is another emulator's, for the tables alone.
	AWS, AWSTables string
	Notify         Notify              // who is told of approvals
	Getenv         func(string) string // for OTEL_EXPORTER_OTLP_ENDPOINT and its like; nil: no traces
	Log            *slog.Logger
	// Outage receives true to stop the broker and false to start it again; nil never does.
	Outage <-chan bool
	// Ready is called once with what was written to dev.json.
	Ready func(DevFile)
}

type runner struct {
	c         Config
	log       *slog.Logger
	at        ports
	broker    *broker
	agent     *os.Process
	agentDone chan struct{}
	users     []idp.User
}

// Run runs until ctx ends. What it answered is on disk: it may be killed at any time.
func Run(ctx context.Context, c Config) (err error) {
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return err
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := ours(c.Dir); err != nil {
		return err
	}
	unlock, err := Lock(c.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	file := filepath.Join(c.Dir, devFileName)
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("stale dev.json: %w", err)
	}
	r := &runner{c: c, log: c.Log}
	s, err := openStores(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	return r.run(ctx, s, file)
}

func (r *runner) run(ctx context.Context, s *stores, file string) (err error) {
	bundle, err := loadPolicy(r.c.PolicyDir)
	if err != nil {
		return err
	}
	ls, err := r.listen()
	if err != nil {
		return err
	}
	defer ls.close()
	tel, err := telemetry.New(telemetry.Config{Function: "sallyport-dev", Log: r.log.With("part", "broker").Handler(), Getenv: r.c.Getenv})
	if err != nil {
		return err
	}
	if r.broker, err = newBroker(ctx, s, r.at, []string{r.at.Relay}, tel); err != nil {
		return err
	}
	if err := r.broker.publish(ctx, bundle); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.c.Dir, "ca.pem"), r.broker.ca.PEM(), 0o600); err != nil {
		return err
	}
	if err := r.broker.start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.broker.stop()) }()

	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	var parts sync.WaitGroup
	defer func() { stop(); parts.Wait() }()
	if err := r.serve(inner, &parts, ls); err != nil {
		return err
	}
	defer r.stopAgent() // before the relay and the broker: it says goodbye to both
	if r.c.AgentConfig != "" {
		if err := r.startAgent(ctx); err != nil {
			return err
		}
	}
	d := r.devFile()
	if err := writeJSON(file, d); err != nil {
		return fmt.Errorf("dev.json: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(file)) }()
	if r.c.Ready != nil {
		r.c.Ready(d)
	}
	return r.wait(ctx)
}

// wait returns when ctx ends, and with an error when the agent does.
func (r *runner) wait(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.agentDone: // nil without an agent
			return fmt.Errorf("the agent ended; see %s%s", agentFilesIn(r.c.Dir).log, lastLines(agentFilesIn(r.c.Dir).log))
		case down := <-r.c.Outage:
			if down {
				r.log.Warn("broker stopped on request: the gate is closed")
				if err := r.broker.stop(); err != nil {
					return err
				}
				continue
			}
			if err := r.broker.start(); err != nil {
				return err
			}
			r.log.Warn("broker started again")
		}
	}
}

// serve starts the relay, the pages, the identity provider and sealing; they end with ctx.
func (r *runner) serve(ctx context.Context, parts *sync.WaitGroup, ls *listeners) error {
	cert, err := r.broker.certificate(ctx, token.URIRelay)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AddCert(r.broker.ca.Cert())
	rel, err := relay.New(relay.Config{Certificate: cert, CA: pool, Log: r.log.With("part", "relay"),
		Ticket: func(raw string) (token.Ticket, error) { return r.broker.verifier.Ticket(raw, time.Now()) }})
	if err != nil {
		return err
	}
	if r.users, err = developers(filepath.Join(r.c.Dir, "users.json")); err != nil {
		return err
	}
	provider, err := idp.New(idp.Config{Issuer: "http://" + r.at.Issuer, Dir: filepath.Join(r.c.Dir, "idp"), Users: r.users, Clients: []idp.Client{
		{ID: CLIClient, RedirectURIs: []string{"http://127.0.0.1/callback"}},
		{ID: ConsoleClient, RedirectURIs: []string{"http://" + r.at.Console + "/callback"}},
	}})
	if err != nil {
		return err
	}
	parts.Go(func() {
		if err := rel.Serve(ctx, ls.relay); err != nil && ctx.Err() == nil {
			r.log.Error("relay stopped", "error", err)
		}
	})
	parts.Go(func() { r.broker.sealing(ctx) })
	parts.Go(func() { r.broker.copying(ctx) })
	parts.Go(func() { r.broker.tel.Keep(ctx) })
	told, err := r.c.Notify.notifier(r.broker.items, "http://"+r.at.Console, r.log.With("part", "notify"))
	if err != nil {
		return err
	}
	if told != nil {
		parts.Go(func() { notifying(ctx, told, r.log) })
	}
	r.plain(ctx, parts, "pages", ls.console, r.broker.pages)
	r.plain(ctx, parts, "identity provider", ls.issuer, provider)
	return nil
}

// newServer bounds everything that a stranger may make a server hold: how long a head, a body, an answer that nobody reads and a silent
// connection may take (a handshake of TLS as long as a head), and how large a head may be.
func newServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
}

// plain serves HTTP on loopback until ctx ends.
func (r *runner) plain(ctx context.Context, parts *sync.WaitGroup, name string, l net.Listener, h http.Handler) {
	s := newServer(h, r.log)
	parts.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			r.log.Error(name+" stopped", "error", err)
		}
	})
	parts.Go(func() { <-ctx.Done(); _ = s.Close() }) // nothing of it outlives the process
}

// listeners are bound before anything is built, so that everybody's address is known.
type listeners struct{ console, issuer, relay net.Listener }

func (l *listeners) close() {
	for _, x := range []net.Listener{l.console, l.issuer, l.relay} {
		if x != nil {
			_ = x.Close() // closed by its server already, as a rule
		}
	}
}

func (r *runner) listen() (*listeners, error) {
	file := filepath.Join(r.c.Dir, "ports.json")
	was := readPorts(file)
	ls := &listeners{}
	var err error
	bind := func(kept string) (l net.Listener, addr string) {
		if err != nil {
			return nil, ""
		}
		if kept != "" {
			if l, e := net.Listen("tcp", kept); e == nil {
				return l, kept
			}
		}
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return nil, ""
		}
		return l, l.Addr().String()
	}
	ls.console, r.at.Console = bind(was.Console)
	ls.issuer, r.at.Issuer = bind(was.Issuer)
	ls.relay, r.at.Relay = bind(was.Relay)
	if err != nil {
		ls.close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	if r.at.Broker, err = brokerAddr(r.c.Listen, was.Broker); err != nil {
		ls.close()
		return nil, err
	}
	return ls, writeJSON(file, r.at)
}

// brokerAddr checks that the address is loopback and picks a port where none is given.
func brokerAddr(listen, was string) (string, error) {
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("--listen %q: %w", listen, err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return "", fmt.Errorf("--listen %q: only a loopback address, such as 127.0.0.1:0", listen)
	}
	if port != "0" {
		return listen, nil
	}
	for _, addr := range []string{was, net.JoinHostPort(host, "0")} {
		if addr == "" {
			continue
		}
		if l, err := net.Listen("tcp", addr); err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", errors.New("no free port on loopback")
}

func loadPolicy(where string) (*policy.Bundle, error) {
	if where == "" {
		pack, err := policies.Pack("guarded-postgres")
		if err != nil {
			return nil, err
		}
		return policy.Load(pack)
	}
	if info, err := os.Stat(where); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("policy directory %s: %w", where, errors.Join(err, errors.New("want a directory")))
	}
	return policy.Load(os.DirFS(where))
}

func (r *runner) brokerURL() string { return "https://" + r.at.Broker + "/#ca=" + r.broker.ca.Pin() }

func (r *runner) devFile() DevFile {
	d := DevFile{Broker: r.brokerURL(), Relay: r.at.Relay, Issuer: "http://" + r.at.Issuer, Console: "http://" + r.at.Console,
		CA: filepath.Join(r.c.Dir, "ca.pem"), PID: os.Getpid(), Targets: []string{}, Users: map[string]string{}}
	if r.agent != nil {
		d.Agent = r.agent.Pid
		names, _, err := agentTargets(r.c.AgentConfig)
		if err == nil {
			for _, n := range names {
				d.Targets = append(d.Targets, string(n))
			}
		}
	}
	for _, u := range r.users {
		d.Users[u.Name] = u.Password
	}
	return d
}

func newPassword() string { return rand.Text() }
