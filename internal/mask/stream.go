package mask

import (
	"io"
	"sync"
	"time"
)

// How long a stream keeps back what may be the beginning of a value while nothing follows: a prompt must not wait to be seen. What comes too
// late is masked from there on where it completes a value.
const (
	holdMaybe  = 20 * time.Millisecond // any word may become an address; nobody sees a delay of that length
	holdLikely = time.Second           // half a card number, or an address without its end: a program that writes on does so sooner
)

// Stream masks what classes' detectors find in what is written to it, wherever the writes are cut, and passes everything else on: at once,
// but for what may be the beginning of a value, which is at most a little over a kilobyte. It is safe for concurrent use.
type Stream struct {
	w io.Writer

	mu     sync.Mutex
	f      *filter
	timer  *time.Timer
	since  time.Time // when what is kept back came
	kept   int64     // where it begins, from the beginning of the stream; -1: nothing is
	err    error
	closed bool
}

// Stream masks for w, which it does not close.
func (f *Finder) Stream(w io.Writer) *Stream {
	s := &Stream{w: w, kept: -1}
	s.f = newFilter(f, s.send)
	return s
}

// Write takes all of p, or nothing any more after an error of the writer below.
func (s *Stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, io.ErrClosedPipe
	}
	if s.err != nil {
		return 0, s.err
	}
	s.f.write(p, false)
	s.watch()
	if s.err != nil {
		return 0, s.err
	}
	return len(p), nil
}

func (s *Stream) send(b []byte) {
	if s.err == nil {
		_, s.err = s.w.Write(b)
	}
}

// watch sets the timer where something is kept back. The caller has the lock.
func (s *Stream) watch() {
	kept := s.f.kept()
	switch {
	case kept == s.kept:
		return
	case kept < 0:
		s.timer.Stop()
	case s.timer == nil:
		s.timer = time.AfterFunc(holdMaybe, s.late)
		s.since = time.Now()
	default:
		s.timer.Reset(holdMaybe)
		s.since = time.Now()
	}
	s.kept = kept
}

// late lets go of what has been kept back for long enough.
func (s *Stream) late() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.err != nil || s.kept < 0 {
		return
	}
	if wait := time.Until(s.since.Add(holdMaybe)); wait > 0 { // the timer was set anew meanwhile
		return
	}
	if s.f.likely {
		if wait := time.Until(s.since.Add(holdLikely)); wait > 0 {
			s.timer.Reset(wait)
			return
		}
	}
	s.f.release()
	s.kept = s.f.kept()
}

// Flush passes on what is kept back, as if nothing followed.
func (s *Stream) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && !s.closed {
		s.f.write(nil, true)
		s.watch()
	}
	return s.err
}

// Close is Flush, and the end: nothing is written to the writer below once it returns.
func (s *Stream) Close() error {
	err := s.Flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	return err
}

// Counts is how many values have been masked so far, by class.
func (s *Stream) Counts() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[string]int64{}
	s.f.f.counts(&s.f.found, counts)
	return counts
}

func (f *Finder) counts(found *[detectorCount]int64, counts map[string]int64) {
	for d, n := range found {
		if n > 0 {
			counts[f.use[d].class] += n
		}
	}
}
