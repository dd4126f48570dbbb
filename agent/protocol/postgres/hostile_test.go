package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
)

// turncoat is a connection to a real server that, once the room has written the trigger, answers with bytes of its own.
type turncoat struct {
	net.Conn
	trigger, answer []byte
	slow            bool // one byte at a time

	mu     sync.Mutex
	sent   []byte
	turned chan struct{}
	rest   *bytes.Reader
}

func (c *turncoat) Write(b []byte) (int, error) {
	c.mu.Lock()
	if c.rest == nil {
		c.sent = append(c.sent, b...)
		if bytes.Contains(c.sent, c.trigger) {
			c.rest = bytes.NewReader(c.answer)
			close(c.turned)
			_ = c.Conn.SetReadDeadline(time.Now()) // wakes a Read that waits for the real server
			c.mu.Unlock()
			return len(b), nil
		}
	}
	turned := c.rest != nil
	c.mu.Unlock()
	if turned {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *turncoat) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	select {
	case <-c.turned:
		if c.slow && len(b) > 1 {
			b = b[:1]
		}
		return c.rest.Read(b)
	default:
		return n, err
	}
}

const turnText = "select 'turn'"

func errorResponse(pairs ...string) []byte {
	b, at := frame(nil, 'E')
	for _, p := range pairs {
		b = appendText(append(b, p[0]), p[1:])
	}
	return seal(append(b, 0), at)
}

func rowDescription(table uint32, column uint16, names ...string) []byte {
	b, at := frame(nil, 'T')
	b = binary.BigEndian.AppendUint16(b, uint16(len(names)))
	for _, n := range names {
		b = appendText(b, n)
		b = binary.BigEndian.AppendUint32(b, table)
		b = binary.BigEndian.AppendUint16(b, column)
		b = binary.BigEndian.AppendUint32(b, 25)
		b = append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0)
	}
	return seal(b, at)
}

func dataRow(values ...string) []byte {
	b, at := frame(nil, 'D')
	b = binary.BigEndian.AppendUint16(b, uint16(len(values)))
	for _, v := range values {
		b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
		b = append(b, v...)
	}
	return seal(b, at)
}

func complete(tag string) []byte {
	b, at := frame(nil, 'C')
	return seal(appendText(b, tag), at)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func rawMessage(tag byte, length uint32, body string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{tag}, length), body...)
}

