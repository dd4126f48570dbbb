package ssh

import (
	"bytes"
	"errors"

	"github.com/sallyport/sallyport/agent/protocol"
)

// content keeps the bytes of a file that sftp carries, from the first that is carried on, in the order of the file. Nil keeps nothing.
type content struct {
	w      protocol.Recording
	begun  bool
	next   uint64            // where what is kept ends
	later  map[uint64][]byte // what came before its turn, by its place
	waits  int               // bytes of it
	failed error
}

// maxWaiting bounds what comes before its turn: OpenSSH's client has 64 requests of 32 kB on their way.
const maxWaiting = 4 << 20

var (
	errOrder = errors.New("a file whose content is kept is read or written from one end to the other")
	errHoles = errors.New("a part of the file was left out")
)

// add keeps bytes at their place. Nothing is carried twice: what was read before may have been something else.
func (c *content) add(offset uint64, b []byte) error {
	if c == nil || len(b) == 0 {
		return nil
	}
	if c.failed != nil {
		return c.failed
	}
	if !c.begun {
		c.begun, c.next = true, offset
	}
	switch {
	case offset == c.next:
		c.failed = c.write(b)
	case offset < c.next || c.waits+len(b) > maxWaiting || c.later[offset] != nil:
		c.failed = errOrder
	default:
		if c.later == nil {
			c.later = map[uint64][]byte{}
		}
		c.later[offset] = bytes.Clone(b)
		c.waits += len(b)
	}
	return c.failed
}

// write writes b, and what waited for it.
func (c *content) write(b []byte) error {
	for len(b) > 0 {
		if _, err := c.w.Write(b); err != nil {
			return err
		}
		c.next += uint64(len(b))
		b = c.later[c.next]
		delete(c.later, c.next)
		c.waits -= len(b)
	}
	return nil
}

// close seals what is whole.
func (c *content) close() error {
	switch {
	case c == nil:
		return nil
	case c.failed != nil:
		return c.failed
	case len(c.later) > 0:
		return errHoles
	}
	return c.w.Close()
}
