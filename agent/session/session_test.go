package session

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/recording"
	"github.com/sallyport/sallyport/agent/spool"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a broker and a spool.
type fake struct {
	mu       sync.Mutex
	opens    []api.OpenRequest
	closes   []api.CloseRequest
	changes  []api.ChangesRequest
	opened   []spool.Session
	closed   []access.SessionID
	openErr  []error // one for each call, then none
	closeErr []error
	full     bool
	expires  time.Duration
	answer   func(api.ChangesRequest) (api.ChangesResponse, error)
}

func take(errs *[]error) error {
	if len(*errs) == 0 {
		return nil
	}
	err := (*errs)[0]
	*errs = (*errs)[1:]
	return err
}

func (f *fake) Open(_ context.Context, r api.OpenRequest) (api.OpenResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opens = append(f.opens, r)
	if err := take(&f.openErr); err != nil {
		return api.OpenResponse{}, err
	}
	return api.OpenResponse{Session: r.Session, State: "sealed", DigestKey: make([]byte, 32), Expires: time.Now().Add(f.expires),
		Lineage: access.Lineage{Principal: "alice", Path: []access.Node{{ID: "R", Name: "alice"}}},
		Classes: []access.Class{{Name: "email", Columns: []string{"*.email"}, Mask: "email"}, {Name: "card", Columns: []string{"*.card"}, Mask: "card"}}}, nil
}

func (f *fake) Close(_ context.Context, r api.CloseRequest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closes = append(f.closes, r)
	return take(&f.closeErr)
}

func (f *fake) Changes(_ context.Context, r api.ChangesRequest) (api.ChangesResponse, error) {
	f.mu.Lock()
	f.changes = append(f.changes, r)
	answer := f.answer
	f.mu.Unlock()
	if answer == nil {
		return api.ChangesResponse{}, nil
	}
	return answer(r)
}

func (f *fake) Check(context.Context, api.CheckRequest) (api.CheckResponse, error) {
	return api.CheckResponse{}, errors.New("not here")
}

func (f *fake) Claim(context.Context, api.ClaimRequest) (api.ClaimResponse, error) {
	return api.ClaimResponse{}, errors.New("not here")
}

func (f *fake) Reserve(int) error { return nil }
func (f *fake) Release(int)       {}
func (f *fake) Put(api.Outcome)   {}

func (f *fake) Opened(s spool.Session) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.full {
		return spool.ErrFull
	}
	f.opened = append(f.opened, s)
	return nil
}

func (f *fake) Closed(id access.SessionID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = append(f.closed, id)
}

// room answers each line with "> " and the line; "password" with the login's. A connection that begins with "cancel" is an aside.
type room struct {
	mu      sync.Mutex
	session *protocol.Session
	aside   protocol.Owner
	cause   error
}

func (r *room) Serve(ctx context.Context, client net.Conn, s *protocol.Session) error {
	defer client.Close()
	r.mu.Lock()
	r.session = s
	r.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		r.mu.Lock()
		r.cause = context.Cause(ctx)
		r.mu.Unlock()
		_ = client.Close()
	})
	defer stop()
	for lines := bufio.NewScanner(client); lines.Scan(); {
		if _, err := io.WriteString(client, "> "+lines.Text()+"\n"); err != nil {
			return err
		}
	}
	return nil
}

func (r *room) TakeAside(_ context.Context, client *bufio.Reader, owner protocol.Owner) (bool, error) {
	b, err := client.Peek(6)
	if err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.aside = owner
	return string(b) == "cancel", nil
}

func (r *room) Refuse(_ context.Context, client net.Conn, d *access.Denied) error {
	_, err := io.WriteString(client, "refused "+d.Detail()+"\n")
	return errors.Join(err, client.Close())
}

// house is a Server with everything around it.
type house struct {
	t      *testing.T
	fake   *fake
	room   *room
	srv    *Server
	log    *bytes.Buffer
	cert   tls.Certificate
	pool   *x509.CertPool
	ctx    context.Context
	login  error
	wg     sync.WaitGroup
	client *ecdsa.PrivateKey
}