// A hostile or broken server crashes nothing, and nothing that it says where it has nothing to say reaches the client.
func TestHostileServer(t *testing.T) {
	ready := appendReady(nil, 'I')
	tests := []struct {
		name   string
		answer []byte
		tags   string // what the client sees
		code   string // of the last error; empty: none
	}{
		{"PG-22 error without SQLSTATE", join(errorResponse("SERROR", "Mcanary"), ready), "EZ", "XX000"},
		{"PG-22 error without fields", join(rawMessage('E', 4, ""), ready), "EZ", "XX000"},
		{"PG-22 unterminated error", join(rawMessage('E', 12, "SERRORcc"), ready), "EZ", "XX000"},
		{"PG-22 error with a long SQLSTATE", join(errorResponse("C4250111", "Mcanary"), ready), "EZ", "XX000"},
		{"row before its description", join(dataRow("canary"), ready), "E", "XX000"},
		{"row of an unknown table", join(rowDescription(4000000000, 1, "a"), dataRow("canary"), complete("SELECT 1"), ready), "E", "42501"},
		{"row of an unknown column", join(rowDescription(1, 1, "a"), dataRow("canary"), complete("SELECT 1"), ready), "E", "42501"},
		{"row longer than described", join(rowDescription(0, 0, "a"), dataRow("x", "canary"), complete("SELECT 1"), ready), "TE", "XX000"},
		{"description of too many fields", rawMessage('T', 6, "\xff\xff"), "E", "XX000"},
		{"description cut short", rawMessage('T', 4+2+8, "\x00\x01canary\x00\x00"), "E", "XX000"},
		{"length of zero", rawMessage('C', 0, ""), "E", "XX000"},
		{"length of three", rawMessage('C', 3, ""), "E", "XX000"},
		{"PG-20 length of 4 GiB", rawMessage('C', 0xffffffff, "canary"), "E", "XX000"},
		{"row of 2 GiB", join(rowDescription(0, 0, "a"), rawMessage('D', 0x7fffffff, "canary")), "TE", "XX000"},
		{"unknown message", rawMessage('?', 10, "canary"), "E", "XX000"},
		{"authentication again", rawMessage('R', 8, "\x00\x00\x00\x03"), "E", "XX000"},
		{"keys again", rawMessage('K', 12, "canary\x00\x00"), "E", "XX000"},
		{"copy in", rawMessage('G', 7, "\x00\x00\x00"), "E", "XX000"},
		{"copy out", join(rawMessage('H', 7, "\x00\x00\x00"), rawMessage('d', 10, "canary")), "E", "XX000"},
		{"PG-43 notification", join(rawMessage('A', 4+4+3+7, "\x00\x00\x00\x01ch\x00canary\x00"), complete("SELECT 0"), ready), "CZ", ""},
		{"bad transaction status", join(complete("SELECT 0"), rawMessage('Z', 5, "Q")), "CE", "XX000"},
		{"ready without length", join(complete("SELECT 0"), rawMessage('Z', 4, "")), "CE", "XX000"},
		{"PG-31 encoding changed", join(appendParameterStatus(nil, "client_encoding", "SJIS"), ready), "E", "42501"},
		{"PG-32 strings changed", join(appendParameterStatus(nil, "standard_conforming_strings", "off"), ready), "E", "42501"},
		{"PG-35 role changed", join(appendParameterStatus(nil, "session_authorization", "root"), ready), "E", "42501"},
		{"parameter cut short", rawMessage('S', 4+6, "canary"), "E", "XX000"},
		{"a harmless parameter", join(appendParameterStatus(nil, "TimeZone", "UTC"), complete("SET"), ready), "SCZ", ""},
		{"dies mid-message", rawMessage('C', 100, "SELECT"), "E", "08006"},
		{"dies at once", nil, "E", "08006"},
		{"dies in a row", join(rowDescription(0, 0, "a"), rawMessage('D', 100, "\x00\x01\x00\x00\x00\x50canary")), "T*", ""},
		{"last words, then dies", errorResponse("SFATAL", "VFATAL", "C57P01", "Mterminating connection"), "E", "57P01"},
	}
	for _, tt := range tests {
		for _, slow := range []bool{false, true} {
			name := tt.name
			if slow {
				name += " slowly"
			}
			t.Run(name, func(t *testing.T) {
				h := openHouse(t, newScript(nil), func(s *protocol.Session) {
					real := s.Dial
					s.Dial = func(ctx context.Context) (net.Conn, error) {
						c, err := real(ctx)
						return &turncoat{Conn: c, trigger: []byte(turnText), answer: tt.answer, slow: slow, turned: make(chan struct{})}, err
					}
				})
				c := dialRaw(t, h)
				c.startup(t)
				c.write(t, appendQuery(nil, turnText))
				tags, last := "", []byte(nil)
				for {
					tag, body, err := c.tryRead()
					if err != nil {
						break
					}
					tags += string(tag)
					if tag == 'E' {
						last = body
					}
					if bytes.Contains(body, []byte("canary")) && tag != 'D' {
						t.Errorf("%c carries the canary: %q", tag, body)
					}
					if tag == 'Z' {
						_ = c.conn.Close()
						break // what follows is the end of the made-up answer
					}
				}
				if want, any := strings.CutSuffix(tt.tags, "*"); tags != want && !any {
					t.Errorf("client saw %q, want %q; last error %q", tags, tt.tags, last)
				}
				if tt.code != "" && sqlstateOf(last) != tt.code {
					t.Errorf("error %q, want %s", last, tt.code)
				}
				<-h.errs
			})
		}
	}
}

