package ssh

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/protocol/prototest"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/localstack/sshserver"
)

// broker allows everything but what it is told to deny or hold; the gate in front of it is the real one.
type broker struct {
	mu        sync.Mutex
	commands  []access.Command
	outcomes  []api.Outcome
	verdicts  map[access.ApprovalID]chan api.Verdict
	withdrawn int
	forbidden string                    // a text that is denied
	policy    func(access.Command) bool // what is permitted; nil: everything
}

func (b *broker) forbid(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forbidden = text
}

var digestKey = bytes.Repeat([]byte("d"), 32)

func (b *broker) decide(c access.Command) access.Decision {
	d := access.Decision{Command: c.ID, Seq: c.Seq, Digest: access.Digest(digestKey, "web", c), Rule: "allowed", Outcome: access.Allow}
	switch {
	case c.Refused != nil:
		d.Outcome, d.Rule, d.Hint = access.Deny, c.Refused.Rule, c.Refused.Hint
	case b.forbidden != "" && c.Text == b.forbidden:
		d.Outcome, d.Rule = access.Deny, "forbidden"
	case b.policy != nil && !b.policy(c):
		d.Outcome, d.Rule = access.Deny, "policy"
	case strings.Contains(c.Text, "denyme"):
		d.Outcome, d.Rule, d.Hint = access.Deny, "no-denyme", "do something else"
	case strings.Contains(c.Text, "holdme"):
		d.Outcome, d.HoldName, d.Approval, d.Link, d.Expires = access.Hold, "review", access.ApprovalID("A"+string(c.ID)), "https://console/approve/A", time.Now().Add(time.Hour)
	}
	if strings.Contains(c.Text, "keepme") {
		d.Obligations = append(d.Obligations, access.Obligation{Kind: access.ObligeRecord})
	}
	for _, u := range c.Classes {
		if !u.Derived {
			d.Obligations = append(d.Obligations, access.Obligation{Kind: access.ObligeMask, Classes: []string{u.Class}})
		}
		if u.Derived {
			d.Outcome, d.Code, d.Rule = access.Deny, access.CodeNotMaskable, "not-maskable:"+u.Class
		}
	}
	return d
}

func (b *broker) Check(_ context.Context, r api.CheckRequest) (resp api.CheckResponse, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, ask := range r.Asks {
		ans := api.Answer{Session: ask.Session}
		stopped := false
		for _, c := range ask.Commands {
			if stopped { // as the broker does: behind one that does not run, nothing is stored
				ans.Decisions = append(ans.Decisions, access.Decision{Command: c.ID, Seq: c.Seq, Digest: access.Digest(digestKey, "web", c), Rule: api.RuleBatchStopped})
				continue
			}
			b.commands = append(b.commands, c)
			d := b.decide(c)
			stopped = d.Outcome != access.Allow
			ans.Decisions = append(ans.Decisions, d)
		}
		resp.Answers = append(resp.Answers, ans)
	}
	return resp, nil
}

func (b *broker) Claim(_ context.Context, r api.ClaimRequest) (api.ClaimResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.Withdraw {
		b.withdrawn++
		return api.ClaimResponse{}, nil
	}
	c := r.Command
	return api.ClaimResponse{Decision: access.Decision{Command: c.ID, Seq: c.Seq, Digest: access.Digest(digestKey, "web", c), Rule: "allowed", Outcome: access.Allow, Approval: r.Approval}}, nil
}

func (b *broker) Watch(id access.ApprovalID) (<-chan api.Verdict, func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ch := make(chan api.Verdict, 1)
	b.verdicts[id] = ch
	return ch, func() {}
}

func (b *broker) Reserve(int) error { return nil }
func (b *broker) Release(int)       {}

func (b *broker) Put(o api.Outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outcomes = append(b.outcomes, o)
}

