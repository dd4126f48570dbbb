// Package recording keeps what rooms record until the broker has it: durable within a second, across crashes, delivered in order.
// It refuses to record more than its disk has room for, or while nothing is taken any more: then the channel that is recorded ends.
package recording

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport/agent/journal"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

const (
	// DefaultLimit is Config.Limit where that is 0.
	DefaultLimit = 256 << 20
	// MinLimit is the smallest Config.Limit.
	MinLimit = 16 << 20
	// fileSize is when a file is left for the next. One that was delivered whole is removed.
	fileSize = 4 << 20
	// maxTapes is how many recordings may be open: their list is one record.
	maxTapes = 1000
	// tapeRoom is kept free for each open recording, so that its end always has a place.
	tapeRoom = 2 * maxTitle
	// DefaultBehind is Config.Behind where that is 0. Sessions end after half of it without word of the broker.
	DefaultBehind = time.Minute
)

// Config says where recordings wait.
type Config struct {
	Dir    string        // made where missing, 0700; whoever opens it holds the lock of the agent's spool, which keeps others out
	Limit  int64         // bytes on disk and in memory; 0 means DefaultLimit
	Behind time.Duration // how long nothing may be taken while chunks wait; 0 means DefaultBehind
	Log    *slog.Logger  // nil: nothing is logged
}

// Reasons why nothing more is recorded.
var (
	ErrFull   = errors.New("recordings: no room until the broker has taken what waits")
	ErrBehind = errors.New("recordings: the broker takes nothing")
	errClosed = errors.New("recording is closed")
)

// Keeper is safe for concurrent use. Run must run for anything to reach disk or broker.
type Keeper struct {
	c       Config
	urgent  chan struct{} // capacity 1: somebody waits for the disk
	flushed chan struct{} // capacity 1: something waits to be sent
	journal *journal.Journal

	mu       sync.Mutex
	tapes    map[access.CommandID]*tape
	used     int64     // bytes of files, of pending and of the tapes' buffers
	pending  []framed  // not on disk yet, in order
	writing  []framed  // taken off pending, on their way to disk
	failed   error     // of the last attempt to write; nil once one worked
	progress time.Time // when chunks were last taken, or began to wait
}

// framed is a record on its way to disk.
type framed struct {
	b    []byte
	of   *tape        // of a chunk; nil for those of recordings that are over
	next int          // of the tape, once this is on disk
	done chan<- error // nil: nobody waits
}

// Open takes the directory over. Recordings that an earlier process left open are closed as interrupted, at once and durably.
func Open(c Config) (*Keeper, error) {
	if c.Limit == 0 {
		c.Limit = DefaultLimit
	}
	if c.Behind == 0 {
		c.Behind = DefaultBehind
	}
	if c.Limit < MinLimit {
		return nil, fmt.Errorf("open recordings: a limit of %d bytes is under %d", c.Limit, MinLimit)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open recordings: %w", err)
	}
	k := &Keeper{c: c, urgent: make(chan struct{}, 1), flushed: make(chan struct{}, 1), tapes: map[access.CommandID]*tape{}, progress: time.Now()}
	open, err := k.load()
	if err == nil {
		err = k.interrupt(open)
	}
	if err != nil {
		return nil, fmt.Errorf("open recordings: %w", err)
	}
	return k, nil
}

// prefix is how the names of the files begin.
const prefix = "chunks-"

// load finds the files and, in them, the recordings without an end.
func (k *Keeper) load() (map[access.CommandID]title, error) {
	j, err := journal.Open(journal.Config{Dir: k.c.Dir, Prefix: prefix, Size: fileSize, Head: k.head})
	if err != nil {
		return nil, err
	}
	k.journal, k.used = j, j.Size()
	open := map[access.CommandID]title{}
	for i, path := range j.Files() {
		b, err := os.ReadFile(path) // fileSize and a batch
		if err != nil {
			return nil, err
		}
		if err := replay(b, i == 0, open); err != nil {
			k.c.Log.Warn("recordings: a file ends early", "file", path, "error", err)
		}
	}
	return open, nil
}

// replay follows a file's records. The list at the head of the first file is where everything begins; later lists repeat what was seen.
func replay(b []byte, first bool, open map[access.CommandID]title) error {
	for len(b) > 0 {
		payload, rest, whole, err := journal.Frame(b, maxFrame)
		if err != nil || !whole {
			return errors.Join(journal.ErrTorn, err)
		}
		r, err := decode(payload)
		if err != nil {
			return err
		}
		for _, t := range r.open {
			if _, known := open[t.Command]; first || !known {
				open[t.Command] = t
			}
		}
		if t := r.begin; t != nil {
			open[t.Command] = *t
		}
		if c := r.chunk; c != nil {
			open[c.Command] = title{Session: c.Session, Command: c.Command, Seq: c.Seq, Kind: c.Kind, Next: c.Index + 1}
			if c.Last {
				delete(open, c.Command)
			}
		}
		b = rest
	}
	return nil
}

// interrupt ends what an earlier process left open.
func (k *Keeper) interrupt(open map[access.CommandID]title) error {
	for _, t := range open {
		c := api.Chunk{Session: t.Session, Command: t.Command, Seq: t.Seq, Index: t.Next, Kind: t.Kind, Time: time.Now().UTC(), Last: true, Reason: api.ReasonInterrupted}
		if t.Next == 0 {
			c.Name = t.Name
		}
		b, err := encodeChunk(c)
		if err != nil {
			return err
		}
		k.pending, k.used = append(k.pending, framed{b: b}), k.used+int64(len(b))
	}
	if len(open) > 0 {
		k.c.Log.Warn("recordings were interrupted", "recordings", len(open))
		if err := k.flush(); err != nil {
			return err
		}
	}
	if k.journal.Waiting() > 0 {
		journal.Wake(k.flushed)
	}
	return nil
}

// may says whether n more bytes may be recorded; if so they count as used. The caller has the lock.
func (k *Keeper) may(n int) error {
	switch {
	case k.failed != nil:
		return fmt.Errorf("recordings cannot be written: %w", k.failed)
	case k.used+int64(n)+int64(len(k.tapes))*tapeRoom > k.c.Limit:
		return ErrFull
	case k.journal.Waiting() > 0 && time.Since(k.progress) > k.c.Behind:
		return ErrBehind
	}
	k.used += int64(n)
	return nil
}

// Waiting is how many bytes the broker has not taken yet, those not on disk included.
func (k *Keeper) Waiting() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.journal.Waiting()
	for _, p := range slices.Concat(k.writing, k.pending) {
		n += int64(len(p.b))
	}
	return n
}

// Close writes what is in memory and lets go of the files. Run must have ended.
func (k *Keeper) Close() error {
	k.gather(0)
	err := k.flush()
	k.mu.Lock()
	over := len(k.tapes)+len(k.pending) == 0
	k.mu.Unlock()
	return errors.Join(err, k.journal.Close(over))
}
