package spool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// Recorder takes outcomes: broker.Agent.
type Recorder interface {
	Record(ctx context.Context, r api.RecordRequest) error
}

const (
	// flushDelay gathers outcomes for one fsync. With the fsync itself an outcome is durable within 50 ms.
	flushDelay = 20 * time.Millisecond
	// flushRetry is how often a disk that does not take anything is tried.
	flushRetry = 250 * time.Millisecond
	// sendDelay gathers outcomes for one call.
	sendDelay = 100 * time.Millisecond
	maxSend   = 500       // outcomes in one call: api.RecordRequest
	sendBytes = 256 << 10 // read at a time
	// A broker that does not take outcomes is tried after firstWait, then less and less often.
	firstWait = 100 * time.Millisecond
	lastWait  = 10 * time.Second
	// sendTimeout is for one call; lastSend for the last one, when the agent stops.
	sendTimeout = 10 * time.Second
	lastSend    = 2 * time.Second
)

// Run writes and sends until ctx ends; then it writes what is left and tries once more to send it.
func (s *Spool) Run(ctx context.Context, agent access.AgentName, to Recorder) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.keepFlushing(ctx)
	}()
	s.keepSending(ctx, agent, to)
	<-done
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSend)
	defer cancel()
	for {
		if more, err := s.send(last, agent, to); err != nil || !more {
			if err != nil {
				s.log.Warn("outcomes stay in the spool until the agent starts again", "bytes", s.Waiting(), "error", err)
			}
			return
		}
	}
}

func (s *Spool) keepFlushing(ctx context.Context) {
	wait := flushDelay
	for {
		select {
		case <-s.appended:
		case <-ctx.Done():
			_ = s.flush() // tells, and Close tries again
			return
		}
		pause(ctx, wait)
		if wait = flushDelay; s.flush() != nil {
			wait = flushRetry
			kick(s.appended)
		}
	}
}

func (s *Spool) keepSending(ctx context.Context, agent access.AgentName, to Recorder) {
	wait := firstWait
	for ctx.Err() == nil {
		select {
		case <-s.flushed:
		case <-ctx.Done():
			return
		}
		pause(ctx, sendDelay)
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, err = s.send(ctx, agent, to); err == nil {
				wait = firstWait
				continue
			}
			s.log.Warn("outcomes were not taken", "bytes", s.Waiting(), "oldest_seconds", int(s.Oldest().Seconds()), "retry_in", wait, "error", err)
			pause(ctx, wait)
			wait, more = min(2*wait, lastWait), true
		}
	}
}

// send delivers the oldest outcomes; more says whether there are others. The broker keeps each once, so sending twice is harmless.
func (s *Spool) send(ctx context.Context, agent access.AgentName, to Recorder) (more bool, err error) {
	s.mu.Lock()
	if len(s.segments) == 0 {
		s.mu.Unlock()
		return false, nil
	}
	g := s.segments[0]
	path, from, size, sealed := g.path, g.sent, g.size, g.sealed
	s.mu.Unlock()
	outcomes, next, err := read(path, from, size)
	if errors.Is(err, errTorn) {
		// What is before was sent; from here on the file says nothing that can be relied on. It is kept for people.
		s.log.Error("spool: a damaged file is set aside", "file", path, "offset", from, "error", err)
		return true, s.drop(g, func() error { return os.Rename(path, path+".damaged") })
	}
	if err != nil {
		return true, err
	}
	if len(outcomes) > 0 {
		s.mu.Lock()
		s.oldest = outcomes[0].Time
		s.mu.Unlock()
		ctx, cancel := context.WithTimeout(ctx, sendTimeout)
		defer cancel()
		if err := to.Record(ctx, api.RecordRequest{Agent: agent, Outcomes: outcomes}); err != nil {
			return true, err
		}
	}
	s.mu.Lock()
	g.sent, s.oldest = next, time.Time{} // what is behind it is asked about at once
	whole := sealed && next == g.size
	s.mu.Unlock()
	if whole {
		return true, s.drop(g, func() error { return os.Remove(path) })
	}
	return next < size, nil
}

// drop takes the oldest segment out, once its file is gone.
func (s *Spool) drop(g *segment, gone func() error) error {
	if err := gone(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("drop segment: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments = s.segments[1:]
	return nil
}

// read decodes outcomes of a segment from an offset on, as many as one call takes. A torn record is an error only once nothing is before it.
func read(path string, from, size int64) (outcomes []api.Outcome, next int64, err error) {
	if from == size {
		return nil, from, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, from, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	b := make([]byte, min(size-from, sendBytes))
	if _, err := f.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
		return nil, from, err
	}
	outcomes, read, err := decode(b)
	if len(outcomes) > 0 {
		return outcomes, from + int64(read), nil
	}
	if err == nil { // the file ends in the middle of a record, which was never synced: nobody relied on it
		return nil, size, nil
	}
	return nil, from, err
}

// decode reads outcomes off the front of b: at most maxSend.
func decode(b []byte) (outcomes []api.Outcome, read int, err error) {
	for rest := b; len(outcomes) < maxSend; {
		payload, after, whole, err := frame(rest, maxRecord)
		if err != nil || !whole {
			return outcomes, read, err
		}
		var o api.Outcome
		d := json.NewDecoder(bytes.NewReader(payload))
		d.DisallowUnknownFields()
		if err := d.Decode(&o); err != nil {
			return outcomes, read, errors.Join(errTorn, err)
		}
		outcomes = append(outcomes, o)
		rest = after
		read = len(b) - len(rest)
	}
	return outcomes, read, nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
