package gate

import (
	"sync"

	"github.com/sallyport/sallyport/internal/access"
)

// running are the commands whose permits are out: as many as there are reservations at Outcomes.
type running struct {
	mu  sync.Mutex
	seq map[access.CommandID]uint64
}

func (r *running) begin(id access.CommandID, seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seq == nil {
		r.seq = map[access.CommandID]uint64{}
	}
	r.seq[id] = seq
}

func (r *running) end(id access.CommandID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.seq, id)
}

// Running is the sequence number of a command whose permit was given and is not done yet; false for every other command.
func (g *Gate) Running(id access.CommandID) (uint64, bool) {
	g.running.mu.Lock()
	defer g.running.mu.Unlock()
	seq, ok := g.running.seq[id]
	return seq, ok
}
