package postgres

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

var errCancelled = errors.New("cancelled by the client")

// front is the loop that reads the client, asks, and writes the target. Between two ReadyForQuery it works through one segment: a
// Query message, or extended messages up to a Sync.
type front struct {
	*link
	st  session
	w   *bufio.Writer
	seg segment

	statements map[string]*statement // that the target has
	portals    map[string]*portal
	held       int   // bytes of texts and parameters in both
	reserved   int64 // of them and of what is being dealt with, in the room's memory for what is large
	ration     *ration

	fresh     time.Duration // see Config
	checked   time.Time     // when the snapshot was last known to be current
	mark      string        // of the catalogue that the snapshot is of
	shared    *snapshots
	parser    grammar // of the room
	temporary bool    // the session has a schema for temporary tables of its own

	// See guard.
	since            string  // the server's snapshot that cat is good for; empty: there is none that says so
	guards           bool    // the target has the room's question
	giving           *expect // of the message that gave it, until that is known to have done so
	frozen           bool    // what runs sees what was committed when its transaction began
	isolationUnknown bool
	isolationMoved   bool
	again            bool // what is sent is sent for the second time
	hide             bool // its answer has been seen
	definitions      *atomic.Uint64
	defined          uint64 // the last of definitions that this session has seen
	sentinels        *sentinels
	sentinel         *sentinel

	stale   bool // the catalogue snapshot is older than the session's own DDL
	staleIn bool // DDL happened in the transaction that is open: its end changes the catalogue again
	drift   bool // a command may have changed role or search path
	adopt   bool // it said so itself: the room goes on with what they are now
	moved   bool // that may be taken back at the end of the transaction
	unseen  bool // a command ran what was not looked into: it may have changed definitions
	copying copying

	firsts     map[string]string // of second texts that made names at the target: see remember
	firstBytes int
}

func newFront(l *link, shared *ration) *front {
	return &front{link: l, ration: shared, w: bufio.NewWriterSize(l.conn, 16<<10), statements: make(map[string]*statement), portals: make(map[string]*portal)}
}

// open reads what gives bytes their meaning, and the catalogue.
func (f *front) open(ctx context.Context, st *startup) error {
	ctx, stop := context.WithTimeoutCause(ctx, loginWait, refuseStart(stateUnreachable, "", "the target's catalogue did not come within %s", loginWait))
	defer stop()
	f.st = session{utf8: isUTF8(f.statuses["server_encoding"]), prepared: f.textIn("pg_prepared_statements"), cursor: f.textIn("pg_cursors"), first: f.firstText}
	var err error
	if f.st.database, f.st.role, f.st.searchPath, err = f.state(ctx); err != nil {
		return err
	}
	if f.role != "" && f.role != f.st.role || f.st.database != st.database {
		return fmt.Errorf("target logged the room in as %q on %q", f.st.role, f.st.database)
	}
	return f.reload(ctx)
}

func (f *front) flush() error {
	if err := f.w.Flush(); err != nil {
		return f.lost(err)
	}
	return nil
}

func (f *front) lost(err error) error { return fmt.Errorf("%w: %w", errTarget, err) }

// welcome tells the client that it is in.
func (f *front) welcome() error {
	msg := appendAuthentication(nil, authOK, nil)
	for _, name := range slices.Sorted(maps.Keys(f.statuses)) {
		msg = appendParameterStatus(msg, name, f.statuses[name])
	}
	if len(f.key.secret) > 0 {
		var at int
		msg, at = frame(msg, 'K')
		msg = binary.BigEndian.AppendUint32(msg, f.pid)
		msg = seal(append(msg, f.ours...), at)
	}
	return f.out.send(appendReady(msg, statusIdle))
}

// loop serves the client until it ends; every other end is an error.
func (f *front) loop(ctx context.Context) error {
	for {
		tag, msg, err := f.next(ctx)
		if errors.Is(err, errClientGone) || err == nil && tag == 'X' {
			return f.bye(ctx)
		}
		if err == nil {
			err = f.message(ctx, tag, msg)
			f.release()
		}
		if v := (*violation)(nil); errors.As(err, &v) {
			f.note(ctx, v)
		}
		if err != nil {
			return err
		}
	}
}

func (f *front) message(ctx context.Context, tag byte, msg []byte) error {
	switch tag {
	case 'Q':
		return f.query(ctx, msg)
	case 'P', 'B', 'D', 'E', 'C':
		return f.extended(ctx, tag, msg)
	case 'H':
		return f.flushed(ctx)
	case 'S':
		return f.sync(ctx)
	case 'F':
		return f.functionCall(ctx, msg)
	case 0:
		return nil // dealt with as it came
	}
	return violated("message %q has no place here", tag)
}

// note leaves an entry about what ends the session. Whatever the gate answers, the session ends.
func (f *front) note(ctx context.Context, v *violation) {
	c := access.Command{Verb: "PROTOCOL", Text: v.what, Normalised: v.what, Complete: true,
		State:   access.State{Database: f.st.database, Role: f.st.role, SearchPath: f.st.searchPath},
		Refused: &access.Refusal{Rule: v.rule, Hint: hintProtocol}}
	permits, _, err := f.check(ctx, []access.Command{c})
	unused(permits)
	if err != nil {
		f.s.Log.Warn("entry about a violation not stored", "session", f.s.ID, "target", f.s.Target, "error", err)
	}
}

