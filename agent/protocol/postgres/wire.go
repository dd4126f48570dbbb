package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Limits on what a peer may send, each checked against the length word before anything is allocated for it.
const (
	maxStartup  = 10000              // PostgreSQL's own MAX_STARTUP_PACKET_LENGTH
	maxAuth     = 65535              // PostgreSQL's own PG_MAX_SASL_MESSAGE_LENGTH is 1024; drivers stay far below both
	maxMessage  = maxCommand + 1<<20 // from a client: 65,535 parameters need 4 bytes each, and names
	maxHeld     = 2 << 20            // from the target, other than a row: kept whole while it is rewritten; and a row that is masked value by value
	maxRow      = 1<<30 + 1<<20
	maxFields   = 65535 // an Int16, unsigned; PostgreSQL itself stops at 1664 columns
	maxSmall    = 1024  // Describe, Close, Execute carry one name of at most 63 bytes; drivers' names stay below 1 kB
	header      = 5     // tag and length
	lengthWord  = 4
	codeCancel  = 1234<<16 | 5678
	codeSSL     = 1234<<16 | 5679
	codeGSS     = 1234<<16 | 5680
	version3    = 3 << 16
	newestMinor = 2
	majorOf     = 16
	cancelKeyAt = 8               // after length and code: process id and secret
	cancelShort = 12              // without a secret
	cancelLong  = 4 + 4 + 4 + 256 // protocol 3.2: a key of up to 256 bytes
	textFormat  = 0
	binaryForm  = 1
	statusIdle  = 'I'
	statusBlock = 'T'
	statusError = 'E'
)

var errMalformed = errors.New("malformed message")

// cursor reads the fields of one message's body. After any short read it is bad and yields zero values, so that a decoder
// checks once, at the end.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if c.bad || n < 0 || n > len(c.b) {
		c.bad = true
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) byte() byte {
	if v := c.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (c *cursor) uint16() uint16 {
	if v := c.take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if v := c.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

// text reads a string up to its terminating zero byte.
func (c *cursor) text() []byte {
	for i, b := range c.b {
		if b == 0 {
			v := c.b[:i:i]
			c.b = c.b[i+1:]
			return v
		}
	}
	c.bad = true
	return nil
}

// end says whether the whole body was read, no more and no less.
func (c *cursor) end() error {
	if c.bad || len(c.b) != 0 {
		return errMalformed
	}
	return nil
}

// frame begins a message at the end of dst; seal writes its length once the body is there.
func frame(dst []byte, tag byte) ([]byte, int) {
	at := len(dst)
	return append(dst, tag, 0, 0, 0, 0), at
}

func seal(dst []byte, at int) []byte {
	n := len(dst) - at - 1
	if n > math.MaxInt32 {
		panic(fmt.Sprintf("message of %d bytes", n)) // every body is bounded far below
	}
	binary.BigEndian.PutUint32(dst[at+1:], uint32(n))
	return dst
}

func appendText(dst []byte, s string) []byte { return append(append(dst, s...), 0) }

func appendParameterStatus(dst []byte, name, value string) []byte {
	dst, at := frame(dst, 'S')
	return seal(appendText(appendText(dst, name), value), at)
}

func appendReady(dst []byte, status byte) []byte {
	dst, at := frame(dst, 'Z')
	return seal(append(dst, status), at)
}

func appendAuthentication(dst []byte, code uint32, body []byte) []byte {
	dst, at := frame(dst, 'R')
	dst = binary.BigEndian.AppendUint32(dst, code)
	return seal(append(dst, body...), at)
}

func appendQuery(dst []byte, text string) []byte {
	dst, at := frame(dst, 'Q')
	return seal(appendText(dst, text), at)
}

func appendParse(dst []byte, name, text string) []byte {
	dst, at := frame(dst, 'P')
	dst = appendText(appendText(dst, name), text)
	return seal(append(dst, 0, 0), at)
}

// appendBind binds no parameters and asks for text.
func appendBind(dst []byte, portal, statement string) []byte {
	dst, at := frame(dst, 'B')
	dst = appendText(appendText(dst, portal), statement)
	return seal(append(dst, 0, 0, 0, 0, 0, 0), at)
}

func appendDescribePortal(dst []byte, portal string) []byte {
	dst, at := frame(dst, 'D')
	return seal(appendText(append(dst, 'P'), portal), at)
}

func appendExecute(dst []byte, portal string) []byte {
	dst, at := frame(dst, 'E')
	return seal(append(appendText(dst, portal), 0, 0, 0, 0), at)
}

// appendClose closes a statement ('S') or a portal ('P').
func appendClose(dst []byte, kind byte, name string) []byte {
	dst, at := frame(dst, 'C')
	return seal(appendText(append(dst, kind), name), at)
}

func appendBare(dst []byte, tag byte) []byte { return append(dst, tag, 0, 0, 0, 4) }
