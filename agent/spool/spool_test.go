package spool

import (
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
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

const (
	childDir  = "SPOOL_TEST_DIR"
	unlimited = ^uint64(0)
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir, os.Getenv("SPOOL_TEST_DO"))
		return
	}
	goleak.VerifyTestMain(m)
}

// recorder is a broker that takes outcomes, or does not.
type recorder struct {
	mu    sync.Mutex
	err   error
	taken map[access.CommandID]int
	calls int
}

func (r *recorder) Record(_ context.Context, req api.RecordRequest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	if r.err != nil {
		return r.err
	}
	if len(req.Outcomes) == 0 || len(req.Outcomes) > maxSend || req.Agent != "agent" {
		return fmt.Errorf("%d outcomes of %q", len(req.Outcomes), req.Agent)
	}
	if r.taken == nil {
		r.taken = map[access.CommandID]int{}
	}
	for _, o := range req.Outcomes {
		r.taken[o.Command]++
	}
	return nil
}

func (r *recorder) count() int { r.mu.Lock(); defer r.mu.Unlock(); return len(r.taken) }

func (r *recorder) set(err error) { r.mu.Lock(); defer r.mu.Unlock(); r.err = err }

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func open(t *testing.T, c Config) *Spool {
	t.Helper()
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start runs a spool until the returned func is called, which also closes it.
func start(t *testing.T, s *Spool, r Recorder) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx, "agent", r) })
	return func() {
		cancel()
		wg.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func outcome(i int) api.Outcome {
	return api.Outcome{Session: "S", Command: access.CommandID(fmt.Sprintf("C%06d", i)), Seq: uint64(i), Time: time.Unix(1, 0).UTC(),
		Result: access.Result{Status: access.StatusOK, Tag: "SELECT 1", Rows: 1, Masked: map[string]int64{"email": 1}}}
}

func put(t *testing.T, s *Spool, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := s.Reserve(1); err != nil {
			t.Fatalf("outcome %d: %v", i, err)
		}
		s.Put(outcome(i))
	}
}

func files(t *testing.T, dir, pattern string) []string {
	t.Helper()
	m, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestDeliversEverythingAndLeavesNothing(t *testing.T) {
	dir, r := t.TempDir(), &recorder{}
	s := open(t, Config{Dir: dir})
	stop := start(t, s, r)
	const n = 12_000 // several segments
	put(t, s, 0, n)
	eventually(t, "all delivered", func() bool { return r.count() == n })
	stop()
	if left := files(t, dir, "outcomes-*"); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
	for c, times := range r.taken {
		if times != 1 {
			t.Errorf("%s was sent %d times", c, times)
		}
	}
}

func TestKeepsWhatTheBrokerDoesNotTake(t *testing.T) {
	dir, r := t.TempDir(), &recorder{err: errors.New("broker is away")}
	s := open(t, Config{Dir: dir})
	stop := start(t, s, r)
	put(t, s, 0, 100)
	eventually(t, "a try", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.calls > 1 })
	stop()

	s = open(t, Config{Dir: dir})
	if s.Waiting() == 0 {
		t.Fatal("nothing waits")
	}
	stop = start(t, s, r)
	defer stop()
	put(t, s, 100, 110)
	r.set(nil)
	if s.Oldest() < 0 {
		t.Errorf("the oldest waits for %s", s.Oldest())
	}
	eventually(t, "all delivered", func() bool { return r.count() == 110 })
	eventually(t, "nothing waits", func() bool { return s.Oldest() == 0 })
}

// An outcome is on disk within 50 ms: measured from Put to a file that a second process could read.
func TestOnDiskInTime(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir})
	stop := start(t, s, &recorder{err: errors.New("away")})
	defer stop()
	put(t, s, 0, 1)
	eventually(t, "on disk", func() bool {
		for _, f := range files(t, dir, "outcomes-*.log") {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if o, _, err := decode(b); err == nil && len(o) == 1 {
				return true
			}
		}
		return false
	})
	if flushDelay >= 50*time.Millisecond {
		t.Errorf("outcomes wait %s before they are written", flushDelay)
	}
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

func TestFullRefusesAndRecovers(t *testing.T) {
	r := &recorder{err: errors.New("away")}
	s := open(t, Config{Dir: t.TempDir(), Limit: MinLimit})
	stop := start(t, s, r)
	defer stop()
	n := 0
	for ; s.Reserve(1) == nil; n++ {
		s.Put(outcome(n))
		if n > MinLimit {
			t.Fatal("it is never full")
		}
	}
	if err := s.Reserve(1); !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	if w := s.Waiting(); w > MinLimit {
		t.Errorf("%d bytes wait, over the limit", w)
	}
	r.set(nil)
	eventually(t, "room again", func() bool {
		if s.Reserve(1) != nil {
			return false
		}
		s.Release(1)
		return true
	})
	eventually(t, "all delivered", func() bool { return r.count() == n })
}

