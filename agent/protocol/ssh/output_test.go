package ssh

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
)

// guarded protects mail addresses wherever they are.
func guarded(s *protocol.Session) {
	s.Classes = []access.Class{{Name: "email", Detector: "mail", Mask: "email"}}
}

const address1 = "jane.doe@mail.example"

func TestOutputIsMasked(t *testing.T) {
	t.Parallel()
	h := open(t, server(t), guarded)
	r := h.ssh(nil, "printf 'to jane.'; echo 'doe@mail.example and back'; echo "+address1+" >&2; exit 3")
	if r.out != "to j***@***.example and back\n" || !strings.HasSuffix(r.err, "j***@***.example\n") || r.code != 3 {
		t.Errorf("got %+v", r)
	}
	eventually(t, "outcome", func() bool { return len(h.outcomes()) == 1 })
	if n := h.outcomes()[0].Result.Masked["email"]; n != 2 {
		t.Errorf("%d counted", n)
	}
	// What cannot be masked is refused.
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte(address1), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := h.sftp("get " + file + " " + dir + "/got\n"); r.code == 0 || !strings.Contains(r.err, "not-maskable") && !strings.Contains(r.err, "cannot be masked") {
		t.Errorf("sftp: %+v", r)
	}
	if r := execute(t, nil, "scp", append(h.options(), "-O", "x@127.0.0.1:"+file, dir+"/got")...); r.code == 0 {
		t.Errorf("scp: %+v", r)
	}
	if _, err := os.Stat(dir + "/got"); err == nil {
		t.Error("it was carried")
	}
	if r := h.sftp("put " + file + " " + dir + "/put\n"); r.code != 0 {
		t.Errorf("what is sent there is not shown: %+v", r)
	}
	if r := execute(t, nil, "scp", append(h.options(), "-O", file, "x@127.0.0.1:"+dir+"/put2")...); r.code != 0 {
		t.Errorf("what is sent there is not shown: %+v", r)
	}
	for _, name := range []string{"put", "put2"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != address1 {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestMaskedLinesAndTerminals(t *testing.T) {
	t.Parallel()
	h := open(t, server(t), guarded).allow(Settings{Shells: []Mode{ModeTerminal, ModeLine}, Forward: true})
	y := h.terminal()
	if err := y.Shell(); err != nil {
		t.Fatal(err)
	}
	y.keys(t, "", "web:~$ ") // the terminal shows what cannot be masked: lines it is
	y.keys(t, "echo jane.doe@''mail.example; stty size\r", "\r\nweb:~$ ")
	if !strings.Contains(y.seen(), "\r\nj***@***.example\r\n") {
		t.Errorf("seen %q", y.seen())
	}
	y.keys(t, "cat\r", "")
	y.keys(t, address1+"\r", "j***@***.example\r\n")
	y.keys(t, "\x04", "$ ")
	const nap = "61.2299"
	y.keys(t, "sleep "+nap+"\r", "")
	eventually(t, "it runs", func() bool { return running(t, "sleep\x00"+nap) })
	y.keys(t, "\x03", "$ ")
	y.keys(t, "exit\r", "")
	_ = y.Wait()
	eventually(t, "sealed", h.tape().Closed)
	if p := play(t, h.tape()); !strings.Contains(p.Output, "j***@***.example") {
		t.Errorf("recorded %q", p.Output)
	}
	if _, err := h.dial().Dial("tcp", "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "not-maskable") {
		t.Errorf("forwarding: %v", err)
	}
}

func TestFilesAreKept(t *testing.T) {
	t.Parallel()
	srv := server(t)
	dir := t.TempDir()
	data := bytes.Repeat([]byte("0123456789abcdef"), 40000)
	local := filepath.Join(dir, "local")
	if err := os.WriteFile(local, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, settings := range map[string]Settings{"keepme": {}, "any": {KeepFiles: true}} {
		h := open(t, srv).allow(settings)
		if r := h.sftp("put " + local + " " + dir + "/" + name + "\nget " + dir + "/" + name + " " + dir + "/back\n"); r.code != 0 {
			t.Fatalf("%s: %+v", name, r)
		}
		all := h.tapes.All()
		if len(all) != 2 {
			t.Fatalf("%s: %d recordings", name, len(all))
		}
		for _, k := range all {
			if k.Kind != protocol.File || k.Name != name || !bytes.Equal(k.Bytes(), data) || !k.Closed() {
				t.Errorf("%s: kind %s, name %q, %d bytes, closed %v", name, k.Kind, k.Name, len(k.Bytes()), k.Closed())
			}
		}
	}
	h := open(t, srv)
	if r := h.sftp("get " + local + " " + dir + "/back\n"); r.code != 0 || len(h.tapes.All()) != 0 {
		t.Errorf("nobody asked: %+v, %d", r, len(h.tapes.All()))
	}
	h = open(t, srv).allow(Settings{KeepFiles: true})
	h.tapes.Limit = 100000
	if r := h.sftp("put " + local + " " + dir + "/short\n"); r.code == 0 {
		t.Errorf("a recording that ends: %+v", r)
	}
	if st, err := os.Stat(dir + "/short"); err == nil && st.Size() > 100000 {
		t.Errorf("%d bytes were written unrecorded", st.Size())
	}
	if all := h.tapes.All(); all[0].Closed() {
		t.Error("it passes for whole")
	}
}

func TestContent(t *testing.T) {
	t.Parallel()
	type part struct {
		at uint64
		b  string
	}
	for _, c := range []struct {
		parts []part
		want  string
		bad   bool
	}{
		{[]part{{0, "ab"}, {2, "cd"}}, "abcd", false},
		{[]part{{100, "ab"}, {102, "cd"}}, "abcd", false},
		{[]part{{0, "a"}, {2, "c"}, {1, "b"}, {3, "d"}}, "abcd", false},
		{[]part{{0, "a"}, {3, "d"}, {2, "c"}, {1, "b"}}, "abcd", false},
		{[]part{{0, "ab"}, {0, "xy"}}, "ab", true},
		{[]part{{0, "a"}, {2, "c"}, {2, "d"}}, "a", true},
		{[]part{{0, "a"}, {2, "c"}}, "a", true},
		{[]part{{0, "a"}, {1 << 40, strings.Repeat("x", maxWaiting+1)}}, "a", true},
		{nil, "", false},
	} {
		w := &memory{}
		k := &content{w: w}
		for _, p := range c.parts {
			_ = k.add(p.at, []byte(p.b))
		}
		if err := k.close(); (err != nil) != c.bad || w.String() != c.want || w.closed == c.bad {
			t.Errorf("%v: %q, %v, closed %v", c.parts, w.String(), err, w.closed)
		}
	}
	var none *content
	if none.add(5, []byte("x")) != nil || none.close() != nil {
		t.Error("nothing is kept, and fails")
	}
}

type memory struct {
	bytes.Buffer
	closed bool
}

func (m *memory) Close() error { m.closed = true; return nil }