const password = "canary-password"

func keeper(t *testing.T) *recording.Keeper {
	t.Helper()
	k, err := recording.Open(recording.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

func open(t *testing.T, edit func(*Config)) *house {
	t.Helper()
	h := &house{t: t, fake: &fake{expires: time.Hour}, room: &room{}, log: &bytes.Buffer{}, client: newKey(t)}
	h.certify()
	batcher := gate.NewBatcher("agent", h.fake)
	c := Config{Agent: "agent", Broker: h.fake, Batcher: batcher, Spool: h.fake, Recordings: keeper(t), Floor: gate.Floor{Mask: []access.Class{{Name: "card", Columns: []string{"*.pan"}, Mask: "full"}}},
		Targets: map[access.TargetName]Target{"app": {Room: h.room,
			Login: func(context.Context) (protocol.Login, error) {
				return protocol.Login{User: "app", Password: secret.New(password)}, h.login
			},
			Dial: func(context.Context) (net.Conn, error) { return nil, errors.New("nobody") }}},
		Certificate: func() (tls.Certificate, error) { return h.cert, nil }, Log: slog.New(slog.NewJSONHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if edit != nil {
		edit(&c)
	}
	var err error
	if h.srv, err = New(c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	h.ctx = ctx
	polling, stop := context.WithCancel(t.Context())
	var poll sync.WaitGroup
	poll.Go(func() { h.srv.Poll(polling) })
	t.Cleanup(func() {
		cancel()
		h.wg.Wait()
		stop()
		poll.Wait()
		h.srv.Wait()
		batcher.Close()
		if strings.Contains(h.log.String(), password) || strings.Contains(h.log.String(), "access-token") {
			t.Errorf("a secret is in the log: %s", h.log)
		}
	})
	return h
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

type signer struct{ key *ecdsa.PrivateKey }

func (s signer) Public() *ecdsa.PublicKey { return &s.key.PublicKey }
func (s signer) Sign(_ context.Context, d []byte) ([]byte, error) {
	return ecdsa.SignASN1(rand.Reader, s.key, d)
}

// certify enrolls the agent for the targets "app" and "other".
func (h *house) certify() {
	h.t.Helper()
	s := signer{newKey(h.t)}
	der, err := token.CreateCA(h.t.Context(), s, time.Now())
	must(h.t, err)
	ca, err := token.NewCA(s, der)
	must(h.t, err)
	key := newKey(h.t)
	raw, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	must(h.t, err)
	csr, err := x509.ParseCertificateRequest(raw)
	must(h.t, err)
	leaf, err := ca.IssueAgent(h.t.Context(), csr, "agent", []access.TargetName{"app", "other"}, time.Now())
	must(h.t, err)
	cert, err := x509.ParseCertificate(leaf)
	must(h.t, err)
	h.cert = tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: key, Leaf: cert}
	h.pool = x509.NewCertPool()
	h.pool.AddCert(ca.Cert())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// connect is an endpoint: it returns once the agent has answered its preamble.
func (h *house) connect(target access.TargetName, edit func(*token.Proof, *api.Preamble)) (net.Conn, error) {
	h.t.Helper()
	mine, theirs := net.Pipe()
	h.wg.Go(func() { h.srv.Handle(h.ctx, theirs) })
	h.t.Cleanup(func() { _ = mine.Close() })
	must(h.t, mine.SetDeadline(time.Now().Add(20*time.Second)))
	if err := tunnel.WriteFrame(mine, tunnel.Hello{V: tunnel.Version, Target: target}); err != nil {
		return nil, err
	}
	cfg := tunnel.TLSTo(tunnel.ALPNInner, h.pool, token.URITarget(target))
	cfg.ServerName = string(target)
	inner := tls.Client(tunnel.Carry(mine), cfg)
	if err := inner.Handshake(); err != nil {
		return nil, err
	}
	ch := tunnel.NewChannel(inner)
	exporter, err := ch.Exporter()
	must(h.t, err)
	agentKey, err := ch.PeerKey()
	must(h.t, err)
	endpoint := token.NewRandom()
	p := api.Preamble{V: tunnel.Version, Endpoint: endpoint, Token: "access-token"}
	proof := token.Proof{Target: target, AgentKey: agentKey, Exporter: exporter, Endpoint: endpoint, TokenHash: token.HashToken(p.Token), IssuedAt: time.Now(),
		Nonce: token.NewNonce(make([]byte, 32), token.Thumbprint(&h.client.PublicKey), target, endpoint, time.Now())}
	if edit != nil {
		edit(&proof, &p)
	}
	p.Proof, err = token.SignProof(h.client, proof)
	must(h.t, err)
	if err := tunnel.WriteFrame(ch, p); err != nil {
		return nil, err
	}
	return ch, tunnel.ReadWelcome(ch)
}

// say sends a line and returns the answer; "" where there is none.
func say(c net.Conn, line string) string {
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return ""
	}
	s, _ := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSuffix(s, "\n")
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func (h *house) locked(f func() bool) func() bool {
	return func() bool {
		h.fake.mu.Lock()
		defer h.fake.mu.Unlock()
		h.room.mu.Lock()
		defer h.room.mu.Unlock()
		return f()
	}
}

func TestASession(t *testing.T) {
	h := open(t, nil)
	c, err := h.connect("app", nil)
	must(t, err)
	if got := say(c, "hello"); got != "> hello" {
		t.Fatalf("got %q", got)
	}
	s, o := h.room.session, h.fake.opens[0]
	if s.ID != o.Session || s.Target != "app" || s.Owner.Thumbprint != token.Thumbprint(&h.client.PublicKey) || s.Owner.Endpoint == "" ||
		s.Login.Password.Reveal() != password || s.Lineage.Principal != "alice" {
		t.Errorf("session %+v", s)
	}
	// The floor's class comes first, with its own mask over the columns of both.
	if len(s.Classes) != 2 || s.Classes[0].Name != "card" || s.Classes[0].Mask != "full" || len(s.Classes[0].Columns) != 2 || s.Classes[1].Name != "email" {
		t.Errorf("classes %+v", s.Classes)
	}
	if o.Token != "access-token" || len(o.Exporter) != 32 || o.Proof == "" || o.Agent != "agent" {
		t.Errorf("open %+v", o)
	}
	must(t, c.Close())
	eventually(t, "closed", h.locked(func() bool { return len(h.fake.closed) == 1 }))
	if cl := h.fake.closes[0]; cl.Session != o.Session || cl.State != "sealed" || cl.LastSeq != 0 || cl.Prev == "" || cl.Reason != "the client left" {
		t.Errorf("close %+v", cl)
	}
}

func TestProofsForSomethingElse(t *testing.T) {
	for name, edit := range map[string]func(*token.Proof, *api.Preamble){
		"target":     func(p *token.Proof, _ *api.Preamble) { p.Target = "other" },
		"agent":      func(p *token.Proof, _ *api.Preamble) { p.AgentKey = token.NewRandom() },
		"channel":    func(p *token.Proof, _ *api.Preamble) { p.Exporter = bytes.Repeat([]byte{1}, 32) },
		"endpoint":   func(_ *token.Proof, p *api.Preamble) { p.Endpoint = token.NewRandom() },
		"token":      func(_ *token.Proof, p *api.Preamble) { p.Token = "another" },
		"old":        func(p *token.Proof, _ *api.Preamble) { p.IssuedAt = time.Now().Add(-2 * token.Window) },
		"the future": func(p *token.Proof, _ *api.Preamble) { p.IssuedAt = time.Now().Add(2 * token.Window) },
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, nil)
			if _, err := h.connect("app", edit); !errors.Is(err, api.ErrDenied) {
				t.Errorf("error %v", err)
			}
			if len(h.fake.opens) != 0 {
				t.Error("the broker was asked")
			}
		})
	}
	h := open(t, nil)
	if _, err := h.connect("other", nil); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a target that is not configured: %v", err)
	}
}

func TestRefusalsReachTheClientInItsProtocol(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(h *house)
		want []string
	}{
		"denied":      {func(h *house) { h.fake.openErr = []error{api.Because(api.ErrDenied, "ask alice", "no")} }, []string{`"denied"`, "no; ask alice"}},
		"revoked":     {func(h *house) { h.fake.openErr = []error{api.Because(api.ErrRevoked, "", "gone")} }, []string{`"revoked"`, "gone"}},
		"login":       {func(h *house) { h.fake.openErr = []error{api.Because(api.ErrLogin, "log in", "old")} }, []string{api.RuleLoginExpired}},
		"busy":        {func(h *house) { h.fake.openErr = []error{api.Because(api.ErrBusy, "", "busy")} }, []string{`"busy"`, `"retryable":true`}},
		"unavailable": {func(h *house) { h.fake.openErr = []error{api.ErrUnavailable, api.ErrUnavailable} }, []string{`"no_decision"`}},
		"unreachable": {func(h *house) { h.fake.openErr = []error{io.EOF, io.EOF} }, []string{`"no_decision"`}},
		"expired":     {func(h *house) { h.fake.expires = -time.Second }, []string{`"no_decision"`}},
		"spool full":  {func(h *house) { h.fake.full = true }, []string{`"busy"`, "spool-full"}},
		"credential":  {func(h *house) { h.login = errors.New("vault is sealed") }, []string{"agent-not-ready"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, nil)
			c.set(h)
			conn, err := h.connect("app", nil)
			must(t, err)
			got := say(conn, "hello")
			for _, w := range c.want {
				if !strings.HasPrefix(got, "refused ") || !strings.Contains(got, w) {
					t.Errorf("got %q, want %q", got, w)
				}
			}
			if strings.Contains(got, "vault") {
				t.Errorf("the client was told %q", got)
			}
		})
	}
}

