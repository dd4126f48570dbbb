package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, c Config) *Journal {
	t.Helper()
	c.Prefix = "x-"
	if c.Size == 0 {
		c.Size = 100
	}
	j, err := Open(c)
	must(t, err)
	return j
}

func write(t *testing.T, j *Journal, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		_, err := j.Write(AppendFrame(nil, []byte(p)))
		must(t, err)
	}
}

// drain takes everything, one record at a time.
func drain(t *testing.T, j *Journal) (all []string) {
	t.Helper()
	for {
		p, err := j.Next(1000)
		must(t, err)
		if p == nil {
			return all
		}
		payload, rest, whole, err := Frame(p.Bytes, 1000)
		switch {
		case err != nil:
			_, err := p.SetAside()
			must(t, err)
			all = append(all, "damaged")
		case !whole:
			p.Skip()
			all = append(all, "torn")
		default:
			all = append(all, string(payload))
			p.Take(len(p.Bytes) - len(rest))
		}
	}
}

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestInOrderAcrossFilesAndProcesses(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Config{Dir: dir})
	var want []string
	for i := range 40 {
		want = append(want, fmt.Sprintf("record %d", i))
	}
	write(t, j, want[:20]...)
	if len(j.Files()) < 3 || j.Size() != j.Waiting() {
		t.Errorf("%v, %d, %d", j.Files(), j.Size(), j.Waiting())
	}
	must(t, j.Close(true)) // as if the process had ended here: nothing was taken, nothing goes
	j = open(t, Config{Dir: dir})
	write(t, j, want[20:]...)
	size := j.Size()
	if got := drain(t, j); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	n, err := j.Drop(true)
	must(t, err)
	if j.Waiting() != 0 || len(j.Files()) > 1 || j.Size() != size-n {
		t.Errorf("%v of %d bytes, %d went", j.Files(), j.Size(), n)
	}
	must(t, j.Close(true))
	if left := names(t, dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestHeadsAreNotTaken(t *testing.T) {
	heads := 0
	head := func() ([]byte, error) { heads++; return AppendFrame(nil, fmt.Appendf(nil, "head %d", heads)), nil }
	j := open(t, Config{Dir: t.TempDir(), Head: head, Size: 40})
	n, err := j.Write(AppendFrame(nil, []byte("a")))
	must(t, err)
	if want := int64(2*FrameHead + len("head 1") + 1); n != want || j.Size() != want || j.Waiting() != FrameHead+1 {
		t.Errorf("%d bytes, want %d; %d, %d", n, want, j.Size(), j.Waiting())
	}
	write(t, j, "b", "c", "d")
	if got := drain(t, j); !slices.Equal(got, []string{"a", "b", "c", "d"}) || heads != 2 {
		t.Errorf("%q, %d heads", got, heads)
	}
	// The last file stays where it says what is open.
	_, err = j.Drop(false)
	must(t, err)
	must(t, j.Close(false))
	if len(j.Files()) != 1 {
		t.Errorf("%v", j.Files())
	}
}

func TestAHeadThatCannotBeMade(t *testing.T) {
	dir, broken := t.TempDir(), errors.New("broken")
	j := open(t, Config{Dir: dir, Head: func() ([]byte, error) { return nil, broken }})
	if n, err := j.Write([]byte("x")); n != 0 || !errors.Is(err, broken) || len(names(t, dir)) != 0 {
		t.Errorf("%d, %v, %v", n, err, names(t, dir))
	}
}

func TestTornAndDamaged(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Config{Dir: dir, Size: 1})
	write(t, j, "one", "two", "three")
	must(t, j.Close(false))
	files := j.Files()
	b, err := os.ReadFile(files[0])
	must(t, err)
	must(t, os.WriteFile(files[0], append(b, 0, 0, 0), 0o600))
	b, err = os.ReadFile(files[1])
	must(t, err)
	b[len(b)-1] ^= 1
	must(t, os.WriteFile(files[1], b, 0o600))
	j = open(t, Config{Dir: dir})
	if got := drain(t, j); !slices.Equal(got, []string{"one", "torn", "damaged", "three"}) {
		t.Errorf("%q", got)
	}
	must(t, j.Close(true))
	if left := names(t, dir); !slices.Equal(left, []string{filepath.Base(files[1]) + ".damaged"}) {
		t.Errorf("left: %v", left)
	}
}

// After a failed write the file is left as it was before, and the same records are written to another.
func TestAFailedWriteIsNotTrusted(t *testing.T) {
	for _, before := range []string{"", "before"} {
		j := open(t, Config{Dir: t.TempDir()})
		if before == "" {
			_, err := j.Write(nil) // makes the file
			must(t, err)
		} else {
			write(t, j, before)
		}
		f := j.files[0].f
		must(t, f.Close())
		if _, err := j.Write(AppendFrame(nil, []byte("lost"))); err == nil {
			t.Error("written to a closed file")
		}
		write(t, j, "again")
		want := []string{"before", "again"}
		if before == "" {
			want = want[1:]
		}
		if got := drain(t, j); !slices.Equal(got, want) || len(j.Files()) != len(want) {
			t.Errorf("%q in %v", got, j.Files())
		}
		must(t, j.Close(true))
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "x-one.log"), nil, 0o600))
	if _, err := Open(Config{Dir: dir, Prefix: "x-"}); err == nil {
		t.Error("a file with a name of somebody else's")
	}
	if _, err := Open(Config{Dir: "[", Prefix: "x-"}); err == nil {
		t.Error("a directory that is a bad pattern")
	}
	j := open(t, Config{Dir: filepath.Join(dir, "none")})
	if _, err := j.Write([]byte("x")); err == nil {
		t.Error("no directory")
	}
}

func TestPump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wake, delivered, left, fails := make(chan struct{}, 1), make(chan struct{}, 1), 3, 4
		var pauses []time.Duration
		p := Pump{
			Wake: wake, Gather: time.Second, Most: 300 * time.Millisecond,
			Send: func(context.Context) (bool, error) {
				if fails > 0 {
					fails--
					return true, errors.New("away")
				}
				if left--; left == 0 {
					Wake(delivered)
				}
				return left > 0, nil
			},
			Failed: func(_ error, pause time.Duration) { pauses = append(pauses, pause) },
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); p.Run(ctx) }()
		Wake(wake)
		Wake(wake)
		<-delivered
		synctest.Wait()
		if want := []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond, 300 * time.Millisecond}; left != 0 || !slices.Equal(pauses, want) {
			t.Errorf("%d left, pauses of %v", left, pauses)
		}
		cancel()
		<-done
		left = 2
		must(t, p.Last(ctx, time.Second))
		if left != 0 {
			t.Errorf("%d left after the end", left)
		}
		fails = 1
		if p.Last(ctx, time.Second) == nil {
			t.Error("the last failure is not told")
		}
	})
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(AppendFrame(nil, []byte("x")))
	f.Add(AppendFrame(AppendFrame(nil, []byte("x")), []byte(strings.Repeat("y", 40)))[:30])
	f.Fuzz(func(t *testing.T, b []byte) {
		for rest := b; ; {
			payload, after, whole, err := Frame(rest, 50)
			if err != nil || !whole {
				if len(after) != len(rest) || payload != nil {
					t.Fatal("something was cut off")
				}
				return
			}
			if len(payload) == 0 || len(payload) > 50 || !bytes.Equal(AppendFrame(nil, payload), rest[:len(rest)-len(after)]) {
				t.Fatalf("%q", payload)
			}
			rest = after
		}
	})
}
