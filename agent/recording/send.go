package recording

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// Broker takes chunks: broker.Agent.
type Broker interface {
	Chunks(ctx context.Context, r api.ChunksRequest) (api.ChunksResponse, error)
}

const (
	// flushEvery and flushAge make a written byte durable within a second, its fsync included.
	flushEvery = 250 * time.Millisecond
	flushAge   = 500 * time.Millisecond
	// A broker that does not take chunks is tried after firstWait, then less and less often.
	firstWait = 100 * time.Millisecond
	lastWait  = 5 * time.Second
	// sendTimeout is for one call; lastSend for the last ones, when the agent stops.
	sendTimeout = 20 * time.Second
	lastSend    = 3 * time.Second
)

// Run writes and sends until ctx ends; then it writes what is left and tries once more to send it.
func (k *Keeper) Run(ctx context.Context, agent access.AgentName, to Broker) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.keepFlushing(ctx)
	}()
	k.keepSending(ctx, agent, to)
	<-done
	k.gather(0)
	_ = k.flush() // tells, and Close tries again
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSend)
	defer cancel()
	for {
		if more, err := k.send(last, agent, to); err != nil || !more {
			if err != nil {
				k.c.Log.Warn("recordings stay on disk until the agent starts again", "bytes", k.Waiting(), "error", err)
			}
			return
		}
	}
}

func (k *Keeper) keepFlushing(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-k.urgent:
		case <-tick.C:
			k.gather(flushAge)
		case <-ctx.Done():
			return
		}
		_ = k.flush() // told to those who wait, and to the log; the next tick tries again
	}
}

func (k *Keeper) keepSending(ctx context.Context, agent access.AgentName, to Broker) {
	wait := firstWait
	for ctx.Err() == nil {
		select {
		case <-k.flushed:
		case <-ctx.Done():
			return
		}
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, err = k.send(ctx, agent, to); err == nil {
				wait = firstWait
				continue
			}
			k.c.Log.Warn("recordings were not taken", "bytes", k.Waiting(), "retry_in", wait, "error", err)
			pause(ctx, wait)
			wait, more = min(2*wait, lastWait), true
		}
	}
}

// send delivers the oldest chunks; more says whether there are others. The broker keeps each once, so sending twice is harmless.
func (k *Keeper) send(ctx context.Context, agent access.AgentName, to Broker) (more bool, err error) {
	k.mu.Lock()
	var g *segment
	for _, s := range k.segments {
		if s.sent < s.size {
			g = s
			break
		}
	}
	if g == nil {
		k.mu.Unlock()
		return false, k.drop()
	}
	path, from, size := g.path, g.sent, g.size
	k.mu.Unlock()
	chunks, next, err := read(path, from, size)
	if errors.Is(err, errTorn) {
		// What is before was sent; from here on the file says nothing that can be relied on. It is kept for people.
		k.c.Log.Error("recordings: a damaged file is set aside", "file", path, "offset", from, "error", err)
		return true, k.setAside(g)
	}
	if err != nil {
		return true, err
	}
	if len(chunks) > 0 {
		ctx, cancel := context.WithTimeout(ctx, sendTimeout)
		defer cancel()
		resp, err := to.Chunks(ctx, api.ChunksRequest{Agent: agent, Chunks: chunks})
		if err != nil {
			return true, err
		}
		k.refused(resp.Refused)
	}
	k.mu.Lock()
	g.sent, k.progress = next, time.Now()
	k.mu.Unlock()
	return true, k.drop()
}

// refused ends the recordings of which the broker will not have more: their channels end with them.
func (k *Keeper) refused(all []api.RefusedChunk) {
	for _, r := range all {
		k.c.Log.Error("the broker refuses a recording", "session", r.Session, "command", r.Command, "chunk", r.Index, "reason", r.Why)
		k.mu.Lock()
		t := k.tapes[r.Command]
		k.mu.Unlock()
		if t == nil || t.title.Session != r.Session {
			continue
		}
		t.mu.Lock()
		if t.over == nil {
			t.over = fmt.Errorf("the broker refuses the recording: %s", r.Why)
		}
		t.mu.Unlock()
	}
}

// drop removes files that were delivered whole. The last one stays while recordings are open: it lists them.
func (k *Keeper) drop() error {
	for {
		k.mu.Lock()
		if len(k.segments) == 0 || !k.segments[0].sealed || k.segments[0].sent < k.segments[0].size || len(k.segments) == 1 && len(k.tapes)+len(k.writing)+len(k.pending) > 0 {
			k.mu.Unlock()
			return nil
		}
		g := k.segments[0]
		k.mu.Unlock()
		if err := os.Remove(g.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("drop recordings: %w", err)
		}
		k.mu.Lock()
		k.segments, k.used = k.segments[1:], k.used-g.size
		k.mu.Unlock()
	}
}

// setAside takes a damaged file out of the way.
func (k *Keeper) setAside(g *segment) error {
	if err := os.Rename(g.path, g.path+".damaged"); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, s := range k.segments {
		if s == g {
			k.segments, k.used = append(k.segments[:i:i], k.segments[i+1:]...), k.used-g.size
			break
		}
	}
	if g.f != nil {
		return g.f.Close()
	}
	return nil
}

// read decodes chunks of a file from an offset on, as many as one call takes. A torn record is an error only once nothing is before it.
func read(path string, from, size int64) (chunks []api.Chunk, next int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, from, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	b := make([]byte, min(size-from, api.MaxChunkBytes+maxFrame+frameHead))
	if _, err := f.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
		return nil, from, err
	}
	next = from
	total := 0
	for len(chunks) < api.MaxChunkBatch {
		payload, rest, whole, err := frame(b)
		var r record
		if err == nil && whole {
			r, err = decode(payload)
		}
		if err != nil {
			if next > from {
				return chunks, next, nil
			}
			return nil, from, err
		}
		if !whole {
			if len(b) > 0 && next == from { // the file ends within a record, which was never synced: nobody relied on it
				return nil, size, nil
			}
			return chunks, next, nil
		}
		if c := r.chunk; c != nil {
			if total += len(c.Data); total > api.MaxChunkBytes {
				return chunks, next, nil
			}
			chunks = append(chunks, *c)
		}
		next, b = next+int64(len(b)-len(rest)), rest
	}
	return chunks, next, nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
