package postgres

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/internal/access"
)

var errOutOfStep = errors.New("target answered out of step")

// errBroken says that the front has something to mend before it goes on.
var errBroken = errors.New("a guard failed")

// expect is what the target still owes: one entry per message that it answers, in order. The front loop appends, the back
// loop takes from the head; after append an entry belongs to the back loop until the queue is empty again.
type expect struct {
	kind   expectKind
	run    *running   // the command whose outcome this decides; nil for what runs nothing
	portal *portal    // Bind, Describe of a portal, Execute
	made   *statement // Parse
	simple bool       // for a Query: NoData is not passed on
	hidden bool       // asked by the room itself: the client does not see the answer
	reply  *reply     // poison: what the client sees in place of the target's error
	local  []byte     // kindLocal: written to the client when its turn comes
	rows   *internal  // kindInternal
	ok     bool       // the target did it

	guarding *guarding // kindGuard, kindLock: what the front does where it fails
}

type expectKind uint8

const (
	kindQuery expectKind = iota
	kindParse
	kindBind
	kindDescribeStatement
	kindDescribePortal
	kindExecute
	kindClose
	kindSync
	kindPoison   // in the extended protocol: answered by an error
	kindLocal    // nothing goes to the target
	kindInternal // the room's own question: ends with ReadyForQuery
	kindFunction // FunctionCall: ends with ReadyForQuery
	kindLock     // a text that is parsed for the locks alone
	kindGuard    // see guard
)

// running is a permitted command on its way. It belongs to the front loop until it is in the queue, then to the back loop.
type running struct {
	permit  *gate.Permit
	classes []access.ClassUse // that facts found: what is masked beyond them was not asked for
	started time.Time
	limit   int64
	rows    int64
	bytes   int64
	masked  map[string]int64
	tag     string
	over    bool  // the row limit was passed
	beneath bool  // the target runs the command's second text
	alone   bool  // the only statement of its message
	copies  bool  // a COPY is expected
	counts  bool  // it changes rows, and may change limit of them
	excess  int64 // it changed so many, which is too many; read once nothing is owed
	plan    bool  // rows are a plan, whose widths must not show
	ended   bool
}

func newRunning(permit *gate.Permit, classes []access.ClassUse) *running {
	return &running{permit: permit, classes: classes, started: time.Now(), limit: permit.RowLimit()}
}

// end reports the outcome, once.
func (r *running) end(status access.Status, sqlstate string) {
	if r == nil || r.ended {
		return
	}
	r.ended = true
	r.permit.Done(access.Result{Status: status, Tag: r.tag, Rows: r.rows, Bytes: r.bytes, Masked: r.masked, Beneath: r.beneath, Error: sqlstate,
		Duration: time.Since(r.started).Microseconds()})
}

// internal collects the rows of the room's own question.
type internal struct {
	rows  [][]string
	bytes int
	err   error
}

// queue is shared by both loops.
type queue struct {
	mu      sync.Mutex
	entries []*expect
	closed  error
	status  byte          // of the last ReadyForQuery
	idle    chan struct{} // closed while the queue is empty
	failed  bool          // the target skips to Sync
	skips   chan struct{} // closed once it does
	cut     bool          // closed while a command was on its way
	starts  chan struct{} // closed while the target takes the data of COPY
	mending *guarding     // a guard failed, and the front must act
	alarm   chan struct{} // closed then
}

func newQueue(status byte) *queue {
	q := &queue{status: status, idle: make(chan struct{}), skips: make(chan struct{}), starts: make(chan struct{}), alarm: make(chan struct{})}
	close(q.idle)
	return q
}

// push appends; it fails once the target is gone.
func (q *queue) push(e *expect) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed != nil {
		return q.closed
	}
	if len(q.entries) == 0 {
		q.idle = make(chan struct{})
	}
	q.entries = append(q.entries, e)
	return nil
}

// answer writes b to the client after everything that is owed before it.
func (q *queue) answer(b []byte, o *out) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed != nil {
		return q.closed
	}
	if len(q.entries) == 0 {
		return o.send(b)
	}
	q.entries = append(q.entries, &expect{kind: kindLocal, local: b})
	return nil
}

// head is the entry whose answer comes next, or nil.
func (q *queue) head() *expect {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.entries) == 0 {
		return nil
	}
	return q.entries[0]
}

// pop takes the head; local answers that follow are written now.
func (q *queue) pop(o *out) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.popLocked(o)
}

func (q *queue) popLocked(o *out) error {
	n := copy(q.entries, q.entries[1:])
	q.entries[n] = nil
	q.entries = q.entries[:n]
	for len(q.entries) > 0 && q.entries[0].kind == kindLocal {
		if err := o.put(q.entries[0].local); err != nil {
			return err
		}
		q.entries = q.entries[:copy(q.entries, q.entries[1:])]
	}
	if len(q.entries) == 0 {
		close(q.idle)
	}
	return nil
}

