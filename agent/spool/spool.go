// Package spool keeps how commands ended until the broker has it: on disk within 50 ms, across crashes, sent at least once.
// It refuses room for new commands while it is full or cannot write, and damaged records, which it sets aside and never sends.
package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sallyport/sallyport/agent/journal"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

const (
	// maxRecord is the most that one outcome takes: a tag, an error code, and counts for 64 classes of 128 bytes.
	maxRecord = 12 << 10
	// fileSize is when a file is left for the next. One that was sent whole is removed.
	fileSize = 1 << 20
	// DefaultLimit is Config.Limit where that is 0. A reservation counts maxRecord.
	DefaultLimit = 64 << 20
	// MinLimit is the smallest Config.Limit.
	MinLimit = 4 << 20
)

// Config says where the spool lives.
type Config struct {
	Dir   string // made where missing, 0700; one process at a time
	Limit int64  // bytes on disk, reservations included; 0 means DefaultLimit
	Log   *slog.Logger
}

// ErrFull means that nothing more may run before the broker has taken what waits.
var ErrFull = errors.New("spool is full")

// Spool is safe for concurrent use. Run must run for anything to reach disk or broker.
type Spool struct {
	dir   string
	limit int64
	log   *slog.Logger
	lock  *os.File

	appended chan struct{} // capacity 1: something waits to be written
	flushed  chan struct{} // capacity 1: something waits to be sent

	journal *journal.Journal // outcomes

	mu       sync.Mutex
	reserved int
	buffer   []byte // framed outcomes that are not on disk yet
	failed   error  // of the last attempt to write; nil once one worked
	sessions *roster
	oldest   time.Time // of the outcome that the last attempt began with; zero once nothing waits
}

// Open takes the directory over and finds what an earlier process left in it.
func Open(c Config) (*Spool, error) {
	if c.Limit == 0 {
		c.Limit = DefaultLimit
	}
	if c.Limit < MinLimit {
		return nil, fmt.Errorf("open spool: a limit of %d bytes is under %d", c.Limit, MinLimit)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	s := &Spool{dir: c.Dir, limit: c.Limit, log: c.Log, lock: lock, appended: make(chan struct{}, 1), flushed: make(chan struct{}, 1)}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open spool: %w", err), lock.Close())
	}
	return s, nil
}

// load finds what is there.
func (s *Spool) load() (err error) {
	if s.journal, err = journal.Open(journal.Config{Dir: s.dir, Prefix: "outcomes-", Size: fileSize}); err != nil {
		return err
	}
	s.sessions, err = openRoster(filepath.Join(s.dir, "sessions.log"), s.log)
	if err == nil && s.journal.Waiting() > 0 {
		journal.Wake(s.flushed)
	}
	return err
}

// Reserve makes room for the outcomes of n commands that are about to be asked for; an error means that they must not be.
func (s *Spool) Reserve(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return fmt.Errorf("spool cannot write: %w", s.failed)
	}
	if used := int64(len(s.buffer)) + s.journal.Size(); used+int64(s.reserved+n)*maxRecord > s.limit {
		return ErrFull
	}
	s.reserved += n
	return nil
}

// Release gives reservations back that were not used.
func (s *Spool) Release(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved -= n
}

// Put keeps an outcome, in place of a reservation. It returns at once.
func (s *Spool) Put(o api.Outcome) {
	b, err := json.Marshal(o)
	if err != nil || len(b) > maxRecord-journal.FrameHead {
		// Only what a room made up can be that large: the counts are told together.
		total := int64(0)
		for _, n := range o.Result.Masked {
			total += n
		}
		o.Result.Masked, o.Result.Tag, o.Result.Error = map[string]int64{"(all classes)": total}, "", ""
		if b, err = json.Marshal(o); err != nil {
			s.log.Error("outcome cannot be encoded", "session", o.Session, "command", o.Command, "error", err)
			return
		}
	}
	s.mu.Lock()
	s.reserved--
	s.buffer = journal.AppendFrame(s.buffer, b)
	s.mu.Unlock()
	journal.Wake(s.appended)
}

// Session is a session that is open: enough to close it after a crash.
type Session struct {
	ID    access.SessionID `json:"id"`
	State string           `json:"state"`
}

// Opened remembers that a session is open; an error means that it must not be used.
func (s *Spool) Opened(o Session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.sessions.add(o); err != nil {
		return fmt.Errorf("spool session: %w", err)
	}
	journal.Wake(s.appended)
	return nil
}

// Closed forgets a session that the broker has closed.
func (s *Spool) Closed(id access.SessionID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.sessions.remove(id); err != nil {
		s.log.Warn("a closed session will be closed again after a restart", "session", id, "error", err)
	}
}

// Left are the sessions that are open. Right after Open: those that an earlier process left open.
func (s *Spool) Left() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions.list()
}

// Waiting is how many bytes the broker has not taken yet, those not on disk included.
func (s *Spool) Waiting() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(len(s.buffer)) + s.journal.Waiting()
}

// Oldest is how long the oldest outcome waits that the broker was asked to take; 0 where none does.
func (s *Spool) Oldest() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.oldest.IsZero() {
		return 0
	}
	return max(time.Since(s.oldest), 0)
}

// Close writes what is in memory and lets go of the directory. Run must have ended.
func (s *Spool) Close() error {
	err := s.flush()
	return errors.Join(err, s.journal.Close(true), s.sessions.close(), s.lock.Close())
}