func TestReservationsCount(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir(), Limit: MinLimit})
	defer s.Close()
	most := MinLimit / maxRecord
	if err := s.Reserve(most); err != nil {
		t.Fatal(err)
	}
	if err := s.Reserve(1); !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	s.Release(most)
	if err := s.Reserve(most); err != nil {
		t.Fatal(err)
	}
}

func TestAnOversizedOutcomeIsToldInSum(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	r := &recorder{}
	stop := start(t, s, r)
	o := outcome(1)
	for i := range 300 {
		o.Result.Masked[fmt.Sprintf("%s%d", strings.Repeat("c", 100), i)] = 2
	}
	if err := s.Reserve(1); err != nil {
		t.Fatal(err)
	}
	s.Put(o)
	eventually(t, "delivered", func() bool { return r.count() == 1 })
	stop()
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir})
	defer s.Close()
	if _, err := Open(Config{Dir: dir}); err == nil {
		t.Fatal("two spools share a directory")
	}
	if _, err := Open(Config{Dir: t.TempDir(), Limit: MinLimit - 1}); err == nil {
		t.Fatal("a limit that fits nothing")
	}
}

func TestDamage(t *testing.T) {
	for name, c := range map[string]struct {
		hurt      func([]byte) []byte
		delivered int
		aside     int
	}{
		"torn tail":  {func(b []byte) []byte { return b[:len(b)-3] }, 9, 0},
		"torn head":  {func(b []byte) []byte { return append(b, 0, 0) }, 10, 0},
		"flipped":    {func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, 4, 1},
		"zeroes":     {func(b []byte) []byte { return append(b, make([]byte, 100)...) }, 10, 1},
		"first byte": {func(b []byte) []byte { b[0] = 0xff; return b }, 0, 1},
		"emptied":    {func([]byte) []byte { return nil }, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir, r := t.TempDir(), &recorder{err: errors.New("away")}
			s := open(t, Config{Dir: dir})
			stop := start(t, s, r)
			put(t, s, 0, 10)
			stop()
			f := files(t, dir, "outcomes-*.log")[0]
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(f, c.hurt(b), 0o600); err != nil {
				t.Fatal(err)
			}
			s = open(t, Config{Dir: dir})
			r.set(nil)
			stop = start(t, s, r)
			put(t, s, 1000, 1001) // what comes later is not held up
			eventually(t, "later one delivered", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.taken["C001000"] == 1 })
			stop()
			if got := r.count() - 1; got < c.delivered || got > c.delivered+1 {
				t.Errorf("%d were delivered, want about %d", got, c.delivered)
			}
			if got := len(files(t, dir, "*.damaged")); got != c.aside {
				t.Errorf("%d files were set aside, want %d", got, c.aside)
			}
		})
	}
}

func TestEveryFlippedBitIsNoticed(t *testing.T) {
	good := journal.AppendFrame(nil, []byte(`{"rows":1}`))
	for i := range len(good) * 8 {
		b := append([]byte(nil), good...)
		b[i/8] ^= 1 << (i % 8)
		if payload, _, whole, err := journal.Frame(b, maxRecord); err == nil && whole {
			t.Errorf("bit %d: read %q", i, payload)
		}
	}
}

