package prototest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
)

// Recorder keeps recordings in memory, for tests of rooms. It is safe for concurrent use.
type Recorder struct {
	// Err refuses to begin; Limit, where not 0, is how many bytes each recording takes before its writes fail.
	Err   error
	Limit int

	mu  sync.Mutex
	all []*Kept
}

// Kept is a recording in memory.
type Kept struct {
	Command    access.CommandID
	Kind, Name string

	limit  int
	mu     sync.Mutex
	b      bytes.Buffer
	closed bool
}

var errFull = errors.New("the test's recorder takes no more")

// Start begins a recording; a command has one at most.
func (r *Recorder) Start(command access.CommandID, kind, name string) (protocol.Recording, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Err != nil {
		return nil, r.Err
	}
	if kind != protocol.Cast && kind != protocol.File {
		return nil, fmt.Errorf("recording of unknown kind %q", kind)
	}
	for _, k := range r.all {
		if k.Command == command {
			return nil, fmt.Errorf("command %s is recorded already", command)
		}
	}
	k := &Kept{Command: command, Kind: kind, Name: name, limit: r.Limit}
	r.all = append(r.all, k)
	return k, nil
}

// All are the recordings that began, in that order.
func (r *Recorder) All() []*Kept {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*Kept(nil), r.all...)
}

// Write keeps p.
func (k *Kept) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || k.limit > 0 && k.b.Len()+len(p) > k.limit {
		return 0, errFull
	}
	return k.b.Write(p)
}

// Close seals it.
func (k *Kept) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	return nil
}

// Bytes is what was written.
func (k *Kept) Bytes() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return bytes.Clone(k.b.Bytes())
}

// Closed says whether the recording was sealed.
func (k *Kept) Closed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.closed
}
