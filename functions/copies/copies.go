// Package copies writes what is in the evidence log a second time, as Parquet by day, so that SQL engines ask without reading the whole log.
// It refuses to copy what no signed checkpoint covers, and to go on where the log is not the one that it began with.
package copies

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/columns"
	"github.com/sallyport/sallyport/internal/store"
)

// Names of copies:
//
//	entries/day=2026-01-02/000000000000001f-00000000000003e8.parquet   entries of that day (by their own time), of those at 0x1f to 0x3e7
//	cursor.json                                                       how far it got
//
// A file is made once and depends on nothing but the entries in its range. Rows prove nothing: each says where in the log its entry is.
const (
	Prefix     = "entries/"
	CursorName = "cursor.json"
)

var ownName = regexp.MustCompile(`^entries/day=[0-9]{4}-[0-9]{2}-[0-9]{2}/[0-9a-f]{16}-[0-9a-f]{16}\.parquet$`)

// OwnName says whether a file has a name that this package gives.
func OwnName(name string) bool { return name == CursorName || ownName.MatchString(name) }

// Limits of one step, which is held in memory, and of a run: a new copier of an old log goes on in the next.
const (
	maxEntries = 32 << 10
	maxBytes   = 24 << 20
	runLimit   = 30 * time.Second
)

// Log is where entries lie. Nothing is written there.
type Log interface {
	Open(ctx context.Context, name string) ([]byte, error) // of store.Blobs
	Load(ctx context.Context, name string) ([]byte, error) // of store.Heads
}

// Files is where copies go.
type Files interface {
	Create(ctx context.Context, name string, b []byte) error
	Load(ctx context.Context, name string) ([]byte, error)
	Swap(ctx context.Context, name string, old, new []byte) error
}

// Config says from where to where. Log and Files are required.
type Config struct {
	Log   Log
	Files Files
	// Limit is how long a run begins new steps; 0: half a minute.
	Limit time.Duration
	// Progress is told after each step; nil: nobody.
	Progress func(State)
	Now      func() time.Time // nil: time.Now
}

// Copier follows one log. Several may run at once: a compare-and-swap on the cursor decides.
type Copier struct {
	Config
	entries int64 // that a step takes before it ends
}

// State is how far copies are behind the log.
type State struct {
	Log    int64 `json:"log"`    // entries under the checkpoint
	Copied int64 `json:"copied"` // entries in copies
	Files  int   `json:"files"`  // made by this run
}

// New checks the configuration.
func New(c Config) (*Copier, error) {
	if c.Log == nil || c.Files == nil {
		return nil, errors.New("copies: log and files are required")
	}
	if c.Limit == 0 {
		c.Limit = runLimit
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Copier{c, maxEntries}, nil
}

// cursor is what a run leaves to the next one. Plan is where the step ends that was begun at Done: it is fixed before the first file is
// made, so that a step which crashed makes the same files again.
type cursor struct {
	V    int   `json:"v"` // 1
	Done int64 `json:"done"`
	Plan int64 `json:"plan"`
}

// errAgain means that another copier was faster.
var errAgain = errors.New("cursor moved")

// Run copies what the checkpoint covers and the copies have not. Safe to call again after any failure.
func (c *Copier) Run(ctx context.Context) (State, error) {
	var st State
	for begun := c.Now(); ; {
		size, err := c.size(ctx)
		if err != nil {
			return st, fmt.Errorf("copies: %w", err)
		}
		cur, raw, err := c.load(ctx)
		if err != nil {
			return st, fmt.Errorf("copies: %w", err)
		}
		st.Log, st.Copied = size, cur.Done
		switch {
		case cur.Plan > size:
			return st, fmt.Errorf("copies: they go to entry %d, the log ends at %d: they are of another log; remove them all, and they are made anew", cur.Plan, size)
		case cur.Done == size || c.Now().Sub(begun) > c.Limit:
			return st, nil
		}
		n, done, err := c.step(ctx, cur, raw, size)
		if errors.Is(err, errAgain) {
			continue
		}
		if err != nil {
			return st, fmt.Errorf("copies: %w", err)
		}
		st.Files, st.Copied = st.Files+n, done
		if c.Progress != nil {
			c.Progress(st)
		}
	}
}

func (c *Copier) size(ctx context.Context) (int64, error) {
	b, err := c.Log.Load(ctx, audit.CheckpointName)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil // nothing was sealed yet
	}
	if err != nil {
		return 0, fmt.Errorf("read checkpoint: %w", err)
	}
	head, err := audit.ReadCheckpoint(b)
	return head.Size, err
}

