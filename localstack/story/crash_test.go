package story

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// asker asks numbered questions over the gate, reconnecting as a patient client would, and remembers which were answered.
type asker struct {
	dsn      string
	mu       sync.Mutex
	answered []int
}

func (a *asker) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.answered)
}

func (a *asker) run(ctx context.Context) {
	for n := 1; ctx.Err() == nil; {
		c, err := pgconn.Connect(ctx, a.dsn)
		if err != nil {
			time.Sleep(20 * time.Millisecond) // the system is down on purpose
			continue
		}
		for ; ctx.Err() == nil; n++ {
			if _, err := c.Exec(ctx, fmt.Sprintf("select %d", 1_000_000+n)).ReadAll(); err != nil {
				n++ // asked, not answered: never asked again
				break
			}
			a.mu.Lock()
			a.answered = append(a.answered, 1_000_000+n)
			a.mu.Unlock()
		}
		_ = c.Close(context.WithoutCancel(ctx)) // broken already
	}
}

// Killed at any moment, the system loses nothing that it answered: every answer has its entry, everything that PostgreSQL saw was
// allowed before, and the record verifies.
func TestKilledAtAnyMoment(t *testing.T) {
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWorld(t.Context(), Config{Bin: bin, Out: t.Output()}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	d := w.system.(*dev)
	must(w.start(t.Context()))
	must(w.loginByToken(t.Context(), "alice", "engineers"))
	dsn, stop, err := w.connect(t.Context())
	must(err)
	defer stop()
	a := &asker{dsn: dsn}
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asking.Go(func() { a.run(ctx) })
	defer func() { cancel(); asking.Wait() }()
	for round := range 4 {
		from := a.count()
		waitFor(t, func() bool { return a.count() > from+20*(round+1) })
		if round%2 == 1 { // the agent as well, at the same moment
			must(syscall.Kill(w.file.Agent, syscall.SIGKILL))
		}
		must(d.cmd.Process.Kill())
		<-d.exited
		d.cmd = nil
		waitFor(t, func() bool { return syscall.Kill(w.file.Agent, 0) != nil })
		must(os.Remove(filepath.Join(w.data, "dev.json")))
		must(w.start(t.Context()))
	}
	from := a.count()
	waitFor(t, func() bool { return a.count() > from+20 })
	cancel()
	asking.Wait()
	stop()

	allowed := recorded(t, w)
	for _, n := range a.answered {
		if !allowed[fmt.Sprint(n)] {
			t.Errorf("select %d was answered and has no entry that allows it", n)
		}
	}
	log, err := os.ReadFile(w.pg.LogFile)
	must(err)
	for _, m := range regexp.MustCompile(`select (1\d{6})\b`).FindAllSubmatch(log, -1) {
		if !allowed[string(m[1])] {
			t.Errorf("PostgreSQL saw select %s, which nothing allowed", m[1])
		}
	}
	must(w.system.stop())
	if out, code, err := w.cli(t.Context(), "", "audit", "verify", "--dir", w.data); err != nil || code != 0 {
		t.Errorf("audit verify: exit %d, %v: %s", code, err, out)
	}
	t.Logf("%d answers over 5 lives", len(a.answered))
}

// recorded are the numbers that an entry allows, by the exact text of every session.
func recorded(t *testing.T, w *world) map[string]bool {
	t.Helper()
	cli := func(v any, args ...string) {
		out, code, err := w.cli(t.Context(), "", append(args, "-o", "json")...)
		if err != nil || code != 0 {
			t.Fatalf("%v: exit %d, %v: %s", args, code, err, out)
		}
		if err := json.Unmarshal([]byte(out), v); err != nil {
			t.Fatal(err)
		}
	}
	var all []api.SessionView
	cli(&all, "sessions", "ls")
	allowed := map[string]bool{}
	for _, s := range all {
		var v api.SessionView
		cli(&v, "sessions", "show", string(s.ID))
		for _, c := range v.Commands {
			if m := regexp.MustCompile(`^select (\d+)$`).FindStringSubmatch(c.Text); m != nil && c.Decision.Outcome == access.Allow {
				allowed[m[1]] = true
			}
		}
	}
	return allowed
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing happened for 30 s")
		}
	}
}