func TestABrokerThatRestartsOpensAtTheSecondTry(t *testing.T) {
	h := open(t, nil)
	h.fake.openErr = []error{io.EOF}
	c, err := h.connect("app", nil)
	must(t, err)
	if got := say(c, "hello"); got != "> hello" || len(h.fake.opens) != 2 || h.fake.opens[0].Session != h.fake.opens[1].Session {
		t.Errorf("%q %+v", got, h.fake.opens)
	}
}

func TestAside(t *testing.T) {
	h := open(t, nil)
	c, err := h.connect("app", nil)
	must(t, err)
	if got := say(c, "cancel 7"); got != "" || len(h.fake.opens) != 0 || h.room.aside.Thumbprint == "" {
		t.Errorf("%q, opened %d", got, len(h.fake.opens))
	}
}

func TestTooManyStreams(t *testing.T) {
	h := open(t, func(c *Config) { c.Max = 1 })
	c, err := h.connect("app", nil)
	must(t, err)
	say(c, "hello")
	if _, err := h.connect("app", nil); err == nil {
		t.Error("a second stream was taken")
	}
}

func TestRevokedEndsTheSession(t *testing.T) {
	h := open(t, nil)
	h.fake.answer = func(r api.ChangesRequest) (api.ChangesResponse, error) {
		return api.ChangesResponse{Ended: []api.EndedSession{{Session: r.Sessions[0].Session, Code: access.CodeRevoked, Hint: "alice said so"}, {Session: "unknown"}}}, nil
	}
	c, err := h.connect("app", nil)
	must(t, err)
	start := time.Now()
	say(c, "hello")
	if b, _ := io.ReadAll(c); len(b) != 0 {
		t.Errorf("after the end: %q", b)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	eventually(t, "closed", h.locked(func() bool { return len(h.fake.closed) == 1 }))
	d := (*access.Denied)(nil)
	if !errors.As(h.room.cause, &d) || d.Code != access.CodeRevoked || d.Hint != "alice said so" || h.fake.closes[0].Reason != "ended: revoked" {
		t.Errorf("cause %v, close %+v", h.room.cause, h.fake.closes)
	}
}

func TestExpiryEndsTheSession(t *testing.T) {
	h := open(t, nil)
	h.fake.expires = 300 * time.Millisecond
	c, err := h.connect("app", nil)
	must(t, err)
	say(c, "hello")
	_, _ = io.ReadAll(c)
	eventually(t, "closed", h.locked(func() bool { return len(h.fake.closed) == 1 && h.fake.closes[0].Reason == "ended: "+api.RuleExpired }))
}

func TestACloseIsRepeatedUntilTheBrokerTakesIt(t *testing.T) {
	h := open(t, nil)
	h.fake.closeErr = []error{io.EOF, api.ErrUnavailable}
	h.srv.CloseLeft(t.Context(), []spool.Session{{ID: "OLD", State: "old state"}})
	eventually(t, "closed", h.locked(func() bool { return len(h.fake.closed) == 1 }))
	if len(h.fake.closes) != 3 || h.fake.closes[2].Reason != "lost" || h.fake.closes[2].State != "old state" || h.fake.closes[2].Prev != "" {
		t.Errorf("%+v", h.fake.closes)
	}
	h.fake.closeErr = []error{api.ErrNotFound}
	h.srv.CloseLeft(t.Context(), []spool.Session{{ID: "UNKNOWN"}})
	eventually(t, "forgotten", h.locked(func() bool { return len(h.fake.closed) == 2 }))
}

// Time is the test's own: no network is in it.
func TestSilenceOfTheBrokerEndsSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answer: func(api.ChangesRequest) (api.ChangesResponse, error) {
			return api.ChangesResponse{}, errors.New("unreachable")
		}}
		s := &Server{Config: Config{Agent: "agent", Broker: f, Log: slog.New(slog.DiscardHandler)}, live: newLive()}
		polling, stop := context.WithCancel(t.Context())
		go s.Poll(polling)
		time.Sleep(time.Hour) // without sessions nobody asks
		if len(f.changes) != 0 {
			t.Errorf("asked %d times for nothing", len(f.changes))
		}
		ctx, end := context.WithCancelCause(t.Context())
		leave := s.live.enter("S", "state", end)
		start := time.Now()
		<-ctx.Done()
		d := (*access.Denied)(nil)
		if took := time.Since(start); !errors.As(context.Cause(ctx), &d) || d.Code != access.CodeNoDecision || took < silence || took > silence+2*pollEvery {
			t.Errorf("%v after %s", context.Cause(ctx), took)
		}
		leave()
		// One that is heard goes on.
		f.mu.Lock()
		f.answer = nil
		f.mu.Unlock()
		ctx, end = context.WithCancelCause(t.Context())
		leave = s.live.enter("T", "state", end)
		time.Sleep(time.Hour)
		if ctx.Err() != nil {
			t.Errorf("ended: %v", context.Cause(ctx))
		}
		leave()
		end(nil)
		stop()
		synctest.Wait()
	})
}

