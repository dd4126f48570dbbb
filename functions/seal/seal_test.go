package seal_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/functions/seal"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/keyfile"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type world struct {
	path  string
	db    *sqlite.DB
	blobs *dir.Dir
	c     seal.Config
	key   string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{path: t.TempDir()}
	var err error
	if w.db, err = sqlite.Open(filepath.Join(w.path, "store.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.db.Close() })
	if w.blobs, err = dir.Open(filepath.Join(w.path, "evidence")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.blobs.Close() })
	keys, err := keyfile.Open(filepath.Join(w.path, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := keys.Signer("checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	w.c = seal.Config{Items: w.db, Feed: w.db, Blobs: w.blobs, Heads: w.blobs, Signer: signer, Origin: "sallyport.test/audit"}
	if w.key, err = audit.VerifierKey(w.c.Origin, signer.Public()); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) put(t *testing.T, entries ...audit.Entry) {
	t.Helper()
	x, err := audit.Put(entries...)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.db.Put(context.Background(), x); err != nil {
		t.Fatal(err)
	}
}

// session stores a whole session: n commands, the second held, approved and claimed, each with an outcome, and its end.
func (w *world) session(t *testing.T, n int) access.SessionID {
	t.Helper()
	key := make([]byte, 32)
	sid := access.SessionID(ulid.Make().String())
	now := time.Now().UTC()
	w.put(t, audit.Entry{V: 1, Kind: audit.KindOpen, ID: string(sid), Time: now, Session: sid, Target: "app"})
	prev := audit.FirstLink(sid)
	for seq := uint64(1); seq <= uint64(n); seq++ {
		c := access.Command{ID: access.CommandID(ulid.Make().String()), Text: fmt.Sprintf("select %d", seq), Normalised: "select $1", Complete: true}
		digest := access.Digest(key, "app", c)
		body, err := audit.CommandOf(c, digest, key)
		if err != nil {
			t.Fatal(err)
		}
		e := audit.Entry{V: 1, Kind: audit.KindCommand, ID: string(c.ID), Time: now, Session: sid, Seq: seq, Prev: prev, Target: "app",
			Command: body, Decision: &access.Decision{Command: c.ID, Seq: seq, Digest: digest, Outcome: access.Allow, Rule: "r"}}
		approval := access.ApprovalID("")
		if seq == 2 {
			approval = access.ApprovalID(ulid.Make().String())
			e.Decision.Outcome, e.Decision.Approval = access.Hold, approval
		}
		w.put(t, e)
		if approval != "" {
			a := &audit.Approval{ID: approval, Command: c.ID, Digest: digest, Status: "approved", By: "rita"}
			w.put(t, audit.Entry{V: 1, Kind: audit.KindVerdict, ID: e.ID, Time: now, Session: sid, Seq: seq, Approval: a})
			w.put(t, audit.Entry{V: 1, Kind: audit.KindClaim, ID: e.ID, Time: now, Session: sid, Seq: seq, Approval: a,
				Decision: &access.Decision{Command: c.ID, Seq: seq, Digest: digest, Outcome: access.Allow, Rule: "r"}})
		}
		w.put(t, audit.Entry{V: 1, Kind: audit.KindOutcome, ID: e.ID, Time: now, Session: sid, Seq: seq, Result: &access.Result{Status: access.StatusOK}})
		prev = audit.Link(prev, c.ID, seq, digest)
	}
	w.put(t, audit.Entry{V: 1, Kind: audit.KindClose, ID: ulid.Make().String(), Time: now, Session: sid, Seq: uint64(n), Prev: prev})
	return sid
}

func (w *world) seal(t *testing.T) audit.Checkpoint {
	t.Helper()
	s, err := seal.New(w.c)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Seal(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) verify(t *testing.T, saved []byte) audit.Report {
	t.Helper()
	r, err := audit.Verify(t.Context(), audit.VerifyConfig{Blobs: w.blobs, Heads: w.blobs, Key: w.key, Rows: w.db, Saved: saved})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantOK(t *testing.T, r audit.Report) {
	t.Helper()
	if !r.OK {
		t.Fatalf("not proven: %+v", r.Problems)
	}
}

func TestSealedSessionsAreProven(t *testing.T) {
	w := newWorld(t)
	w.seal(t) // an empty log has a checkpoint too
	wantOK(t, w.verify(t, nil))
	for range 3 {
		w.session(t, 120)
	}
	first := w.seal(t)
	saved, err := w.blobs.Load(t.Context(), audit.CheckpointName)
	if err != nil {
		t.Fatal(err)
	}
	w.session(t, 5)
	r := w.verify(t, saved)
	wantOK(t, r)
	if r.Unsealed == 0 || r.Sessions != 3 {
		t.Fatalf("before the second sealing: %+v", r)
	}
	second := w.seal(t)
	if r = w.verify(t, saved); !r.OK || r.Unsealed != 0 || r.Sessions != 4 || r.Commands != 365 || r.Approvals != 4 || r.Entries != second.Size {
		t.Fatalf("after it (%d then %d): %+v", first.Size, second.Size, r)
	}
	if again := w.seal(t); !again.Time.Equal(second.Time) {
		t.Fatal("an unchanged log was signed again")
	}
}

// Each step of sealing fails in both ways, at its first and second call; sealing again makes it whole.
func TestFaultsTwice(t *testing.T) {
	for _, op := range []string{"get", "since", "create", "open", "put", "load", "swap"} {
		for _, fault := range []storetest.Fault{storetest.NotApplied, storetest.Applied} {
			for nth := 1; nth <= 3; nth++ {
				t.Run(fmt.Sprintf("%s-%d-%d", op, fault, nth), func(t *testing.T) {
					w := newWorld(t)
					w.session(t, 3)
					w.seal(t)
					w.session(t, 70)
					faults := &storetest.Faults{Plan: storetest.Nth(op, nth, fault)}
					c := w.c
					c.Items, c.Feed = storetest.FaultyItems{Faults: faults, Items: w.db}, storetest.FaultyFeed{Faults: faults, Feed: w.db}
					c.Blobs, c.Heads = storetest.FaultyBlobs{Faults: faults, Blobs: w.blobs}, storetest.FaultyHeads{Faults: faults, Heads: w.blobs}
					s, err := seal.New(c)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := s.Seal(t.Context()); err != nil && !errors.Is(err, storetest.ErrFault) {
						t.Fatal(err)
					}
					wantOK(t, w.verify(t, nil)) // also between the fault and the next try
					w.session(t, 2)             // the feed moves on before the next try
					if _, err := s.Seal(t.Context()); err != nil && !errors.Is(err, storetest.ErrFault) {
						t.Fatal(err)
					}
					w.seal(t)
					if r := w.verify(t, nil); !r.OK || r.Unsealed != 0 || r.Commands != 75 {
						t.Fatalf("%+v", r)
					}
				})
			}
		}
	}
}

// growing is a feed with one more entry whenever somebody looks.
type growing struct {
	store.Feed
	grow func()
}

func (g growing) Since(ctx context.Context, table, after string, limit int) ([]store.Item, string, error) {
	g.grow()
	return g.Feed.Since(ctx, table, after, limit)
}

func TestALogThatGrowsAllTheTimeIsSealed(t *testing.T) {
	w := newWorld(t)
	w.c.Feed = growing{w.db, func() { w.session(t, 1) }}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	s, err := seal.New(w.c)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := s.Seal(ctx); err != nil || c.Size == 0 {
		t.Fatalf("%+v %v", c, err)
	}
	wantOK(t, w.verify(t, nil))
}

func TestManySealersMakeOneLog(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	for range 4 {
		s, err := seal.New(w.c)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for range 10 {
				_, err := s.Seal(context.Background())
				if err != nil && !errors.Is(err, store.ErrConflict) {
					t.Error(err)
				}
			}
		})
	}
	for range 10 {
		w.session(t, 10)
	}
	wg.Wait()
	w.seal(t)
	if r := w.verify(t, nil); !r.OK || r.Commands != 100 || r.Unsealed != 0 {
		t.Fatalf("%+v", r)
	}
}

func TestEveryFlippedByteIsFound(t *testing.T) {
	w := newWorld(t)
	w.session(t, 3)
	w.seal(t)
	wantOK(t, w.verify(t, nil))
	root := filepath.Join(w.path, "evidence")
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		step := max(1, len(b)/400) // all of the small files
		for i := len(b) - 1; i >= 0; i -= step {
			b[i] ^= 1
			if err := os.WriteFile(path, b, 0o600); err != nil {
				return err
			}
			r := w.verify(t, nil)
			if r.OK {
				t.Errorf("%s byte %d flipped: called proven", path, i)
			}
			if strings.HasSuffix(path, ".jsonl") && (r.Exit != audit.CodeAltered || r.Problems[0].ID == "" || r.Problems[0].Index < 0) {
				t.Errorf("%s byte %d flipped: the entry is not named: %+v", path, i, r.Problems)
			}
			b[i] ^= 1
		}
		return os.WriteFile(path, b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	wantOK(t, w.verify(t, nil))
}

func TestRowsOfTheTableAreHeldAgainstTheLog(t *testing.T) {
	for _, tt := range []struct {
		name, sql string
		code      int
	}{
		{"altered", `UPDATE audit SET body=CAST(replace(CAST(body AS TEXT),'select $1','select $2') AS BLOB) WHERE sk LIKE '%0000001#c'`, audit.CodeAltered},
		{"removed", `DELETE FROM audit WHERE sk LIKE '%0000001#c'`, audit.CodeRemoved},
		{"moved", `UPDATE audit SET pk='2020-01-01T00:00#0' WHERE sk LIKE '%0000001#c'`, audit.CodeAltered},
		{"head gone", `DELETE FROM registry WHERE pk='seal'`, audit.CodeRemoved},
		{"head of another log", `UPDATE registry SET body=CAST('{"size":1,"root":"'||substr(CAST(body AS TEXT),instr(CAST(body AS TEXT),'root')+7) AS BLOB) WHERE pk='seal'`, audit.CodeAltered},
		{"head unreadable", `UPDATE registry SET body=CAST('x' AS BLOB) WHERE pk='seal'`, audit.CodeAltered},
		{"garbage", `UPDATE audit SET body=CAST('x' AS BLOB) WHERE sk LIKE '%0000001#c'`, audit.CodeAltered},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.session(t, 3)
			w.seal(t)
			raw, err := sql.Open("sqlite", filepath.Join(w.path, "store.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = raw.Close() }()
			if res, err := raw.Exec(tt.sql); err != nil {
				t.Fatal(err)
			} else if n, _ := res.RowsAffected(); n != 1 {
				t.Fatalf("%d rows changed", n)
			}
			if r := w.verify(t, nil); r.Exit != tt.code {
				t.Fatalf("exit %d, want %d: %+v", r.Exit, tt.code, r.Problems)
			}
		})
	}
}

// A log whose keeper tells a false story, properly sealed: what is wrong is in the entries.
func TestStoriesThatDoNotHold(t *testing.T) {
	now := time.Now().UTC()
	for _, tt := range []struct {
		name string
		code int
		tell func(t *testing.T, w *world, sid access.SessionID)
	}{
		{"outcome without leave", audit.CodeApproval, func(t *testing.T, w *world, sid access.SessionID) {
			w.put(t, audit.Entry{V: 1, Kind: audit.KindOutcome, ID: ulid.Make().String(), Time: now, Session: sid, Seq: 9, Result: &access.Result{}})
		}},
		{"claim of nothing", audit.CodeApproval, func(t *testing.T, w *world, sid access.SessionID) {
			w.put(t, audit.Entry{V: 1, Kind: audit.KindClaim, ID: ulid.Make().String(), Time: now, Session: sid, Seq: 9,
				Approval: &audit.Approval{ID: "01", Digest: "d"}})
		}},
		{"gap in a session", audit.CodeChain, func(t *testing.T, w *world, _ access.SessionID) {
			sid := access.SessionID(ulid.Make().String())
			w.put(t, audit.Entry{V: 1, Kind: audit.KindOpen, ID: string(sid), Time: now, Session: sid})
			w.put(t, audit.Entry{V: 1, Kind: audit.KindCommand, ID: ulid.Make().String(), Time: now, Session: sid, Seq: 2, Prev: "x",
				Command: &audit.Command{}, Decision: &access.Decision{}})
		}},
		{"session without opening", audit.CodeChain, func(t *testing.T, w *world, _ access.SessionID) {
			sid := access.SessionID(ulid.Make().String())
			w.put(t, audit.Entry{V: 1, Kind: audit.KindClose, ID: ulid.Make().String(), Time: now, Session: sid})
		}},
		{"end before the end", audit.CodeChain, func(t *testing.T, w *world, _ access.SessionID) {
			sid := access.SessionID(ulid.Make().String())
			w.put(t, audit.Entry{V: 1, Kind: audit.KindOpen, ID: string(sid), Time: now, Session: sid})
			w.put(t, audit.Entry{V: 1, Kind: audit.KindClose, ID: ulid.Make().String(), Time: now, Session: sid, Seq: 4})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			sid := w.session(t, 3)
			tt.tell(t, w, sid)
			w.seal(t)
			if r := w.verify(t, nil); r.Exit != tt.code {
				t.Fatalf("exit %d, want %d: %+v", r.Exit, tt.code, r.Problems)
			}
		})
	}
}

func TestAnotherKeyOrAShorterLogIsFound(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	w.session(t, 3)
	w.seal(t)
	saved, err := w.blobs.Load(t.Context(), audit.CheckpointName)
	if err != nil {
		t.Fatal(err)
	}
	key := w.key
	w.key = other.key
	if r := w.verify(t, nil); r.Exit != audit.CodeCheckpoint {
		t.Fatalf("another key: %+v", r.Problems)
	}
	w.key = key
	// The keeper starts over with the same key and fewer entries.
	again := newWorld(t)
	again.c.Signer, again.key = w.c.Signer, w.key
	again.session(t, 1)
	again.seal(t)
	wantOK(t, again.verify(t, nil))
	if r := again.verify(t, saved); r.Exit != audit.CodeRemoved {
		t.Fatalf("a shorter log: %+v", r.Problems)
	}
	again.session(t, 9)
	again.seal(t)
	if r := again.verify(t, saved); r.Exit != audit.CodeAltered {
		t.Fatalf("another log: %+v", r.Problems)
	}
}

// An older checkpoint is signed as well as the newest. What was sealed after it must still be there.
func TestAnOlderCheckpointHidesNothing(t *testing.T) {
	w := newWorld(t)
	w.session(t, 3)
	w.seal(t)
	old, err := w.blobs.Load(t.Context(), audit.CheckpointName)
	if err != nil {
		t.Fatal(err)
	}
	w.session(t, 2)
	w.seal(t)
	names, err := w.blobs.List(t.Context(), audit.SegmentPrefix)
	if err != nil || len(names) != 2 {
		t.Fatalf("%v %v", names, err)
	}
	evidence := filepath.Join(w.path, "evidence")
	if err := os.WriteFile(filepath.Join(evidence, audit.CheckpointName), old, 0o600); err != nil {
		t.Fatal(err)
	}
	// A crash between the head's commit and the checkpoint leaves the same: all of it is there, and the next sealing publishes it.
	wantOK(t, w.verify(t, nil))
	last := filepath.Join(evidence, names[1])
	b, err := os.ReadFile(last)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(b, []byte("select"), []byte("delete"), 1)
	for name, tt := range map[string]struct {
		to   []byte
		code int
	}{"gone": {nil, audit.CodeRemoved}, "cut": {b[:bytes.IndexByte(b, '\n')+1], audit.CodeRemoved}, "altered": {changed, audit.CodeAltered}} {
		if err := errors.Join(os.Remove(last), os.WriteFile(last, tt.to, 0o600)); err != nil {
			t.Fatal(err)
		}
		if r := w.verify(t, nil); r.Exit != tt.code {
			t.Errorf("%s: exit %d, want %d: %+v", name, r.Exit, tt.code, r.Problems)
		}
	}
}

func TestTheOrderIsSealed(t *testing.T) {
	w := newWorld(t)
	w.session(t, 3)
	w.seal(t)
	file := filepath.Join(w.path, "evidence", audit.SegmentName(0))
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(b, []byte("\n"))
	for i := range len(lines) - 2 {
		swapped := slices.Clone(lines)
		swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
		if err := errors.Join(os.Remove(file), os.WriteFile(file, bytes.Join(swapped, nil), 0o600)); err != nil {
			t.Fatal(err)
		}
		if r := w.verify(t, nil); r.Exit != audit.CodeAltered || len(r.Problems) != 1 {
			t.Errorf("lines %d and %d swapped: exit %d: %+v", i, i+1, r.Exit, r.Problems)
		}
	}
}

func TestEveryRemovedLineIsNamed(t *testing.T) {
	w := newWorld(t)
	w.session(t, 3)
	w.seal(t)
	w.session(t, 2)
	w.seal(t)
	names, err := w.blobs.List(t.Context(), audit.SegmentPrefix)
	if err != nil || len(names) != 2 {
		t.Fatalf("%q %v", names, err)
	}
	for _, name := range names {
		path := filepath.Join(w.path, "evidence", name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitAfter(strings.TrimSuffix(string(whole), "\n"), "\n")
		for i := range lines {
			var e audit.Entry
			if err := json.Unmarshal([]byte(lines[i]), &e); err != nil {
				t.Fatal(err)
			}
			cut := strings.Join(lines[:i], "") + strings.Join(lines[i+1:], "")
			if i < len(lines)-1 {
				cut += "\n"
			}
			if err := os.WriteFile(path, []byte(cut), 0o600); err != nil {
				t.Fatal(err)
			}
			r := w.verify(t, nil)
			if r.Exit != audit.CodeRemoved || r.Problems[0].ID != e.ID || r.Problems[0].Kind != e.Kind {
				t.Errorf("%s line %d (%s %s) removed: %+v", name, i, e.Kind, e.ID, r.Problems)
			}
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if r := w.verify(t, nil); r.Exit != audit.CodeRemoved || r.Problems[0].ID == "" {
			t.Errorf("%s removed: %+v", name, r.Problems)
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wantOK(t, w.verify(t, nil))
}

// TestOneStepTakesManyItems: what one sealing costs does not grow with the number of items, and a step that was cut short behind its
// segment is adopted although the feed has grown.
func TestOneStepTakesManyItems(t *testing.T) {
	w := newWorld(t)
	w.session(t, 100)
	broken := errors.New("the head cannot be written")
	c := w.c
	c.Items = failingPut{w.db, broken}
	s, err := seal.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Seal(t.Context()); !errors.Is(err, broken) {
		t.Fatalf("sealing without a head: %v", err)
	}
	w.session(t, 100)
	w.seal(t)
	wantOK(t, w.verify(t, nil))
	segments, err := w.blobs.List(t.Context(), audit.SegmentPrefix)
	if err != nil || len(segments) != 2 {
		t.Fatalf("%d segments of %d items (%v), want the one that was left behind and one more", len(segments), 2*204, err)
	}
}

type failingPut struct {
	store.Items
	err error
}

func (f failingPut) Put(context.Context, store.Write) error { return f.err }
