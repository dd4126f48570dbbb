package gate

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// Checker decides: broker.Agent.
type Checker interface {
	Check(ctx context.Context, r api.CheckRequest) (api.CheckResponse, error)
}

const (
	// maxCalls is how many calls are in flight: one more hides the way there and back, a third would only make batches smaller.
	maxCalls = 2
	// maxQueue bounds the questions that wait: more than two calls' worth of the largest batches take the broker longer than a permit lives.
	maxQueue = 2048
	// maxCall bounds the size of a call of several questions, with room for JSON's escapes and, where a function URL passes it on, for those of
	// JSON within JSON; api.MaxBody bounds every call.
	maxCall = api.MaxBody / 4
)

// Batcher sends the questions of many sessions in one call each time that a call comes back. While nothing is in flight a
// question leaves at once.
type Batcher struct {
	agent  access.AgentName
	broker Checker
	ctx    context.Context // of the calls: ends with Close
	stop   context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	queue []*question
	calls int
	work  chan []*question // for the callers, maxCalls at most; nil until there is some
}

// question is one Ask on its way. But for the fields that the Batcher fills while it is away, it belongs to its Gate.
type question struct {
	ask     api.Ask
	digests []string
	made    time.Time // when its ids were
	bytes   int       // about, encoded
	alone   bool      // goes in a call of its own
	away    bool      // submitted, its result not taken
	sent    bool      // it has left at least once; guarded by Batcher.mu while it is away
	done    chan result
}

type result struct {
	sent   time.Time
	answer api.Answer
	err    error
}

// NewBatcher asks broker in the name of agent.
func NewBatcher(agent access.AgentName, broker Checker) *Batcher {
	b := &Batcher{agent: agent, broker: broker}
	b.ctx, b.stop = context.WithCancel(context.Background())
	return b
}

// Close ends the calls in flight, which then have no answer, and waits for them.
func (b *Batcher) Close() {
	b.stop()
	b.mu.Lock()
	for _, q := range b.queue {
		q.done <- result{err: context.Canceled}
	}
	b.queue = nil
	if b.work != nil {
		close(b.work)
		b.work = nil
	}
	b.mu.Unlock()
	b.wg.Wait()
}

// submit queues a question; false means that there is no room, or that the Batcher is closed.
func (b *Batcher) submit(q *question) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) >= maxQueue || b.ctx.Err() != nil {
		return false
	}
	q.away = true
	b.queue = append(b.queue, q)
	b.pump()
	return true
}

// withdraw takes a question back that has not left; false means that it has.
func (b *Batcher) withdraw(q *question) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.queue, q)
	if i < 0 {
		return false
	}
	b.queue = slices.Delete(b.queue, i, i+1)
	q.away = false
	return true
}

// pump starts calls while there is something to send. The caller has the lock.
func (b *Batcher) pump() {
	if b.ctx.Err() != nil {
		return
	}
	for b.calls < maxCalls && len(b.queue) > 0 {
		if b.work == nil {
			b.start()
		}
		b.calls++
		b.work <- b.take() // never blocks: as many places as calls
	}
}

// start starts the callers. They stay: a goroutine for each call would grow its stack for each call.
func (b *Batcher) start() {
	work := make(chan []*question, maxCalls)
	b.work = work
	for range maxCalls {
		b.wg.Go(func() {
			for batch := range work {
				b.call(batch)
			}
		})
	}
}

// take takes the longest beginning of the queue that one call may carry. A session has one question at a time, so no two
// are of the same. The caller has the lock.
func (b *Batcher) take() []*question {
	n, commands, bytes := 0, 0, 0
	for _, q := range b.queue {
		commands += len(q.ask.Commands)
		bytes += q.bytes
		if n > 0 && (q.alone || commands > api.MaxBatch || bytes > maxCall) {
			break
		}
		q.sent = true
		if n++; q.alone {
			break
		}
	}
	batch := slices.Clone(b.queue[:n])
	b.queue = slices.Delete(b.queue, 0, n)
	return batch
}

func (b *Batcher) call(batch []*question) {
	ctx, cancel := context.WithTimeout(b.ctx, api.PermitLife)
	defer cancel()
	req := api.CheckRequest{Agent: b.agent, Asks: make([]api.Ask, len(batch))}
	for i, q := range batch {
		req.Asks[i] = q.ask
	}
	sent := time.Now()
	resp, err := b.broker.Check(ctx, req)
	if err == nil && len(resp.Answers) != len(batch) {
		err = errMismatch
	}
	for i, q := range batch {
		r := result{sent: sent, err: err}
		if err == nil {
			r.answer = resp.Answers[i]
		}
		q.done <- r
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls--
	b.pump()
}

// size is about what a command takes in a call.
func size(c *access.Command) int {
	n := 1024 + 2*(len(c.Text)+len(c.Masked)+len(c.Normalised)) + 128*(len(c.Touches)+len(c.Classes)+len(c.Facts.Functions))
	for _, p := range c.Params {
		n += 32 + len(p.Value)*4/3
	}
	for _, t := range c.Touches {
		for _, column := range t.Resource.Columns {
			n += 3 + len(column)
		}
	}
	return n
}
