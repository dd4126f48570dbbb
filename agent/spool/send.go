package spool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/sallyport/sallyport/agent/journal"
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
	// lastWait is the longest time between attempts at a broker that does not take outcomes.
	lastWait = 10 * time.Second
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
	p := journal.Pump{
		Wake: s.flushed, Gather: sendDelay, Most: lastWait,
		Send: func(ctx context.Context) (bool, error) { return s.send(ctx, agent, to) },
		Failed: func(err error, pause time.Duration) {
			s.log.Warn("outcomes were not taken", "bytes", s.Waiting(), "oldest_seconds", int(s.Oldest().Seconds()), "retry_in", pause, "error", err)
		},
	}
	p.Run(ctx)
	<-done
	if err := p.Last(ctx, lastSend); err != nil {
		s.log.Warn("outcomes stay in the spool until the agent starts again", "bytes", s.Waiting(), "error", err)
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
		journal.Pause(ctx, wait)
		if wait = flushDelay; s.flush() != nil {
			wait = flushRetry
			journal.Wake(s.appended)
		}
	}
}

// send delivers the oldest outcomes; more says whether there are others. The broker keeps each once, so sending twice is harmless.
func (s *Spool) send(ctx context.Context, agent access.AgentName, to Recorder) (more bool, err error) {
	part, err := s.journal.Next(sendBytes)
	if err != nil {
		return true, err
	}
	if part == nil {
		_, err = s.journal.Drop(true)
		return false, err
	}
	outcomes, read, err := decode(part.Bytes)
	switch {
	case len(outcomes) > 0: // a torn record is an error only once nothing is before it
		s.mu.Lock()
		s.oldest = outcomes[0].Time
		s.mu.Unlock()
		ctx, cancel := context.WithTimeout(ctx, sendTimeout)
		defer cancel()
		if err := to.Record(ctx, api.RecordRequest{Agent: agent, Outcomes: outcomes}); err != nil {
			return true, err
		}
		part.Take(read)
	case err != nil:
		// What is before was sent; from here on the file says nothing that can be relied on. It is kept for people.
		s.log.Error("spool: a damaged file is set aside", "file", part.Path, "offset", part.From, "error", err)
		_, err = part.SetAside()
		return true, err
	default:
		part.Skip()
	}
	s.mu.Lock()
	s.oldest = time.Time{} // what is behind it is asked about at once
	s.mu.Unlock()
	_, err = s.journal.Drop(true)
	return true, err
}

// decode reads outcomes off the front of b: at most maxSend.
func decode(b []byte) (outcomes []api.Outcome, read int, err error) {
	for rest := b; len(outcomes) < maxSend; {
		payload, after, whole, err := journal.Frame(rest, maxRecord)
		if err != nil || !whole {
			return outcomes, read, err
		}
		var o api.Outcome
		d := json.NewDecoder(bytes.NewReader(payload))
		d.DisallowUnknownFields()
		if err := d.Decode(&o); err != nil {
			return outcomes, read, errors.Join(journal.ErrTorn, err)
		}
		outcomes = append(outcomes, o)
		rest = after
		read = len(b) - len(rest)
	}
	return outcomes, read, nil
}
