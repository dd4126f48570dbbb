package mask_test

import (
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/mask"
)

// Wherever a text is cut in two, or into single bytes, the stream shows what the whole would.
func TestStreamCutAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the clock stands still: nothing is late
		f := mask.NewFinder(all(), noKey)
		for _, tt := range detected {
			text := "before it " + tt.in + " after it"
			want, counts := mask.Detect(all(), []byte(text))
			for at := range len(text) {
				got, n := cutAt(t, f, text, at)
				if got != string(want) || len(counts)+len(n) > 0 && !maps.Equal(counts, n) {
					t.Errorf("%s cut at %d: %q with %v, want %q with %v", tt.name, at, got, n, want, counts)
				}
			}
			if got, _ := cut(t, f, []byte(text), []byte{1}); got != string(want) {
				t.Errorf("%s byte by byte: %q, want %q", tt.name, got, want)
			}
		}
	})
}

func cutAt(t *testing.T, f *mask.Finder, text string, at int) (string, map[string]int64) {
	t.Helper()
	var out sink
	s := f.Stream(&out)
	for _, part := range []string{text[:at], text[at:]} {
		if _, err := io.WriteString(s, part); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String(), s.Counts()
}

// What cannot be the beginning of a value is passed on at once, and a prompt a moment later.
func TestStreamIsNotLate(t *testing.T) {
	tests := []struct {
		name, in, at0, soon, later string // shown at once, after holdMaybe, after holdLikely
	}{
		{"line", "all is well\n", "all is well\n", "", ""},
		{"prompt", "Password: ", "Password: ", "", ""},
		{"shell", "alice@web-1:~$ ", "alice@web-1:~$ ", "", ""},
		{"word", "mysql> sel", "mysql> ", "sel", ""},
		{"dots", "loading...", "", "loading...", ""},
		{"short number", "PIN 1234 ", "PIN 1234 ", "", ""},
		{"a group of four", "PIN 4242 ", "PIN ", "4242 ", ""},
		{"half a card", "pan 4242 4242 42", "pan ", "", "4242 4242 42"},
		{"half an address", "to alice@exa", "to ", "", "alice@exa"},
		{"whole address", "to alice@example.com", "to ", "", "a***@***.com"},
		{"whole token", aws, "", "", "****"},
		{"colour", "\x1b[31mred\x1b[", "\x1b[31m", "red\x1b[", ""},
		{"key", pem[:50], "-----BEGIN RSA PRIVATE KEY-----****", "", ""},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			var out sink
			s := mask.NewFinder(all(), noKey).Stream(&out)
			defer s.Close()
			if _, err := io.WriteString(s, tt.in); err != nil {
				t.Fatal(err)
			}
			for _, step := range []struct {
				wait time.Duration
				want string
			}{{0, tt.at0}, {21 * time.Millisecond, tt.soon}, {time.Second, tt.later}} {
				time.Sleep(step.wait)
				synctest.Wait()
				if out.String() != step.want {
					t.Errorf("%s after %s: %q, want %q", tt.name, step.wait, out.String(), step.want)
				}
				out.Reset()
			}
		})
	}
}

// A value whose beginning was let go is hidden from there on.
func TestStreamHidesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink
		s := mask.NewFinder(all(), noKey).Stream(&out)
		for _, part := range []string{"to ali", "ce@example.com, ", "4242", " 4242 4242 4242\n"} {
			if _, err := io.WriteString(s, part); err != nil {
				t.Fatal(err)
			}
			time.Sleep(30 * time.Millisecond)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if want := "to ali****, 4242****\n"; out.String() != want {
			t.Errorf("%q, want %q", out.String(), want)
		}
		if c := s.Counts(); c["mail"] != 1 || c["card"] != 1 {
			t.Errorf("counts %v", c)
		}
	})
}

func TestStreamFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink
		s := mask.NewFinder(all(), noKey).Stream(&out)
		_, _ = io.WriteString(s, "4242424242424242")
		if err := s.Flush(); err != nil || out.String() != "************4242" {
			t.Errorf("%q, %v", out.String(), err)
		}
		_, _ = io.WriteString(s, "\nx")
		if err := s.Close(); err != nil || out.String() != "************4242\nx" {
			t.Errorf("%q, %v", out.String(), err)
		}
		if _, err := s.Write([]byte("more")); err == nil {
			t.Error("a closed stream was written to")
		}
	})
}

type broken struct{ err error }

func (b broken) Write([]byte) (int, error) { return 0, b.err }

func TestStreamTellsErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := errors.New("gone")
		s := mask.NewFinder(all(), noKey).Stream(broken{gone})
		if _, err := io.WriteString(s, "word"); err != nil {
			t.Errorf("nothing was passed on yet: %v", err)
		}
		time.Sleep(time.Second) // the late part meets the error, the next write tells it
		synctest.Wait()
		if _, err := io.WriteString(s, "more"); !errors.Is(err, gone) {
			t.Errorf("write: %v", err)
		}
		if err := s.Close(); !errors.Is(err, gone) {
			t.Errorf("close: %v", err)
		}
	})
}

// What a stream keeps is bounded, whatever comes.
func TestStreamKeepsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, unit := range []string{"a", "1", "4", "eyJ", "aa.", "x@", "https://a:b", "\x1b[", "DE89 ", "sk-", "+", "AGE-SECRET-KEY-1", "BEGIN ", "-", "\\n", "ä"} {
			var out sink
			s := mask.NewFinder(all(), noKey).Stream(&out)
			in := 0
			for in < 20000 {
				n, err := io.WriteString(s, unit)
				if err != nil {
					t.Fatal(err)
				}
				if in += n; in-out.Len() > 1200 && len(s.Counts()) == 0 {
					t.Fatalf("%q: %d bytes are kept", unit, in-out.Len())
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if len(s.Counts()) == 0 && out.Len() != in {
				t.Errorf("%q: %d of %d bytes came out", unit, out.Len(), in)
			}
		}
	})
}

// FuzzStream: however a text is cut, the stream shows what the whole would, and the whole shows no value that is found when it stands alone.
func FuzzStream(f *testing.F) {
	all := mask.NewFinder(all(), noKey)
	for _, tt := range detected {
		f.Add([]byte(tt.in), []byte{1, 3, 2})
		f.Add([]byte("x "+tt.in+" y "+tt.in), []byte{7})
	}
	f.Fuzz(func(t *testing.T, text, lengths []byte) {
		checkCuts(t, all, text, lengths)
	})
}

func checkCuts(t *testing.T, f *mask.Finder, text, lengths []byte) {
	t.Helper()
	counts := map[string]int64{}
	want, found := f.Append(nil, text, counts)
	if !found {
		want = text
	}
	synctest.Test(t, func(t *testing.T) {
		got, n := cut(t, f, text, lengths)
		if got != string(want) {
			t.Fatalf("%q cut by %v: %q, want %q", text, lengths, got, want)
		}
		if !maps.Equal(n, counts) {
			t.Fatalf("%q cut by %v: %v, want %v", text, lengths, n, counts)
		}
	})
}

// Texts put together at random from what the detectors look for meet more of their corners than bytes at random.
func TestStreamOfPieces(t *testing.T) {
	f := mask.NewFinder(all(), noKey)
	pieces := []string{" ", "\n", "@", ".", "-", "+", "(", ")", "_", "\\n", "\x1b[1m", "a", "Z9", "é", "0", "42", "555", "4242", "4242 4242 4242 4242", "eyJ", "-----BEGIN ",
		"PRIVATE KEY-----", "-----END", "https://", ":", "example.com", "AKIA", "Bearer ", strings.Repeat("q7", 40), strings.Repeat("w", 600)}
	for _, tt := range detected {
		pieces = append(pieces, tt.in)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		var b []byte
		for range 1 + random.IntN(9) {
			b = append(b, pieces[random.IntN(len(pieces))]...)
		}
		lengths := make([]byte, random.IntN(4))
		for i := range lengths {
			lengths[i] = byte(random.IntN(256))
		}
		checkCuts(t, f, b, lengths)
	}
}

const prose = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was the epoch of belief.\n"

var records = "2026-01-07 12:00:03.123456+00 | 9f1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9 | 1700000000123 | INFO  | /srv/app/lib/handler.go:112 | 200 | 10.0.3.17 | took 12.5ms\n"

func benchmark(b *testing.B, unit string) {
	text := []byte(strings.Repeat(unit, 32<<10/len(unit)))
	s := mask.NewFinder(all(), noKey).Stream(io.Discard)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		_, _ = s.Write(text)
	}
	_ = s.Close()
}

func BenchmarkStreamProse(b *testing.B)   { benchmark(b, prose) }
func BenchmarkStreamRecords(b *testing.B) { benchmark(b, records) }
func BenchmarkStreamBase64(b *testing.B) {
	benchmark(b, "TWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcmsuTWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcmsu\n")
}
func BenchmarkStreamMails(b *testing.B) { benchmark(b, "17,alice@example.com,Alice\n") }
func BenchmarkValue(b *testing.B) {
	f := mask.NewFinder(all(), noKey)
	v := []byte(prose)
	b.SetBytes(int64(len(v)))
	for b.Loop() {
		_, _ = f.Append(nil, v, nil)
	}
}
