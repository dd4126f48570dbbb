package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/protocol/postgres"
	"github.com/sallyport/sallyport/client/endpoint"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/internal/token"
)

// straight is a client's way to the room alone: no tunnel, no broker, and every command decided in this process by a policy directory. It
// prints its address, and serves until ctx ends. Clients log in with the target's own password.
func straight(ctx context.Context, address, database, user, passwordFile, policyDir string, stdout io.Writer) error {
	b, err := os.ReadFile(passwordFile)
	if err != nil {
		return err
	}
	password := strings.TrimSpace(string(b))
	bundle, err := policy.Load(os.DirFS(policyDir))
	if err != nil {
		return err
	}
	verifier, err := endpoint.NewVerifier(password)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	d := &decider{bundle: bundle, sessions: map[access.SessionID][]byte{}}
	s := &door{room: postgres.New(postgres.Config{}), decider: d, batcher: gate.NewBatcher("bench", d), verifier: verifier, address: address,
		login: protocol.Login{User: user, Database: database, Password: secret.New(password), Peer: protocol.Peer{Mode: "disable"}}}
	defer s.batcher.Close()
	if _, err := fmt.Fprintln(stdout, l.Addr()); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		wg.Go(func() {
			if err := s.serve(ctx, c); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "benchagent:", err)
			}
		})
	}
}

type door struct {
	room     *postgres.Room
	decider  *decider
	batcher  *gate.Batcher
	verifier *api.Verifier
	address  string
	login    protocol.Login
}

const target = access.TargetName("app")

func (s *door) serve(ctx context.Context, c net.Conn) error {
	id, err := token.NewID(time.Now())
	if err != nil {
		return err
	}
	session, key := access.SessionID(id), make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	s.decider.open(session, key)
	defer s.decider.close(session)
	g, err := gate.New(gate.Config{Batcher: s.batcher, Claims: nobody{}, Verdicts: nobody{}, Outcomes: forgetful{}, Session: session, Target: target,
		State: "local", DigestKey: key, Classes: s.decider.bundle.Classes, Rows: true})
	if err != nil {
		return err
	}
	return s.room.Serve(ctx, c, &protocol.Session{ID: session, Target: target, Lineage: lineage, Classes: s.decider.bundle.Classes, Login: s.login,
		Verifier: s.verifier, Gate: g, Recorder: nobody{}, Log: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", s.address) }})
}

var lineage = access.Lineage{Principal: "alice", Groups: []string{"engineers"}, Assurance: access.Exchanged,
	Path: []access.Node{{ID: "01A", Name: "alice"}, {ID: "01B", Name: "coder", Purpose: "measure"}}}

// decider decides in this process, by the same rules as the broker, and records nothing.
type decider struct {
	bundle   *policy.Bundle
	mu       sync.Mutex
	sessions map[access.SessionID][]byte // digest keys
}

func (d *decider) open(id access.SessionID, key []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sessions[id] = key
}

func (d *decider) close(id access.SessionID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.sessions, id)
}

func (d *decider) key(id access.SessionID) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sessions[id]
}

// Check is the gate's question.
func (d *decider) Check(_ context.Context, r api.CheckRequest) (api.CheckResponse, error) {
	resp := api.CheckResponse{Answers: make([]api.Answer, len(r.Asks))}
	now := time.Now()
	for i, a := range r.Asks {
		key := d.key(a.Session)
		ans := api.Answer{Session: a.Session, Decisions: make([]access.Decision, 0, len(a.Commands))}
		for _, c := range a.Commands {
			v := policy.Decide(d.bundle, policy.Request{Command: c, Target: target, Agent: "bench", Lineage: lineage, Capability: access.Everything(), Now: now})
			ans.Decisions = append(ans.Decisions, access.Decision{Command: c.ID, Seq: c.Seq, Digest: access.Digest(key, target, c),
				Outcome: v.Outcome, Code: v.Code, Rule: v.Rule, Hint: v.Hint, Obligations: v.Obligations})
			if v.Outcome != access.Allow {
				break // the rest would be answered as stopped; nothing of the benchmark is refused
			}
		}
		resp.Answers[i] = ans
	}
	return resp, nil
}

// nobody answers nothing: no command of the benchmark is held, and none is recorded.
type nobody struct{}

func (nobody) Claim(context.Context, api.ClaimRequest) (api.ClaimResponse, error) {
	return api.ClaimResponse{}, errors.New("nothing is held here")
}
func (nobody) Watch(access.ApprovalID) (<-chan api.Verdict, func()) { return nil, func() {} }
func (nobody) Start(access.CommandID, string, string) (protocol.Recording, error) {
	return nil, errors.New("nothing is recorded here")
}
