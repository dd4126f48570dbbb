package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Limits: an answer that is not there by then is none.
const (
	answerLimit  = 5 * time.Second
	connectLimit = 20 * time.Second // a busy machine is no crash
	maxAnswer    = 64 << 20
)

// transcript is everything that a client was sent, as bytes and as messages.
type transcript struct {
	raw   []byte
	tags  string
	rows  [][]byte // bodies of DataRow and CopyData
	texts [][]byte // bodies of all others
	ready int
	hung  bool
	cut   bool // the connection ended
}

func (t *transcript) note(tag byte, body []byte) {
	t.tags += string(tag)
	switch tag {
	case 'D', 'd':
		t.rows = append(t.rows, body)
	case 'Z':
		t.ready++
	default:
		t.texts = append(t.texts, body)
	}
}

func (t *transcript) errors() int { return bytes.Count([]byte(t.tags), []byte("E")) }

func (t *transcript) bodies() []byte { return bytes.Join(t.rows, nil) }

func (t *transcript) contains(s string) bool {
	return bytes.Contains(bytes.Join(append(t.rows, t.texts...), []byte{0xff}), []byte(s))
}

// shows looks in rows alone: an error may repeat what was asked.
func (t *transcript) shows(s string) bool { return bytes.Contains(bytes.Join(t.rows, nil), []byte(s)) }

// columns joins the values of each column over all rows, and what numbers in them stand for as characters.
func (t *transcript) columns() []string {
	var joined, coded [16][]byte
	for _, body := range t.rows {
		var r pgproto3.DataRow
		if r.Decode(body) != nil {
			continue
		}
		for i, v := range r.Values[:min(len(r.Values), len(joined))] {
			joined[i] = append(joined[i], v...)
			if n, err := strconv.Atoi(string(v)); err == nil && n > 0 && n < 256 {
				coded[i] = append(coded[i], byte(n))
			} else if len(v) == 4 && binary.BigEndian.Uint32(v) < 256 {
				coded[i] = append(coded[i], v[3])
			}
		}
	}
	var out []string
	for i := range joined {
		out = append(out, plain(joined[i]), plain(coded[i]))
	}
	return out
}

// session is a logged-in connection that says exactly what a spelling says.
type session struct {
	conn net.Conn
	pid  uint32
	key  []byte
	t    *transcript
	buf  []byte
	wait time.Duration // for an answer
}

func connect(ctx context.Context, dsn string, change func(*pgconn.Config)) (*session, error) {
	c, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	c.ConnectTimeout = connectLimit
	if change != nil {
		change(c)
	}
	conn, err := pgconn.ConnectConfig(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := conn.SyncConn(ctx); err != nil {
		return nil, err
	}
	h, err := conn.Hijack()
	if err != nil {
		return nil, err
	}
	s := &session{conn: h.Conn, pid: h.PID, key: h.SecretKey, t: &transcript{}, wait: answerLimit}
	for k, v := range h.ParameterStatuses {
		s.t.raw = append(append(s.t.raw, k...), v...)
	}
	return s, nil
}

func (s *session) close() { _ = s.conn.Close() }

// say writes chunks and reads what comes back.
func (s *session) say(chunks []chunk) {
	for _, c := range chunks {
		if s.t.cut || s.t.hung {
			return
		}
		s.write(c)
		s.read(c.ready)
	}
}

// write may fail: a proxy is free to end a session in the middle, and has then said why.
func (s *session) write(c chunk) {
	_ = s.conn.SetWriteDeadline(time.Now().Add(answerLimit))
	n := c.cut
	if n == 0 || len(c.bytes) > 2000 {
		n = len(c.bytes)
	}
	for b := c.bytes; len(b) > 0; {
		k := min(n, len(b))
		if _, err := s.conn.Write(b[:k]); err != nil {
			return
		}
		b = b[k:]
	}
}

// read reads until the server was ready that often.
func (s *session) read(ready int) {
	want := s.t.ready + ready
	end := time.Now().Add(s.wait)
	var in [32 << 10]byte
	for s.t.ready < want {
		for {
			tag, body, ok := s.next()
			if !ok {
				break
			}
			s.t.note(tag, body)
			if tag == 'G' { // no data
				_, _ = s.conn.Write(encode(&pgproto3.CopyFail{Message: "none"}, &pgproto3.Sync{}))
			}
		}
		if s.t.ready >= want {
			return
		}
		_ = s.conn.SetReadDeadline(end)
		n, err := s.conn.Read(in[:])
		s.t.raw, s.buf = append(s.t.raw, in[:n]...), append(s.buf, in[:n]...)
		if len(s.t.raw) > maxAnswer {
			s.t.cut = true
			return
		}
		if err != nil {
			if n > 0 {
				continue
			}
			s.t.hung = errors.Is(err, os.ErrDeadlineExceeded)
			s.t.cut = !s.t.hung
			return
		}
	}
}

// next takes a message off what was read.
func (s *session) next() (tag byte, body []byte, ok bool) {
	if len(s.buf) < 5 {
		return 0, nil, false
	}
	n := binary.BigEndian.Uint32(s.buf[1:])
	if n < 4 || uint64(len(s.buf)) < uint64(n)+1 {
		return 0, nil, false
	}
	tag, body = s.buf[0], s.buf[5:n+1]
	s.buf = s.buf[n+1:]
	return tag, body, true
}

// drain reads what comes until the other side closes, or nothing more comes.
func drain(c net.Conn, wait time.Duration) []byte {
	var all []byte
	var in [4096]byte
	_ = c.SetReadDeadline(time.Now().Add(wait))
	for len(all) < maxAnswer {
		n, err := c.Read(in[:])
		all = append(all, in[:n]...)
		if err != nil {
			return all
		}
	}
	return all
}