// ready takes everything up to and including the entry that ReadyForQuery ends, after writing ready for the client unless the
// room itself had asked. What the target skipped is reported so.
func (q *queue) ready(status byte, ready []byte, o *out) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.entries) > 0 {
		e := q.entries[0]
		switch e.kind {
		case kindQuery, kindSync, kindInternal, kindFunction:
			if q.failed {
				q.skips = make(chan struct{})
			}
			q.status, q.failed = status, false
			if q.mending != nil {
				close(q.alarm)
			} else if e.kind != kindInternal && !e.hidden {
				if err := o.put(ready); err != nil {
					return err
				}
			}
			e.ok = true
			return q.popLocked(o)
		case kindLocal:
		default:
			if !q.failed {
				return errOutOfStep
			}
			e.run.end(access.StatusUnused, "")
		}
		q.entries = q.entries[:copy(q.entries, q.entries[1:])]
	}
	return errOutOfStep
}

// abandon takes what belongs to a Query that the target has skipped because of what went before it. No ReadyForQuery comes for it: the front
// has to ask for one.
func (q *queue) abandon(g *guarding) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.entries {
		e.run.end(access.StatusUnused, "")
	}
	q.entries = nil
	q.mending = g
	close(q.alarm)
	close(q.idle)
}

// once notes that the segment is to be sent once more when its ReadyForQuery has come, which the client does not see.
func (q *queue) once(g *guarding) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mending = g
}

// broken takes what there is to mend.
func (q *queue) broken() *guarding {
	q.mu.Lock()
	defer q.mu.Unlock()
	g := q.mending
	if g == nil || !closed(q.alarm) {
		return nil
	}
	q.mending, q.alarm = nil, make(chan struct{})
	return g
}

// alarmed is closed while there is something to mend.
func (q *queue) alarmed() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.alarm
}

// fail notes that the target skips to Sync.
func (q *queue) fail() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.failed {
		q.failed = true
		close(q.skips)
	}
}

// last says whether nothing of the client follows e at the target but the Sync that ends it.
func (q *queue) last(e *expect) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.entries) == 0 || q.entries[0] != e {
		return false
	}
	if e.kind == kindQuery || e.kind == kindFunction {
		return e.run.alone
	}
	return len(q.entries) > 1 && q.entries[1].kind == kindSync
}

// busy says whether a command of the client is on its way at the target, or was when the queue was closed.
func (q *queue) busy() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.cut || q.busyLocked()
}

func (q *queue) busyLocked() bool {
	for _, e := range q.entries {
		if e.kind != kindLocal && e.kind != kindInternal && !e.hidden {
			return true
		}
	}
	return false
}

// close ends the queue: whatever was on its way is lost.
func (q *queue) close(err error, status access.Status) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed != nil {
		return
	}
	q.closed, q.cut = err, q.busyLocked()
	for _, e := range q.entries {
		e.run.end(status, "")
	}
	if len(q.entries) > 0 {
		q.entries = nil
		close(q.idle)
	}
}

// state is a consistent view: idle is closed once nothing is owed.
func (q *queue) state() (idle <-chan struct{}, empty bool, status byte, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.idle, len(q.entries) == 0, q.status, q.closed
}

// settled waits until nothing is owed and returns the status of the transaction. Meanwhile it takes what the client sends, so that
// its going away is seen; after that the target has grace to finish.
func (q *queue) settled(ctx context.Context, in *inbox, grace time.Duration) (byte, error) {
	status, _, err := q.wait(ctx, in, grace, nil, nil)
	return status, err
}

// answered is settled, or ends sooner, with true, where the target skips to Sync.
func (q *queue) answered(ctx context.Context, in *inbox, grace time.Duration) (bool, error) {
	q.mu.Lock()
	skips := q.skips
	q.mu.Unlock()
	_, skipping, err := q.wait(ctx, in, grace, skips, nil)
	return skipping, err
}

// begun is answered, or ends, with true, where the target asks for the data of COPY.
func (q *queue) begun(ctx context.Context, in *inbox, grace time.Duration) (bool, error) {
	q.mu.Lock()
	skips, starts := q.skips, q.starts
	q.mu.Unlock()
	_, _, err := q.wait(ctx, in, grace, skips, starts)
	return closed(starts), err
}

// asksForData notes that the target takes the data of COPY, until copied says that there is no more.
func (q *queue) asksForData() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !closed(q.starts) {
		close(q.starts)
	}
}

func (q *queue) copied() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if closed(q.starts) {
		q.starts = make(chan struct{})
	}
}

func (q *queue) wait(ctx context.Context, in *inbox, grace time.Duration, skips, starts <-chan struct{}) (byte, bool, error) {
	var late <-chan time.Time
	for {
		idle, empty, status, err := q.state()
		if alarm := q.alarmed(); err == nil && closed(alarm) {
			return status, true, errBroken
		}
		if err != nil || empty {
			return status, closed(skips), err
		}
		full := in.full
		if in.done {
			full = nil
			if late == nil {
				t := time.NewTimer(grace)
				defer t.Stop()
				late = t.C
			}
		}
		select {
		case <-idle:
		case chunk, ok := <-full:
			in.arrived(chunk, ok)
		case <-skips:
			return 0, true, nil
		case <-starts:
			return 0, false, nil
		case <-late:
			return 0, false, errClientGone
		case <-ctx.Done():
			return 0, false, context.Cause(ctx)
		}
	}
}

// closed says whether c is closed; nil is not.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
