package recording

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/agent/journal"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

const childDir = "RECORDING_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// child records until it is killed, and says after each step that is promised to be durable how far it is.
func child(dir string) {
	signal.Ignore(syscall.SIGPIPE)
	k, err := Open(Config{Dir: dir})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go k.Run(context.Background(), "agent", &broker{err: errors.New("away")})
	t, err := k.Session("S", always).Start("C", protocol.Cast, "a terminal")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for i := 0; ; i++ { // a chunk that is full is on disk when the next write begins
		if _, err := t.Write(bytes.Repeat([]byte{byte('a' + i%26)}, api.MaxChunk)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(i + 1)
	}
}

func always(access.CommandID) (uint64, bool) { return 7, true }

// broker takes chunks as the real one does, or does not.
type broker struct {
	mu     sync.Mutex
	err    error
	refuse bool
	tapes  map[access.CommandID]*taken
	wrong  []string
	calls  int
}

type taken struct {
	chunks [][]byte
	name   string
	ended  string
}

func (b *broker) Chunks(_ context.Context, req api.ChunksRequest) (resp api.ChunksResponse, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	if b.err != nil {
		return resp, b.err
	}
	size := 0
	for _, c := range req.Chunks {
		size += len(c.Data)
		if b.refuse {
			resp.Refused = append(resp.Refused, api.RefusedChunk{Session: c.Session, Command: c.Command, Index: c.Index, Why: "no"})
			continue
		}
		if b.tapes == nil {
			b.tapes = map[access.CommandID]*taken{}
		}
		t := b.tapes[c.Command]
		if t == nil {
			t = &taken{name: c.Name}
			b.tapes[c.Command] = t
		}
		switch n := len(t.chunks); {
		case c.Index < n && bytes.Equal(t.chunks[c.Index], c.Data):
		case c.Index != n || t.ended != "" || len(c.Data) == 0 && !c.Last || c.Seq != 7 || c.Time.IsZero():
			b.wrong = append(b.wrong, fmt.Sprintf("chunk %d of %s after %d, ended %q", c.Index, c.Command, n, t.ended))
		default:
			t.chunks, t.ended = append(t.chunks, bytes.Clone(c.Data)), c.Reason
		}
	}
	if len(req.Chunks) == 0 || len(req.Chunks) > api.MaxChunkBatch || size > api.MaxChunkBytes || req.Agent != "agent" {
		b.wrong = append(b.wrong, fmt.Sprintf("%d chunks, %d bytes, of %q", len(req.Chunks), size, req.Agent))
	}
	return resp, nil
}

func (b *broker) set(err error) { b.mu.Lock(); defer b.mu.Unlock(); b.err = err }

func (b *broker) ended(c access.CommandID) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.tapes[c]; t != nil {
		return t.ended
	}
	return ""
}

func (b *broker) bytes(c access.CommandID) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.tapes[c]; t != nil {
		return bytes.Join(t.chunks, nil)
	}
	return nil
}

func (b *broker) check(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.wrong) > 0 {
		t.Errorf("the broker saw %q", b.wrong)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// start opens a keeper and runs it until the returned func is called.
func start(t testing.TB, c Config, b *broker) (*Keeper, func()) {
	t.Helper()
	k, err := Open(c)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { k.Run(ctx, "agent", b) })
	return k, sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
}

func begin(t testing.TB, s *Session, c access.CommandID) protocol.Recording {
	t.Helper()
	r, err := s.Start(c, protocol.Cast, "term\x1binal")
	must(t, err)
	return r
}

