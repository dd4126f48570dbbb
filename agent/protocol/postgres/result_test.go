package postgres

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
)

func TestMaskingOf(t *testing.T) {
	email, plain, unknown, expression := field{origin: origin{7, 1}, typ: 25}, field{origin: origin{7, 2}, typ: 25}, field{origin: origin{9, 1}, typ: 25}, field{typ: 25}
	asked := []access.ClassUse{{Class: "email"}}
	none := func(string) bool { return false }
	tests := []struct {
		name     string
		fields   []field
		declared []access.ClassUse
		masks    func(string) bool
		masked   int
		fails    bool
	}{
		{"masked", []field{email, plain, expression}, asked, maskAll, 1, false},
		{"revealed", []field{email, plain}, asked, none, 0, false},
		{"facts had not named the class: nobody was asked about it", []field{email}, nil, none, 1, false},
		{"twice", []field{email, email}, asked, maskAll, 2, false},
		{"unknown table", []field{plain, unknown}, asked, none, 0, true},
		{"system column of a table with classes", []field{{origin: origin{7, 0xffff}}}, asked, none, 0, true},
	}
	for _, tt := range tests {
		m, err := maskingOf(tt.fields, onlyEmail{}, rule{declared: tt.declared, masks: tt.masks, made: new(maskers)})
		if (err != nil) != tt.fails || err == nil && len(m.columns) != tt.masked {
			t.Errorf("%s: %+v, %v", tt.name, m, err)
		}
	}
}

func TestRow(t *testing.T) {
	m := emailMasking(t, field{origin: origin{7, 2}, typ: 25}, field{origin: origin{7, 1}, typ: 25}, field{typ: 23})
	out, err := m.row(nil, dataRow("x", "ada@example.com", "1"))
	if err != nil || !bytes.Equal(out, dataRow("x", "a***@***.com", "1")) {
		t.Fatalf("%q %v", out, err)
	}
	if counts := m.counted(nil); counts["email"] != 1 {
		t.Errorf("counted %v", counts)
	}
	null := []byte("D\x00\x00\x00\x13\x00\x03\x00\x00\x00\x01x\xff\xff\xff\xff\xff\xff\xff\xff")
	if out, err := m.row(nil, null); err != nil || !bytes.Equal(out, null) {
		t.Fatalf("NULL became %q, %v", out, err)
	}
	if counts := m.counted(nil); len(counts) != 0 {
		t.Errorf("a NULL counts: %v", counts)
	}
	for _, bad := range [][]byte{nil, dataRow(), dataRow("x"), dataRow("x", "y", "z", "q"), dataRow("x", "y", "z")[:20], append(dataRow("x", "y", "z"), 0)} {
		if out, err := m.row(nil, bad); err == nil || len(out) != 0 {
			t.Errorf("%q became %q", bad, out)
		}
	}
}

// rowsOf is a result of n rows with six columns, of which the third is masked.
func rowsOf(n int) (head, rows []byte) {
	head, at := frame(nil, 'T')
	head = append(head, 0, 6)
	for i := range 6 {
		column := byte(2)
		if i == 2 {
			column = 1
		}
		head = append(head, 'c', 0, 0, 0, 0, 7, 0, column, 0, 0, 0, 25, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0)
	}
	one := dataRow("1234567", "Ada Lovelace", "ada.lovelace@example.com", "2024-11-25 01:02:03", "some text of a usual length, as notes are", "12345.67")
	return seal(head, at), bytes.Repeat(one, n)
}

// endless reads one result over and over, and counts what is written.
type endless struct {
	scripted
	head, rows []byte
	at         int
	begun      bool
	left       int // times that rows are given
	n          int64
}

func (e *endless) Read(b []byte) (int, error) {
	if !e.begun {
		e.begun = true
		return copy(b, e.head), nil
	}
	if e.at == len(e.rows) {
		e.at, e.left = 0, e.left-1
		if e.left <= 0 {
			return 0, io.EOF
		}
	}
	n := copy(b, e.rows[e.at:])
	e.at += n
	return n, nil
}

func (e *endless) Write(b []byte) (int, error) {
	e.n += int64(len(b))
	return len(b), nil
}