// house is the room between a real OpenSSH server and whoever connects to addr.
type house struct {
	t      testing.TB
	srv    *sshserver.Server
	room   *Room
	tapes  *prototest.Recorder
	broker *broker
	log    *syncBuffer
	addr   string
	end    context.CancelCauseFunc
	served chan error
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
func (s *syncBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

func server(t testing.TB, options ...string) *sshserver.Server {
	t.Helper()
	srv, err := sshserver.Start(sshserver.Config{Options: options})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Stop(); err != nil {
			t.Error(err)
		}
	})
	return srv
}

func pin(t testing.TB, public string) []byte {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(public))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(key.Marshal())
	return sum[:]
}

// open serves connections on a loopback port, each as a session of its own.
func open(t testing.TB, srv *sshserver.Server, change ...func(s *protocol.Session)) *house {
	t.Helper()
	h := &house{t: t, srv: srv, tapes: &prototest.Recorder{}, broker: &broker{verdicts: map[access.ApprovalID]chan api.Verdict{}}, log: &syncBuffer{}, served: make(chan error, 100)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	h.room = New(Config{KeyDir: t.TempDir(), Targets: map[access.TargetName]Settings{}})
	room := h.room
	ctx, cancel := context.WithCancelCause(context.Background())
	h.end = cancel
	batcher := gate.NewBatcher("agent", h.broker)
	var wg sync.WaitGroup
	sessions := 0
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			sessions++
			id := access.SessionID(fmt.Sprintf("SESSION%d", sessions))
			s := &protocol.Session{ID: id, Target: "web", Dial: srv.Dial, Recorder: h.tapes, Log: slog.New(slog.NewJSONHandler(h.log, nil)),
				Login: protocol.Login{User: srv.User, Password: secret.New(srv.Key), Peer: protocol.Peer{Mode: "pin", Pin: pin(t, srv.HostKey)}}}
			for _, c := range change {
				c(s)
			}
			g, err := gate.New(gate.Config{Batcher: batcher, Claims: h.broker, Verdicts: h.broker, Outcomes: h.broker, Session: id, Target: "web", State: "state", DigestKey: digestKey, Classes: s.Classes})
			if err != nil {
				t.Error(err)
				return
			}
			s.Gate = g
			wg.Go(func() {
				h.served <- room.Serve(ctx, conn, s)
				g.Close(context.Background())
			})
		}
	})
	t.Cleanup(func() {
		cancel(nil)
		_ = l.Close()
		wg.Wait()
		batcher.Close()
	})
	return h
}

// allow changes what the target's settings allow, from the next connection on.
func (h *house) allow(s Settings) *house {
	h.t.Helper()
	if err := s.Check(); err != nil {
		h.t.Fatal(err)
	}
	h.room.targets["web"] = s
	return h
}

func (h *house) outcomes() []api.Outcome {
	h.broker.mu.Lock()
	defer h.broker.mu.Unlock()
	return append([]api.Outcome(nil), h.broker.outcomes...)
}

func (h *house) asked(verb string) (all []access.Command) {
	h.broker.mu.Lock()
	defer h.broker.mu.Unlock()
	for _, c := range h.broker.commands {
		if c.Verb == verb {
			all = append(all, c)
		}
	}
	return all
}

// eventually polls: what goes off the reply path has no other sign.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for late := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// client is the real OpenSSH client's command line.
func (h *house) options() []string {
	host, port, _ := net.SplitHostPort(h.addr)
	_ = host
	return []string{"-F", "none", "-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile=" + filepath.Join(h.t.TempDir(), "known"), "-o", "IdentityFile=none",
		"-o", "IdentityAgent=none", "-o", "LogLevel=INFO", "-o", "Port=" + port}
}

type result struct {
	out, err string
	code     int
}

func execute(t testing.TB, stdin io.Reader, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errOut
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	r := result{out.String(), errOut.String(), 0}
	if e := (*exec.ExitError)(nil); errors.As(err, &e) {
		r.code = e.ExitCode()
	} else if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, r.err)
	}
	return r
}

func (h *house) ssh(stdin io.Reader, args ...string) result {
	h.t.Helper()
	return execute(h.t, stdin, "ssh", append(append(h.options(), "somebody@127.0.0.1"), args...)...)
}