func TestSessionsAreRemembered(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir})
	for _, id := range []access.SessionID{"A", "B", "C"} {
		if err := s.Opened(Session{ID: id, State: "state of " + string(id)}); err != nil {
			t.Fatal(err)
		}
	}
	s.Closed("B")
	if err := s.Opened(Session{ID: "D", State: strings.Repeat("x", maxLine)}); err == nil {
		t.Error("a state that is too long was taken")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f := filepath.Join(dir, "sessions.log")
	b, err := os.ReadFile(f)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		b    []byte
		want int
	}{
		"whole": {b, 2}, "torn": {append(b[:len(b):len(b)], 0, 0, 0), 2}, "damaged": {append(b[:len(b):len(b)], make([]byte, 50)...), 2},
		"not ours": {journal.AppendFrame(b[:len(b):len(b)], []byte("{")), 2},
	} {
		if err := os.WriteFile(f, c.b, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, Config{Dir: dir})
		if left := s.Left(); len(left) != c.want || left[0] != (Session{"A", "state of A"}) {
			t.Errorf("%s: left open %+v", name, left)
		}
		s.Close()
	}
	s = open(t, Config{Dir: dir})
	defer s.Close()
	for i := range rosterSlack {
		id := access.SessionID(fmt.Sprintf("X%d", i))
		if err := s.Opened(Session{ID: id}); err != nil {
			t.Fatal(err)
		}
		s.Closed(id)
	}
	if n := size(t, f); n > 200_000 {
		t.Errorf("the list of sessions has %d bytes", n)
	}
	for i := range MaxSessions - 2 {
		if err := s.Opened(Session{ID: access.SessionID(fmt.Sprintf("Y%d", i))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Opened(Session{ID: "Z"}); !errors.Is(err, ErrFull) {
		t.Errorf("one session too many: %v", err)
	}
}

// child is another process: it writes, tells how far it is certain, and waits to be killed.
func child(dir, do string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println("child:", err)
			os.Exit(1)
		}
	}
	s, err := Open(Config{Dir: dir})
	fail(err)
	switch do {
	case "write":
		fail(s.Opened(Session{ID: "S", State: "sealed"}))
		for i := 0; ; i++ {
			for j := range 10 {
				fail(s.Reserve(1))
				s.Put(outcome(i*10 + j))
			}
			fail(s.flush())
			fmt.Println((i + 1) * 10) // these are promised
		}
	case "full":
		signal.Ignore(syscall.SIGXFSZ)
		const most = 64 << 10
		fail(syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: most, Max: unlimited}))
		for i := 0; ; i++ {
			fail(s.Reserve(1))
			s.Put(outcome(i))
			if len(s.buffer) > most {
				break
			}
		}
		if s.flush() == nil {
			fail(errors.New("the disk took more than it has"))
		}
		if err := s.Reserve(1); err == nil {
			fail(errors.New("room was promised that the disk does not have"))
		}
		waiting := s.Waiting()
		fail(syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: unlimited, Max: unlimited}))
		fail(s.flush())
		fail(s.Reserve(1))
		s.Release(1)
		if s.Waiting() != waiting {
			fail(fmt.Errorf("%d bytes wait, before %d", s.Waiting(), waiting))
		}
		fail(s.Close())
		fmt.Println("good")
	}
}

func run(t *testing.T, dir, do string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childDir+"="+dir, "SPOOL_TEST_DO="+do)
	c.Stderr = os.Stderr
	return c
}

func TestKill9LosesNothingThatWasPromised(t *testing.T) {
	dir := t.TempDir()
	c := run(t, dir, "write")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	promised := 0
	for promised < 500 {
		if _, err := fmt.Fscanln(out, &promised); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // it was killed
	r := &recorder{}
	s := open(t, Config{Dir: dir})
	if left := s.Left(); len(left) != 1 || left[0] != (Session{"S", "sealed"}) {
		t.Errorf("sessions left open: %+v", left)
	}
	stop := start(t, s, r)
	eventually(t, "replayed", func() bool { return r.count() >= promised })
	stop()
	for i := range promised {
		if r.taken[outcome(i).Command] == 0 {
			t.Errorf("outcome %d of %d was lost", i, promised)
		}
	}
	if n := len(files(t, dir, "*.damaged")); n != 0 {
		t.Errorf("%d files were set aside", n)
	}
}

func TestFullDiskRefusesAndLosesNothing(t *testing.T) {
	dir := t.TempDir()
	out, err := run(t, dir, "full").Output()
	if err != nil || string(out) != "good\n" {
		t.Fatalf("%v: %s", err, out)
	}
	r := &recorder{}
	s := open(t, Config{Dir: dir})
	stop := start(t, s, r)
	eventually(t, "all delivered", func() bool { return s.Waiting() == 0 })
	stop()
	for i := range r.count() {
		if r.taken[outcome(i).Command] == 0 {
			t.Fatalf("outcome %d was lost", i)
		}
	}
	if r.count() < 200 {
		t.Fatalf("only %d outcomes", r.count())
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(journal.AppendFrame(nil, []byte(`{"session":"S","command":"C","seq":1,"time":"2026-01-02T03:04:05Z","result":{"status":"ok","rows":1,"bytes":2,"duration_us":3}}`)))
	f.Add([]byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		outcomes, read, err := decode(b)
		if read > len(b) || len(outcomes) > maxSend || err != nil && !errors.Is(err, journal.ErrTorn) {
			t.Fatal(read, len(b), err)
		}
		_ = (&roster{}).replay(b)
	})
}
