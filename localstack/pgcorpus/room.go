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
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/protocol/postgres"
	"github.com/sallyport/sallyport/client/endpoint"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/policies"
)

// The classes of what seed.sql protects.
const classesYAML = `classes:
  - {name: email, mask: email, columns: ["*.customers.email", "*.people.email"]}
  - {name: card, mask: card, columns: ["*.customers.card_number"]}
  - {name: ssn, mask: full, columns: ["*.customers.ssn"]}
`

// openCedar permits everything but to see what is masked: what holds then is the masking alone.
const openCedar = `@id("all-but-reveal")
permit (principal, action in [Action::"connect", Action::"read", Action::"write", Action::"define", Action::"grant", Action::"execute", Action::"transfer"], resource);
`

// writePolicy writes the policy that the corpus is played under: the pack guarded-postgres with more classes and without holds, or one that permits
// everything but to reveal.
func writePolicy(dir string, open bool) error {
	pack, err := policies.Pack("guarded-postgres")
	if err != nil {
		return err
	}
	if err := os.CopyFS(dir, pack); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(dir, "tests")); err != nil {
		return err
	}
	guards, err := os.ReadFile(filepath.Join(dir, "guards.cedar"))
	if err != nil {
		return err
	}
	write := map[string]string{"classes.yaml": classesYAML, "guards.cedar": string(bytes.ReplaceAll(guards, []byte("@hold(\"prod-write\")\n"), nil))}
	if open {
		write["access.cedar"], write["guards.cedar"] = openCedar, "// none\n"
	}
	for name, body := range write {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func loadPolicy(open bool) (*policy.Bundle, error) {
	dir, err := os.MkdirTemp("", "sallyport-corpus-policy-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	if err := writePolicy(dir, open); err != nil {
		return nil, err
	}
	return policy.Load(os.DirFS(dir))
}

const roomTarget access.TargetName = "app"

var roomKey = bytes.Repeat([]byte("c"), 32)

// broker decides by a policy, in this process.
type broker struct{ bundle *policy.Bundle }

func (b broker) Check(_ context.Context, r api.CheckRequest) (api.CheckResponse, error) {
	var resp api.CheckResponse
	for _, ask := range r.Asks {
		a := api.Answer{Session: ask.Session}
		stopped := false
		for _, c := range ask.Commands {
			d := access.Decision{Command: c.ID, Seq: c.Seq, Digest: access.Digest(roomKey, roomTarget, c), Rule: api.RuleBatchStopped}
			if !stopped {
				v := policy.Decide(b.bundle, policy.Request{Command: c, Target: roomTarget, Agent: "corpus", Capability: access.Everything(), Now: time.Now(),
					Lineage: access.Lineage{Principal: "alice", Groups: []string{"engineers"}, Path: []access.Node{{ID: "login", Name: "alice"}}, AuthTime: time.Now()}})
				d.Rule, d.Hint = v.Rule, v.Hint
				if d.Outcome = v.Outcome; v.Outcome == access.Allow {
					d.Obligations = v.Obligations
				} else {
					d.Outcome, d.Code, stopped = access.Deny, access.CodeDenied, true
				}
			}
			a.Decisions = append(a.Decisions, d)
		}
		resp.Answers = append(resp.Answers, a)
	}
	return resp, nil
}

func (broker) Claim(context.Context, api.ClaimRequest) (api.ClaimResponse, error) {
	return api.ClaimResponse{}, errors.New("nothing is held")
}

func (broker) Watch(access.ApprovalID) (<-chan api.Verdict, func()) { return nil, func() {} }
func (broker) Reserve(int) error                                    { return nil }
func (broker) Release(int)                                          {}
func (broker) Put(api.Outcome)                                      {}

// house is our room in front of a server, as the agent would put it.
type house struct {
	room     *postgres.Room
	broker   broker
	batcher  *gate.Batcher
	ln       net.Listener
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	sessions atomic.Int64
	upstream string
	password string
	database string
	verifier *api.Verifier
}

// endpointPassword is what an endpoint tells its caller.
const endpointPassword = "endpoint" //nolint:gosec // between two ends of a test

// openHouse starts it. Upstream is host:port.
func openHouse(upstream, password, database string, open bool) (*house, error) {
	bundle, err := loadPolicy(open)
	if err != nil {
		return nil, err
	}
	verifier, err := endpoint.NewVerifier(endpointPassword)
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := &house{room: postgres.New(postgres.Config{}), broker: broker{bundle}, ln: ln, cancel: cancel, upstream: upstream, password: password, database: database}
	h.verifier = verifier
	h.batcher = gate.NewBatcher("corpus", h.broker)
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

func (h *house) dsn() string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=alice password="+endpointPassword+" dbname=%s sslmode=disable", h.ln.Addr().(*net.TCPAddr).Port, h.database)
}

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

var owner = protocol.Owner{Endpoint: "corpus", Thumbprint: "corpus"}

func (h *house) serve(ctx context.Context, c net.Conn) {
	r := bufio.NewReader(c)
	if aside, _ := h.room.TakeAside(ctx, r, owner); aside { // a cancel request is never answered
		_ = c.Close()
		return
	}
	id := access.SessionID("S" + strconv.FormatInt(h.sessions.Add(1), 10))
	classes := h.broker.bundle.Classes
	g, err := gate.New(gate.Config{Batcher: h.batcher, Claims: h.broker, Verdicts: h.broker, Outcomes: h.broker, Session: id, Target: roomTarget, State: "state",
		DigestKey: roomKey, Classes: classes})
	if err != nil {
		panic(err) // a configuration of this file's own
	}
	s := &protocol.Session{ID: id, Target: roomTarget, Owner: owner, Classes: classes, Gate: g, Recorder: nothing{},
		Login: protocol.Login{User: "app", Password: secret.New(h.password), Database: h.database, Peer: protocol.Peer{Mode: "disable"}},
		Dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", h.upstream)
		},
		Verifier: h.verifier, Log: slog.New(slog.DiscardHandler)}
	_ = h.room.Serve(ctx, peeked{c, r}, s) // how a session ends is what clients see
}

type nothing struct{}

func (nothing) Start(access.CommandID, string, string) (protocol.Recording, error) {
	return discard{io.Discard}, nil
}

type discard struct{ io.Writer }

func (discard) Close() error { return nil }