// An agent that the broker does not accept any more has its answer: nothing waits for silence.
func TestARefusedAgentEndsItsSessions(t *testing.T) {
	for _, rule := range []*api.Error{api.Because(api.ErrRevoked, "make a new join token", "revoked").By(api.RuleAgentRevoked),
		api.Because(api.ErrLogin, "make a new join token", "expired").By(api.RuleAgentExpired)} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			f := &fake{answer: func(api.ChangesRequest) (api.ChangesResponse, error) { return api.ChangesResponse{}, rule }}
			s := &Server{Config: Config{Agent: "agent", Broker: f, Log: slog.New(slog.NewTextHandler(&log, nil))}, live: newLive()}
			polling, stop := context.WithCancel(t.Context())
			go s.Poll(polling)
			ctx, end := context.WithCancelCause(t.Context())
			defer s.live.enter("S", "state", end)()
			start := time.Now()
			<-ctx.Done()
			d := (*access.Denied)(nil)
			if took := time.Since(start); !errors.As(context.Cause(ctx), &d) || d.Code != access.CodeRevoked || d.Rule != rule.Rule || took > pollEvery {
				t.Errorf("%v after %s", context.Cause(ctx), took)
			}
			stop()
			synctest.Wait()
			if !strings.Contains(log.String(), "make a new join token") {
				t.Errorf("the log does not say what to do: %s", log.String())
			}
		})
	}
}

