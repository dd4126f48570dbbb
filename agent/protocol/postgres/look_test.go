package postgres

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/mask"
)

// found are classes that only detectors know.
var found = []access.Class{{Name: "mail", Detector: mask.DetectMail, Mask: mask.Email}, {Name: "pan", Detector: mask.DetectCard, Mask: mask.Card}}

func looking(t testing.TB, classes []access.Class, fields ...field) *masking {
	m, err := maskingOf(fields, onlyEmail{}, rule{declared: detected(classes, plan{}), masks: maskAll, made: new(maskers), classes: classes})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestLook(t *testing.T) {
	big := string(binary.BigEndian.AppendUint64(nil, 4242424242424242))
	small := string(binary.BigEndian.AppendUint64(nil, 4242424242424243))
	tests := []struct {
		typ      uint32
		format   uint16
		in, want string
	}{
		{25, 0, "write to ada@example.com.", "write to a***@***.com."},
		{25, 1, "ada@example.com and bob@example.org", "a***@***.com and b***@***.org"},
		{25, 0, "nobody", "nobody"},
		{25, 0, "4242424242424242", "************4242"},
		{114, 0, `{"mail":"ada@example.com"}`, `{"mail":"a***@***.com"}`},
		{3802, 1, "\x01" + `{"mail":"ada@example.com"}`, "\x01" + `{"mail":"a***@***.com"}`},
		{1009, 0, `{ada@example.com,x}`, `{a***@***.com,x}`},
		{1009, 1, "\x00\x00\x00\x0fada@example.com", "NULL"},
		{1009, 1, "\x00\x00\x00\x03ada", "\x00\x00\x00\x03ada"},
		{20, 0, "4242424242424242", "0"},
		{20, 0, "4242424242424243", "4242424242424243"},
		{20, 1, big, "\x00\x00\x00\x00\x00\x00\x00\x00"},
		{20, 1, small, small},
		{1700, 0, "4242424242424242", "0"},
		{17, 1, "ada@example.com", "ada@example.com"},
		{1184, 0, "2026-11-25 10:00:00+00", "2026-11-25 10:00:00+00"},
		{20000, 0, "ada@example.com", "a***@***.com"},
		{20000, 1, "ada@example.com", "NULL"},
	}
	for _, tt := range tests {
		m := looking(t, found, field{typ: tt.typ, format: tt.format})
		row := dataRow(tt.in)
		out, err := m.row(nil, row)
		if err != nil {
			t.Fatal(err)
		}
		want := dataRow(tt.want)
		if tt.want == "NULL" {
			want = []byte("D\x00\x00\x00\x0a\x00\x01\xff\xff\xff\xff")
		}
		if !bytes.Equal(out, want) {
			t.Errorf("type %d, format %d: %q became %q, want %q", tt.typ, tt.format, tt.in, out, want)
		}
		if counts := m.counted(nil); (len(counts) > 0) != (tt.in != tt.want) {
			t.Errorf("type %d, %q: counted %v", tt.typ, tt.in, counts)
		}
	}
}

// What policy reveals is not looked for; what it was not asked about is.
func TestLookOnlyForWhatIsHidden(t *testing.T) {
	fields := []field{{typ: 25}}
	text := "ada@example.com 4242424242424242"
	for _, tt := range []struct {
		declared []access.ClassUse
		masks    func(string) bool
		want     string
	}{
		{detected(found, plan{}), func(class string) bool { return class == "pan" }, "ada@example.com ************4242"},
		{detected(found, plan{}), func(string) bool { return false }, text},
		{nil, func(string) bool { return false }, "a***@***.com ************4242"},
	} {
		m, err := maskingOf(fields, onlyEmail{}, rule{declared: tt.declared, masks: tt.masks, made: new(maskers), classes: found})
		if err != nil {
			t.Fatal(err)
		}
		out, err := m.row(nil, dataRow(text))
		if err != nil || !bytes.Equal(out, dataRow(tt.want)) {
			t.Errorf("%q, %v; want %q", out, err, tt.want)
		}
	}
}

// Rows that are copied nowhere else: COPY carries them in a form that the room does not look into.
func TestCopyOutIsNotLookedInto(t *testing.T) {
	for _, u := range detected(found, plan{copyOut: true}) {
		if !u.Derived {
			t.Errorf("%+v could be masked", u)
		}
	}
	if uses := detected([]access.Class{{Name: "email", Columns: []string{"a.b.c"}}}, plan{}); len(uses) != 0 {
		t.Errorf("a class without a detector: %+v", uses)
	}
}

// FuzzLook: however a long row is cut, nothing is left in it that the short way masks, and its length stays.
func FuzzLook(f *testing.F) {
	f.Add("ada@example.com", "x", 3)
	f.Add(strings.Repeat("4242424242424242 ", 90), "-----BEGIN PRIVATE KEY-----", 7)
	classes := append([]access.Class{{Name: "secret", Detector: mask.DetectSecret, Mask: mask.Full}}, found...)
	f.Fuzz(func(t *testing.T, a, b string, cut int) {
		fields := []field{{typ: 25}, {typ: 25}}
		row := dataRow(a, b)
		short, err := looking(t, classes, fields...).row(nil, row)
		if err != nil {
			t.Fatal(err)
		}
		var long []byte
		l := looking(t, classes, fields...).large(len(row)-header, func(b []byte) error {
			long = append(long, b...)
			return nil
		})
		cut = max(1, cut&1023)
		for rest := bytes.Clone(row[header:]); len(rest) > 0; {
			n := min(cut, len(rest))
			if err := l.pass(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if len(long) != len(row)-header {
			t.Fatalf("%d bytes became %d", len(row)-header, len(long))
		}
		if changed := !bytes.Equal(short, row); changed != !bytes.Equal(long, row[header:]) && !strings.ContainsRune(a+b, '*') {
			t.Fatalf("%q: the short way %q, the long one %q", row, short, long)
		}
	})
}

func BenchmarkRowsLooked(b *testing.B) {
	fields := make([]field, 6)
	for i := range fields {
		fields[i].typ = 25
	}
	fields[2] = field{origin: origin{7, 1}, typ: 25}
	m := looking(b, append([]access.Class{{Name: "secret", Detector: mask.DetectSecret, Mask: mask.Full}}, found...), fields...)
	row := dataRow("1234567", "Ada Lovelace", "ada.lovelace@example.com", "2024-11-25 01:02:03", "some text of a usual length, as notes are", "12345.67")
	dst := make([]byte, 0, 4096)
	b.SetBytes(int64(len(row)))
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if dst, err = m.row(dst[:0], row); err != nil {
			b.Fatal(err)
		}
	}
}
