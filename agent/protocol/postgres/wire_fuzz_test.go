package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
)

// onlyEmail classifies table 7: column 1 is an e-mail address, 2 is plain, everything else is unknown.
type onlyEmail struct{}

func (onlyEmail) class(o origin) (string, string, bool) {
	if o.table != 7 || o.column > 2 {
		return "", "", false
	}
	if o.column == 1 {
		return "email", "email", true
	}
	return "", "", true
}

func maskAll(string) bool { return true }

func emailMasking(t testing.TB, fields ...field) *masking {
	t.Helper()
	m, err := maskingOf(fields, onlyEmail{}, rule{declared: []access.ClassUse{{Class: "email"}}, masks: maskAll, made: new(maskers)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func FuzzStartup(f *testing.F) {
	f.Add(uint32(version3), startupPacket(version3, "user", "a", "database", "b", "_pq_.x", "")[8:])
	f.Add(uint32(2<<16), []byte("user\x00a\x00\x00"))
	f.Fuzz(func(t *testing.T, code uint32, body []byte) {
		st, err := parseStartup(code, body)
		if err != nil {
			return
		}
		if st.user == "" || code>>majorOf != 3 {
			t.Fatalf("took %d %q as %+v", code, body, st)
		}
		for name := range st.settings {
			if strings.EqualFold(name, "role") || strings.EqualFold(name, "options") {
				t.Fatalf("setting %q passed", name)
			}
		}
		if out := st.negotiated(nil); len(out) > 0 && binary.BigEndian.Uint32(out[1:]) != uint32(len(out)-1) {
			t.Fatalf("negotiation of wrong length")
		}
	})
}

// PG-23: whatever comes in place of SCRAM messages, the decoder neither crashes nor lets anybody in.
func FuzzPG23_Scram(f *testing.F) {
	v := verifier(f, "password")
	f.Add([]byte("SCRAM-SHA-256\x00\x00\x00\x00\x12n,,n=,r=0123456789"), "c=biws,r=0123456789,p=AAAA")
	f.Add([]byte("SCRAM-SHA-256\x00\xff\xff\xff\xff"), "")
	f.Add([]byte("SCRAM-SHA-256-PLUS\x00\x00\x00\x00\x2ap=tls-server-end-point,,n=,r=0123456789"), "c=cD10bHM=,r=0123456789,p=AA")
	f.Fuzz(func(t *testing.T, first []byte, final string) {
		gs2, bare, err := clientFirst(first, len(final)%2 == 0)
		if err != nil {
			return
		}
		if _, ok := clientFinal(v, []byte(gs2), bare, "r=x,s=AAAA,i=4096", attribute(bare, 'r')+"x", final); ok {
			t.Fatalf("let in by %q %q", first, final)
		}
	})
}

func FuzzBind(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\x00\x00\x00\x011\x00\x00"))
	f.Add([]byte("\x00\x01\x00\x01\x00\x02\xff\xff\xff\xff\x00\x00\x00\x00\x00\x01\x00\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := cursor{b: b}
		params, ok := bindParams(&c)
		if !ok {
			return
		}
		n := 0
		for _, p := range params {
			n += len(p.Value)
			if p.Null && p.Value != nil {
				t.Fatal("a NULL with a value")
			}
		}
		if n > len(b) {
			t.Fatalf("%d bytes of values out of %d", n, len(b))
		}
	})
}

func FuzzRowDescription(f *testing.F) {
	f.Add(rowDescription(7, 1, "email", "name")[header:])
	f.Fuzz(func(t *testing.T, b []byte) {
		fields, err := fieldsOfRow(b)
		if err != nil {
			return
		}
		if len(fields)*19 > len(b) {
			t.Fatalf("%d fields out of %d bytes", len(fields), len(b))
		}
		if m, err := maskingOf(fields, onlyEmail{}, rule{masks: maskAll, made: new(maskers)}); err == nil {
			for i, fl := range fields {
				masked := false
				for _, c := range m.columns {
					masked = masked || c.index == i
				}
				if (fl.origin == origin{7, 1}) != masked {
					t.Fatalf("field %d: %+v masked=%v", i, fl, masked)
				}
			}
		}
	})
}

// FuzzRow: a masked row never holds the value, has the length that it claims, and the short and the long way agree on what is a row.
func FuzzRow(f *testing.F) {
	f.Add(dataRow("x", "ada@example.com", "y"), 3)
	f.Add(dataRow("", "", ""), 1)
	f.Add([]byte("D\x00\x00\x00\x12\x00\x03\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00"), 2)
	f.Fuzz(func(t *testing.T, msg []byte, cut int) {
		if len(msg) < header {
			return
		}
		fields := []field{{origin: origin{7, 2}, typ: 25}, {origin: origin{7, 1}, typ: 25}, {origin: origin{0, 0}, typ: 23}}
		m := emailMasking(t, fields...)
		out, err := m.row([]byte("before"), msg)
		if !bytes.HasPrefix(out, []byte("before")) {
			t.Fatal("what was there is gone")
		}
		var long []byte
		l := emailMasking(t, fields...).large(len(msg)-header, func(b []byte) error {
			long = append(long, b...)
			return nil
		})
		cut = max(1, cut&15)
		var lerr error
		for rest := bytes.Clone(msg[header:]); len(rest) > 0 && lerr == nil; {
			n := min(cut, len(rest))
			lerr = l.pass(rest[:n])
			rest = rest[n:]
		}
		if len(msg) > header && (err == nil) != (lerr == nil) {
			t.Fatalf("short way: %v, long way: %v", err, lerr)
		}
		if err != nil {
			return
		}
		out = out[6:]
		if int(binary.BigEndian.Uint32(out[1:])) != len(out)-1 || len(out) > len(msg)+m.grow || len(long) != len(msg)-header {
			t.Fatalf("row of %d bytes says %d", len(out), binary.BigEndian.Uint32(out[1:]))
		}
		for _, body := range [][]byte{out[header:], long} {
			c := cursor{b: body[2:]}
			c.take(int(max(int32(c.uint32()), 0)))
			size := int32(c.uint32())
			if v := c.take(int(max(size, 0))); bytes.ContainsFunc(v, func(r rune) bool { return !strings.ContainsRune("*@.", r) }) && !bytes.Contains(v, []byte("***@***.")) {
				t.Fatalf("masked value is %q", v)
			}
		}
	})
}

// FuzzScrub: whatever the target says, what is left parses, has a severity and a code, and none of the fields that hold values.
func FuzzScrub(f *testing.F) {
	f.Add(errorResponse("SERROR", "VERROR", "C22P02", `Minvalid input: "x"`, "Dd", "Ww")[header:])
	f.Add([]byte("Sx"))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, tag := range []byte("EN") {
			out, code := scrubbed(nil, tag, body)
			got := fieldsOf(out[header:])
			if out[0] != tag || int(binary.BigEndian.Uint32(out[1:])) != len(out)-1 || len(code) != 5 || string(got['C']) != code || len(got['M']) == 0 || len(got['S']) == 0 {
				t.Fatalf("%q became %q", body, out)
			}
			for _, k := range []byte("DWq") {
				if got[k] != nil {
					t.Fatalf("%q kept %c", body, k)
				}
			}
		}
	})
}

// scripted is a connection whose reads are given and whose writes are kept.
type scripted struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (s *scripted) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s *scripted) Write(b []byte) (int, error) { return s.out.Write(b) }