// What waits in the spool is told now and then, also without sessions, and once more when it is gone.
func TestWhatWaitsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bytes atomic.Int64
		f := &fake{}
		s := &Server{Config: Config{Agent: "agent", Broker: f, Log: slog.New(slog.DiscardHandler),
			Undelivered: func() api.Spool { return api.Spool{Bytes: bytes.Load(), OldestSeconds: 2} }}, live: newLive(), clear: true}
		polling, stop := context.WithCancel(t.Context())
		go s.Poll(polling)
		time.Sleep(time.Minute)
		if len(f.changes) != 0 {
			t.Errorf("asked %d times for nothing", len(f.changes))
		}
		bytes.Store(7)
		time.Sleep(time.Minute)
		bytes.Store(0)
		time.Sleep(time.Minute)
		stop()
		synctest.Wait()
		if n := len(f.changes); n < 3 || n > 5 || f.changes[0].Spool.Bytes != 7 || f.changes[n-1].Spool.Bytes != 0 || f.changes[n-2].Spool.Bytes != 7 {
			t.Errorf("told %d times", n)
		}
	})
}

func TestVerdicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answered atomic.Bool
		f := &fake{}
		f.answer = func(r api.ChangesRequest) (resp api.ChangesResponse, err error) {
			for _, id := range r.Approvals {
				if answered.Load() {
					resp.Verdicts = append(resp.Verdicts, api.Verdict{Approval: id, Status: "approved"})
				}
			}
			return resp, nil
		}
		s := &Server{Config: Config{Agent: "agent", Broker: f, Log: slog.New(slog.DiscardHandler)}, live: newLive()}
		polling, stop := context.WithCancel(t.Context())
		go s.Poll(polling)
		for i := range maxAsked + 1 { // more than one call may name
			s.live.enter(access.SessionID(strings.Repeat("s", i+1)), "state", func(error) {})
		}
		verdict, unwatch := s.live.Watch("A")
		time.Sleep(10 * time.Second)
		select {
		case v := <-verdict:
			t.Fatalf("a verdict from nowhere: %+v", v)
		default:
		}
		answered.Store(true)
		start := time.Now()
		if v := <-verdict; v.Approval != "A" || v.Status != "approved" || time.Since(start) > pollEvery {
			t.Errorf("%+v after %s", v, time.Since(start))
		}
		unwatch()
		_, unwatch = s.live.Watch("B")
		unwatch()
		stop()
		synctest.Wait()
		last := f.changes[len(f.changes)-2:]
		if len(last[0].Sessions)+len(last[1].Sessions) != maxAsked+1 || max(len(last[0].Sessions), len(last[1].Sessions)) > maxAsked {
			t.Errorf("%d and %d sessions in a call", len(last[0].Sessions), len(last[1].Sessions))
		}
	})
}

