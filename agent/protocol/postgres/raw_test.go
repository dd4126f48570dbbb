package postgres

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// raw is a client that says exactly what a test wants.
type raw struct{ conn net.Conn }

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func dialRaw(t testing.TB, h *house) *raw {
	t.Helper()
	c, err := net.Dial("tcp", h.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return &raw{c}
}

func startupPacket(code uint32, pairs ...string) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 4), code)
	for _, p := range pairs {
		b = appendText(b, p)
	}
	b = append(b, 0)
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	return b
}

func (c *raw) write(t testing.TB, b []byte) {
	t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		t.Fatal(err)
	}
}

func (c *raw) read(t testing.TB) (byte, []byte) {
	t.Helper()
	tag, body, err := c.tryRead()
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return tag, body
}

func (c *raw) tryRead() (byte, []byte, error) {
	var head [header]byte
	if _, err := io.ReadFull(c.conn, head[:]); err != nil {
		return 0, nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[1:])-lengthWord)
	_, err := io.ReadFull(c.conn, body)
	return head[0], body, err
}

// until reads up to and including the tag, and returns all tags.
func (c *raw) until(t testing.TB, end byte) string {
	t.Helper()
	tags := ""
	for {
		tag, _ := c.read(t)
		tags += string(tag)
		if tag == end {
			return tags
		}
	}
}

func (c *raw) startup(t testing.TB) {
	t.Helper()
	c.write(t, startupPacket(version3, "user", "alice"))
	c.until(t, 'Z')
}

func (c *raw) eof(t testing.TB) {
	t.Helper()
	if n, err := c.conn.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, errTimeout) {
		t.Fatalf("connection still open: %d bytes, %v", n, err)
	}
}

var errTimeout = errors.New("i/o timeout")
