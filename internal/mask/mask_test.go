package mask_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sallyport/sallyport/internal/mask"
	"github.com/sallyport/sallyport/internal/secret"
)

var (
	noKey = secret.Secret{}
	key   = secret.New(strings.Repeat("k", 32))
)

// specs is one of each mask that needs no key.
var specs = []string{mask.Email, mask.Card, mask.Last4, "partial:2-3", mask.Full, mask.Null, "constant:n/a", "date:month"}

func TestAppend(t *testing.T) {
	tests := []struct{ masker, in, want string }{
		{mask.Email, "alice@example.com", "a***@***.com"},
		{mask.Email, "7up@x.co.uk", "7***@***.uk"},
		{mask.Email, "", "****"},
		{mask.Email, "@example.com", "****"},
		{mask.Email, "alice", "****"},
		{mask.Email, "alice@localhost", "****"},
		{mask.Email, "alice@.com", "****"},
		{mask.Email, "a@b@c.com", "****"},
		{mask.Email, "Alice <alice@example.com>", "****"},
		{mask.Email, `"al ice"@example.com`, "****"},
		{mask.Email, "älice@example.com", "****"},
		{mask.Email, "alice@example.c0m", "****"},
		{mask.Email, "alice@example.averyveryverylongone", "****"},
		{mask.Email, "a@" + strings.Repeat("x", 400) + ".com", "****"},
		{mask.Card, "4242424242424242", "************4242"},
		{mask.Card, "4242 4242 4242 1234", "************1234"},
		{mask.Card, "3782-822463-10005", "************0005"},
		{mask.Card, "12345678901", "****"},
		{mask.Card, "12345678901234567890", "****"},
		{mask.Card, "4242424242424242 alice", "****"},
		{mask.Card, strings.Repeat("4-", 30), "****"},
		{mask.Last4, "123-45-6789", "****6789"},
		{mask.Last4, "1234567", "****"},
		{mask.Last4, "ääääääää", "****ääää"},
		{mask.Last4, "1234567\xff", "****"},
		{mask.Full, "anything", "****"},
		{mask.Full, "", "****"},
		{"partial:2-3", "alice bob", "al****bob"},
		{"partial:2-3", "alicebob", "****"},
		{"partial:0-0", "alice", "****"},
		{"partial:1-0", "ärger", "ä****"},
		{mask.Null, "alice", "****"},
		{"constant:not shown", "alice", "not shown"},
		{"constant:", "alice", ""},
		{"constant:a:b", "alice", "a:b"},
		{"date:month", "2026-11-25", "2026-11-01"},
		{"date:year", "2026-11-25 10:20:30.123456+05:30", "2026-01-01 00:00:00+05:30"},
		{"date:day", "2026-11-25T10:20:30Z", "2026-11-25T00:00:00Z"},
		{"date:month", "25.11.2026", "****"},
		{"date:month", "2026-11-25 BC", "****"},
		{"date:month", "2026-11-25 alice", "****"},
		{"date:month", "2026-11-25alice", "****"},
		{"date:month", "2026-99-25", "****"},
	}
	for _, tt := range tests {
		m, err := mask.New(tt.masker, noKey)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(m.Append([]byte("pre"), []byte(tt.in))); got != "pre"+tt.want {
			t.Errorf("%s(%q) = %q, want %q", tt.masker, tt.in, got, "pre"+tt.want)
		}
	}
}

func TestZeroMaskerShowsNothing(t *testing.T) {
	if got := string(mask.Masker{}.Append(nil, []byte("secret"))); got != mask.Hidden {
		t.Fatalf("zero masker shows %q", got)
	}
}

func TestUnknownIsRefused(t *testing.T) {
	for _, name := range []string{"", "none", "EMAIL", mask.Hash, mask.Format, "email:", "partial", "partial:", "partial:2", "partial:-1-2", "partial:2-99",
		"constant", "constant:\x07", "constant:\xff", "constant:" + strings.Repeat("x", 65), "date", "date:hour", "full:x", "null:"} {
		if m, err := mask.New(name, noKey); err == nil {
			t.Errorf("New(%q) = %v", name, m)
		}
	}
	if _, err := mask.New(mask.Hash, secret.New("short")); err == nil {
		t.Error("a short key was taken")
	}
	for _, m := range []string{mask.Hash, mask.Format} {
		if err := mask.Check(m); err != nil || !mask.Keyed(m) {
			t.Errorf("%s: %v, keyed %v", m, err, mask.Keyed(m))
		}
	}
	for _, m := range specs {
		if err := mask.Check(m); err != nil || mask.Keyed(m) {
			t.Errorf("%s: %v, keyed %v", m, err, mask.Keyed(m))
		}
	}
}