func (c *Copier) load(ctx context.Context) (cursor, []byte, error) {
	b, err := c.Files.Load(ctx, CursorName)
	if errors.Is(err, store.ErrNotFound) {
		return cursor{V: 1}, nil, nil
	}
	if err != nil {
		return cursor{}, nil, fmt.Errorf("read cursor: %w", err)
	}
	cur, err := readCursor(b)
	return cur, b, err
}

func readCursor(b []byte) (cursor, error) {
	var cur cursor
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err := d.Decode(&cur)
	if err == nil {
		if _, end := d.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("something follows it")
		}
	}
	if err == nil && (cur.V != 1 || cur.Done < 0 || cur.Plan < cur.Done) {
		err = fmt.Errorf("version %d, done %d, plan %d", cur.V, cur.Done, cur.Plan)
	}
	if err != nil {
		return cursor{}, fmt.Errorf("read cursor: %w", err)
	}
	return cur, nil
}

func (c *Copier) swap(ctx context.Context, old []byte, next cursor) ([]byte, error) {
	b, err := json.Marshal(next)
	if err == nil {
		err = c.Files.Swap(ctx, CursorName, old, b)
	}
	if errors.Is(err, store.ErrConflict) {
		return nil, errAgain
	}
	if err != nil {
		return nil, fmt.Errorf("write cursor: %w", err)
	}
	return b, nil
}

// step copies the next entries: the plan, the files of each day, then the cursor behind them.
func (c *Copier) step(ctx context.Context, cur cursor, raw []byte, size int64) (files int, done int64, err error) {
	end := size
	planned := cur.Plan > cur.Done
	if planned {
		end = cur.Plan
	}
	days, to, err := c.read(ctx, cur.Done, end, planned)
	if err != nil {
		return 0, 0, err
	}
	if !planned {
		if raw, err = c.swap(ctx, raw, cursor{V: 1, Done: cur.Done, Plan: to}); err != nil {
			return 0, 0, err
		}
	}
	for _, day := range slices.Sorted(maps.Keys(days)) {
		b, err := columns.Encode(days[day])
		if err != nil {
			return 0, 0, err
		}
		name := fmt.Sprintf("%sday=%s/%016x-%016x.parquet", Prefix, day, cur.Done, to)
		// Other bytes under this name are the same entries, as another version of the product wrote them.
		if err := c.Files.Create(ctx, name, b); err != nil && !errors.Is(err, store.ErrConflict) {
			return 0, 0, fmt.Errorf("write %s: %w", name, err)
		}
		files++
	}
	_, err = c.swap(ctx, raw, cursor{V: 1, Done: to, Plan: to})
	return files, to, err
}

// read takes segments from one position on, whole ones: to the end, if that is planned, else to a limit at the latest.
func (c *Copier) read(ctx context.Context, from, end int64, planned bool) (days map[string][]columns.Row, to int64, err error) {
	days, to = map[string][]columns.Row{}, from
	for size := 0; to < end && (planned || to-from < c.entries && size < maxBytes); {
		name := audit.SegmentName(to)
		b, err := c.Log.Open(ctx, name)
		if err != nil {
			return nil, 0, fmt.Errorf("read %s: %w", name, err)
		}
		lines, err := audit.SplitSegment(b)
		if err != nil {
			return nil, 0, fmt.Errorf("read %s: %w", name, err)
		}
		sum := sha256.Sum256(b)
		at := columns.Place{Position: to, Segment: name, SHA256: hex.EncodeToString(sum[:])}
		for _, line := range lines {
			at.Line++
			row, err := columns.Of(line, at)
			if err != nil {
				return nil, 0, err
			}
			days[row.Day()] = append(days[row.Day()], row)
			at.Position++
		}
		to, size = at.Position, size+len(b)
	}
	if to > end {
		return nil, 0, fmt.Errorf("the segment before entry %d goes beyond entry %d, where it should end", to, end)
	}
	return days, to, nil
}