func pumpRows(times int, masked bool) (in int64, out int64) {
	head, rows := rowsOf(5000)
	target := &endless{head: head, rows: rows, left: times}
	client := &endless{}
	s := &protocol.Session{Log: slog.New(slog.DiscardHandler)}
	l := &link{s: s, out: newOut(client), q: newQueue('I'), conn: target}
	_ = l.q.push(&expect{kind: kindQuery, run: &running{ended: true, classes: []access.ClassUse{{Class: "email"}}}})
	k := &back{l: l, q: l.q, out: l.out, tap: newTap(target, l.out.flush)}
	if masked { // what RowDescription would make of it with a catalogue
		fields, err := fieldsOfRow(head[header:])
		if err != nil {
			panic(err)
		}
		if k.mask, err = maskingOf(fields, onlyEmail{}, rule{declared: []access.ClassUse{{Class: "email"}}, masks: maskAll, made: new(maskers)}); err != nil {
			panic(err)
		}
		target.begun = true
	}
	_ = k.loop(context.Background())
	_ = l.out.flush()
	return int64(times) * int64(len(rows)), client.n
}

// The path of rows allocates nothing per row.
func TestRowsAllocateNothing(t *testing.T) {
	for _, masked := range []bool{false, true} {
		few := testing.AllocsPerRun(3, func() { pumpRows(1, masked) })
		many := testing.AllocsPerRun(3, func() { pumpRows(11, masked) })
		if many-few > 5 {
			t.Errorf("masked=%v: 50,000 rows more allocate %v times more", masked, many-few)
		}
	}
}

func BenchmarkRows(b *testing.B) {
	for name, masked := range map[string]bool{"plain": false, "masked one of six": true} {
		b.Run(name, func(b *testing.B) {
			_, rows := rowsOf(5000)
			b.SetBytes(int64(len(rows)))
			b.ReportAllocs()
			pumpRows(b.N, masked)
		})
	}
}

func TestTerminates(t *testing.T) {
	for _, tt := range []struct {
		bytes string
		want  bool
	}{
		{"", false}, {"X\x00\x00\x00\x04", true}, {"X\x00\x00\x00", false}, {"X\x00\x00\x00\x05X", false},
		{"Q\x00\x00\x00\x0aselectX\x00\x00\x00\x04", true}, {"Q\x00\x00\x00\x0eX\x00\x00\x00\x04X\x00\x00\x00\x04", false},
		{"Q\x00\x00\x00\x01X\x00\x00\x00\x04", false}, {"Q\xff\xff\xff\xffX\x00\x00\x00\x04", false},
	} {
		for cut := range len(tt.bytes) + 1 {
			in := newInbox()
			in.cur, in.more = []byte(tt.bytes[:cut]), [][]byte{[]byte(tt.bytes[cut:])}
			if got := in.terminates(); got != tt.want {
				t.Errorf("%q cut at %d: %v", tt.bytes, cut, got)
			}
		}
	}
}

func TestScrubbed(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []byte
		want string
	}{
		{"a name is kept", errorResponse("SERROR", "VERROR", "C42P01", `Mrelation "x" does not exist`, "P15", "Hnone", "Fparse.c"), `SERROR|VERROR|C42P01|Mrelation "x" does not exist|Hnone|P15|Fparse.c|`},
		{"a value is not", errorResponse("SERROR", "VERROR", "C22P02", `Minvalid input syntax for type integer: "ada" "b"`, "Dsecret"), `SERROR|VERROR|C22P02|Minvalid input syntax for type integer: "***"|`},
		{"a constraint is kept, its key is not", errorResponse("SERROR", "VERROR", "C23505", `Mduplicate key value violates unique constraint "k"`, "DKey (email)=(ada)", "nk"), `SERROR|VERROR|C23505|Mduplicate key value violates unique constraint "k"|nk|`},
		{"user code", errorResponse("SERROR", "VERROR", "C23505", "Mada", "WPL/pgSQL function f()", "nada", "Hada"), "SERROR|VERROR|C23505|M" + withheld + "|"},
		{"raised without context", errorResponse("SERROR", "VERROR", "CP0001", "Mada"), "SERROR|VERROR|CP0001|M" + withheld + "|"},
		{"translated severity", errorResponse("SFEHLER", "C42601", "Mx"), "SERROR|VERROR|C42601|Mx|"},
	} {
		out, _ := scrubbed(nil, 'E', tt.in[header:])
		if got := strings.ReplaceAll(strings.TrimSuffix(string(out[header:]), "\x00"), "\x00", "|"); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}