// A server that lets the poison pass is not believed.
func TestPoisonThatWorks(t *testing.T) {
	h := openHouse(t, newScript(map[string]ruling{"canary": {deny: denyAll}}), func(s *protocol.Session) {
		real := s.Dial
		s.Dial = func(ctx context.Context) (net.Conn, error) {
			c, err := real(ctx)
			return &turncoat{Conn: c, trigger: []byte(poison), answer: join(complete("SELECT 0"), appendReady(nil, 'T')), turned: make(chan struct{})}, err
		}
	})
	c := dialRaw(t, h)
	c.startup(t)
	c.write(t, appendQuery(nil, "begin"))
	c.until(t, 'Z')
	c.write(t, appendQuery(nil, "select 'canary'"))
	if tag, body := c.read(t); tag != 'E' || !bytes.Contains(body, []byte("FATAL")) {
		t.Fatalf("%c %q", tag, body)
	}
	c.eof(t)
}

// What a client may not send ends its session, with a reason where it can still be told one.
func TestHostileClient(t *testing.T) {
	start := startupPacket(version3, "user", "alice")
	after := func(b ...[]byte) []byte { return append(append([]byte(nil), start...), join(b...)...) }
	bind := func(tail string) []byte {
		return rawMessage('B', uint32(4+2+len(tail)), "\x00\x00"+tail)
	}
	parse := appendParse(nil, "", "select 1")
	tests := []struct {
		name, code string
		bytes      []byte
	}{
		{"startup of 4 GiB", "08P01", []byte("\xff\xff\xff\xff\x00\x03\x00\x00")},
		{"startup of 7 bytes", "08P01", []byte("\x00\x00\x00\x07\x00\x03\x00")},
		{"startup over the limit", "08P01", append([]byte("\x00\x00\x40\x00\x00\x03\x00\x00"), make([]byte, 16376)...)},
		{"startup unterminated", "08P01", []byte("\x00\x00\x00\x0d\x00\x03\x00\x00user\x00")},
		{"startup with a tail", "08P01", []byte("\x00\x00\x00\x15\x00\x03\x00\x00user\x00a\x00\x00more.")},
		{"no user", "28000", startupPacket(version3)},
		{"PG-29 protocol 2", "0A000", startupPacket(2<<16, "user", "alice")},
		{"PG-29 protocol 4", "0A000", startupPacket(4<<16, "user", "alice")},
		{"PG-26 SSLRequest with a body", "08P01", []byte("\x00\x00\x00\x09\x04\xd2\x16\x2fx")},
		{"PG-31 client_encoding", "42501", startupPacket(version3, "user", "alice", "client_encoding", "SJIS")},
		{"PG-32 standard_conforming_strings", "42501", startupPacket(version3, "user", "alice", "standard_conforming_strings", "off")},
		{"PG-35 role", "42501", startupPacket(version3, "user", "alice", "role", "postgres")},
		{"PG-35 session_authorization", "42501", startupPacket(version3, "user", "alice", "session_authorization", "postgres")},
		{"options", "42501", startupPacket(version3, "user", "alice", "options", "-c role=postgres")},
		{"replication", "42501", startupPacket(version3, "user", "alice", "replication", "database")},
		{"another database", "42501", startupPacket(version3, "user", "alice", "database", "template1")},
		{"invalid UTF-8", "08P01", startupPacket(version3, "user", "al\xffice")},
		{"PG-29 unknown message", "08P01", after(rawMessage('?', 4, ""))},
		{"PG-29 password out of place", "08P01", after(rawMessage('p', 5, "\x00"))},
		{"PG-20 query of 4 GiB", "08P01", after(rawMessage('Q', 0xffffffff, ""))},
		{"PG-20 query over the limit", "08P01", after(rawMessage('Q', maxMessage+1, ""))},
		{"query of 3 bytes", "08P01", after(rawMessage('Q', 3, ""))},
		{"query unterminated", "08P01", after(rawMessage('Q', 12, "select 1"))},
		{"query with a tail", "08P01", after(rawMessage('Q', 14, "select 1\x00x"))},
		{"sync with a body", "08P01", after(rawMessage('S', 5, "x"))},
		{"parse unterminated", "08P01", after(rawMessage('P', 12, "select 1"))},
		{"parse of too many types", "08P01", after(rawMessage('P', 4+2+2, "\x00\x00\xff\xff"))},
		{"bind unterminated", "08P01", after(parse, rawMessage('B', 5, "x"))},
		{"bind of too many parameters", "08P01", after(parse, bind("\x00\x00\xff\xff"))},
		{"bind of a negative length", "08P01", after(parse, bind("\x00\x00\x00\x01\xff\xff\xff\xfe\x00\x00"))},
		{"bind of a long parameter", "08P01", after(parse, bind("\x00\x00\x00\x01\x7f\xff\xff\xff\x00\x00"))},
		{"bind of an unknown format", "08P01", after(parse, bind("\x00\x01\x00\x02\x00\x00\x00\x00"))},
		{"bind of an unknown result format", "08P01", after(parse, bind("\x00\x00\x00\x00\x00\x01\x00\x02"))},
		{"bind with a tail", "08P01", after(parse, bind("\x00\x00\x00\x00\x00\x00x"))},
		{"describe of neither", "08P01", after(rawMessage('D', 6, "X\x00"))},
		{"close over the limit", "08P01", after(rawMessage('C', maxSmall+1, ""))},
		{"function call before sync", "08P01", after(parse, rawMessage('F', 8, "\x00\x00\x00\x01"))},
	}
	for _, tt := range tests {
		for _, slow := range []bool{false, true} {
			name := tt.name
			if slow {
				name += " slowly"
			}
			t.Run(name, func(t *testing.T) {
				if slow && len(tt.bytes) > 1000 {
					return // the same bytes in more writes show nothing more
				}
				g := newScript(nil)
				h := openHouse(t, g, nil)
				c := dialRaw(t, h)
				if slow {
					for i := range tt.bytes {
						if _, err := c.conn.Write(tt.bytes[i : i+1]); err != nil {
							break
						}
					}
				} else {
					c.write(t, tt.bytes)
				}
				var last []byte
				for {
					tag, body, err := c.tryRead()
					if tag == 'N' && len(last) == 0 { // the answer to SSLRequest is a single byte
						t.Fatal("the room went on")
					}
					if err != nil {
						break
					}
					if tag == 'E' {
						last = body
					}
				}
				if got := sqlstateOf(last); got != tt.code {
					t.Errorf("ended with %q, want %s", last, tt.code)
				}
				<-h.errs
				if !bytes.HasPrefix(tt.bytes, start) || bytes.Equal(tt.bytes, start) {
					return
				}
				cmds := g.commands()
				if len(cmds) == 0 || cmds[len(cmds)-1].Refused == nil || cmds[len(cmds)-1].Refused.Rule != ruleProtocol {
					t.Errorf("not on the record: %+v", cmds)
				}
			})
		}
	}
}

