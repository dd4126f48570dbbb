package postgres

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/sallyport/sallyport/internal/access"
)

// Limits of what is large. A command may be as large as the broker takes it (api.MaxUpload: 32 MiB in JSON, where bytes are a third longer);
// what its memory may be is bounded per session by maxKept and maxMessage, and for all sessions by Config.Memory.
const (
	maxCommand = 20 << 20 // text and parameters of one command together
	maxTokens  = 600_000  // of a text: 65,535 parameters with a cast each are 460,000, and a tree of 600,000 is some 100 MB
	freeBytes  = 1 << 18  // what each session may hold without taking a part of Config.Memory: more than drivers' caches of statements
	largeText  = 1 << 18  // texts over it are analysed one at a time, so that there is one large tree and small texts find a parser free
	memory     = 256 << 20
	memoryWait = 30 * time.Second // the large commands before it are read, decided and on their way by then
	slowest    = 64 << 10         // bytes a second that a large message must come with, after memoryWait
)

// ration is what the sessions of a room share: memory for what is large, and the turn to analyse it.
type ration struct {
	memory *semaphore.Weighted
	turn   chan struct{} // capacity 1
}

func newRation(memory int64) *ration {
	return &ration{memory: semaphore.NewWeighted(memory), turn: make(chan struct{}, 1)}
}

func crowded(what string) *access.Denied {
	return &access.Denied{Code: access.CodeBusy, Rule: "postgres.busy", Retryable: true, Hint: what + ": try again later, or send less in one command"}
}

// holds is how much of what the client sent the session has in memory.
func (f *front) holds() int { return f.held + f.seg.kept + f.seg.bytes }

// reserve takes the session's part of the agent's memory for n more bytes than it holds already. It waits for those who have it.
func (f *front) reserve(ctx context.Context, n int) error {
	want := int64(f.holds() + n - freeBytes)
	if want <= f.reserved {
		return nil
	}
	waiting, stop := context.WithTimeout(ctx, memoryWait)
	defer stop()
	if f.ration.memory.Acquire(waiting, want-f.reserved) != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return crowded("the agent holds as many large statements as it may")
	}
	f.reserved = want
	return nil
}

// release gives back what the session does not hold any more.
func (f *front) release() {
	want := max(0, int64(f.holds()-freeBytes))
	if want < f.reserved {
		f.ration.memory.Release(f.reserved - want)
		f.reserved = want
	}
}

// free gives back everything, at the end of the session.
func (f *front) free() {
	f.ration.memory.Release(f.reserved)
	f.reserved = 0
}

// body reads the rest of a message of n bytes. What is large must find memory first, and then come with some speed: it keeps others waiting.
func (f *front) body(ctx context.Context, head []byte, n int) ([]byte, error) {
	if n <= slabSize {
		return f.in.readBody(ctx, head, n)
	}
	if err := f.reserve(ctx, n); err != nil {
		return nil, err
	}
	limit := memoryWait + time.Duration(n/slowest)*time.Second
	ctx, stop := context.WithTimeoutCause(ctx, limit, violated("a message of %d bytes did not come within %s", n, limit))
	defer stop()
	return f.in.readBody(ctx, head, n)
}

// analysing waits for the turn of a large text.
func (c *catalogue) analysing(text string) (done func(), err *access.Refusal) {
	if len(text) <= largeText || c.turn == nil {
		return func() {}, nil
	}
	late := time.NewTimer(memoryWait)
	defer late.Stop()
	select {
	case c.turn <- struct{}{}:
		return func() { <-c.turn }, nil
	case <-late.C:
		d := crowded(fmt.Sprintf("%d bytes of text are looked at after others'", len(text)))
		return nil, &access.Refusal{Rule: d.Rule, Hint: d.Hint}
	}
}
