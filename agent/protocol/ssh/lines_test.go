package ssh

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

func TestUnfinished(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"ls\n": false, "if true\n": true, "if true\nthen ls\nfi\n": false, "echo 'a\n": true, "echo \"a\n": true, "cat <<E\n": true, "cat <<E\nx\nE\n": false, "ls |\n": true, "ls &&\n": true, "ls \\\n": true,
		"( ls\n": true, "{ ls\n": true, "f() {\n": true, "ls )\n": false, "fi\n": false, "\x01\n": false, "# x\n": false, "echo $(ls\n": true, "while true\n": true, "case x in\n": true,
	} {
		if got := unfinished(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestBuiltins(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint32{"exit\n": 7, "exit 0\n": 0, " exit  5 # bye\n": 5, "'exit' 5\n": 5, "exit 256\n": 99, "exit $?\n": 99, "exit 1 2\n": 99, "exit; ls\n": 99, "exit 1 &\n": 99, "! exit\n": 99, "x=1 exit\n": 99, "exit >x\n": 99, "logout\n": 7} {
		got, ok := leaves(text, 7)
		if !ok {
			got = 99
		}
		if got != want {
			t.Errorf("%q: %d", text, got)
		}
	}
	for text, want := range map[string]string{"cd\n": "/home/deploy", "cd /srv\n": "/srv", "cd ~/x\n": "/home/deploy/x", "cd 'a b'\n": "/home/deploy/a b", "cd -\n": "", "cd $X\n": "", "cd *\n": "", "cd /a; ls\n": "", "cd /a/../b\n": "", "cd ..\n": "", "ls\n": "", "cd a b\n": "",
		"cd /a && ls\n": "", "cd /a >x\n": "", "\\cd /a\n": "/a"} {
		if got, ok := moves(text, deploy); ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q, %v", text, got, ok)
		}
	}
}

func FuzzLines(f *testing.F) {
	for _, s := range []string{"cd /srv\n", "exit 3\n", "if true\n", "cat <<E\nx\nE\n", "cd 'it'\\''s'\n"} {
		f.Add(s, "/srv/a")
	}
	f.Fuzz(func(t *testing.T, text, cwd string) {
		unfinished(text)
		leaves(text, 0)
		sh := deploy
		to, ok := moves(text, sh)
		if ok && !strings.HasPrefix(to, "/") {
			t.Fatalf("%q leads to %q", text, to)
		}
		if ok && readable(to) == "" {
			if c := analyse("cd "+quote(to)+" || exit\ncat x", sh); !c.Complete && !strings.Contains(c.Why, "climbs") {
				t.Fatalf("%q: after it nothing is understood: %s", text, c.Why)
			} else if c.Complete && !strings.Contains(strings.Join(told(c), " "), "read:"+strings.TrimSuffix(to, "/")+"/x") {
				t.Fatalf("%q leads to %q and is decided as %v", text, to, told(c))
			}
		}
	})
}

func FuzzCast(f *testing.F) {
	f.Add([]byte("a\xc3\xa9\xff\x1b[31m"), 2)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		w := &memory{}
		c, err := newCast(w, &pty{term: "x", size: size{80, 24, 0, 0}}, "t", true, func() time.Time { return time.Unix(0, 0) })
		if err != nil {
			t.Fatal(err)
		}
		cut = max(1, cut%64)
		for rest := b; len(rest) > 0; rest = rest[min(cut, len(rest)):] {
			if err := c.output(rest[:min(cut, len(rest))]); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.close(); err != nil {
			t.Fatal(err)
		}
		got := ""
		for i, l := range bytes.Split(bytes.TrimSuffix(w.Bytes(), []byte{'\n'}), []byte{'\n'}) {
			if i == 0 {
				continue
			}
			var e [3]any
			if err := json.Unmarshal(l, &e); err != nil {
				t.Fatalf("%s: %v", l, err)
			}
			got += e[2].(string)
		}
		if want := string([]rune(string(b))); got != want {
			t.Fatalf("%q became %q", b, got)
		}
	})
}

func TestKeyboard(t *testing.T) {
	t.Parallel()
	k := newKeyboard()
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() { k.feed(r); close(done) }()
	first := k.take()
	_, _ = io.WriteString(w, "ab")
	b := make([]byte, 1)
	if n, err := first.Read(b); n != 1 || err != nil || b[0] != 'a' {
		t.Fatal(n, err, b)
	}
	second := k.take()
	if _, err := first.Read(b); err != io.EOF { //nolint:errorlint // io.Reader's own word
		t.Error("the one before still reads")
	}
	if n, err := second.Read(b); n != 1 || err != nil || b[0] != 'b' {
		t.Fatal(n, err, b)
	}
	called := make(chan struct{})
	k.wait(func() { close(called) })
	_, _ = io.WriteString(w, "lost\x03kept")
	<-called
	third := k.take()
	got := make([]byte, 4)
	if _, err := io.ReadFull(third, got); err != nil || string(got) != "kept" {
		t.Errorf("%q, %v", got, err)
	}
	k.wait(func() {})
	big := bytes.Repeat([]byte("x"), 4*maxAhead) // more than is kept, while nobody reads: not waited for
	_, _ = w.Write(big)
	k.end()
	_ = w.Close()
	<-done
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	d := &access.Denied{Code: access.CodeDenied, Rule: "r", Hint: "a\x1b]52;c;x\a\u202eb\u2028\nDETAIL: {}"}
	for _, s := range []string{refusal(d), words(d), oneLine(d), heldText(access.HeldCommand{Name: "\x1b[2J", Link: "https://x/\u202e\x9b"})} {
		if strings.ContainsAny(s, "\x1b\a\u202e\u2028\u009b") || strings.Count(s, "\nDETAIL: ") > 1 || strings.Contains(s, "\nDETAIL: {}") {
			t.Errorf("%q", s)
		}
	}
}
