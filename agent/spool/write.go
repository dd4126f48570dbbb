package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// flush brings the buffer to disk. What cannot be written stays in memory, within the reservations, and is tried again.
func (s *Spool) flush() error {
	s.mu.Lock()
	buffer := s.buffer
	s.mu.Unlock()
	var err error
	if len(buffer) > 0 {
		err = s.write(buffer)
	}
	err = errors.Join(err, s.sessions.sync())
	s.mu.Lock()
	defer s.mu.Unlock()
	if (err == nil) != (s.failed == nil) {
		s.log.Warn("spool", "writable", err == nil, "error", err)
	}
	s.failed = err
	return err
}

// write appends whole records to the active segment and syncs them. Only flush calls it, one at a time.
func (s *Spool) write(b []byte) error {
	g, err := s.active()
	if err != nil {
		return err
	}
	_, err = g.f.WriteAt(b, g.size)
	if err == nil {
		err = g.f.Sync()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write outcomes: %w", err), s.leave(g))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g.size += int64(len(b))
	s.buffer = append(s.buffer[:0:0], s.buffer[len(b):]...)
	if g.size >= segmentSize {
		g.sealed = true
		err, g.f = g.f.Close(), nil
	}
	kick(s.flushed)
	return err
}

// leave gives up on a segment whose end is not known any more: after a failed write or sync the same file is not trusted with another.
func (s *Spool) leave(g *segment) error {
	err := errors.Join(g.f.Truncate(g.size), g.f.Close())
	s.mu.Lock()
	defer s.mu.Unlock()
	g.sealed, g.f = true, nil
	if g.size == g.sent {
		s.segments = s.segments[:len(s.segments)-1]
		return errors.Join(err, os.Remove(g.path))
	}
	return err
}

// active is the segment to append to.
func (s *Spool) active() (*segment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.segments); n > 0 && !s.segments[n-1].sealed {
		return s.segments[n-1], nil
	}
	path := filepath.Join(s.dir, fmt.Sprintf("%s%020d%s", segmentPrefix, s.next, segmentSuffix))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("new segment: %w", err)
	}
	s.next++
	if err := syncDir(s.dir); err != nil {
		return nil, errors.Join(fmt.Errorf("new segment: %w", err), f.Close(), os.Remove(path))
	}
	g := &segment{path: path, f: f}
	s.segments = append(s.segments, g)
	return g, nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