// begin opens a segment unless one is open: everything before it has been answered.
func (f *front) begin(ctx context.Context) error {
	if f.seg.open {
		return nil
	}
	status, err := f.settled(ctx)
	if err != nil {
		return err
	}
	f.settle()
	f.gave()
	if status == statusIdle && f.isolationMoved {
		f.isolationUnknown, f.isolationMoved = true, false
	}
	if f.definitions.Load() != f.defined {
		f.checked = time.Time{} // a session beside this one has changed something
	}
	if status == statusIdle && f.staleIn {
		f.stale, f.staleIn = true, false
	}
	if status == statusIdle && f.moved {
		f.drift, f.adopt, f.moved = true, true, false
	}
	if status != statusError {
		if f.drift {
			if err := f.drifted(ctx); err != nil {
				return err
			}
		}
		// Outside a transaction: inside, a question of the room's could be the first, before a SET TRANSACTION.
		if status == statusIdle && !f.stale && time.Since(f.checked) > f.fresh {
			if err := f.refresh(ctx); err != nil {
				return err
			}
		}
		if f.stale {
			f.staleIn = status == statusBlock
			if err := f.reload(ctx); err != nil {
				return err
			}
		}
	}
	f.seg = segment{open: true, status: status, inTxn: status != statusIdle}
	f.copying = copyNone
	return nil
}

// drifted ends the session where a command moved what the room relies on.
func (f *front) drifted(ctx context.Context) error {
	database, role, path, err := f.state(ctx)
	if err != nil {
		return err
	}
	if f.unseen && !f.stale {
		if err := f.refresh(ctx); err != nil {
			return err
		}
	}
	f.unseen = false
	if f.adopt {
		f.stale = f.stale || role != f.st.role
		f.st.role, f.st.searchPath, f.adopt = role, path, false
	}
	if database != f.st.database || role != f.st.role || path != f.st.searchPath {
		return &access.Denied{Code: access.CodeDenied, Rule: "postgres.drift",
			Hint: "a function changed the role or the search path, which the room pins; connect again"}
	}
	f.drift = false
	return nil
}

// after notes what a command that was sent leaves to be done before the next one.
func (f *front) after(p plan) {
	f.stale = f.stale || p.changesCatalogue
	f.drift = f.drift || p.mayDrift
	f.unseen = f.unseen || p.opaque
	if p.unguards {
		f.guards = false
	}
	if p.changesCatalogue || p.opaque {
		f.defines.Store(true)
	}
	f.moved = f.moved || p.moves
	if p.moves || f.moved && len(p.txn) > 0 {
		f.drift, f.adopt = true, true
	}
	if p.loosens {
		f.st.loose = true // for good: the end of a transaction may take it back, or bring it back
		f.loose.Store(true)
	}
	if p.listens {
		f.listening.Store(true)
	}
	// Whether the target does it is not waited for: a statement that it keeps is one that cannot be bound any more.
	for _, name := range p.forgets {
		f.forget(name)
	}
	if p.forgetsAll {
		f.guards = false
		for name := range f.statements {
			f.forget(name)
		}
	}
}

// moves carries on what a command does to the transaction, for the facts of those that follow in the same segment.
func (f *front) moves(p plan) {
	for _, m := range p.txn {
		switch m {
		case txnBegin:
			f.seg.inTxn = true
		case txnEnd:
			f.seg.inTxn = false
		}
	}
}

// command turns a text into the question that goes to the gate.
func (f *front) command(text string, params []access.Param, prepare bool) (access.Command, plan) {
	if !utf8.ValidString(text) {
		clean := strings.ToValidUTF8(text, "\uFFFD")
		return f.refused("QUERY", clean[:min(len(clean), 1<<10)], "postgres.encoding", "send UTF-8"), plan{}
	}
	if f.st.loose && strings.Contains(text, `\`) {
		return f.refused("QUERY", text[:min(len(text), 1<<10)], "postgres.set-strings",
			"a backslash means something else while standard_conforming_strings may be off: connect again, and leave it on"), plan{}
	}
	size := len(text)
	for _, p := range params {
		size += len(p.Value)
	}
	if size > maxCommand {
		return f.refused("QUERY", text[:min(len(text), 1<<10)], "postgres.too-large", fmt.Sprintf("a statement and its parameters may hold %d bytes together", maxCommand)), plan{}
	}
	st := f.st
	st.inTxn = f.seg.inTxn
	c, p := commandOf(text, params, st, f.cat, prepare)
	c.Classes = append(slices.Clip(c.Classes), detected(f.s.Classes, p)...)
	if f.seg.unsure && c.Complete {
		c.Complete, c.Why = false, "it follows a command that may change what names mean, before one Sync"
		c.Touches = append(slices.Clone(c.Touches), access.Touch{Effect: access.Unknown, Resource: access.Resource{Kind: access.KindDatabase, Name: f.st.database}})
	}
	return c, p
}

func (f *front) refused(verb, text, rule, hint string) access.Command {
	return access.Command{Verb: verb, Text: text, Normalised: verb, Complete: true,
		Facts:   access.Facts{InTxn: f.seg.inTxn},
		State:   access.State{Database: f.st.database, Role: f.st.role, SearchPath: f.st.searchPath},
		Refused: &access.Refusal{Rule: rule, Hint: hint}}
}

// maxBatch is how many commands one question may carry.
const maxBatch = api.MaxBatch
