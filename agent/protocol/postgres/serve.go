package postgres

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
)

// Waits, each with its reason.
const (
	handshakeWait = 30 * time.Second // a driver's start-up takes milliseconds; a person is not asked anything in it
	loginWait     = 20 * time.Second // to the target, catalogue included
	goneGrace     = 2 * time.Second  // a client that sends and closes still gets its short commands run
	farewellWait  = time.Second      // to tell a client why its session ends
	cancelWait    = 5 * time.Second  // to deliver a cancel to the target
)

// Config of the room. The zero Config is good.
type Config struct {
	// Fresh is how long a session relies on its snapshot of the whole catalogue without asking whether somebody changed a definition; what a
	// command rests on is asked with each. Zero means 5 s: short against what a person does after a change, long against the milliseconds
	// that the question takes.
	Fresh time.Duration
	// Targets are settings of targets by name; those of the others are zero.
	Targets map[access.TargetName]Settings
	// Parser is the command that runs ParserMain, two of which serve all sessions. Empty parses in this process, where a text that breaks
	// the grammar ends every session.
	Parser []string
	// Memory is how many bytes of large statements and parameters all sessions together may hold; what would be more waits. Zero means
	// 256 MiB.
	Memory int64
}

// Room serves PostgreSQL. It knows its live sessions, so that a cancel request finds the one that it is for.
type Room struct {
	fresh       time.Duration
	parser      grammar // nil: in this process
	targets     map[access.TargetName]Settings
	certificate func() (*certificate, error)
	shared      *snapshots
	ration      *ration
	watch       *sentinels
	definitions atomic.Uint64 // counts what sessions of this room did to definitions
	mu          sync.Mutex
	live        map[uint32][]*link // by the process id that the client was told
}

// New makes a room.
func New(c Config) *Room {
	if c.Fresh == 0 {
		c.Fresh = 5 * time.Second
	}
	if c.Memory == 0 {
		c.Memory = memory
	}
	r := &Room{fresh: c.Fresh, targets: c.Targets, certificate: sync.OnceValues(newCertificate), shared: newSnapshots(), ration: newRation(c.Memory), watch: newSentinels(),
		live: make(map[uint32][]*link)}
	if len(c.Parser) > 0 {
		r.parser = newParsers(c.Parser, parserProcesses)
	}
	return r
}

var (
	_ protocol.Protocol = (*Room)(nil)
	_ protocol.Aside    = (*Room)(nil)
	_ protocol.Refuser  = (*Room)(nil)
)

// link is one client's connection joined to one of the target: what both loops share.
type link struct {
	s    *protocol.Session
	in   *inbox
	out  *out
	q    *queue
	conn net.Conn // to the target
	key  targetKey
	at   string // the only host to log in to, as hosts names it; empty: any
	pid  uint32
	ours []byte // the secret that the client was told

	set     *Settings
	binding []byte // of the client's TLS, where it has TLS up to here

	maskers  maskers
	role     string // that the room logged in as
	statuses map[string]string
	cat      *catalogue

	flight sync.Mutex // held while a cancel travels: nothing new goes to the target meanwhile
	askMu  sync.Mutex
	abort  context.CancelCauseFunc // of the question that is open

	listening  atomic.Bool // the client may hear notifications
	loose      atomic.Bool // standard_conforming_strings may be off: see session
	defines    atomic.Bool // a definition may have been changed: told to other sessions when the transaction is over
	tellOthers func()

	wg sync.WaitGroup
}

// guarded says whether values of some class may be in the target's answers.
func (l *link) guarded() bool { return len(l.s.Classes) > 0 }

func (l *link) masking(fields []field, r *running) (*masking, error) {
	if !l.guarded() {
		return &masking{fields: len(fields)}, nil
	}
	if what := untold(fields, l.cat, r); what != "" {
		return nil, fmt.Errorf("%w: no field of the result is said to be %s, which the command asks for", errOutOfStep, what)
	}
	m, err := maskingOf(fields, l.cat, rule{declared: r.classes, masks: r.permit.Masks, classes: l.s.Classes, made: &l.maskers})
	if err != nil {
		return nil, &access.Denied{Code: access.CodeNotMaskable, Rule: "postgres.catalogue", Command: r.permit.Command(), Retryable: true,
			Hint: err.Error() + "; connect again, so that the room sees what is new"}
	}
	return m, nil
}

