package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Waits for an answer that may well not come.
const silence = 150 * time.Millisecond

// wireCase is a trick below SQL. It returns what it achieved: "" for nothing.
type wireCase func(ctx context.Context, s *subject) (string, error)

// dial opens a connection that has said nothing.
func (s *subject) dial(ctx context.Context) (net.Conn, *pgconn.Config, error) {
	c, err := pgconn.ParseConfig(s.dsn)
	if err != nil {
		return nil, nil, err
	}
	conn, err := (&net.Dialer{Timeout: connectLimit}).DialContext(ctx, "tcp", net.JoinHostPort(c.Host, fmt.Sprint(c.Port)))
	return conn, c, err
}

func frame(tag byte, length uint32, body string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{tag}, length), body...)
}

func packet(code uint32, body string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(body))) //nolint:gosec // small
	return append(binary.BigEndian.AppendUint32(b, code), body...)
}

// Codes of the first packet; the manual's "Message Formats".
const (
	v3     = 3 << 16
	cancel = 1234<<16 | 5678
	ssl    = 1234<<16 | 5679
	gss    = 1234<<16 | 5680
)

func startup(c *pgconn.Config, more ...string) []byte {
	return packet(v3, strings.Join(append([]string{"user", c.User, "database", c.Database}, more...), "\x00")+"\x00\x00")
}

// opening says raw bytes before any login. It works when the other side takes them for more than a beginning: when anything but a request for a login,
// an error or a single letter comes back.
func opening(of func(c *pgconn.Config) []byte) wireCase {
	return func(ctx context.Context, s *subject) (string, error) {
		conn, c, err := s.dial(ctx)
		if err != nil {
			return "", err
		}
		defer func() { _ = conn.Close() }()
		_, _ = conn.Write(of(c)) // the other side may have hung up
		return further(drain(conn, silence)), nil
	}
}

// further says how far past a login an answer goes.
func further(b []byte) string {
	for len(b) > 0 && (b[0] == 'N' || b[0] == 'S' || b[0] == 'G') && (len(b) < 5 || binary.BigEndian.Uint32(b[1:]) > 1<<16) {
		b = b[1:]
	}
	for len(b) >= 5 {
		n := int(binary.BigEndian.Uint32(b[1:]))
		if b[0] == 'Z' {
			return "logged in"
		}
		if n < 4 || len(b) < n+1 {
			return ""
		}
		b = b[n+1:]
	}
	return ""
}

// inside says raw bytes in a session. It works when the canary statement in them has run: see swept.
func inside(b []byte) wireCase {
	return func(ctx context.Context, s *subject) (string, error) {
		c, err := connect(ctx, s.dsn, nil)
		if err != nil {
			return "", err
		}
		defer c.close()
		_, _ = c.conn.Write(b)
		c.t.raw = append(c.t.raw, drain(c.conn, silence)...)
		if why := leaks(c.t); why != "" {
			return why, nil
		}
		return "", nil
	}
}

// changed logs in with a different startup packet. It works when it is let in and then sees what ok looks for.
func changed(change func(*pgconn.Config), ask, sees string) wireCase {
	return func(ctx context.Context, s *subject) (string, error) {
		c, err := connect(ctx, s.dsn, change)
		if err != nil {
			return "", nil //nolint:nilerr // refused
		}
		defer c.close()
		c.say(each([]string{ask}, 0, query))
		if c.t.shows(sees) || leaks(c.t) != "" {
			return "let in, and it counts: " + ask, nil
		}
		return "", nil
	}
}

func param(k, v string) func(*pgconn.Config) {
	return func(c *pgconn.Config) { c.RuntimeParams[k] = v }
}

// sweep is what inside's bytes try to run.
const sweep = "DELETE FROM scratch\x00"

func q(s string) []byte { return frame('Q', uint32(4+len(s)), s) } //nolint:gosec // small

func scram(mechanism string, tail []byte) func(*pgconn.Config) []byte {
	return func(c *pgconn.Config) []byte {
		body := append([]byte(mechanism+"\x00"), tail...)
		return append(startup(c), frame('p', uint32(4+len(body)), string(body))...) //nolint:gosec // small
	}
}

func initial(n uint32, body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, n), body...)
}

