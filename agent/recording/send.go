package recording

import (
	"context"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/agent/journal"
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
	// lastWait is the longest time between attempts at a broker that does not take chunks.
	lastWait = 5 * time.Second
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
	p := journal.Pump{
		Wake: k.flushed, Most: lastWait,
		Send: func(ctx context.Context) (bool, error) { return k.send(ctx, agent, to) },
		Failed: func(err error, pause time.Duration) {
			k.c.Log.Warn("recordings were not taken", "bytes", k.Waiting(), "retry_in", pause, "error", err)
		},
	}
	p.Run(ctx)
	<-done
	k.gather(0)
	_ = k.flush() // tells, and Close tries again
	if err := p.Last(ctx, lastSend); err != nil {
		k.c.Log.Warn("recordings stay on disk until the agent starts again", "bytes", k.Waiting(), "error", err)
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

// send delivers the oldest chunks; more says whether there are others. The broker keeps each once, so sending twice is harmless.
func (k *Keeper) send(ctx context.Context, agent access.AgentName, to Broker) (more bool, err error) {
	part, err := k.journal.Next(api.MaxChunkBytes + maxFrame + journal.FrameHead)
	if err != nil {
		return true, err
	}
	if part == nil {
		return false, k.drop()
	}
	chunks, read, err := chunksOf(part.Bytes)
	switch {
	case read > 0: // a torn record is an error only once nothing is before it
	case err != nil:
		// What is before was sent; from here on the file says nothing that can be relied on. It is kept for people.
		k.c.Log.Error("recordings: a damaged file is set aside", "file", part.Path, "offset", part.From, "error", err)
		n, err := part.SetAside()
		k.freed(n)
		return true, err
	default:
		part.Skip()
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
	if read > 0 {
		part.Take(read)
	}
	k.progressed()
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
	k.mu.Lock()
	over := len(k.tapes)+len(k.writing)+len(k.pending) == 0
	k.mu.Unlock()
	n, err := k.journal.Drop(over)
	k.freed(n)
	return err
}

func (k *Keeper) freed(n int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.used -= n
}

// chunksOf decodes chunks off the front of b, as many as one call takes. It says of how many bytes they are, other records between them
// included; the error is of what follows.
func chunksOf(b []byte) (chunks []api.Chunk, read int, err error) {
	total := 0
	for rest := b; len(chunks) < api.MaxChunkBatch; {
		payload, after, whole, err := journal.Frame(rest, maxFrame)
		if err != nil || !whole {
			return chunks, read, err
		}
		r, err := decode(payload)
		if err != nil {
			return chunks, read, err
		}
		if c := r.chunk; c != nil {
			if total += len(c.Data); total > api.MaxChunkBytes {
				return chunks, read, nil
			}
			chunks = append(chunks, *c)
		}
		rest = after
		read = len(b) - len(rest)
	}
	return chunks, read, nil
}
