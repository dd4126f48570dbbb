package postgres

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/crypto/pbkdf2"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/protocol/postgres/pgtest"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/secret"
)

var guardedClasses = []access.Class{
	{Name: "email", Columns: []string{"*.customers.email"}, Mask: "email"},
	{Name: "card", Columns: []string{"*.customers.card_number"}, Mask: "card"},
}

// ruling is what the scripted broker answers one command.
type ruling struct {
	deny *access.Denied
	hold bool // until release is closed, then allow
	rows int64
	bare []string // classes that are revealed
}

// script is a broker behind a real gate. It answers by what the command's text contains, allows the rest with everything masked,
// and keeps what it was asked.
type script struct {
	mu      sync.Mutex
	rules   map[string]ruling
	strict  bool // denies, as policy does, what cannot be masked
	asked   []access.Command
	batches []int
	results map[access.CommandID]access.Result
	release chan struct{}
	holding chan struct{} // receives once for each hold
	onAsk   func(access.Command)
	aborted int
	ids     int
	batcher *gate.Batcher
}

func newScript(rules map[string]ruling) *script {
	g := &script{rules: rules, results: make(map[access.CommandID]access.Result), release: make(chan struct{}), holding: make(chan struct{}, 64)}
	g.batcher = gate.NewBatcher("agent", g)
	return g
}

func (g *script) ruling(c access.Command) ruling {
	if c.Refused != nil {
		return ruling{deny: &access.Denied{Code: access.CodeDenied, Rule: c.Refused.Rule, Hint: c.Refused.Hint}}
	}
	for part, v := range g.rules {
		if strings.Contains(c.Text, part) && !(c.Prepare && v.hold) {
			if !g.strict || maskable(c, v.bare) {
				return v
			}
		}
	}
	if g.strict && !maskable(c, nil) {
		return ruling{deny: &access.Denied{Code: access.CodeNotMaskable, Rule: "not-maskable", Hint: "leave it out"}}
	}
	return ruling{}
}

func maskable(c access.Command, bare []string) bool {
	return !slices.ContainsFunc(c.Classes, func(u access.ClassUse) bool { return u.Derived && !u.Beneath && !slices.Contains(bare, u.Class) })
}

func (g *script) decide(c access.Command) access.Decision {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, c)
	if g.onAsk != nil {
		g.onAsk(c)
	}
	d := access.Decision{Command: c.ID, Seq: c.Seq, Digest: access.Digest(digestKey, "app", c)}
	v := g.ruling(c)
	switch {
	case v.deny != nil:
		d.Code, d.Rule, d.Hint, d.Approval = v.deny.Code, v.deny.Rule, v.deny.Hint, v.deny.Approval
		return d
	case v.hold:
		g.ids++
		d.Outcome, d.Approval, d.HoldName = access.Hold, access.ApprovalID(fmt.Sprintf("AP%d", g.ids)), "prod-write"
		d.Link, d.Expires = "https://console/approve/"+string(d.Approval), time.Now().Add(time.Hour)
		return d
	}
	return g.allowed(d, v)
}

func (g *script) allowed(d access.Decision, v ruling) access.Decision {
	d.Outcome = access.Allow
	masks := slices.DeleteFunc([]string{"email", "card"}, func(m string) bool { return slices.Contains(v.bare, m) })
	if len(masks) > 0 {
		d.Obligations = append(d.Obligations, access.Obligation{Kind: access.ObligeMask, Classes: masks})
	}
	if v.rows > 0 {
		d.Obligations = append(d.Obligations, access.Obligation{Kind: access.ObligeRows, Limit: v.rows})
	}
	return d
}

// Check is the broker's side of a question.
func (g *script) Check(_ context.Context, r api.CheckRequest) (api.CheckResponse, error) {
	var resp api.CheckResponse
	for _, ask := range r.Asks {
		g.mu.Lock()
		g.batches = append(g.batches, len(ask.Commands))
		g.mu.Unlock()
		a := api.Answer{Session: ask.Session}
		stopped := false
		for _, c := range ask.Commands {
			if stopped {
				a.Decisions = append(a.Decisions, access.Decision{Command: c.ID, Seq: c.Seq, Digest: access.Digest(digestKey, "app", c), Rule: api.RuleBatchStopped})
				continue
			}
			d := g.decide(c)
			stopped = d.Outcome != access.Allow
			a.Decisions = append(a.Decisions, d)
		}
		resp.Answers = append(resp.Answers, a)
	}
	return resp, nil
}

// Claim is the broker's side of an approval that is used, or given up.
func (g *script) Claim(_ context.Context, r api.ClaimRequest) (api.ClaimResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.Withdraw {
		g.aborted++
		return api.ClaimResponse{}, nil
	}
	c := r.Command
	d := access.Decision{Command: c.ID, Seq: c.Seq, Digest: access.Digest(digestKey, "app", c), Approval: r.Approval}
	return api.ClaimResponse{Decision: g.allowed(d, ruling{})}, nil
}

