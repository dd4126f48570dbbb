package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
)

// slabSize times slabs is how far the room reads ahead of what it has dealt with: enough for the pipelines that drivers
// send, and all that a client can make it hold while a command waits for its decision.
const (
	slabSize = 32 << 10
	slabs    = 2
)

var errClientGone = errors.New("client closed the connection")

// inbox reads the client's bytes ahead of the loop, so that a disconnect or a Terminate is seen while a command is held.
// pump runs in a goroutine of its own; everything else belongs to the loop.
type inbox struct {
	full chan []byte // from pump; closed once the client has no more to say
	free chan []byte
	cur  []byte   // being taken
	slab []byte   // cur's memory
	more [][]byte // taken off full, after cur
	done bool     // full is closed
}

func newInbox() *inbox {
	in := &inbox{full: make(chan []byte, slabs), free: make(chan []byte, slabs)}
	for range slabs {
		in.free <- make([]byte, slabSize)
	}
	return in
}

// pump reads until the client ends or closes; stop ends it where it waits for room.
func (in *inbox) pump(c net.Conn, stop <-chan struct{}) {
	defer close(in.full)
	for {
		var slab []byte
		select {
		case slab = <-in.free:
		case <-stop:
			return
		}
		n, err := c.Read(slab)
		if n > 0 {
			in.full <- slab[:n] // never blocks: as many places as slabs
		} else if err == nil {
			in.free <- slab
		}
		if err != nil {
			return
		}
	}
}

// arrived takes a chunk that came off full.
func (in *inbox) arrived(chunk []byte, ok bool) {
	if !ok {
		in.done = true
		return
	}
	in.more = append(in.more, chunk)
}

// fill waits until there is at least one byte to take.
func (in *inbox) fill(ctx context.Context) error {
	for len(in.cur) == 0 {
		if in.slab != nil {
			in.free <- in.slab[:slabSize]
			in.slab = nil
		}
		if len(in.more) > 0 {
			in.cur, in.slab = in.more[0], in.more[0]
			in.more = in.more[:copy(in.more, in.more[1:])]
			continue
		}
		if in.done {
			return errClientGone
		}
		select {
		case chunk, ok := <-in.full:
			in.arrived(chunk, ok)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// await is fill, or ends sooner, with true, where alarm is closed.
func (in *inbox) await(ctx context.Context, alarm <-chan struct{}) (bool, error) {
	if len(in.cur) > 0 || len(in.more) > 0 || in.done {
		return false, in.fill(ctx)
	}
	if in.slab != nil {
		in.free <- in.slab[:slabSize]
		in.slab = nil
	}
	select {
	case chunk, ok := <-in.full:
		in.arrived(chunk, ok)
		return false, in.fill(ctx)
	case <-alarm:
		return true, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// waiting says whether bytes are here that were not taken yet.
func (in *inbox) waiting() bool {
	return len(in.cur) > 0 || len(in.more) > 0 || len(in.full) > 0
}

func (in *inbox) read(ctx context.Context, p []byte) error {
	for len(p) > 0 {
		if err := in.fill(ctx); err != nil {
			return err
		}
		n := copy(p, in.cur)
		in.cur, p = in.cur[n:], p[n:]
	}
	return nil
}

// readBody reads n bytes after head. Memory grows with what has arrived, not with what the length word promises.
func (in *inbox) readBody(ctx context.Context, head []byte, n int) ([]byte, error) {
	b := append(make([]byte, 0, len(head)+min(n, slabSize)), head...)
	for n > 0 {
		if err := in.fill(ctx); err != nil {
			return nil, errors.Join(io.ErrUnexpectedEOF, err)
		}
		take := min(n, len(in.cur))
		if take > cap(b)-len(b) { // twice as much, and no more than there will be: append would copy what is large five times over
			b = append(make([]byte, 0, min(len(b)+n, 2*cap(b)+take)), b...)
		}
		b = append(b, in.cur[:take]...)
		in.cur, n = in.cur[take:], n-take
	}
	return b, nil
}

// terminates looks through what has arrived, from the next message on, for Terminate. It takes nothing.
func (in *inbox) terminates() bool {
	var head [header]byte
	have, skip := 0, 0
	for i := -1; i < len(in.more); i++ {
		chunk := in.cur
		if i >= 0 {
			chunk = in.more[i]
		}
		for len(chunk) > 0 {
			if skip > 0 {
				n := min(skip, len(chunk))
				chunk, skip = chunk[n:], skip-n
				continue
			}
			n := copy(head[have:], chunk)
			chunk, have = chunk[n:], have+n
			if have < header {
				continue
			}
			length := int(binary.BigEndian.Uint32(head[1:]))
			if head[0] == 'X' && length == lengthWord {
				return true
			}
			if length < lengthWord || length > maxMessage {
				return false // the loop will refuse it
			}
			have, skip = 0, length-lengthWord
		}
	}
	return false
}