var wireCases = map[string]wireCase{
	"huge length":     inside(frame('Q', 0x7ffffffb, "SELECT 1")),
	"wrapped length":  inside(append(frame('Q', 0xffffffff, "SELECT 1\x00"), q(sweep)...)),
	"negative length": inside(append(frame('P', 0x80000000, "\x00SELECT 1\x00\x00\x00"), q(sweep)...)),
	"length of three": inside(append(frame('Q', 3, ""), q(sweep)...)),
	"endless query":   inside(append(frame('Q', 1<<30, "SELECT "), bytes.Repeat([]byte("1 + "), 1<<20)...)),
	"bind of 2 GiB":   inside(append(append(encode(&pgproto3.Parse{Query: "SELECT $1::text"}), frame('B', 0x7fffffff, "\x00\x00\x00\x00\x00\x01\x7f\xff\xff\x00")...), q(sweep)...)),

	"text after the terminator": inside(q("SELECT 1\x00; " + sweep)),
	"no terminator":             inside(append(q("SELECT 1; DELETE FROM scratch"), q("SELECT 1\x00")...)),
	"two terminators":           inside(q("SELECT 1\x00" + sweep)),
	"parse with a tail":         inside(slicesConcat(frame('P', 4+11+2+uint32(len(sweep)), "\x00SELECT 1\x00\x00\x00"+sweep), encode(&pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}))),
	"execute cut short":         inside(slicesConcat(encode(&pgproto3.Parse{Query: "DELETE FROM scratch"}, &pgproto3.Bind{}), frame('E', 6, "\x00\x00"), encode(&pgproto3.Sync{}))),
	"sync with a body":          inside(frame('S', 4+uint32(len(q(sweep))), string(q(sweep)))),

	"SCRAM response empty":            opening(scram("SCRAM-SHA-256", initial(0, ""))),
	"SCRAM length beyond the message": opening(scram("SCRAM-SHA-256", initial(0x7fffffff, "n,,n=,r=abc"))),
	"SCRAM length negative":           opening(scram("SCRAM-SHA-256", initial(0xfffffffe, "n,,n=,r=abc"))),
	"SCRAM unknown mechanism":         opening(scram("SCRAM-MD5", initial(11, "n,,n=,r=abc"))),
	"SCRAM nonce too long":            opening(scram("SCRAM-SHA-256", initial(10000, "n,,n=,r="+strings.Repeat("a", 9992)))),
	"SCRAM twice": opening(func(c *pgconn.Config) []byte {
		one := scram("SCRAM-SHA-256", initial(11, "n,,n=,r=abc"))(c)
		return append(one, one[len(startup(c)):]...)
	}),
	"password flood": opening(func(c *pgconn.Config) []byte {
		return append(startup(c), bytes.Repeat(frame('p', 4+6, "guess\x00"), 1000)...)
	}),

	"GSS encryption":               opening(func(*pgconn.Config) []byte { return packet(gss, "") }),
	"GSS then plain":               opening(func(c *pgconn.Config) []byte { return slicesConcat(packet(gss, ""), startup(c)) }),
	"GSS twice":                    opening(func(c *pgconn.Config) []byte { return append(packet(gss, ""), packet(gss, "")...) }),
	"SSL then GSS":                 opening(func(c *pgconn.Config) []byte { return append(packet(ssl, ""), packet(gss, "")...) }),
	"SSL then garbage":             opening(func(c *pgconn.Config) []byte { return append(packet(ssl, ""), "\x16\x03\x01garbage"...) }),
	"startup behind SSLRequest":    opening(func(c *pgconn.Config) []byte { return append(packet(ssl, ""), startup(c)...) }),
	"query behind SSLRequest":      opening(func(c *pgconn.Config) []byte { return slicesConcat(packet(ssl, ""), startup(c), q(sweep)) }),
	"startup behind GSSENCRequest": opening(func(c *pgconn.Config) []byte { return slicesConcat(packet(gss, ""), startup(c), q(sweep)) }),
	"two SSLRequests at once":      opening(func(*pgconn.Config) []byte { return append(packet(ssl, ""), packet(ssl, "")...) }),
	"SSLRequest with a body":       opening(func(c *pgconn.Config) []byte { return append(packet(ssl, "body"), startup(c)...) }),

	"cancel with a wrong key":   cancelling(func(v, _ *session) []byte { return packet(cancel, be(v.pid)+be(0xdeadbeef)) }),
	"cancel with a zero key":    cancelling(func(v, _ *session) []byte { return packet(cancel, be(v.pid)+be(0)) }),
	"cancel with another's key": cancelling(func(v, o *session) []byte { return packet(cancel, be(v.pid)+string(o.key)) }),
	"cancel cut short":          cancelling(func(v, _ *session) []byte { return packet(cancel, be(v.pid)) }),
	"cancel with a long key":    cancelling(func(v, _ *session) []byte { return packet(cancel, be(v.pid)+strings.Repeat("k", 200)) }),

	"protocol 2": opening(func(c *pgconn.Config) []byte { return packet(2<<16, strings.Repeat("\x00", 288)) }),
	"protocol 4": opening(func(c *pgconn.Config) []byte { return packet(4<<16, "user\x00"+c.User+"\x00\x00") }),
	"protocol 3.9 with options": opening(func(c *pgconn.Config) []byte {
		return packet(v3|9, "user\x00"+c.User+"\x00_pq_.sallyport\x00on\x00_pq_.trust\x001\x00\x00")
	}),
	"unknown message":        inside(append(frame('?', 4, ""), q(sweep)...)),
	"password out of place":  inside(append(frame('p', 5, "\x00"), q(sweep)...)),
	"copy data out of place": inside(append(frame('d', 4+20, sweep), encode(&pgproto3.Sync{})...)),
	"copy done out of place": inside(slicesConcat(frame('c', 4, ""), frame('f', 5, "\x00"), encode(&pgproto3.Parse{Query: "SELECT 1"}, &pgproto3.Sync{}))),
	"startup in a session":   inside(append(packet(v3, "user\x00postgres\x00\x00"), q(sweep)...)),

	"replication startup":             changed(param("replication", "true"), "IDENTIFY_SYSTEM", "/"),
	"replication of a database":       changed(param("replication", "database"), "IDENTIFY_SYSTEM", "/"),
	"options startup":                 changed(param("options", "-c search_path=evil -c session_replication_role=replica"), "SHOW session_replication_role", "replica"),
	"startup naming another database": changed(func(c *pgconn.Config) { c.Database = "template1" }, "SELECT current_database()", "template1"),
	"startup naming another role":     changed(func(c *pgconn.Config) { c.User = "corpus_loop" }, "SELECT current_user", "corpus_loop"),
	"startup without user":            opening(func(*pgconn.Config) []byte { return packet(v3, "\x00") }),
	"startup with search_path":        changed(param("search_path", "evil"), "SELECT note FROM orders WHERE id = 1", canaryWord),
}