// Watch delivers a yes once release is closed.
func (g *script) Watch(id access.ApprovalID) (<-chan api.Verdict, func()) {
	verdict, stop := make(chan api.Verdict, 1), make(chan struct{})
	g.holding <- struct{}{}
	go func() {
		select {
		case <-g.release:
			verdict <- api.Verdict{Approval: id, Status: "approved"}
		case <-stop:
		}
	}()
	return verdict, func() { close(stop) }
}

func (g *script) Reserve(int) error { return nil }
func (g *script) Release(int)       {}

// Put keeps an outcome. A second one for a command is a defect of the room.
func (g *script) Put(o api.Outcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, twice := g.results[o.Command]; twice {
		panic("an outcome was reported twice")
	}
	g.results[o.Command] = o.Result
}

var digestKey = bytes.Repeat([]byte("d"), 32)

// of makes the gate of one session.
func (g *script) of(t testing.TB, s access.SessionID) *gate.Gate {
	t.Helper()
	made, err := gate.New(gate.Config{Batcher: g.batcher, Claims: g, Verdicts: g, Outcomes: g, Session: s, Target: "app", State: "state", Rows: true,
		DigestKey: digestKey, Classes: guardedClasses})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// outcome is the result of the last command whose text contains part.
func (g *script) outcome(t testing.TB, part string) access.Result {
	t.Helper()
	var got access.Result
	eventually(t, "outcome of "+part, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, c := range slices.Backward(g.asked) {
			if strings.Contains(c.Text, part) && !c.Prepare {
				r, ok := g.results[c.ID]
				got = r
				return ok
			}
		}
		return false
	})
	return got
}

func (g *script) commands() []access.Command {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.asked)
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("%s: not within 10 s", what)
}

// house is a room behind a loopback port, as the agent would put it.
type house struct {
	t      testing.TB
	srv    *pgtest.Server
	room   *Room
	gate   *script
	ln     net.Listener
	owner  protocol.Owner
	setup  func(*protocol.Session)
	cancel context.CancelCauseFunc
	errs   chan error
}

func openHouse(t testing.TB, g *script, setup func(*protocol.Session)) *house {
	t.Helper()
	return openHouseOf(t, g, Config{}, setup)
}

func openHouseOf(t testing.TB, g *script, c Config, setup func(*protocol.Session)) *house {
	t.Helper()
	h := &house{t: t, srv: pgtest.Start(t), room: New(c), gate: g, owner: protocol.Owner{Endpoint: "e1", Thumbprint: "k1"}, setup: setup,
		errs: make(chan error, 64)}
	var err error
	if h.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	h.cancel = cancel
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := h.ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { h.serve(ctx, c) })
		}
	})
	t.Cleanup(func() {
		cancel(nil)
		_ = h.ln.Close()
		wg.Wait()
		g.batcher.Close()
	})
	return h
}

type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

func (h *house) serve(ctx context.Context, c net.Conn) {
	r := bufio.NewReader(c)
	if aside, _ := h.room.TakeAside(ctx, r, h.owner); aside {
		_ = c.Close()
		return
	}
	s := h.session()
	err := h.room.Serve(ctx, peeked{c, r}, s)
	h.errs <- err
}

func (h *house) session() *protocol.Session {
	s := &protocol.Session{ID: "S1", Target: "app", Owner: h.owner, Classes: guardedClasses, Gate: h.gate.of(h.t, "S1"),
		Login: protocol.Login{User: h.srv.User, Password: secret.New(h.srv.Password), Database: h.srv.Database, Peer: protocol.Peer{Mode: "disable"}},
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", h.srv.Addr)
		},
		Log: slog.New(slog.DiscardHandler),
	}
	if h.setup != nil {
		h.setup(s)
	}
	return s
}

func (h *house) port() int { return h.ln.Addr().(*net.TCPAddr).Port }

func (h *house) dsn(more string) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=alice password=endpoint dbname=%s sslmode=disable %s", h.port(), h.srv.Database, more)
}

func (h *house) connect(more string) *pgx.Conn {
	h.t.Helper()
	c, err := pgx.Connect(h.t.Context(), h.dsn(more))
	if err != nil {
		h.t.Fatalf("connect: %v", err)
	}
	h.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// verifier is what an endpoint derives from its one-off password.
func verifier(t testing.TB, password string) *api.Verifier {
	t.Helper()
	v := &api.Verifier{Iterations: 4096, Salt: make([]byte, 16)}
	if _, err := rand.Read(v.Salt); err != nil {
		t.Fatal(err)
	}
	salted := pbkdf2.Key([]byte(password), v.Salt, v.Iterations, sha256.Size, sha256.New)
	key := func(name string) []byte {
		m := hmac.New(sha256.New, salted)
		m.Write([]byte(name))
		return m.Sum(nil)
	}
	stored := sha256.Sum256(key("Client Key"))
	v.StoredKey, v.ServerKey = stored[:], key("Server Key")
	return v
}

var denyAll = &access.Denied{Code: access.CodeDenied, Rule: "no-destructive", Hint: "ask for an approval"}