func TestNewWantsEverything(t *testing.T) {
	good := func() Config {
		f := &fake{}
		return Config{Agent: "a", Broker: f, Batcher: gate.NewBatcher("a", f), Spool: f, Recordings: keeper(t), Certificate: func() (tls.Certificate, error) { return tls.Certificate{}, nil },
			Log: slog.New(slog.DiscardHandler), Targets: map[access.TargetName]Target{"app": {Room: &room{}, Login: func(context.Context) (protocol.Login, error) { return protocol.Login{}, nil },
				Dial: func(context.Context) (net.Conn, error) { return nil, nil }}}}
	}
	if _, err := New(good()); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*Config){
		"agent": func(c *Config) { c.Agent = "" }, "broker": func(c *Config) { c.Broker = nil }, "batcher": func(c *Config) { c.Batcher = nil },
		"spool": func(c *Config) { c.Spool = nil }, "recordings": func(c *Config) { c.Recordings = nil }, "targets": func(c *Config) { c.Targets = nil }, "certificate": func(c *Config) { c.Certificate = nil },
		"log": func(c *Config) { c.Log = nil }, "room": func(c *Config) { c.Targets["app"] = Target{} },
	} {
		c := good()
		edit(&c)
		if _, err := New(c); err == nil {
			t.Errorf("without %s a server was made", name)
		}
	}
}
