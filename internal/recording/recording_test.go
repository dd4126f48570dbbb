package recording

import (
	"bytes"
	"strings"
	"testing"
	"unicode"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/store"
)

func TestSealedChunksOpenInTheirPlaceOnly(t *testing.T) {
	key := bytes.Repeat([]byte("k"), 32)
	p := Place{Session: "S", Command: "C", Index: 3}
	a, err := Seal(key, p, []byte("secret words"))
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := Seal(key, p, []byte("secret words")); !bytes.Equal(a, b) {
		t.Error("the same chunk is two objects")
	}
	if b, _ := Seal(key, p, []byte("secret wordz")); bytes.Equal(a[:12], b[:12]) {
		t.Error("two chunks share a nonce")
	}
	if got, err := Open(key, p, a); err != nil || string(got) != "secret words" {
		t.Errorf("%q, %v", got, err)
	}
	for name, other := range map[string]Place{
		"session": {Session: "T", Command: "C", Index: 3}, "command": {Session: "S", Command: "D", Index: 3}, "index": {Session: "S", Command: "C", Index: 4},
		"last": {Session: "S", Command: "C", Index: 3, Last: true}, "reason": {Session: "S", Command: "C", Index: 3, Reason: "x"}, "spelling": {Session: "SC", Command: "", Index: 3},
	} {
		if _, err := Open(key, other, a); err == nil {
			t.Errorf("opened with another %s", name)
		}
	}
	a[20] ^= 1
	if _, err := Open(key, p, a); err == nil {
		t.Error("an altered chunk opened")
	}
	if _, err := Open(key, p, a[:5]); err == nil {
		t.Error("a short chunk opened")
	}
	if _, err := Open(key[:31], p, a); err == nil {
		t.Error("a short key was taken")
	}
}

const sample = `{"version": 2, "width": 80, "height": 24, "timestamp": 1700000000, "env": {"TERM": "xterm"}}
[0.1, "o", "hello\r\n"]
[0.5, "r", "100x50"]
[0.4, "o", "bye \u001b[31mred"]

`

func TestCast(t *testing.T) {
	for cut := 1; cut < len(sample); cut++ {
		var c Cast
		var got []Event
		keep := func(e Event) error { got = append(got, e); return nil }
		if err := c.Feed([]byte(sample)[:cut], keep); err != nil {
			t.Fatal(cut, err)
		}
		if err := c.Feed([]byte(sample)[cut:], keep); err != nil {
			t.Fatal(cut, err)
		}
		if c.Header.Width != 80 || len(got) != 3 || got[1] != (Event{0.5, "r", "100x50"}) || got[2] != (Event{0.5, "o", "bye \x1b[31mred"}) || c.Rest() != 0 {
			t.Fatalf("%d: %+v %+v %d", cut, c.Header, got, c.Rest())
		}
	}
	for _, bad := range []string{"{}\n", "[]\n", `{"version":1}` + "\n", `{"version":2,"width":-1}` + "\n", `{"version":2}` + "\n[1,\"o\"]\n", `{"version":2}` + "\n[1,\"o\",\"a\",1]\n",
		`{"version":2}` + "\n[\"1\",\"o\",\"a\"]\n", `{"version":2}` + "\n[-1,\"o\",\"a\"]\n", `{"version":2}` + "\n{}\n", `{"version":2}` + "\nnull\n", `{"version":2}` + "\n[null,\"o\",\"a\"]\n",
		strings.Repeat("x", maxLine+1)} {
		if err := new(Cast).Feed([]byte(bad), func(Event) error { return nil }); err == nil {
			t.Errorf("%.60q was read", bad)
		}
	}
}

// hostile are ways to do more than draw, each hiding the word BAD where a terminal would take it for something else than text.
var hostile = map[string]string{
	"title":              "\x1b]0;BAD\x07",
	"title, other end":   "\x1b]2;BAD\x1b\\",
	"title, one byte":    "\u009d0;BAD\u009c",
	"clipboard":          "\x1b]52;c;QkFE\x07",
	"clipboard, read":    "\x1b]52;c;?\x07",
	"link":               "\x1b]8;;http://BAD/\x1b\\",
	"notification":       "\x1b]777;notify;BAD;BAD\x07",
	"file transfer":      "\x1b]1337;File=name=QkFE:BAD\x07",
	"device attributes":  "\x1b[c",
	"secondary":          "\x1b[>c",
	"one byte":           "\u009bc",
	"cursor report":      "\x1b[6n",
	"status":             "\x1b[?6n",
	"window size":        "\x1b[18t",
	"window title back":  "\x1b[21t",
	"resize":             "\x1b[8;1;1t",
	"version":            "\x1b[>q",
	"mode report":        "\x1b[?25$p",
	"termcap":            "\x1bP+q544e\x1b\\",
	"setting report":     "\x1bP$qBAD\x1b\\",
	"sixel":              "\x1bPqBAD\x1b\\",
	"privacy message":    "\x1b^BAD\x1b\\",
	"program command":    "\x1b_BAD\x1b\\",
	"start of string":    "\x1bXBAD\x1b\\",
	"answerback":         "\x05",
	"bell":               "\x07",
	"mouse":              "\x1b[?1000h",
	"mouse among others": "\x1b[?25;1003h",
	"bracketed paste":    "\x1b[?2004h",
	"application keys":   "\x1b[?1h",
	"keypad":             "\x1b=",
	"line feed mode":     "\x1b[20h",
	"print":              "\x1b[5i",
	"keyboard locked":    "\x1b[2h",
	"a cut sequence":     "\x1b[\x186n",
	"within a sequence":  "\x1b[\x1b[6n",
	"terminal id":        "\x1bZ",
	"test pattern":       "\x1b#8",
	"tek mode":           "\x1b[?38h",
	"many repeats":       "\x1b[99999b",
	"checksum":           "\x1b[1;1;1;1;1;1*y",
	"colours report":     "\x1b]4;1;?\x07",
}

