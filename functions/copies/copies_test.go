package copies_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
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

	"github.com/sallyport/sallyport/functions/copies"
	"github.com/sallyport/sallyport/functions/seal"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/columns"
	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/keyfile"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type world struct {
	t      testing.TB
	path   string
	db     *sqlite.DB
	log    *dir.Dir
	files  *dir.Dir
	sealer *seal.Sealer
	n      int // entries sealed
	read   map[string][]byte
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, path: t.TempDir(), read: map[string][]byte{}}
	var err error
	if w.db, err = sqlite.Open(filepath.Join(w.path, "store.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.db.Close() })
	for _, d := range []struct {
		to   **dir.Dir
		name string
	}{{&w.log, "evidence"}, {&w.files, "copies"}} {
		if *d.to, err = dir.Open(filepath.Join(w.path, d.name)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = (*d.to).Close() })
	}
	keys, err := keyfile.Open(filepath.Join(w.path, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := keys.Signer("checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	if w.sealer, err = seal.New(seal.Config{Items: w.db, Feed: w.db, Blobs: w.log, Heads: w.log, Signer: signer, Origin: "sallyport.test/audit"}); err != nil {
		t.Fatal(err)
	}
	return w
}

// seal puts n entries of a time into the log, as one segment.
func (w *world) seal(n int, at time.Time) {
	w.t.Helper()
	for range n {
		x, err := audit.Put(audit.Entry{V: 1, Kind: audit.KindEnroll, ID: ulid.Make().String(), Time: at, Agent: "edge", Note: map[string]string{"n": fmt.Sprint(w.n)}})
		if err != nil {
			w.t.Fatal(err)
		}
		if err := w.db.Put(context.Background(), x); err != nil {
			w.t.Fatal(err)
		}
		w.n++
	}
	if _, err := w.sealer.Seal(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) copier(f *storetest.Faults) *copies.Copier {
	w.t.Helper()
	c := copies.Config{Log: w.log, Files: w.files}
	if f != nil {
		c.Log = faulty{storetest.FaultyBlobs{Faults: f, Blobs: w.log}, storetest.FaultyHeads{Faults: f, Heads: w.log}}
		c.Files = faulty{storetest.FaultyBlobs{Faults: f, Blobs: w.files}, storetest.FaultyHeads{Faults: f, Heads: w.files}}
	}
	copier, err := copies.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	return copier
}

type faulty struct {
	storetest.FaultyBlobs
	storetest.FaultyHeads
}

// rows reads every copy, in the order of the log, and holds each to the entry that it names.
func (w *world) rows() []columns.Row {
	w.t.Helper()
	names, err := w.files.List(context.Background(), copies.Prefix)
	if err != nil {
		w.t.Fatal(err)
	}
	var all []columns.Row
	for _, name := range names {
		if !copies.OwnName(name) {
			w.t.Errorf("%s is no name of ours", name)
		}
		b, err := w.files.Open(context.Background(), name)
		if err != nil {
			w.t.Fatal(err)
		}
		rows, err := columns.Decode(b)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, r := range rows {
			if !strings.HasPrefix(name, copies.Prefix+"day="+r.Day()+"/") {
				w.t.Errorf("%s has an entry of %s", name, r.Day())
			}
			w.proves(r)
		}
		all = append(all, rows...)
	}
	slices.SortFunc(all, func(a, b columns.Row) int { return int(a.Position - b.Position) })
	return all
}

// proves goes from a row to its line in the log, as an auditor would.
func (w *world) proves(r columns.Row) {
	w.t.Helper()
	b := w.read[r.Segment]
	if b == nil {
		var err error
		if b, err = w.log.Open(context.Background(), r.Segment); err != nil {
			w.t.Fatal(err)
		}
		w.read[r.Segment] = b
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != r.SHA256 {
		w.t.Errorf("%s has another hash", r.Segment)
	}
	lines, err := audit.SplitSegment(b)
	if err != nil {
		w.t.Fatal(err)
	}
	var e audit.Entry
	if err := json.Unmarshal(lines[r.Line-1], &e); err != nil || e.ID != r.ID {
		w.t.Errorf("line %d of %s is %s, not %s (%v)", r.Line, r.Segment, e.ID, r.ID, err)
	}
}

// whole says that every entry of the log is in the copies once.
func (w *world) whole() {
	w.t.Helper()
	all := w.rows()
	if len(all) != w.n {
		w.t.Errorf("%d rows of %d entries", len(all), w.n)
	}
	for i, r := range all {
		if r.Position != int64(i) || r.Note != fmt.Sprintf(`{"n":"%d"}`, i) {
			w.t.Fatalf("row %d is of entry %d: %s", i, r.Position, r.Note)
		}
	}
}

func (w *world) run(c *copies.Copier) copies.State {
	w.t.Helper()
	st, err := c.Run(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func TestCopies(t *testing.T) {
	w := newWorld(t)
	c := w.copier(nil)
	if st := w.run(c); st != (copies.State{}) {
		t.Errorf("nothing is sealed, and %+v", st)
	}
	w.seal(3, noon)
	w.seal(2, noon.Add(12*time.Hour))
	w.seal(1, noon.Add(-time.Minute)) // late
	if st := w.run(c); st != (copies.State{Log: 6, Copied: 6, Files: 2}) {
		t.Errorf("%+v", st)
	}
	w.whole()
	names, err := w.files.List(t.Context(), "")
	want := "[cursor.json entries/day=2026-03-04/0000000000000000-0000000000000006.parquet entries/day=2026-03-05/0000000000000000-0000000000000006.parquet]"
	if err != nil || fmt.Sprint(names) != want {
		t.Errorf("%v %v", names, err)
	}
	if st := w.run(c); st.Files != 0 {
		t.Errorf("nothing is new, and %+v", st)
	}
	w.seal(1, noon.Add(-24*time.Hour)) // later still: a file of its own
	if st := w.run(c); st != (copies.State{Log: 7, Copied: 7, Files: 1}) {
		t.Errorf("%+v", st)
	}
	w.whole()
}

// Every call fails once, before and after it was carried out, and the log goes on meanwhile: the next run leaves each entry once.
func TestEveryFaultTwice(t *testing.T) {
	ops := map[string]bool{}
	w := newWorld(t)
	for _, fault := range []storetest.Fault{storetest.NotApplied, storetest.Applied} {
		for n := 1; ; n++ {
			w.seal(2, noon)
			w.seal(2, noon.Add(24*time.Hour))
			calls, hit := 0, ""
			f := &storetest.Faults{Plan: func(op, on string) storetest.Fault {
				if calls++; calls == n {
					hit = op + " " + on
					return fault
				}
				return storetest.None
			}}
			_, err := w.copier(f).Run(t.Context())
			if hit == "" {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			op, _, _ := strings.Cut(hit, " ")
			ops[op] = true
			if !errors.Is(err, storetest.ErrFault) {
				t.Errorf("%s fails, and %v", hit, err)
			}
			w.seal(3, noon.Add(time.Hour))
			w.run(w.copier(nil))
			w.whole()
			if t.Failed() {
				t.Fatalf("after %s, fault %d", hit, fault)
			}
		}
	}
	for _, op := range []string{"load", "open", "create", "swap"} {
		if !ops[op] {
			t.Errorf("no %s failed", op)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		w.seal(3, noon.Add(time.Duration(i)*time.Hour))
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			c, err := copies.New(copies.Config{Log: w.log, Files: w.files})
			if err == nil {
				_, err = c.Run(t.Context())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	w.whole()
}

// A run that is out of time ends without an error, and the next goes on.
func TestRunsAreBounded(t *testing.T) {
	w := newWorld(t)
	w.seal(2, noon)
	now := noon
	told := 0
	c, err := copies.New(copies.Config{Log: w.log, Files: w.files, Now: func() time.Time { now = now.Add(time.Minute); return now }, Progress: func(copies.State) { told++ }})
	if err != nil {
		t.Fatal(err)
	}
	if st := w.run(c); st != (copies.State{Log: 2}) {
		t.Errorf("%+v", st)
	}
	c.Limit = 5 * time.Minute
	if st := w.run(c); st != (copies.State{Log: 2, Copied: 2, Files: 1}) || told != 1 {
		t.Errorf("%+v, told %d times", st, told)
	}
	w.whole()
}

func TestWhatLiesThere(t *testing.T) {
	w := newWorld(t)
	w.seal(2, noon)
	c := w.copier(nil)
	// An older version of the product made the file, with other bytes, and crashed: it stays.
	name := copies.Prefix + "day=2026-03-04/0000000000000000-0000000000000002.parquet"
	other, err := columns.Encode([]columns.Row{{ID: "other"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.files.Create(t.Context(), name, other); err != nil {
		t.Fatal(err)
	}
	w.run(c)
	if b, err := w.files.Open(t.Context(), name); err != nil || !bytes.Equal(b, other) {
		t.Errorf("the file was replaced (%v)", err)
	}
	// The copies of a log that is longer than this one.
	for _, cursor := range []string{`{"v":1,"done":9,"plan":9}`, `{"v":1,"done":0,"plan":9}`, `{"v":1,"done":1,"plan":0}`, `{"v":2,"done":0,"plan":0}`, `{"v":1,"done":0,"plan":0,"more":0}`, `{"v":1,"done":0,"plan":0} 1`, ``, `{"v":1,"done":1,"plan":2}`} {
		if err := os.WriteFile(filepath.Join(w.path, "copies", copies.CursorName), []byte(cursor), 0o600); err != nil {
			t.Fatal(err)
		}
		if st, err := c.Run(t.Context()); err == nil {
			t.Errorf("cursor %s: %+v", cursor, st)
		} else if strings.Contains(cursor, "9") && !strings.Contains(err.Error(), "they are of another log; remove them all") {
			t.Error(err)
		}
	}
}

func TestDamagedLog(t *testing.T) {
	for _, damage := range []string{"checkpoint", "segment", "short", "gone"} {
		w := newWorld(t)
		w.seal(2, noon)
		segment := filepath.Join(w.path, "evidence", audit.SegmentName(0))
		b, err := os.ReadFile(segment)
		if err != nil {
			t.Fatal(err)
		}
		switch damage {
		case "checkpoint":
			err = os.WriteFile(filepath.Join(w.path, "evidence", audit.CheckpointName), []byte("99"), 0o600)
		case "segment":
			err = os.WriteFile(segment, bytes.Replace(b, []byte(`"kind"`), []byte(`"kinb"`), 1), 0o600)
		case "short":
			err = os.WriteFile(segment, append(b, b...), 0o600)
		case "gone":
			err = os.Remove(segment)
		}
		if err != nil {
			t.Fatal(err)
		}
		if st, err := w.copier(nil).Run(t.Context()); err == nil {
			t.Errorf("%s: %+v", damage, st)
		}
	}
	if _, err := copies.New(copies.Config{}); err == nil {
		t.Error("no log and no files")
	}
}

// A step that reaches its limit leaves the rest to the next; a plan that was made under another limit is kept to.
func TestSteps(t *testing.T) {
	w := newWorld(t)
	for range 5 {
		w.seal(2, noon)
	}
	c := w.copier(nil)
	c.Entries(3)
	if err := w.files.Swap(t.Context(), copies.CursorName, nil, []byte(`{"v":1,"done":0,"plan":6}`)); err != nil {
		t.Fatal(err)
	}
	if st := w.run(c); st != (copies.State{Log: 10, Copied: 10, Files: 2}) {
		t.Errorf("%+v", st)
	}
	w.whole()
}

func FuzzCursor(f *testing.F) {
	f.Add([]byte(`{"v":1,"done":3,"plan":5}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if done, plan, err := copies.ReadCursor(b); err == nil && (done < 0 || plan < done) {
			t.Errorf("%s: done %d, plan %d", b, done, plan)
		}
	})
}
