package mask_test

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sallyport/sallyport/internal/mask"
)

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
	}
	for _, tt := range tests {
		m, err := mask.New(tt.masker)
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
	for _, name := range []string{"", "none", "EMAIL", mask.Hash} {
		if m, err := mask.New(name); err == nil {
			t.Errorf("New(%q) = %v", name, m)
		}
	}
	if _, err := mask.NewHash([]byte("short")); err == nil {
		t.Error("a short key was taken")
	}
}

func TestHash(t *testing.T) {
	a, err := mask.NewHash(bytes.Repeat([]byte("k"), 32))
	if err != nil {
		t.Fatal(err)
	}
	b, err := mask.NewHash(bytes.Repeat([]byte("l"), 32))
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

func TestShapes(t *testing.T) {
	m, err := mask.New(mask.Email)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		shape mask.Shape
		want  string
		null  bool
	}{
		{mask.Null, "", true}, {mask.Text, "a***@***.com", false}, {mask.Integer, "0", false}, {mask.Boolean, "f", false},
		{mask.Bytes, `\x`, false}, {mask.JSON, `"****"`, false}, {mask.Zoned, "1970-01-01 00:00:00+00", false}, {mask.Shape(200), "", true},
	}
	for _, tt := range tests {
		got, null := m.AppendAs(nil, []byte("alice@example.com"), tt.shape)
		if string(got) != tt.want || null != tt.null {
			t.Errorf("shape %d: %q, %v", tt.shape, got, null)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	hashed, err := mask.NewHash(bytes.Repeat([]byte("k"), 32))
	if err != nil {
		t.Fatal(err)
	}
	maskers := []mask.Masker{hashed}
	for _, name := range []string{mask.Email, mask.Card, mask.Last4, mask.Full} {
		m, err := mask.New(name)
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
	hashed, err := mask.NewHash(bytes.Repeat([]byte("k"), 32))
	if err != nil {
		f.Fatal(err)
	}
	maskers := map[string]mask.Masker{mask.Hash: hashed}
	for _, name := range []string{mask.Email, mask.Card, mask.Last4, mask.Full} {
		m, err := mask.New(name)
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
			if len(v) > 4 && bytes.Contains(out, v) {
				t.Fatalf("%s lets %q through as %q", name, v, out)
			}
		}
	})
}

func BenchmarkEmail(b *testing.B) {
	m, err := mask.New(mask.Email)
	if err != nil {
		b.Fatal(err)
	}
	dst, v := make([]byte, 0, 64), []byte("alice.somebody@example.com")
	b.SetBytes(int64(len(v)))
	for b.Loop() {
		dst = m.Append(dst[:0], v)
	}
}