// FuzzTarget: any bytes of a target, in answer to a query or a pipeline: no panic, and the client gets whole messages of known kinds.
func FuzzTarget(f *testing.F) {
	f.Add(join(rowDescription(7, 1, "email"), dataRow("ada@example.com"), complete("SELECT 1"), appendReady(nil, 'I')), true)
	f.Add(join([]byte("1\x00\x00\x00\x042\x00\x00\x00\x04"), rowDescription(7, 1, "email"), dataRow("ada@example.com"), complete("SELECT 1"), appendReady(nil, 'I')), false)
	f.Add(errorResponse("SFATAL", "C57P01"), true)
	f.Fuzz(func(t *testing.T, b []byte, simple bool) {
		target, client := &scripted{in: bytes.NewReader(b)}, &scripted{}
		l := &link{s: &protocol.Session{Classes: guardedClasses, Log: slog.New(slog.DiscardHandler)}, out: newOut(client), q: newQueue('I'), cat: &catalogue{}, conn: target}
		if simple {
			_ = l.q.push(&expect{kind: kindQuery, run: &running{permit: &gate.Permit{}, ended: true}})
		} else {
			p := &portal{}
			for _, e := range []*expect{{kind: kindParse, made: &statement{}}, {kind: kindBind, portal: p}, {kind: kindDescribePortal, portal: p, hidden: true},
				{kind: kindExecute, portal: p, run: &running{permit: &gate.Permit{}, ended: true}}, {kind: kindSync}} {
				_ = l.q.push(e)
			}
		}
		k := &back{l: l, q: l.q, out: l.out, tap: newTap(target, l.out.flush)}
		if err := k.loop(context.Background()); err == nil {
			t.Fatal("the loop ended without a reason")
		}
		_ = l.out.flush()
		got := client.out.Bytes()
		for len(got) > 0 {
			if len(got) < header || !strings.ContainsRune("EZNSTDCI12sn", rune(got[0])) {
				t.Fatalf("client got %q", got)
			}
			n := int(binary.BigEndian.Uint32(got[1:])) + 1
			if n > len(got) {
				if l.out.inside {
					return
				}
				t.Fatalf("client got part of a message: %q", got)
			}
			got = got[n:]
		}
	})
}

// FuzzClient: any bytes of a client after its startup: no panic, and nothing but known messages goes to the target.
func FuzzClient(f *testing.F) {
	f.Add(join(appendQuery(nil, "select 1"), appendBare(nil, 'X')), uint8(3))
	f.Add(join(appendParse(nil, "", "select 1"), appendBind(nil, "", ""), appendExecute(nil, ""), appendBare(nil, 'S')), uint8(200))
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		in := newInbox()
		done := make(chan struct{})
		go func() {
			defer close(done)
			in.pump(&scripted{in: &stepped{bytes.NewReader(b), int(step) + 1}}, nil)
		}()
		fr := newFront(&link{in: in, conn: &scripted{}, set: &Settings{}, q: newQueue('I')}, newRation(memory))
		for {
			tag, msg, err := fr.next(context.Background())
			if err != nil {
				break
			}
			if !strings.ContainsRune("QPBDECHSXFdcf", rune(tag)) || int(binary.BigEndian.Uint32(msg[1:])) != len(msg)-1 {
				t.Fatalf("took %q", msg)
			}
			in.terminates()
		}
		for !in.done {
			chunk, ok := <-in.full
			in.arrived(chunk, ok)
			in.cur, in.more = nil, in.more[:0]
			if ok {
				in.free <- make([]byte, slabSize)
			}
		}
		<-done
	})
}

// stepped hands out a few bytes at a time.
type stepped struct {
	r *bytes.Reader
	n int
}

func (s *stepped) Read(b []byte) (int, error) { return s.r.Read(b[:min(s.n, len(b))]) }
