package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func frame(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func TestReadHello(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		ok   bool
	}{
		{"good", frame(`{"v":1,"target":"app","ticket":"t"}`), true},
		{"without a ticket, behind the relay", frame(`{"v":1,"target":"app"}`), true},
		{"another version", frame(`{"v":2,"target":"app"}`), false},
		{"no version", frame(`{"target":"app"}`), false},
		{"no target", frame(`{"v":1}`), false},
		{"a target that is no name", frame(`{"v":1,"target":"../app"}`), false},
		{"an unknown field", frame(`{"v":1,"target":"app","admin":true}`), false},
		{"not an object", frame(`[1]`), false},
		{"two values", frame(`{"v":1,"target":"app"}{}`), false},
		{"a space after it", frame(`{"v":1,"target":"app"} `), false},
		{"null", frame(`null`), false},
		{"not JSON", frame("\x16\x03\x01"), false},
		{"empty", frame(""), false},
		{"TLS in place of a frame", []byte("\x16\x03\x01\x02\x00\x01\x00"), false},
		{"over the limit", binary.BigEndian.AppendUint32(nil, MaxFrame+1), false},
		{"the largest number", []byte("\xff\xff\xff\xff"), false},
	} {
		h, err := ReadHello(bytes.NewReader(c.in))
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %+v, %v", c.name, h, err)
		}
	}
}

// TestLengthBeforeAllocation: what a peer claims costs nothing, and reads nothing.
func TestLengthBeforeAllocation(t *testing.T) {
	in := append([]byte("\x7f\xff\xff\xff"), "{}"...)
	r := bytes.NewReader(in)
	if n := testing.AllocsPerRun(1, func() {
		r.Reset(in)
		_, _ = ReadHello(r)
	}); n > 12 {
		t.Errorf("%v allocations", n)
	}
	if r.Len() != 2 {
		t.Errorf("%d bytes are left of 2", r.Len())
	}
}

func TestFrameEndsEarly(t *testing.T) {
	whole := frame(`{"v":1,"target":"app"}`)
	for n := range whole {
		_, err := ReadHello(bytes.NewReader(whole[:n]))
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if !errors.Is(err, want) || n > 0 && errors.Is(err, io.EOF) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func TestReadsNotAByteMore(t *testing.T) {
	r := io.MultiReader(bytes.NewReader(frame(`{"v":1,"target":"app"}`)), strings.NewReader("rest"))
	if _, err := ReadHello(r); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r)
	if err != nil || string(rest) != "rest" {
		t.Errorf("left %q, %v", rest, err)
	}
}

func TestReadPreamble(t *testing.T) {
	for in, ok := range map[string]bool{
		`{"v":1,"endpoint":"e","token":"t","proof":"p","client":{"program":"psql","pid":1,"uid":0}}`:                                          true,
		`{"v":1,"endpoint":"e","token":"t","proof":"p","client":{},"verifier":{"iterations":4096,"salt":"","stored_key":"","server_key":""}}`: true,
		`{"v":1,"endpoint":"e","token":"t","client":{}}`:                                                                                      false,
		`{"v":1,"endpoint":"e","proof":"p","client":{}}`:                                                                                      false,
		`{"v":1,"token":"t","proof":"p","client":{}}`:                                                                                         false,
		`{"v":0,"endpoint":"e","token":"t","proof":"p","client":{}}`:                                                                          false,
		`{"v":1,"endpoint":"e","token":"t","proof":"p","client":{"root":true}}`:                                                               false,
		`{"v":1,"endpoint":"e","token":"t","proof":"p","client":{},"session":"s"}`:                                                            false,
	} {
		if _, err := ReadPreamble(bytes.NewReader(frame(in))); (err == nil) != ok {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func TestReadWelcome(t *testing.T) {
	if err := ReadWelcome(bytes.NewReader(frame(`{"v":1}`))); err != nil {
		t.Errorf("welcome: %v", err)
	}
	err := ReadWelcome(bytes.NewReader(frame(`{"v":1,"error":{"code":"denied","message":"no"}}`)))
	if !errors.Is(err, api.ErrDenied) {
		t.Errorf("a refusal: %v", err)
	}
	for _, in := range []string{`{}`, `{"v":2}`, `{"v":1,"ok":true}`, `{"v":1,"error":"no"}`} {
		if err := ReadWelcome(bytes.NewReader(frame(in))); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func TestWriteFrame(t *testing.T) {
	w := &writes{}
	if err := WriteFrame(w, Hello{V: 1, Target: "app"}); err != nil {
		t.Fatal(err)
	}
	if w.n != 1 || !bytes.Equal(w.Bytes(), frame(`{"v":1,"target":"app"}`)) {
		t.Errorf("%d writes of %q", w.n, w.Bytes())
	}
	if err := WriteFrame(w, Hello{V: 1, Target: "app", Ticket: strings.Repeat("x", MaxFrame)}); !errors.Is(err, ErrFrame) {
		t.Errorf("a frame over the limit: %v", err)
	}
	if err := WriteFrame(w, func() {}); err == nil {
		t.Error("a func was encoded")
	}
}

type writes struct {
	bytes.Buffer
	n int
}

func (w *writes) Write(b []byte) (int, error) { w.n++; return w.Buffer.Write(b) }

func TestWriteChunks(t *testing.T) {
	for _, n := range []int{0, 1, 9, 10, 11, 20, 21, 35} {
		w := &writes{}
		m, err := writeChunks(w, make([]byte, n), 10)
		if err != nil || m != n || w.Len() != n || w.n != max(1, (n+9)/10) {
			t.Errorf("%d bytes: %d written in %d pieces, %v", n, m, w.n, err)
		}
	}
}

func FuzzFrames(f *testing.F) {
	for _, s := range []string{
		`{"v":1,"target":"app","ticket":"t"}`, `{"v":1}`, `{"v":1,"error":{"code":"denied","message":"m"}}`,
		`{"v":1,"endpoint":"e","token":"t","proof":"p","client":{"pid":1},"verifier":{"iterations":1,"salt":"AA==","stored_key":"","server_key":""}}`,
	} {
		f.Add(frame(s))
	}
	f.Add([]byte("\xff\xff\xff\xff{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		readers := map[string]func(io.Reader) (any, error){
			"hello":    func(r io.Reader) (any, error) { return ReadHello(r) },
			"preamble": func(r io.Reader) (any, error) { return ReadPreamble(r) },
			"welcome":  func(r io.Reader) (any, error) { return api.Welcome{V: Version}, ReadWelcome(r) },
		}
		for name, read := range readers {
			r := bytes.NewReader(b)
			v, err := read(r)
			if err != nil {
				continue
			}
			// What was taken is exactly one frame, and what is written for it is taken again as the same.
			if want := len(b) - 4 - int(binary.BigEndian.Uint32(b)); r.Len() != want {
				t.Fatalf("%s: %d bytes are left, not %d", name, r.Len(), want)
			}
			again, err := AppendFrame(nil, v)
			if err != nil {
				continue // escapes may make it longer than it came
			}
			w, err := read(bytes.NewReader(again))
			if err != nil || fmt.Sprintf("%+v", w) != fmt.Sprintf("%+v", v) && name == "hello" {
				t.Fatalf("%s: %+v became %+v, %v", name, v, w, err)
			}
		}
	})
}