// Serve is the whole life of one client.
func (r *Room) Serve(parent context.Context, client net.Conn, s *protocol.Session) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	settings := r.targets[s.Target]
	l := &link{s: s, set: &settings, in: newInbox(), maskers: maskers{key: s.MaskKey}}
	if l.s.Log == nil {
		l.s.Log = slog.New(slog.DiscardHandler)
	}
	prefaced, binding, err := r.preface(ctx, client)
	if prefaced == nil {
		_ = client.Close()
		if errors.Is(err, errClientGone) {
			return nil
		}
		return err
	}
	client, l.binding, l.out = prefaced, binding, newOut(prefaced)
	stop := context.AfterFunc(ctx, func() { _ = client.SetWriteDeadline(time.Now().Add(farewellWait)) })
	defer stop()
	l.wg.Go(func() { l.in.pump(client, ctx.Done()) })

	if err == nil {
		err = r.serve(ctx, cancel, l)
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, errClientGone) && !errors.Is(err, errDone) {
		err = cause
	}
	cancel(err)
	l.tell(client, err)
	_ = client.Close()
	if l.conn != nil {
		l.hangUp(err)
	}
	l.wg.Wait()
	if errors.Is(err, errClientGone) || errors.Is(err, errDone) {
		return nil
	}
	return err
}

// errDone is an orderly end that needs no more words.
var errDone = errors.New("done")

func (r *Room) serve(ctx context.Context, cancel context.CancelCauseFunc, l *link) error {
	start, err := r.greet(ctx, l)
	if err != nil {
		return err
	}
	status, err := l.login(ctx, start)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.conn.SetDeadline(time.Now()) })
	defer stop()
	l.q = newQueue(status)
	l.tellOthers = func() { r.definitions.Add(1) }
	b := &back{l: l, q: l.q, out: l.out}
	b.tap = newTap(l.conn, l.out.flush)
	b.tap.done = ctx.Done()
	l.wg.Go(func() {
		err := b.loop(ctx)
		if b.last != "" {
			err = errDone // the target has said why, and the client has heard it
		}
		l.q.close(err, access.StatusLost)
		cancel(err)
	})
	f := newFront(l, r.ration)
	defer f.free()
	f.fresh, f.shared, f.parser, f.sentinels, f.definitions = r.fresh, r.shared, r.parser, r.watch, &r.definitions
	defer f.dismiss()
	if err := f.open(ctx, start); err != nil {
		return err
	}
	r.add(l)
	defer r.remove(l)
	if err := f.welcome(); err != nil {
		return err
	}
	return f.loop(ctx)
}

// tell gives the client the last word about an end that is not its own doing.
func (l *link) tell(client net.Conn, err error) {
	rep := lastWord(err)
	if rep == nil {
		return
	}
	if rep.code == stateInternal {
		var id [4]byte
		_, _ = rand.Read(id[:])
		rep.message = fmt.Sprintf("internal error (id %s)", hex.EncodeToString(id[:]))
		l.s.Log.Error("room ended", "session", l.s.ID, "target", l.s.Target, "id", hex.EncodeToString(id[:]), "error", err)
	}
	_ = client.SetWriteDeadline(time.Now().Add(farewellWait))
	l.out.mu.Lock()
	defer l.out.mu.Unlock()
	if l.out.inside || l.out.err != nil {
		return // the client is in the middle of a row: all that is left is to close
	}
	l.out.buf = rep.append(l.out.buf)
	_ = l.out.flushLocked()
}

// lastWord is nil for an orderly end.
func lastWord(err error) *reply {
	d, v, rep := (*access.Denied)(nil), (*violation)(nil), (*startError)(nil)
	switch {
	case err == nil, errors.Is(err, errClientGone), errors.Is(err, errDone):
		return nil
	case errors.As(err, &rep):
		return &rep.reply
	case errors.As(err, &d):
		return ended(d)
	case errors.As(err, &v):
		return &reply{severity: severityFatal, code: stateProtocol, message: v.what, hint: hintProtocol,
			detail: (&access.Denied{Code: access.CodeUnsupported, Rule: v.rule, Hint: hintProtocol}).Detail()}
	case errors.Is(err, errTarget):
		return &reply{severity: severityFatal, code: stateTargetGone, message: messageTargetGone}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &reply{severity: severityFatal, code: stateEnded, message: "the session was ended: the agent is stopping"}
	}
	return &reply{severity: severityFatal, code: stateInternal}
}

// hangUp ends the connection to the target, and first whatever runs there for a client that is gone.
func (l *link) hangUp(err error) {
	if l.q != nil && l.q.busy() && !errors.Is(err, errTarget) {
		ctx, cancel := context.WithTimeout(context.Background(), cancelWait)
		defer cancel()
		l.sendCancel(ctx)
	}
	_ = l.conn.Close() // ends the back loop, which reports what was on its way
}