func TestDeliversEverythingInOrderAndLeavesNothing(t *testing.T) {
	dir, b := t.TempDir(), &broker{}
	k, stop := start(t, Config{Dir: dir}, b)
	defer stop()
	s := k.Session("S", always)
	var want [5]bytes.Buffer
	var wg sync.WaitGroup
	for i := range want {
		id := access.CommandID(fmt.Sprint("C", i))
		r := begin(t, s, id)
		wg.Go(func() {
			for n := range 400 {
				line := []byte(strings.Repeat(fmt.Sprintf("[%d, \"o\", \"%d\"]\n", i, n), 1+n%90*i))
				want[i].Write(line)
				if _, err := r.Write(line); err != nil {
					t.Error(err)
				}
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if _, err := r.Write([]byte("x")); err == nil {
				t.Error("a closed recording takes more")
			}
		})
	}
	wg.Wait()
	for i := range want {
		id := access.CommandID(fmt.Sprint("C", i))
		eventually(t, "an end", func() bool { return b.ended(id) == api.ReasonComplete })
		if got := b.bytes(id); !bytes.Equal(got, want[i].Bytes()) {
			t.Errorf("%s: %d bytes, want %d", id, len(got), want[i].Len())
		}
		for n, c := range b.tapes[id].chunks {
			if len(c) > 0 && c[len(c)-1] != '\n' {
				t.Errorf("%s: chunk %d ends within a line", id, n)
			}
		}
		if b.tapes[id].name != "term inal" {
			t.Errorf("called %q", b.tapes[id].name)
		}
	}
	stop()
	b.check(t)
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 1 {
		t.Errorf("left behind: %q", left)
	}
}

// What is written is told to the broker within a second or so, without a further write.
func TestAFewBytesDoNotWaitForMore(t *testing.T) {
	b := &broker{}
	k, stop := start(t, Config{Dir: t.TempDir()}, b)
	defer stop()
	s := k.Session("S", always)
	r := begin(t, s, "C")
	begun := time.Now()
	_, err := r.Write([]byte("x"))
	must(t, err)
	eventually(t, "a byte at the broker", func() bool { return string(b.bytes("C")) == "x" })
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	s.Close() // the room forgot to
	eventually(t, "an end", func() bool { return b.ended("C") == api.ReasonSession })
	if _, err := s.Start("D", protocol.Cast, ""); err == nil {
		t.Error("a session that is over records")
	}
	b.check(t)
}

func TestStartRefuses(t *testing.T) {
	k, stop := start(t, Config{Dir: t.TempDir()}, &broker{})
	defer stop()
	s := k.Session("S", func(c access.CommandID) (uint64, bool) { return 1, c == "C" })
	if _, err := s.Start("D", protocol.Cast, ""); err == nil {
		t.Error("a command that does not run is recorded")
	}
	if _, err := s.Start("C", "video", ""); err == nil {
		t.Error("an unknown kind is recorded")
	}
	begin(t, s, "C")
	if _, err := s.Start("C", protocol.Cast, ""); err == nil {
		t.Error("a command is recorded twice")
	}
}

// Killed at any moment, nothing that was promised is lost, and the next start ends the recording as interrupted, once.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	promised := 0
	for promised < 30 {
		if _, err := fmt.Fscan(out, &promised); err != nil {
			t.Fatal(err)
		}
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	for {
		if _, err := fmt.Fscan(out, &promised); err != nil {
			break
		}
	}
	// The disk tore what was being written.
	names, _ := filepath.Glob(filepath.Join(dir, prefix+"*"))
	f, err := os.OpenFile(names[len(names)-1], os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.Write([]byte{0, 0, 1, 0, 9, 9})
	must(t, errors.Join(err, f.Close()))
	b := &broker{err: errors.New("away")}
	for range 2 { // a second start, before the broker is back, adds nothing
		k, err := Open(Config{Dir: dir})
		must(t, err)
		must(t, k.Close())
	}
	b.set(nil)
	_, stop := start(t, Config{Dir: dir}, b)
	eventually(t, "an end", func() bool { return b.ended("C") != "" })
	stop()
	b.check(t)
	if e := b.ended("C"); e != api.ReasonInterrupted {
		t.Errorf("ended as %q", e)
	}
	got := b.bytes("C")
	if len(got) < promised*api.MaxChunk {
		t.Errorf("%d bytes, promised were %d", len(got), promised*api.MaxChunk)
	}
	for i := range len(got) / api.MaxChunk {
		if c := got[i*api.MaxChunk]; c != byte('a'+i%26) || got[(i+1)*api.MaxChunk-1] != c {
			t.Fatalf("chunk %d is not the one that was written", i)
		}
	}
}

// A recording whose every chunk was delivered, and whose files are gone but the last, is known after a restart.
func TestInterruptedAfterEverythingWasDelivered(t *testing.T) {
	dir, b := t.TempDir(), &broker{}
	k, err := Open(Config{Dir: dir})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { k.Run(ctx, "agent", b) })
	s := k.Session("S", always)
	r := begin(t, s, "C")
	silent := begin(t, s, "D") // nothing was ever written to it
	_ = silent
	big := bytes.Repeat([]byte("x"), api.MaxChunk)
	for range 3 * fileSize / api.MaxChunk {
		_, err := r.Write(big)
		must(t, err)
	}
	eventually(t, "delivered", func() bool { return len(b.bytes("C")) == 3*fileSize && k.Waiting() == 0 })
	cancel()
	wg.Wait() // and never closed: as a crash leaves it
	if names, _ := filepath.Glob(filepath.Join(dir, prefix+"*")); len(names) > 2 {
		t.Errorf("files stay: %q", names)
	}
	_, stop := start(t, Config{Dir: dir}, b)
	defer stop()
	eventually(t, "ends", func() bool { return b.ended("C") == api.ReasonInterrupted && b.ended("D") == api.ReasonInterrupted })
	b.check(t)
}

func TestFullEndsTheChannelAndStillTheEndFits(t *testing.T) {
	dir, b := t.TempDir(), &broker{err: errors.New("away")}
	k, stop := start(t, Config{Dir: dir, Limit: MinLimit}, b)
	defer stop()
	s := k.Session("S", always)
	r, other := begin(t, s, "C"), begin(t, s, "D")
	n := 0
	var err error
	for chunk := bytes.Repeat([]byte("x"), 100_000); err == nil; {
		var m int
		m, err = r.Write(chunk)
		n += m
	}
	if !errors.Is(err, ErrFull) || n < MinLimit/2 {
		t.Fatalf("after %d bytes: %v", n, err)
	}
	for err = nil; err == nil; {
		_, err = other.Write([]byte("a line\n"))
	}
	if !errors.Is(err, ErrFull) {
		t.Errorf("another one: %v", err)
	}
	if _, err := s.Start("E", protocol.Cast, ""); !errors.Is(err, ErrFull) {
		t.Errorf("a third one: %v", err)
	}
	if err := r.Close(); !errors.Is(err, ErrFull) {
		t.Errorf("closed as if nothing were missing: %v", err)
	}
	size := int64(0)
	eventually(t, "on disk", func() bool { k.mu.Lock(); defer k.mu.Unlock(); return len(k.pending)+len(k.writing) == 0 })
	names, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, name := range names {
		st, err := os.Stat(name)
		must(t, err)
		size += st.Size()
	}
	if size > MinLimit {
		t.Errorf("%d bytes on disk", size)
	}
	b.set(nil)
	eventually(t, "an end", func() bool { return b.ended("C") == api.ReasonInterrupted && len(b.bytes("C")) == n })
	again := begin(t, s, "F")
	if _, err := again.Write([]byte("x")); err != nil {
		t.Errorf("there is room again: %v", err)
	}
	b.check(t)
}

func TestBehindEndsTheChannel(t *testing.T) {
	b := &broker{err: errors.New("away")}
	k, stop := start(t, Config{Dir: t.TempDir(), Behind: 300 * time.Millisecond}, b)
	defer stop()
	r := begin(t, k.Session("S", always), "C")
	var err error
	eventually(t, "an error", func() bool { _, err = r.Write([]byte("x\n")); return err != nil })
	if !errors.Is(err, ErrBehind) {
		t.Error(err)
	}
}

func TestRefusedByTheBrokerEndsTheChannel(t *testing.T) {
	b := &broker{refuse: true}
	k, stop := start(t, Config{Dir: t.TempDir()}, b)
	defer stop()
	r := begin(t, k.Session("S", always), "C")
	eventually(t, "an error", func() bool { _, err := r.Write([]byte("x\n")); return err != nil })
}

func TestADiskThatDoesNotWriteEndsTheChannel(t *testing.T) {
	dir, b := t.TempDir(), &broker{}
	k, stop := start(t, Config{Dir: dir}, b)
	defer stop()
	must(t, os.Rename(dir, dir+"away")) // no file can be made
	t.Cleanup(func() { _ = os.RemoveAll(dir + "away") })
	r := begin(t, k.Session("S", always), "C")
	if _, err := r.Write(make([]byte, api.MaxChunk)); err == nil {
		t.Error("a full chunk was taken that is nowhere")
	}
	must(t, os.Rename(dir+"away", dir))
}

func TestADamagedFileIsSetAside(t *testing.T) {
	dir, b := t.TempDir(), &broker{err: errors.New("away")}
	k, stop := start(t, Config{Dir: dir}, b)
	s := k.Session("S", always)
	r := begin(t, s, "C")
	for range 20 {
		_, err := r.Write(make([]byte, api.MaxChunk))
		must(t, err)
	}
	must(t, r.Close())
	stop()
	names, _ := filepath.Glob(filepath.Join(dir, prefix+"*"))
	raw, err := os.ReadFile(names[0])
	must(t, err)
	raw[3*api.MaxChunk] ^= 1
	must(t, os.WriteFile(names[0], raw, 0o600))
	b = &broker{}
	k, stop = start(t, Config{Dir: dir}, b)
	defer stop()
	eventually(t, "set aside", func() bool {
		n, _ := filepath.Glob(filepath.Join(dir, "*.damaged"))
		return len(n) == 1 && k.Waiting() == 0
	})
	if n := len(b.bytes("C")); n == 0 || n >= 20*api.MaxChunk {
		t.Errorf("%d bytes were delivered", n)
	}
}

func FuzzDecode(f *testing.F) {
	c, err := encodeChunk(api.Chunk{Session: "S", Command: "C", Seq: 1, Kind: "cast", Data: []byte("[0,\"o\",\"x\"]\n"), Time: time.Unix(1, 0).UTC()})
	must(f, err)
	o, err := encode('o', []title{{Session: "S", Command: "C", Seq: 1, Kind: "cast", Next: 3}})
	must(f, err)
	first, err := encode('b', title{Session: "S", Command: "C"})
	must(f, err)
	for _, b := range [][]byte{c, o, first, append(bytes.Clone(o), c...), c[:len(c)-1], {0, 0, 0, 1, 0, 0, 0, 0, 'c'}} {
		f.Add(b)
		f.Add(b[journal.FrameHead:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = replay(b, true, map[access.CommandID]title{})
		if r, err := decode(b); err == nil && r.chunk != nil { // beyond the checksum, which no input guesses
			again, err := encodeChunk(*r.chunk)
			if err != nil {
				return // a title in a wasteful spelling
			}
			payload, rest, whole, err := journal.Frame(again, maxFrame)
			if err != nil || !whole || len(rest) != 0 {
				t.Fatalf("%v %v %d", err, whole, len(rest))
			}
			if back, err := decode(payload); err != nil || !bytes.Equal(back.chunk.Data, r.chunk.Data) || back.chunk.Index != r.chunk.Index {
				t.Fatalf("%+v %v", back.chunk, err)
			}
		}
	})
}

// BenchmarkWrite is what recording costs a channel, in writes of 32 kB, with a broker that takes everything.
func BenchmarkWrite(b *testing.B) {
	br := &broker{}
	k, stop := start(b, Config{Dir: b.TempDir(), Limit: 4 << 30}, br)
	defer stop()
	r, err := k.Session("S", always).Start("C", protocol.File, "f")
	must(b, err)
	p := bytes.Repeat([]byte("x"), 32<<10)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		br.mu.Lock()
		if t := br.tapes["C"]; t != nil { // not to run out of memory
			for i := range t.chunks {
				t.chunks[i] = nil
			}
		}
		br.mu.Unlock()
		if _, err := r.Write(p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkChunk is one chunk on its way to disk: its fsync.
func BenchmarkChunk(b *testing.B) {
	k, err := Open(Config{Dir: b.TempDir(), Limit: 16 << 30})
	must(b, err)
	p := bytes.Repeat([]byte("x"), api.MaxChunk)
	b.SetBytes(int64(len(p)))
	for i := 0; b.Loop(); i++ {
		raw, err := encodeChunk(api.Chunk{Session: "S", Command: "C", Index: i, Kind: "file", Data: p})
		must(b, err)
		k.pending = append(k.pending, framed{b: raw})
		must(b, k.flush())
	}
	must(b, k.Close())
}