// Every split of a session's bytes gives the same answers, and so does one write of everything.
func TestSplitAtEveryByte(t *testing.T) {
	session := join(
		appendQuery(nil, "select name, email from customers order by id"),
		appendParse(nil, "s1", "select email from customers where id = 1"), appendBind(nil, "", "s1"), appendDescribePortal(nil, ""), appendExecute(nil, ""), appendBare(nil, 'S'),
		appendBind(nil, "p", "s1"), appendExecute(nil, "p"), appendBare(nil, 'H'), appendClose(nil, 'S', "s1"), appendBare(nil, 'S'),
		appendQuery(nil, "drop table customers"),
		appendQuery(nil, "begin"), appendParse(nil, "", "select 'canary'"), appendBind(nil, "", ""), appendExecute(nil, ""), appendBare(nil, 'S'),
		appendQuery(nil, "select 1"), appendQuery(nil, "rollback"),
		appendBind(nil, "", "nowhere"), appendBare(nil, 'S'),
		appendExecute(nil, "nowhere"), appendBare(nil, 'S'),
		appendQuery(nil, ""), appendBare(nil, 'X'))
	rules := map[string]ruling{"drop": {deny: denyAll}, "canary": {deny: denyAll}}
	run := func(t *testing.T, feed func(c *raw)) string {
		h := openHouse(t, newScript(rules), nil)
		c := dialRaw(t, h)
		c.startup(t)
		feed(c)
		var seen strings.Builder
		for {
			tag, body, err := c.tryRead()
			if err != nil {
				break
			}
			if tag == 'E' {
				body = fieldsOf(body)['C']
			}
			seen.WriteByte(tag)
			seen.Write(body)
			seen.WriteByte('\n')
		}
		return seen.String()
	}
	h := openHouse(t, newScript(nil), nil)
	h.srv.Seed(t)
	want := run(t, func(c *raw) { c.write(t, session) })
	tags := ""
	for line := range strings.SplitSeq(want, "\n") {
		if line != "" {
			tags += line[:1]
		}
	}
	if strings.Contains(want, "ada@example.com") || strings.Count(want, "a***@***.com") != 3 {
		t.Errorf("not masked:\n%q", want)
	}
	if strings.Count(want, "E42501") != 2 || strings.Count(want, "E26000") != 1 || strings.Count(want, "E34000") != 1 || strings.Count(want, "E25P02") != 1 {
		t.Errorf("errors:\n%q", want)
	}
	if n := strings.Count(tags, "Z"); n != 11 {
		t.Errorf("%d times ready, want 11: %s", n, tags)
	}
	slow := run(t, func(c *raw) {
		_ = c.conn.(*net.TCPConn).SetNoDelay(true)
		for i := range session {
			c.write(t, session[i:i+1])
		}
	})
	if slow != want {
		t.Errorf("byte by byte:\n%q\nat once:\n%q", slow, want)
	}
	for cut := 1; cut < len(session); cut += 37 {
		got := run(t, func(c *raw) {
			c.write(t, session[:cut])
			time.Sleep(time.Millisecond) // so that the first part arrives alone; nothing waits on it
			c.write(t, session[cut:])
		})
		if got != want {
			t.Fatalf("cut at %d:\n%q\nat once:\n%q", cut, got, want)
		}
	}
}