func TestHash(t *testing.T) {
	a, err := mask.New(mask.Hash, secret.New(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := mask.New(mask.Hash, secret.New(strings.Repeat("l", 32)))
	if err != nil {
		t.Fatal(err)
	}
	one, same := string(a.Append(nil, []byte("v"))), string(a.Append(nil, []byte("v")))
	if one != same || len(one) != 18 || !strings.HasPrefix(one, "h:") {
		t.Fatalf("%q and %q", one, same)
	}
	if other := string(a.Append(nil, []byte("w"))); other == one {
		t.Error("two values share a hash")
	}
	if other := string(b.Append(nil, []byte("v"))); other == one {
		t.Error("two keys share a hash")
	}
}

func TestFormat(t *testing.T) {
	m, err := mask.New(mask.Format, key)
	if err != nil {
		t.Fatal(err)
	}
	shape := func(v string) string {
		return strings.Map(func(r rune) rune {
			switch {
			case r >= '0' && r <= '9':
				return '9'
			case r >= 'a' && r <= 'z', r == 'ä':
				return 'a'
			case r >= 'A' && r <= 'Z':
				return 'A'
			}
			return r
		}, v)
	}
	for _, v := range []string{"4242 4242 4242 4242", "5555555555554444", "alice.b@example.com", "AB-123/x", "Jäger", "+49 30 1234567", strings.Repeat("a1", 100)} {
		got := string(m.Append(nil, []byte(v)))
		if got == v || shape(got) != shape(v) || got != string(m.Append(nil, []byte(v))) {
			t.Errorf("%q became %q", v, got)
		}
	}
	if got := string(m.Append(nil, []byte("4242 4242 4242 4242"))); got[0] != '4' || !luhn(got) {
		t.Errorf("the card became %q: another network, or a wrong check digit", got)
	}
	if got := string(m.Append(nil, []byte("alice@example.com"))); !strings.HasSuffix(got, ".com") || strings.Contains(got, "example") {
		t.Errorf("the address became %q", got)
	}
	for _, v := range []string{"", "--", "\xff1", strings.Repeat("x", 2000)} {
		if got := string(m.Append(nil, []byte(v))); got != mask.Hidden {
			t.Errorf("%.20q became %q", v, got)
		}
	}
	other, err := mask.New(mask.Format, secret.New(strings.Repeat("l", 32)))
	if err != nil {
		t.Fatal(err)
	}
	if v := []byte("5555555555554444"); bytes.Equal(m.Append(nil, v), other.Append(nil, v)) {
		t.Error("two keys make the same of a value")
	}
	if printed := fmt.Sprintf("%v %+v %#v", m, m, &m); strings.Contains(printed, "kkkk") {
		t.Errorf("a masker prints its key: %s", printed)
	}
}

func luhn(v string) bool {
	sum, double := 0, false
	for i := len(v) - 1; i >= 0; i-- {
		if v[i] < '0' || v[i] > '9' {
			continue
		}
		d := int(v[i] - '0')
		if double {
			d = d*2/10 + d*2%10
		}
		sum, double = sum+d, !double
	}
	return sum%10 == 0
}

func TestShapes(t *testing.T) {
	tests := []struct {
		spec  string
		shape mask.Shape
		v     string
		want  string
		null  bool
	}{
		{mask.Email, mask.Nothing, "alice@example.com", "", true}, {mask.Email, mask.Text, "alice@example.com", "a***@***.com", false},
		{mask.Email, mask.Integer, "7", "0", false}, {mask.Email, mask.Boolean, "t", "f", false}, {mask.Full, mask.Bytes, `\x01`, `\x`, false},
		{mask.Full, mask.JSON, "{}", `"****"`, false}, {mask.Full, mask.Zoned, "2026-11-25 01:02:03+00", "1970-01-01 00:00:00+00", false},
		{mask.Full, mask.Shape(200), "x", "", true}, {mask.Null, mask.Text, "x", "", true}, {mask.Null, mask.Integer, "7", "", true},
		{"date:month", mask.DateOnly, "2026-11-25", "2026-11-01", false}, {"date:month", mask.DateOnly, "infinity", "1970-01-01", false},
		{"date:year", mask.Zoned, "2026-11-25 01:02:03.5+02", "2026-01-01 00:00:00+02", false}, {"date:year", mask.Integer, "7", "0", false},
		{"constant:x", mask.Integer, "7", "0", false},
	}
	for _, tt := range tests {
		m, err := mask.New(tt.spec, noKey)
		if err != nil {
			t.Fatal(err)
		}
		got, null := m.AppendAs(nil, []byte(tt.v), tt.shape, false)
		if string(got) != tt.want || null != tt.null {
			t.Errorf("%s as shape %d: %q, %v", tt.spec, tt.shape, got, null)
		}
	}
}

func TestBinaryShapes(t *testing.T) {
	tests := []struct {
		spec    string
		shape   mask.Shape
		v, want string // hex
	}{
		{mask.Full, mask.Small, "0007", "0000"}, {mask.Full, mask.Integer, "00000007", "00000000"}, {mask.Full, mask.Boolean, "01", "00"},
		{mask.Full, mask.UUID, strings.Repeat("ab", 16), strings.Repeat("00", 16)}, {mask.Full, mask.Numeric, "0001", "0000000000000000"},
		{mask.Full, mask.JSONB, "017b7d", "01" + hex.EncodeToString([]byte(`"****"`))}, {mask.Full, mask.DateOnly, "00000000", "ffffd533"},
		{"date:month", mask.DateOnly, "00002661", "00002649"},                // 2026-11-25, 2026-11-01
		{"date:day", mask.Timestamp, "ffffffffffffffff", "ffffffebe228a000"}, // 1999-12-31 23:59:59.999999
		{"date:year", mask.Zoned, "0003040e24c3d8c0", "0002ea470ae86000"},    // 2026-11-25 01:02:03
		{"date:year", mask.DateOnly, "7fffffff", "00000000"},                 // infinity
		{"date:year", mask.DateOnly, "00", "ffffd533"},                       // no date
	}
	for _, tt := range tests {
		m, err := mask.New(tt.spec, noKey)
		if err != nil {
			t.Fatal(err)
		}
		v, err := hex.DecodeString(tt.v)
		if err != nil {
			t.Fatal(err)
		}
		if got, null := m.AppendAs(nil, v, tt.shape, true); hex.EncodeToString(got) != tt.want || null {
			t.Errorf("%s of %s as shape %d: %x, %v; want %s", tt.spec, tt.v, tt.shape, got, null, tt.want)
		}
	}
}

// A hash of a number is one number, whichever way the client reads it.
func TestHashOfNumbers(t *testing.T) {
	m, err := mask.New(mask.Hash, key)
	if err != nil {
		t.Fatal(err)
	}
	uuid := "0123456789abcdef0123456789abcdef"
	for _, tt := range []struct {
		shape        mask.Shape
		text, binary string
	}{
		{mask.Small, "-7", "fff9"}, {mask.Integer, "70000", "00011170"}, {mask.Big, "-1", "ffffffffffffffff"},
		{mask.UUID, "01234567-89ab-cdef-0123-456789abcdef", uuid},
	} {
		raw, err := hex.DecodeString(tt.binary)
		if err != nil {
			t.Fatal(err)
		}
		asText, _ := m.AppendAs(nil, []byte(tt.text), tt.shape, false)
		asBinary, _ := m.AppendAs(nil, raw, tt.shape, true)
		var n uint64
		for _, b := range asBinary {
			n = n<<8 | uint64(b)
		}
		same := fmt.Sprint(n) == string(asText)
		if tt.shape == mask.UUID {
			same = hex.EncodeToString(asBinary) == strings.ReplaceAll(string(asText), "-", "")
		}
		if !same || len(asBinary) != len(raw) || string(asText) == "0" {
			t.Errorf("shape %d: %q and %x", tt.shape, asText, asBinary)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	hashed, err := mask.New(mask.Hash, secret.New(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	format, err := mask.New(mask.Format, key)
	if err != nil {
		t.Fatal(err)
	}
	maskers := []mask.Masker{hashed, format}
	for _, name := range specs {
		m, err := mask.New(name, noKey)
		if err != nil {
			t.Fatal(err)
		}
		maskers = append(maskers, m)
	}
	dst, v := make([]byte, 0, 256), []byte("alice@example.com")
	for i, m := range maskers {
		if n := testing.AllocsPerRun(100, func() { dst = m.Append(dst[:0], v) }); n != 0 {
			t.Errorf("masker %d allocates %v times", i, n)
		}
	}
}

// FuzzAppend: never panics, never grows past Growth, never shows the value itself, and stays valid UTF-8.
func FuzzAppend(f *testing.F) {
	for _, s := range []string{"", "alice@example.com", "4242 4242 4242 4242", "äöü@x.de", "\xff\xfe", "12345678"} {
		f.Add([]byte(s))
	}
	hashed, err := mask.New(mask.Hash, secret.New(strings.Repeat("k", 32)))
	if err != nil {
		f.Fatal(err)
	}
	format, err := mask.New(mask.Format, key)
	if err != nil {
		f.Fatal(err)
	}
	maskers := map[string]mask.Masker{mask.Hash: hashed, mask.Format: format}
	for _, name := range specs {
		m, err := mask.New(name, noKey)
		if err != nil {
			f.Fatal(err)
		}
		maskers[name] = m
	}
	f.Fuzz(func(t *testing.T, v []byte) {
		for name, m := range maskers {
			out := m.Append(nil, v)
			if len(out) > len(v)+mask.Growth || !utf8.Valid(out) {
				t.Fatalf("%s: %d bytes became %q", name, len(v), out)
			}
			// A date at the beginning of its month is what it is cut to; a format may, rarely, hit the value itself.
			if len(v) > 4 && !strings.HasPrefix(name, mask.Date) && (name != mask.Format || len(v) > 12) && bytes.Contains(out, v) {
				t.Fatalf("%s lets %q through as %q", name, v, out)
			}
		}
	})
}

func BenchmarkEmail(b *testing.B) {
	m, err := mask.New(mask.Email, noKey)
	if err != nil {
		b.Fatal(err)
	}
	dst, v := make([]byte, 0, 64), []byte("alice.somebody@example.com")
	b.SetBytes(int64(len(v)))
	for b.Loop() {
		dst = m.Append(dst[:0], v)
	}
}
