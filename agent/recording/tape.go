package recording

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/sallyport/sallyport/agent/journal"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// Session begins the recordings of one session. It satisfies protocol.Recorder.
type Session struct {
	k       *Keeper
	id      access.SessionID
	running func(access.CommandID) (seq uint64, ok bool)

	mu   sync.Mutex
	open map[*tape]bool
	over bool
}

// Session makes a session's recorder. running says which commands have a permit that is not done: gate.Gate.Running.
func (k *Keeper) Session(id access.SessionID, running func(access.CommandID) (seq uint64, ok bool)) *Session {
	return &Session{k: k, id: id, running: running, open: map[*tape]bool{}}
}

// Start begins a recording. That it began is durable a moment later.
func (s *Session) Start(command access.CommandID, kind, name string) (protocol.Recording, error) {
	if kind != protocol.Cast && kind != protocol.File {
		return nil, fmt.Errorf("recording of unknown kind %q", kind)
	}
	seq, ok := s.running(command)
	if !ok {
		return nil, fmt.Errorf("recording of command %s, which does not run", command)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil, errClosed
	}
	t := &tape{s: s, title: title{Session: s.id, Command: command, Seq: seq, Kind: kind, Name: called(name)}}
	b, err := encode('b', t.title)
	if err != nil {
		return nil, fmt.Errorf("begin recording: %w", err)
	}
	k := s.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.tapes[command] != nil {
		return nil, fmt.Errorf("command %s is recorded already", command)
	}
	if len(k.tapes) >= maxTapes {
		return nil, fmt.Errorf("%d recordings are open: %w", maxTapes, ErrFull)
	}
	if err := k.may(len(b) + tapeRoom); err != nil {
		return nil, err
	}
	k.used -= tapeRoom
	k.tapes[command], s.open[t] = t, true
	k.pending = append(k.pending, framed{b: b, of: t})
	return t, nil
}

// Close ends what the room left open: the session ended first.
func (s *Session) Close() {
	s.mu.Lock()
	s.over = true
	var left []*tape
	for t := range s.open {
		left = append(left, t)
	}
	s.mu.Unlock()
	for _, t := range left {
		_ = t.end(api.ReasonSession) // what could not be kept is told by the recording itself
	}
}

// called is a name fit to be shown: one line of api.MaxRecorded bytes.
func called(name string) string {
	name = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, name)
	if len(name) <= api.MaxRecorded {
		return name
	}
	return strings.ToValidUTF8(name[:api.MaxRecorded-3], "") + "…"
}

// tape is one recording. The order of locks: tape.mu, Session.mu, Keeper.mu.
type tape struct {
	s     *Session
	title title

	mu     sync.Mutex
	buffer []byte
	since  time.Time // of the first byte in buffer
	index  int       // of the chunk to come
	over   error     // why nothing more is taken
}

// writeAge is when a write itself hands over what gather did not get hold of.
const writeAge = flushAge + flushEvery

// Write keeps p: in memory for a second at most, on disk where a chunk is full.
func (t *tape) Write(p []byte) (n int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(p) > 0 {
		if t.over != nil {
			return n, t.over
		}
		// A chunk ends where a write did, if it can: then it is whole lines.
		if len(t.buffer) > 0 && len(t.buffer)+len(p) > api.MaxChunk {
			if err := t.cut(true); err != nil {
				return n, err
			}
		}
		some := p[:min(len(p), api.MaxChunk-len(t.buffer))]
		t.s.k.mu.Lock()
		err := t.s.k.may(len(some))
		t.s.k.mu.Unlock()
		if err != nil {
			t.over = err
			return n, err
		}
		if len(t.buffer) == 0 {
			t.since = time.Now()
		}
		t.buffer = append(t.buffer, some...)
		n, p = n+len(some), p[len(some):]
		full := len(t.buffer) == api.MaxChunk
		if full || time.Since(t.since) > writeAge {
			if err := t.cut(full); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// Close seals the recording as complete.
func (t *tape) Close() error { return t.end(api.ReasonComplete) }

// end hands over what is left with the end's reason.
func (t *tape) end(reason string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if errors.Is(t.over, errClosed) {
		return nil
	}
	err := t.over
	if err != nil {
		reason = api.ReasonInterrupted // something is missing before the end
	}
	herr := t.hand(api.Chunk{Last: true, Reason: reason}, nil)
	t.over = errClosed
	k := t.s.k
	k.mu.Lock()
	delete(k.tapes, t.title.Command)
	k.mu.Unlock()
	t.s.mu.Lock()
	delete(t.s.open, t)
	t.s.mu.Unlock()
	return errors.Join(err, herr)
}

// cut makes a chunk of the buffer; wait says whether it must be on disk before the answer. The caller has the lock.
func (t *tape) cut(wait bool) error {
	var done chan error
	if wait {
		done = make(chan error, 1)
	}
	err := t.hand(api.Chunk{}, done)
	if err == nil && wait {
		journal.Wake(t.s.k.urgent)
		err = <-done
	}
	if err != nil {
		t.over = err
	}
	return err
}

// hand puts the buffer as the next chunk in line for the disk. The caller has the lock.
func (t *tape) hand(c api.Chunk, done chan<- error) error {
	if t.index >= api.MaxChunks-1 && !c.Last {
		return fmt.Errorf("a recording has no more than %d chunks: %w", api.MaxChunks, ErrFull)
	}
	c.Session, c.Command, c.Seq, c.Kind, c.Index, c.Data = t.title.Session, t.title.Command, t.title.Seq, t.title.Kind, t.index, t.buffer
	c.Time = t.since.UTC()
	if len(t.buffer) == 0 {
		c.Time = time.Now().UTC()
	}
	if t.index == 0 {
		c.Name = t.title.Name
	}
	b, err := encodeChunk(c)
	if err != nil {
		return fmt.Errorf("recording of %s: %w", t.title.Command, err)
	}
	k := t.s.k
	k.mu.Lock()
	defer k.mu.Unlock()
	k.used += int64(len(b) - len(t.buffer))
	t.index++
	t.buffer = t.buffer[:0]
	k.pending = append(k.pending, framed{b: b, of: t, next: t.index, done: done})
	return nil
}
