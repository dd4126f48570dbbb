package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/protocol/postgres"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/localstack/pgserver"
)

var digestKey = bytes.Repeat([]byte("c"), 32)

// gatekeeper is a broker that says yes to all that the room itself does not refuse, and counts.
type gatekeeper struct {
	mu      sync.Mutex
	asked   int
	refused map[string]int // rules
	unclear map[string]int // reasons
}

func (g *gatekeeper) commands() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked
}

func (g *gatekeeper) Check(_ context.Context, r api.CheckRequest) (api.CheckResponse, error) {
	var resp api.CheckResponse
	for _, ask := range r.Asks {
		a := api.Answer{Session: ask.Session}
		stopped := false
		for _, c := range ask.Commands {
			d := access.Decision{Command: c.ID, Seq: c.Seq, Digest: access.Digest(digestKey, "app", c)}
			switch {
			case stopped:
				d.Rule = api.RuleBatchStopped
			case c.Refused != nil:
				stopped = true
				d.Code, d.Rule, d.Hint = access.CodeDenied, c.Refused.Rule, c.Refused.Hint
			default:
				d.Outcome, d.Rule = access.Allow, "compat"
			}
			g.note(c)
			a.Decisions = append(a.Decisions, d)
		}
		resp.Answers = append(resp.Answers, a)
	}
	return resp, nil
}

func (g *gatekeeper) note(c access.Command) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked++
	if g.refused == nil {
		g.refused, g.unclear = make(map[string]int), make(map[string]int)
	}
	if c.Refused != nil {
		g.refused[c.Refused.Rule]++
	}
	if !c.Complete {
		g.unclear[c.Why]++
	}
}

func (g *gatekeeper) Claim(context.Context, api.ClaimRequest) (api.ClaimResponse, error) {
	return api.ClaimResponse{}, errors.New("nothing is held")
}

func (g *gatekeeper) Watch(access.ApprovalID) (<-chan api.Verdict, func()) { return nil, func() {} }
func (g *gatekeeper) Reserve(int) error                                    { return nil }
func (g *gatekeeper) Release(int)                                          {}
func (g *gatekeeper) Put(api.Outcome)                                      {}

// house is the room behind a port of its own.
type house struct {
	srv      *pgserver.Server
	room     *postgres.Room
	gate     *gatekeeper
	batcher  *gate.Batcher
	ln       net.Listener
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	sessions atomic.Int64
	classes  []access.Class
}

func open(srv *pgserver.Server, g *gatekeeper, guarded bool) (*house, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	room := postgres.New(postgres.Config{Targets: map[access.TargetName]postgres.Settings{"app": {FunctionCalls: true}}, Parser: []string{self, parserWord}})
	ctx, cancel := context.WithCancel(context.Background())
	h := &house{srv: srv, room: room, gate: g, batcher: gate.NewBatcher("compat", g), ln: ln, cancel: cancel}
	if guarded {
		h.classes = []access.Class{{Name: "secret", Columns: []string{"*.sallyport_nobody.secret"}, Mask: "redact"}}
	}
	h.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			h.wg.Go(func() { h.serve(ctx, c) })
		}
	})
	return h, nil
}

func (h *house) port() int { return h.ln.Addr().(*net.TCPAddr).Port }

func (h *house) close() {
	h.cancel()
	_ = h.ln.Close() // ends the loop
	h.wg.Wait()
	h.batcher.Close()
}

// peeked is a connection of which the first bytes were looked at.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

var owner = protocol.Owner{Endpoint: "compat", Thumbprint: "compat"}

func (h *house) serve(ctx context.Context, c net.Conn) {
	r := bufio.NewReader(c)
	if aside, _ := h.room.TakeAside(ctx, r, owner); aside { // a cancel request is never answered
		_ = c.Close()
		return
	}
	id := access.SessionID("S" + strconv.FormatInt(h.sessions.Add(1), 10))
	g, err := gate.New(gate.Config{Batcher: h.batcher, Claims: h.gate, Verdicts: h.gate, Outcomes: h.gate, Session: id, Target: "app", State: "state",
		DigestKey: digestKey, Classes: h.classes})
	if err != nil {
		panic(err) // a configuration of this file's own
	}
	err = h.room.Serve(ctx, peeked{c, r}, &protocol.Session{ID: id, Target: "app", Owner: owner, Classes: h.classes, Gate: g, Recorder: nothing{},
		Login: protocol.Login{User: h.srv.User, Password: secret.New(h.srv.Password), Peer: protocol.Peer{Mode: "disable"}},
		Dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(h.srv.Host, strconv.Itoa(h.srv.Port)))
		},
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))})
	if err != nil && os.Getenv("COMPAT_VERBOSE") != "" {
		fmt.Fprintln(os.Stderr, "session:", err)
	}
}

type nothing struct{}

func (nothing) Start(access.CommandID, string, string) (protocol.Recording, error) {
	return discard{io.Discard}, nil
}

type discard struct{ io.Writer }

func (discard) Close() error { return nil }
