package sqltext

import (
	"errors"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	l := Limits{Bytes: 200, Tokens: 40, Statements: 2, Depth: 4, Chain: 6}
	for _, c := range []struct {
		text string
		want error
	}{
		{"select 1", nil}, {"select 1; select 2;", nil}, {";;;", nil}, {"select 1; select 2; select 3", ErrLimit},
		{"select ';;;;;;' /* ; ; */ -- ;;;", nil}, {"select $$ ; ; ; $$", nil}, {"select E'\\'; ; ; ;'", nil},
		{"select ((((1))))", nil}, {"select (((((1)))))", ErrLimit}, {"select '((((((('", nil}, {`select "((((((("`, nil}, {"select [[[[[1", ErrLimit},
		{"select 1+1+1+1+1+1+1", nil}, {"select 1+1+1+1+1+1+1+1", ErrLimit}, {"select 1+1+1, 1+1+1+1, 1+1", nil}, {"select a=1 or b=2 or c=3 or d=4 or e=5 or f=6 or g=7", nil},
		{"select 1 union select 1, 1 union select 1 union select 1 union select 1 union select 1 union select 1 union select 1", ErrLimit},
		{"select 1 between 1 and 2 isnull between 1 and 2 isnull between 1 and 2 isnull between 1 and 2 isnull", ErrLimit},
		{"select (1+1+1+(1+1+1+(1+1)))", ErrLimit}, {strings.Repeat(" ", 201), ErrLimit}, {strings.Repeat("a ", 41), ErrLimit},
		{"select '\xff'", ErrEncoding}, {"select 1\x00", ErrEncoding}, {"select 'é'", nil},
	} {
		if err := Check(c.text, l); !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
			t.Errorf("%q: %v, want %v", c.text, err, c.want)
		}
	}
	if Check("x", Limits{}) == nil {
		t.Error("the zero limits let a text pass")
	}
}

func TestNormalise(t *testing.T) {
	for _, c := range [][2]string{
		{"select  *\n from t -- c\n where a = 'x' and b = 1.5e-3 /* d */ and c = $1", "select * from t where a = ? and b = ? and c = $1"},
		{"select E'a\\'b', $q$c$q$, X'1f', U&'d' , N'e'", "select ?, ?, ?, ? , ?"},
		{"insert into t values (1, 'a'), (-2, .5)", "insert into t values (?, ?), (-?, ?)"},
		{`select "Name", "it@example.com" from "a b"`, `select "Name", "?" from "a b"`},
		{"alter user bob password 'x'", "alter user bob password ?"}, {"alter user bob password hunter2", "alter user bob password ?"},
		{"select 'it's secret'", "select ?"}, {`select 'O\'Brien secret'`, "select ?"}, {"select 1, 'open", "select ?, ?"}, {"select $a$ open", "select ?"},
		{"select password from users where password = $1", "select password from users where password = $1"},
		{"select 'a'\n 'b' x", "select ? x"}, {"", ""}, {"select 1e5-3", "select ?-?"}, {"select 0x1e+5", "select ?+?"},
	} {
		if got := Normalise(c[0]); got != c[1] {
			t.Errorf("%q\n got %q\nwant %q", c[0], got, c[1])
		}
	}
	if n := len(Normalise(strings.Repeat("select x,", 100_000))); n > MaxNormalised+10 {
		t.Errorf("%d bytes", n)
	}
}

// FuzzScan: the regions cover a text once, in order, and no literal's content is left in what is normalised.
func FuzzScan(f *testing.F) {
	for _, s := range []string{"select 'a' \"b\" $$c$$ e'd\\'' -- f\n/* g */ 1.5 $1", "'", "\"", "$$", "/*", "e'\\", "u&'", "0x", "1e+", "$a$ $a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at := 0
		for s := NewScanner(text); ; {
			r, ok := s.Next()
			if !ok {
				break
			}
			if r.Start != at || r.End <= r.Start || r.End > len(text) {
				t.Fatalf("%q: region %v after %d", text, r, at)
			}
			at = r.End
		}
		if at != len(text) {
			t.Fatalf("%q: %d of %d bytes", text, at, len(text))
		}
		_ = Check(text, Default)
		if n := Normalise("select 'canary4711' " + text + " 'canary4711'"); strings.Contains(n, "canary4711") && !strings.ContainsAny(text, "'\"$-/") {
			t.Fatalf("%q: %q", text, n)
		}
		if n := Normalise(text); strings.ContainsAny(n, "\n\r\t\x1b\x00'") {
			t.Fatalf("%q: %q", text, n)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	for b.Loop() {
		if err := Check("SELECT id, name, email FROM customers WHERE id = $1 AND name LIKE 'a%'", Default); err != nil {
			b.Fatal(err)
		}
	}
}
