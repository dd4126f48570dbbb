package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/store"
)

// Exit codes of verification, and kinds of problem. The smallest of several is the exit code.
const (
	CodeAltered    = 10 // something stored is not what was sealed
	CodeRemoved    = 11 // something sealed is gone
	CodeCheckpoint = 12 // no checkpoint, or not signed by the key
	CodeChain      = 13 // a session's commands do not follow one another
	CodeApproval   = 14 // an approval was not for these bytes, or was used twice, or an outcome has no permission
	CodeRecording  = 15 // a recording is not the original, or not all of it
)

// VerifyConfig says what to verify. Blobs, Heads and Key are required.
type VerifyConfig struct {
	Blobs store.Blobs
	Heads store.Heads
	// Key is the log's verifier key, kept apart from the log by an auditor who does not trust its keeper.
	Key string
	// Rows is the live store, its audit table to be held against the log; nil verifies the log alone.
	Rows Rows
	// Saved is an earlier checkpoint that the auditor kept: nothing it covered may be gone.
	Saved []byte
}

// Rows are the audit table's, and beside them the head that the broker committed.
type Rows interface {
	store.Feed
	Get(ctx context.Context, table string, k store.Key, strong bool) (store.Item, error)
}

// Problem is one thing that is wrong.
type Problem struct {
	Code    int              `json:"code"`
	Index   int64            `json:"index"` // in the log; -1 where it is about no entry
	ID      string           `json:"id,omitempty"`
	Kind    Kind             `json:"kind,omitempty"`
	Session access.SessionID `json:"session,omitempty"`
	What    string           `json:"what"`
}

// Report is what a verification found.
type Report struct {
	OK         bool           `json:"ok"`
	Exit       int            `json:"exit"` // 0, or the smallest code of the problems
	Checkpoint CheckpointView `json:"checkpoint"`
	Entries    int64          `json:"entries"`
	Unsealed   int64          `json:"unsealed"` // stored after the checkpoint: not proven yet
	Sessions   int            `json:"sessions"`
	Commands   int            `json:"commands"`
	Approvals  int            `json:"approvals"`    // claimed
	Bodies     int            `json:"large_bodies"` // of commands that did not fit their entries
	Recordings int            `json:"recordings"`
	Running    int            `json:"recordings_running"` // that have no end yet
	Unknown    int            `json:"outcome_unknown"`
	Proven     []string       `json:"proven"`
	NotProven  []string       `json:"not_proven"`
	Problems   []Problem      `json:"problems"`
}

// CheckpointView is a checkpoint for display.
type CheckpointView struct {
	Origin string `json:"origin"`
	Size   int64  `json:"size"`
	Root   string `json:"root"` // base64
	Time   string `json:"time"`
}

// maxProblems bounds a report: a log of another origin would otherwise name every entry.
const maxProblems = 1000

type verifier struct {
	c      VerifyConfig
	r      Report
	head   Checkpoint
	leaves []leaf
	beyond []tlog.Hash        // of entries behind the checkpoint: sealed, not published yet
	broker *Head              // what the broker committed; nil where nobody says
	hashes []tlog.Hash        // recomputed, by stored-hash index
	sealed map[tlog.Hash]bool // of the leaves that are where the log has them
	rows   map[tlog.Hash]leaf // of the live table
	open   []string           // what is not proven of single entries and recordings, in words
	more   int                // of those, beyond maxOpen
	latest time.Time          // of the entries so far

	permitted map[commandKey]bool // what was allowed, or held and then claimed
}

type leaf struct {
	raw   []byte
	hash  tlog.Hash
	entry Entry
	bad   error // it does not read as an entry
}

func newLeaf(raw []byte) leaf {
	l := leaf{raw: raw, hash: tlog.RecordHash(raw)}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	l.bad = d.Decode(&l.entry)
	return l
}

// Verify recomputes everything from the bytes. The error is for what could not be read at all; what is wrong is in the Report.
func Verify(ctx context.Context, c VerifyConfig) (Report, error) {
	v := &verifier{c: c, sealed: map[tlog.Hash]bool{}, rows: map[tlog.Hash]leaf{}}
	v.r.Problems, v.r.Proven = []Problem{}, []string{}
	if !v.checkpoint(ctx) {
		return v.finish(), nil
	}
	if err := v.readRows(ctx); err != nil {
		return Report{}, err
	}
	v.readHead(ctx) // before the segments, which are written first
	if err := v.readSegments(ctx); err != nil {
		return Report{}, err
	}
	if err := v.compareTiles(ctx); err != nil {
		return Report{}, err
	}
	v.compareRoot()
	v.compareSaved()
	v.compareRows()
	if err := v.compareHead(); err != nil {
		return Report{}, err
	}
	v.sessions()
	v.approvals()
	if err := errors.Join(v.recordings(ctx), v.bodies(ctx)); err != nil {
		return Report{}, err
	}
	return v.finish(), nil
}

