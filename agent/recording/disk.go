package recording

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/agent/journal"
)

// gather cuts the chunks of all buffers that are older than age.
func (k *Keeper) gather(age time.Duration) {
	k.mu.Lock()
	all := make([]*tape, 0, len(k.tapes))
	for _, t := range k.tapes {
		all = append(all, t)
	}
	k.mu.Unlock()
	for _, t := range all {
		if !t.mu.TryLock() {
			continue // it is being written to, perhaps waiting for this very goroutine
		}
		if t.over == nil && len(t.buffer) > 0 && time.Since(t.since) >= age {
			_ = t.cut(false) // the next Write tells
		}
		t.mu.Unlock()
	}
}

// flush brings what is pending to disk. What cannot be written stays in memory and is tried again; whoever waits is told.
func (k *Keeper) flush() error {
	k.mu.Lock()
	batch := k.pending
	k.pending, k.writing = nil, batch
	k.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	err := k.write(batch)
	k.mu.Lock()
	defer k.mu.Unlock()
	if (err == nil) != (k.failed == nil) {
		k.c.Log.Warn("recordings", "writable", err == nil, "error", err)
	}
	k.failed, k.writing = err, nil
	for i := range batch {
		if batch[i].done != nil {
			batch[i].done <- err
			batch[i].done = nil
		}
	}
	if err != nil {
		k.pending = append(batch, k.pending...)
		return err
	}
	journal.Wake(k.flushed)
	return nil
}

// write appends whole records to the journal. Only flush calls it, one at a time.
func (k *Keeper) write(batch []framed) error {
	b := batch[0].b
	if len(batch) > 1 {
		b = nil
		for _, p := range batch {
			b = append(b, p.b...)
		}
	}
	if k.journal.Waiting() == 0 {
		k.progressed()
	}
	n, err := k.journal.Write(b)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.used += n // of a new file's head
		return fmt.Errorf("write recordings: %w", err)
	}
	k.used += n - int64(len(b))
	for _, p := range batch {
		if p.of != nil {
			p.of.title.Next = p.next
		}
	}
	return nil
}

// progressed says that nothing waits that the broker was slow to take.
func (k *Keeper) progressed() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.progress = time.Now()
}

// head is what a new file begins with: the list of what is open on disk, so that older ones can go.
func (k *Keeper) head() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	open := make([]title, 0, len(k.tapes))
	for _, t := range k.tapes {
		open = append(open, t.title)
	}
	for _, p := range slices.Concat(k.writing, k.pending) { // its end is in line, not on disk: one that never comes there must be made again
		if p.of != nil && k.tapes[p.of.title.Command] == nil {
			open = append(open, p.of.title)
		}
	}
	slices.SortFunc(open, func(a, b title) int { return strings.Compare(string(a.Command), string(b.Command)) })
	open = slices.CompactFunc(open, func(a, b title) bool { return a.Command == b.Command })
	return encode('o', open)
}
