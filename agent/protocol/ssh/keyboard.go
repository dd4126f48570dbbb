package ssh

import (
	"bytes"
	"io"
	"sync"
)

// maxAhead is what a client may type ahead of what reads it: a pasted screen.
const maxAhead = 64 << 10

// keyboard is what the client types, for one reader at a time: the line editor, then the program that a line started, then the editor
// again. Nothing is lost between them, and nothing is read twice.
type keyboard struct {
	mu        sync.Mutex
	changed   *sync.Cond
	ahead     []byte
	ended     bool
	turn      int
	interrupt func() // what Ctrl-C does while nothing reads; nil: it is kept as any key
}

func newKeyboard() *keyboard {
	k := &keyboard{}
	k.changed = sync.NewCond(&k.mu)
	return k
}

// ctrlC is what a terminal sends for it.
const ctrlC = 3

// feed takes what the client sends until that ends.
func (k *keyboard) feed(from io.Reader) {
	defer k.end()
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		if !k.add(b[:n]) || err != nil {
			return
		}
	}
}

func (k *keyboard) add(b []byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if at := bytes.LastIndexByte(b, ctrlC); at >= 0 && k.interrupt != nil {
		k.interrupt()
		k.ahead, b = k.ahead[:0], b[at+1:]
	}
	for len(k.ahead) > maxAhead && !k.ended {
		if k.interrupt != nil {
			return true // dropped: what would read it waits for a reviewer, and Ctrl-C must be seen
		}
		k.changed.Wait()
	}
	k.ahead = append(k.ahead, b...)
	k.changed.Broadcast()
	return !k.ended
}

// end makes every reader see the end, once it has read what is there.
func (k *keyboard) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	k.changed.Broadcast()
}

// take makes a reader, and lets the one before it see the end at once.
func (k *keyboard) take() io.Reader {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.turn++
	k.interrupt = nil
	k.changed.Broadcast()
	return &keys{k, k.turn}
}

// wait lets nobody read, until the next take; Ctrl-C calls interrupt, which must not call back.
func (k *keyboard) wait(interrupt func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.turn++
	k.interrupt = interrupt
	k.changed.Broadcast()
}

type keys struct {
	k    *keyboard
	turn int
}

func (r *keys) Read(b []byte) (int, error) {
	k := r.k
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.ahead) == 0 && !k.ended && k.turn == r.turn {
		k.changed.Wait()
	}
	if k.turn != r.turn || len(k.ahead) == 0 {
		return 0, io.EOF
	}
	n := copy(b, k.ahead)
	k.ahead = k.ahead[:copy(k.ahead, k.ahead[n:])]
	k.changed.Broadcast()
	return n, nil
}