func TestFilterDrawsAndNothingElse(t *testing.T) {
	for name, in := range hostile {
		for cut := 0; cut <= len(in); cut++ {
			var f Filter
			got := f.Safe("a" + in[:cut] + in[cut:] + "b")
			if cut > 0 && cut < len(in) && in[cut]&0xc0 != 0x80 { // a cut between pieces
				f = Filter{}
				got = f.Safe("a"+in[:cut]) + f.Safe(in[cut:]+"b")
			}
			want := "ab"
			switch name {
			case "a cut sequence":
				want = "a6nb"
			}
			if got != want {
				t.Errorf("%s, cut at %d: %q", name, cut, got)
			}
		}
	}
	for _, in := range []string{"plain ünïcode 漢字\r\n\t\b", "\x1b[31;1mred\x1b[0m", "\x1b[38:2::10:20:30m", "\x1b[2J\x1b[H\x1b[10;20H", "\x1b[?25l\x1b[?25h\x1b[?1049h\x1b[?1049l", "\x1b7\x1b8\x1bM\x1bD\x1bE",
		"\x1b(0lqqk\x1b(B\x0e\x0f", "\x1b[1;20r\x1b[3L\x1b[2M\x1b[4P\x1b[5@\x1b[6X\x1b[4h\x1b[4l\x1b[s\x1b[u\x1b[K\x1b[12b", "\x1b[?7;25h"} {
		var f Filter
		if got := f.Safe(in); got != in {
			t.Errorf("%q became %q", in, got)
		}
	}
	var f Filter
	if got := f.Safe("\x1b]0;never ends " + strings.Repeat("x", maxString) + "seen"); !strings.HasSuffix(got, "seen") {
		t.Error("a string that never ends hides the rest")
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range hostile {
		f.Add(s, 1)
	}
	f.Add(sample, 3)
	f.Fuzz(func(t *testing.T, s string, cut int) {
		s = strings.ToValidUTF8(s, "?")
		var whole, halves, again Filter
		want := whole.Safe(s)
		if cut > 0 && cut < len(s) && s[cut]&0xc0 != 0x80 {
			if got := halves.Safe(s[:cut]) + halves.Safe(s[cut:]); got != want {
				t.Fatalf("cut: %q, whole: %q", got, want)
			}
		}
		if got := again.Safe(want); got != want {
			t.Fatalf("what was safe is not: %q, %q", want, got)
		}
		var x Text
		x.Write(s)
		if i := strings.IndexFunc(x.String(), func(r rune) bool { return r != '\n' && unicode.IsControl(r) }); i >= 0 {
			t.Fatalf("a control character in %q", x.String())
		}
		var c Cast
		_ = c.Feed([]byte(s), func(Event) error { return nil })
	})
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"one\r\ntwo\r\n":                "one\ntwo\n",
		"10%\r50%\r100%":                "100%",
		"wrong\b\b\b\b\bright":          "right",
		"a\x1b[31mb\x1b[0mc":            "abc",
		"gone\x1b[2K\rhere":             "here",
		"abc\x1b[2D\x1b[K!":             "a!",
		"x\x1b]52;c;QkFE\x07y":          "xy",
		"a\tb":                          "a       b",
		"top\x1b[10;1Hbelow":            "top\nbelow",
		"\x1b[5Cfar":                    "     far",
		"<script>alert(1)</script>\x00": "<script>alert(1)</script>",
	} {
		var x Text
		x.Write(in)
		if got := x.String(); got != want {
			t.Errorf("%q reads as %q, want %q", in, got, want)
		}
	}
	var x Text
	x.Write(strings.Repeat("line\n", 3*maxTextLines) + "\x1b[999999999C" + strings.Repeat("w", 3*maxTextColumns))
	if n := strings.Count(x.String(), "\n"); !x.Cut() || n > maxTextLines+1 {
		t.Errorf("%d lines", n)
	}
}

func TestRecordsAreStrict(t *testing.T) {
	w, err := Record{Session: "S", Command: "C"}.Put(store.Cond{})
	if err != nil {
		t.Fatal(err)
	}
	it := w.Item
	if r, err := decode(it); err != nil || r.Command != access.CommandID("C") {
		t.Errorf("%+v, %v", r, err)
	}
	for _, body := range []string{"", "{}", `{"session":"S","command":"D"}`, `{"session":"S","command":"C","more":1}`, string(it.Body) + "x"} {
		it.Body = []byte(body)
		if _, err := decode(it); err == nil {
			t.Errorf("%q was read", body)
		}
	}
}
