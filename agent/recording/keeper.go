// Package recording keeps what rooms record until the broker has it: durable within a second, across crashes, delivered in order.
// It refuses to record more than its disk has room for, or while nothing is taken any more: then the channel that is recorded ends.
package recording

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

const (
	// DefaultLimit is Config.Limit where that is 0.
	DefaultLimit = 256 << 20
	// MinLimit is the smallest Config.Limit.
	MinLimit = 16 << 20
	// segmentSize is when a file is left for the next. One that was delivered whole is removed.
	segmentSize = 4 << 20
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

	mu       sync.Mutex
	tapes    map[access.CommandID]*tape
	used     int64      // bytes of files, of pending and of the tapes' buffers
	pending  []framed   // not on disk yet, in order
	writing  []framed   // taken off pending, on their way to disk
	failed   error      // of the last attempt to write; nil once one worked
	segments []*segment // oldest first; the last is the active one unless it is sealed
	next     uint64     // number of the next segment
	progress time.Time  // when chunks were last taken, or began to wait
}

// framed is a record on its way to disk.
type framed struct {
	b    []byte
	of   *tape        // of a chunk; nil for those of recordings that are over
	next int          // of the tape, once this is on disk
	done chan<- error // nil: nobody waits
}

// segment is one file.
type segment struct {
	path   string
	f      *os.File // of the active one
	size   int64    // on disk and synced
	sent   int64    // the broker has everything before
	sealed bool
}

const segmentPrefix, segmentSuffix = "chunks-", ".log"

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
	k := &Keeper{c: c, urgent: make(chan struct{}, 1), flushed: make(chan struct{}, 1), tapes: map[access.CommandID]*tape{}, next: 1, progress: time.Now()}
	open, err := k.load()
	if err == nil {
		err = k.interrupt(open)
	}
	if err != nil {
		return nil, fmt.Errorf("open recordings: %w", err)
	}
	return k, nil
}

// load finds the files and, in them, the recordings without an end. All are sealed: what is behind a torn record was never promised
// to anybody.
func (k *Keeper) load() (map[access.CommandID]title, error) {
	names, err := filepath.Glob(filepath.Join(k.c.Dir, segmentPrefix+"*"+segmentSuffix))
	if err != nil {
		return nil, err
	}
	slices.Sort(names) // the numbers have one width
	open := map[access.CommandID]title{}
	for i, name := range names {
		n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(name), segmentPrefix), segmentSuffix), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s is not a file of recordings", name)
		}
		b, err := os.ReadFile(name) // segmentSize and a batch
		if err != nil {
			return nil, err
		}
		if err := replay(b, i == 0, open); err != nil {
			k.c.Log.Warn("recordings: a file ends early", "file", name, "error", err)
		}
		k.segments = append(k.segments, &segment{path: name, size: int64(len(b)), sealed: true})
		k.used += int64(len(b))
		k.next = n + 1
	}
	return open, nil
}

// replay follows a file's records. The list at the head of the first file is where everything begins; later lists repeat what was seen.
func replay(b []byte, first bool, open map[access.CommandID]title) error {
	for len(b) > 0 {
		payload, rest, whole, err := frame(b)
		if err != nil || !whole {
			return errors.Join(errTorn, err)
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
	if len(k.segments) > 0 {
		kick(k.flushed)
	}
	return nil
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// may says whether n more bytes may be recorded; if so they count as used. The caller has the lock.
func (k *Keeper) may(n int) error {
	switch {
	case k.failed != nil:
		return fmt.Errorf("recordings cannot be written: %w", k.failed)
	case k.used+int64(n)+int64(len(k.tapes))*tapeRoom > k.c.Limit:
		return ErrFull
	case k.waiting() > 0 && time.Since(k.progress) > k.c.Behind:
		return ErrBehind
	}
	k.used += int64(n)
	return nil
}

// waiting is how many bytes on disk the broker has not taken. The caller has the lock.
func (k *Keeper) waiting() (n int64) {
	for _, g := range k.segments {
		n += g.size - g.sent
	}
	return n
}

// Waiting is how many bytes the broker has not taken yet, those not on disk included.
func (k *Keeper) Waiting() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.waiting()
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
	defer k.mu.Unlock()
	for _, g := range k.segments {
		if g.f != nil {
			err = errors.Join(err, g.f.Close())
			g.f = nil
		}
	}
	return err
}