func (v *verifier) problem(p Problem) {
	if len(v.r.Problems) < maxProblems {
		v.r.Problems = append(v.r.Problems, p)
	}
}

func (v *verifier) entryProblem(code int, index int64, l leaf, format string, args ...any) {
	v.problem(Problem{Code: code, Index: index, ID: l.entry.ID, Kind: l.entry.Kind, Session: l.entry.Session, What: fmt.Sprintf(format, args...)})
}

func (v *verifier) checkpoint(ctx context.Context) bool {
	b, err := v.c.Heads.Load(ctx, CheckpointName)
	if err == nil {
		v.head, err = OpenCheckpoint(b, v.c.Key)
	}
	if err != nil {
		v.problem(Problem{Code: CodeCheckpoint, Index: -1, What: err.Error()})
		return false
	}
	v.r.Checkpoint = CheckpointView{Origin: v.head.Origin, Size: v.head.Size, Root: v.head.Root.String(), Time: v.head.Time.UTC().Format("2006-01-02T15:04:05.000Z")}
	return true
}

// readRows loads the live table, so that an entry missing from the log can be named.
func (v *verifier) readRows(ctx context.Context) error {
	if v.c.Rows == nil {
		return nil
	}
	for after := ""; ; {
		items, next, err := v.c.Rows.Since(ctx, store.Audit, after, 1000)
		if err != nil {
			v.problem(Problem{Code: CodeAltered, Index: -1, What: "the audit table cannot be read: " + err.Error()})
			return nil //nolint:nilerr // it is in the report
		}
		if len(items) == 0 {
			return nil
		}
		for _, it := range items {
			v.readRow(it)
		}
		after = next
	}
}

func (v *verifier) readRow(it store.Item) {
	leaves, err := Leaves(it)
	if err != nil {
		v.problem(Problem{Code: CodeAltered, Index: -1, What: "audit table: " + err.Error()})
		return
	}
	for i, raw := range leaves {
		l := newLeaf(raw)
		v.rows[l.hash] = l
		if k, err := Key(l.entry); i == 0 && (err != nil || k != it.Key) {
			v.entryProblem(CodeAltered, -1, l, "audit table: entry %s lies under the key %s %s of another", l.entry.ID, it.PK, it.SK)
		}
	}
}

func (v *verifier) readSegments(ctx context.Context) error {
	names, err := v.c.Blobs.List(ctx, SegmentPrefix)
	if err != nil {
		return fmt.Errorf("list segments: %w", err)
	}
	for _, name := range names {
		first, err := segmentFirst(name)
		if err != nil {
			v.problem(Problem{Code: CodeAltered, Index: -1, What: err.Error()})
			continue
		}
		b, err := v.c.Blobs.Open(ctx, name)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if first >= v.head.Size {
			v.readBeyond(first, b)
			continue
		}
		v.pad(first, name)
		lines, err := SplitSegment(b)
		if err != nil {
			last := Problem{Code: CodeAltered, Index: first, What: fmt.Sprintf("%s: %v", name, err)}
			if n := len(lines); n > 0 { // the end of its last entry is what changed
				l := newLeaf(lines[n-1])
				last.Index, last.ID, last.Kind, last.Session = first+int64(n)-1, l.entry.ID, l.entry.Kind, l.entry.Session
			}
			v.problem(last)
		}
		for _, raw := range lines {
			v.leaves = append(v.leaves, newLeaf(raw))
		}
	}
	v.pad(v.head.Size, CheckpointName)
	return nil
}

// readBeyond keeps the hashes of a segment behind the checkpoint. It was written and perhaps committed; the next sealing adopts or publishes it.
func (v *verifier) readBeyond(first int64, b []byte) {
	lines, err := SplitSegment(b)
	if err != nil || first != v.head.Size+int64(len(v.beyond)) {
		return // compareHead tells whether it is missed
	}
	for _, raw := range lines {
		v.beyond = append(v.beyond, tlog.RecordHash(raw))
	}
}

// readHead reads what the broker committed beside the live table.
func (v *verifier) readHead(ctx context.Context) {
	if v.c.Rows == nil {
		return
	}
	h, err := v.committed(ctx)
	switch {
	case err == nil:
		v.broker = &h
	case errors.Is(err, store.ErrNotFound) && v.head.Size == 0: // nothing was ever sealed
	case errors.Is(err, store.ErrNotFound):
		v.problem(Problem{Code: CodeRemoved, Index: -1, What: "the broker's head of the log is gone from its registry"})
	default:
		v.problem(Problem{Code: CodeAltered, Index: -1, What: "the broker's head of the log cannot be read: " + err.Error()})
	}
}