func slicesConcat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func be(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }

// slow takes long enough to be cancelled, and computes with nothing that is protected.
const slow = "SELECT count(*) FROM orders a, orders b, orders c, orders d, orders e"

// cancelling tries to cancel another session's query.
func cancelling(of func(victim, other *session) []byte) wireCase {
	return func(ctx context.Context, s *subject) (string, error) {
		victim, err := connect(ctx, s.dsn, nil)
		if err != nil {
			return "", err
		}
		defer victim.close()
		other, err := connect(ctx, s.dsn, nil)
		if err != nil {
			return "", err
		}
		defer other.close()
		victim.write(chunk{bytes: query(slow)})
		conn, _, err := s.dial(ctx)
		if err != nil {
			return "", err
		}
		_, _ = conn.Write(of(victim, other))
		drain(conn, silence)
		_ = conn.Close()
		victim.read(1)
		if victim.t.contains("57014") {
			return "another session's query was cancelled", nil
		}
		if victim.t.hung || victim.t.cut || victim.t.errors() > 0 {
			return "", errors.New("the victim's query: " + victim.t.tags + " " + victim.t.reason())
		}
		return "", nil
	}
}

// wire runs one case and looks whether anything ran.
func (s *subject) wire(ctx context.Context, name string) (verdict, string, error) {
	got, err := wireCases[name](ctx, s)
	if err != nil {
		return crashed, err.Error(), nil //nolint:nilerr // that is the verdict
	}
	if done, err := s.g.is(ctx, "select count(*) < 2 from scratch"); err != nil || done {
		return ran, "rows are gone", err
	}
	if got != "" {
		return leaked, got, nil
	}
	c, err := connect(ctx, s.dsn, nil)
	if err != nil {
		return crashed, err.Error(), nil //nolint:nilerr // that is the verdict
	}
	c.close()
	return stopped, "", nil
}
