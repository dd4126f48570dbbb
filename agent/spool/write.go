package spool

import (
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/agent/journal"
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

// write appends whole records to the journal. Only flush calls it, one at a time. For a moment they count twice, in memory and on disk.
func (s *Spool) write(b []byte) error {
	if _, err := s.journal.Write(b); err != nil {
		return fmt.Errorf("write outcomes: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buffer = append(s.buffer[:0:0], s.buffer[len(b):]...)
	journal.Wake(s.flushed)
	return nil
}