// compareHead holds the published log against what the broker committed: an older checkpoint, with what came after it gone, is not the log.
func (v *verifier) compareHead() error {
	if v.broker == nil {
		return nil
	}
	committed := *v.broker
	more := committed.Size - v.head.Size
	if more < 0 {
		v.problem(Problem{Code: CodeAltered, Index: -1, What: fmt.Sprintf("the broker's head of the log covers %d entries, the checkpoint %d", committed.Size, v.head.Size)})
		return nil
	}
	if more > int64(len(v.beyond)) {
		v.problem(Problem{Code: CodeRemoved, Index: v.head.Size + int64(len(v.beyond)),
			What: fmt.Sprintf("%d entries were sealed, the checkpoint and what stands behind it have %d", committed.Size, v.head.Size+int64(len(v.beyond)))})
		return nil
	}
	if v.hashes == nil {
		return nil // nothing adds up: said already
	}
	if err := v.grow(v.head.Size, v.beyond[:more]); err != nil {
		return err
	}
	if root, err := v.treeHash(committed.Size); err != nil || root != committed.Root {
		v.problem(Problem{Code: CodeAltered, Index: -1, What: fmt.Sprintf("the log is not the one whose %d entries the broker sealed", committed.Size)})
	}
	return nil
}

// committed reads the broker's head.
func (v *verifier) committed(ctx context.Context) (head Head, err error) {
	it, err := v.c.Rows.Get(ctx, store.Registry, HeadKey, true)
	if err != nil {
		return head, err
	}
	return head, json.Unmarshal(it.Body, &head)
}

// pad marks where entries ought to be between segments. Their names come out when tiles and table are compared.
func (v *verifier) pad(to int64, before string) {
	if n := int64(len(v.leaves)); n > to {
		v.problem(Problem{Code: CodeAltered, Index: to, What: fmt.Sprintf("%d entries more than there is room for before %s", n-to, before)})
		v.leaves = v.leaves[:to]
	}
	for int64(len(v.leaves)) < to {
		v.leaves = append(v.leaves, leaf{bad: errMissing})
	}
}

var errMissing = errors.New("missing")

func (v *verifier) compareRoot() {
	root, err := v.treeHash(v.head.Size)
	if err != nil || root != v.head.Root {
		v.problem(Problem{Code: CodeAltered, Index: -1, What: "the tiles' hashes do not add up to the signed root"})
	}
}

func (v *verifier) compareSaved() {
	if v.c.Saved == nil {
		return
	}
	old, err := OpenCheckpoint(v.c.Saved, v.c.Key)
	if err != nil {
		v.problem(Problem{Code: CodeCheckpoint, Index: -1, What: "saved checkpoint: " + err.Error()})
		return
	}
	if old.Size > v.head.Size {
		v.problem(Problem{Code: CodeRemoved, Index: v.head.Size, What: fmt.Sprintf("the saved checkpoint covers %d entries, the log has %d", old.Size, v.head.Size)})
		return
	}
	if root, err := v.treeHash(old.Size); err != nil || root != old.Root {
		v.problem(Problem{Code: CodeAltered, Index: -1, What: fmt.Sprintf("the first %d entries are not those of the saved checkpoint", old.Size)})
	}
}

// compareRows finds rows of the live table that were altered or removed since they were sealed.
func (v *verifier) compareRows() {
	if v.c.Rows == nil {
		return
	}
	type place struct { // one id may stand in two sessions: agents make those of commands
		kind Kind
		of   commandKey
	}
	byID := map[place]int64{}
	for i, l := range v.leaves {
		if l.bad == nil {
			byID[place{l.entry.Kind, keyOf(&l.entry)}] = int64(i)
		}
	}
	lost := map[int64]bool{}
	for i, l := range v.leaves {
		if _, ok := v.rows[l.hash]; !ok && l.bad == nil {
			lost[int64(i)] = true
		}
	}
	for h, row := range v.rows {
		if v.sealed[h] {
			continue
		}
		i, ok := byID[place{row.entry.Kind, keyOf(&row.entry)}]
		if !ok || !lost[i] {
			if ok {
				v.entryProblem(CodeAltered, i, row, "audit table: a second entry under the id of entry %d", i)
				continue
			}
			v.r.Unsealed++
			if row.entry.Time.Before(v.head.Time.Add(-clockRoom)) {
				v.tell("that a row of the audit table (%s, id %s) is evidence: it says that it was stored at %s, and the log of %s does not have it", row.entry.Kind, row.entry.ID, stamp(row.entry.Time), stamp(v.head.Time))
			}
			continue
		}
		delete(lost, i)
		v.entryProblem(CodeAltered, i, v.leaves[i], "audit table: entry %d (%s, %s) was altered after it was sealed", i, kindOf(v.leaves[i]), idOf(v.leaves[i]))
	}
	for i := range lost {
		v.entryProblem(CodeRemoved, i, v.leaves[i], "audit table: entry %d (%s, %s) was removed after it was sealed", i, kindOf(v.leaves[i]), idOf(v.leaves[i]))
	}
}