// A client that does not read stops the target, holds little memory, and is let go when its session ends.
func TestClientThatStopsReading(t *testing.T) {
	g := newScript(nil)
	h := openHouse(t, g, nil)
	c := dialRaw(t, h)
	_ = c.conn.(*net.TCPConn).SetReadBuffer(4096)
	c.startup(t)
	c.write(t, appendQuery(nil, "select repeat('x', 1000) from generate_series(1, 10000000)"))
	eventually(t, "target waits", func() bool {
		r := h.srv.Exec(t, "select count(*) from pg_stat_activity where wait_event = 'ClientWrite' and query like 'select repeat%'")
		return string(r[0].Rows[0][0]) == "1"
	})
	begun := time.Now()
	h.cancel(&access.Denied{Code: access.CodeRevoked, Rule: "revoked"})
	<-h.errs
	if d := time.Since(begun); d > 4*time.Second {
		t.Errorf("ended after %s", d)
	}
	if r := g.outcome(t, "repeat"); r.Status != access.StatusLost {
		t.Errorf("outcome %+v", r)
	}
}

// Rows longer than any buffer pass in pieces, and their masked values do not.
func TestHugeRows(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	h.srv.Seed(t)
	h.srv.Exec(t, "update customers set name = repeat('n', 5000000), email = repeat('canary', 500000) || '@x.com' where id = 1")
	t.Cleanup(func() { h.srv.Seed(t) })
	c := dialRaw(t, h)
	c.startup(t)
	c.write(t, appendQuery(nil, "select id, name, email, card_number from customers order by id"))
	c.read(t)
	_, body := c.read(t)
	if bytes.Contains(body, []byte("canary")) || bytes.Count(body, []byte("n")) != 5000000 || bytes.Count(body, []byte("*")) < 3000000 {
		t.Errorf("row of %d bytes", len(body))
	}
	_, body = c.read(t)
	if !bytes.Contains(body, []byte("g***@***.org")) {
		t.Errorf("row %q", body)
	}
	c.until(t, 'Z')
	c.write(t, appendQuery(nil, "select repeat('y', 30000000)"))
	c.read(t)
	if _, body = c.read(t); len(body) != 30000000+6 {
		t.Errorf("row of %d bytes", len(body))
	}
	c.until(t, 'Z')
}
