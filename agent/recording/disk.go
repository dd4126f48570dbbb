package recording

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
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
	kick(k.flushed)
	return nil
}

// write appends whole records to the active file and syncs it. Only flush calls it, one at a time.
func (k *Keeper) write(batch []framed) error {
	g, err := k.active()
	if err != nil {
		return err
	}
	var b []byte
	if len(batch) == 1 {
		b = batch[0].b
	} else {
		for _, p := range batch {
			b = append(b, p.b...)
		}
	}
	_, err = g.f.WriteAt(b, g.size)
	if err == nil {
		err = g.f.Sync()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write recordings: %w", err), k.leave(g))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.waiting() == 0 {
		k.progress = time.Now()
	}
	g.size += int64(len(b))
	for _, p := range batch {
		if p.of != nil {
			p.of.title.Next = p.next
		}
	}
	if g.size >= segmentSize {
		g.sealed = true
		err, g.f = g.f.Close(), nil
	}
	return err
}

// leave gives up on a file whose end is not known any more: after a failed write or sync it is not trusted with another.
func (k *Keeper) leave(g *segment) error {
	err := errors.Join(g.f.Truncate(g.size), g.f.Close())
	k.mu.Lock()
	defer k.mu.Unlock()
	g.sealed, g.f = true, nil
	return err
}

// active is the file to append to. A new one begins with the list of what is open on disk, so that older ones can go.
func (k *Keeper) active() (*segment, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := len(k.segments); n > 0 && !k.segments[n-1].sealed {
		return k.segments[n-1], nil
	}
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
	head, err := encode('o', open)
	if err != nil {
		return nil, fmt.Errorf("new file of recordings: %w", err)
	}
	path := filepath.Join(k.c.Dir, fmt.Sprintf("%s%020d%s", segmentPrefix, k.next, segmentSuffix))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("new file of recordings: %w", err)
	}
	k.next++
	_, err = f.Write(head)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = syncDir(k.c.Dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("new file of recordings: %w", err), f.Close(), os.Remove(path))
	}
	g := &segment{path: path, f: f, size: int64(len(head)), sent: int64(len(head))}
	k.segments, k.used = append(k.segments, g), k.used+g.size
	return g, nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
