package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/sallyport/sallyport/agent/journal"
	"github.com/sallyport/sallyport/internal/access"
)

const (
	maxLine = 16 << 10 // a sealed state has some 4 kB
	// rosterSlack is how many lines about sessions that are over the file may hold before it is written anew.
	rosterSlack = 4096
	// MaxSessions is how many sessions may be open: each holds two connections and a few hundred kilobytes.
	MaxSessions = 4096
)

// roster is the file of open sessions: a line when one opens, a line when it is closed.
type roster struct {
	path string
	open []Session

	mu    sync.Mutex // guards what follows
	f     *os.File
	size  int64
	over  int // lines that say nothing any more
	dirty bool
}

type line struct {
	Open   *Session         `json:"open,omitempty"`
	Closed access.SessionID `json:"closed,omitempty"`
}

// openRoster reads the file up to its first torn line, and writes it anew.
func openRoster(path string, log *slog.Logger) (*roster, error) {
	r := &roster{path: path}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := r.replay(b); err != nil {
		log.Warn("spool: the list of open sessions ends early", "file", path, "error", err)
	}
	return r, r.rewrite()
}

func (r *roster) replay(b []byte) error {
	for len(b) > 0 {
		payload, rest, whole, err := journal.Frame(b, maxLine)
		if err != nil {
			return err
		}
		if !whole {
			return journal.ErrTorn
		}
		var l line
		if err := json.Unmarshal(payload, &l); err != nil {
			return errors.Join(journal.ErrTorn, err)
		}
		if l.Open != nil && len(r.open) < MaxSessions {
			r.open = append(r.open, *l.Open)
		}
		r.forget(l.Closed)
		b = rest
	}
	return nil
}

func (r *roster) forget(id access.SessionID) {
	r.open = slices.DeleteFunc(r.open, func(s Session) bool { return s.ID == id })
}

func (r *roster) list() []Session { return slices.Clone(r.open) }

func (r *roster) add(s Session) error {
	if len(r.open) >= MaxSessions {
		return fmt.Errorf("%d sessions are open: %w", len(r.open), ErrFull)
	}
	if err := r.append(line{Open: &s}); err != nil {
		return err
	}
	r.open = append(r.open, s)
	return nil
}

func (r *roster) remove(id access.SessionID) error {
	r.forget(id)
	if err := r.append(line{Closed: id}); err != nil {
		return err
	}
	if r.over += 2; r.over >= rosterSlack {
		return r.rewrite()
	}
	return nil
}

func (r *roster) append(l line) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if len(b) > maxLine {
		return fmt.Errorf("a session's state of %d bytes is over %d", len(b), maxLine)
	}
	b = journal.AppendFrame(nil, b)
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.f.WriteAt(b, r.size); err != nil {
		return errors.Join(err, r.f.Truncate(r.size))
	}
	r.size += int64(len(b))
	r.dirty = true
	return nil
}

// sync makes the lines durable.
func (r *roster) sync() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.dirty || r.f == nil {
		return nil
	}
	if err := r.f.Sync(); err != nil {
		return fmt.Errorf("sync sessions: %w", err)
	}
	r.dirty = false
	return nil
}

// rewrite replaces the file by one with the open sessions only.
func (r *roster) rewrite() error {
	var b []byte
	for i := range r.open {
		j, err := json.Marshal(line{Open: &r.open[i]})
		if err != nil {
			return err
		}
		b = journal.AppendFrame(b, j)
	}
	f, err := os.OpenFile(r.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(r.path+".new", r.path)
	}
	if err == nil {
		err = journal.SyncDir(filepath.Dir(r.path))
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.f
	r.f, r.size, r.over, r.dirty = f, int64(len(b)), 0, false
	if old != nil {
		return old.Close()
	}
	return nil
}

func (r *roster) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.f
	r.f = nil
	return f.Close()
}
