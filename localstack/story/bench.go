package story

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/localstack/embedded"
)

// big is a table of a million rows with one masked column among six.
const big = `
create schema bench;
create table bench.customers as select g as id, 'name of customer ' || g as name, 'customer' || g || '@example.com' as email,
  md5(g::text) as note, md5((g+1)::text) as ref, 'street ' || g as street from generate_series(1, %d) g;
grant usage on schema bench to app; grant select on bench.customers to app;
vacuum freeze analyze bench.customers;
`

const (
	benchRows   = 1_000_000
	benchRounds = 5
	roundLength = 2 * time.Second
)

// lane is one way to the database.
type lane struct{ name, dsn string }

// Bench measures every figure of docs/BENCHMARKS.md in one run and prints the tables in Markdown. The lanes take turns, round by
// round, so that a machine whose speed drifts drifts for all of them.
func Bench(ctx context.Context, c Config) (err error) {
	w, err := newWorld(ctx, c, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	for sql := range strings.SplitSeq(fmt.Sprintf(big, benchRows), ";\n") { // VACUUM must stand alone
		if strings.TrimSpace(sql) == "" {
			continue
		}
		if _, err := w.pg.Exec(ctx, sql); err != nil {
			return fmt.Errorf("seed: %w", err)
		}
	}
	began := time.Now()
	if err := w.start(ctx); err != nil {
		return err
	}
	ready := time.Since(began)
	if err := w.loginByToken(ctx, "alice", "engineers"); err != nil {
		return err
	}
	gate, stop, err := w.connect(ctx)
	if err != nil {
		return err
	}
	defer stop()
	l, err := w.local(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	local, stopLocal, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer stopLocal()
	direct := fmt.Sprintf("host=%s port=%d user=app password=%s dbname=shop sslmode=disable", w.pg.Host, w.pg.Port, w.secret)
	lanes := []lane{{"direct", direct}, {"whole path, gate answers locally", local}, {"whole gate", gate}}
	out := c.Out
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }
	p("Machine: %d × %s, %s/%s, Linux %s; PostgreSQL on the same machine; %s", runtime.NumCPU(), cpuModel(), runtime.GOOS, runtime.GOARCH, kernel(), time.Now().UTC().Format("2006-01-02"))
	idle, err := w.memory()
	if err != nil {
		return err
	}
	if err := w.benchLatency(ctx, p, lanes); err != nil {
		return err
	}
	if err := w.benchStream(ctx, p, lanes); err != nil {
		return err
	}
	busy, err := w.memory()
	if err != nil {
		return err
	}
	relay, err := relayMemory(ctx, w)
	if err != nil {
		return err
	}
	p("\n| | |\n|---|---|")
	p("| `sallyport dev` ready, agent enrolled and connected | %d ms |", ready.Milliseconds())
	p("| agent, resident: idle / peak after the streams | %.0f / %.0f MB |", idle.rss, busy.peak)
	p("| relay alone (its own process), resident, idle | %.0f MB |", relay)
	return nil
}

func (w *world) benchLatency(ctx context.Context, p func(string, ...any), lanes []lane) error {
	sync, err := fsyncs(w.data, 500)
	if err != nil {
		return err
	}
	p("\nOne durable append of 1 kB (write + fsync) on the broker's disk: p50 %d µs.", sync.Microseconds())
	p("\n| `select 1` | clients | lane | p50 µs | p99 µs | commands/s | added p50 µs |\n|---|---|---|---|---|---|---|")
	for _, extended := range []bool{false, true} {
		for _, clients := range []int{1, 16} {
			results := make([][]sample, len(lanes))
			for range benchRounds {
				for i, l := range lanes {
					s, err := load(ctx, l.dsn, clients, extended, roundLength)
					if err != nil {
						return fmt.Errorf("%s, %d clients: %w", l.name, clients, err)
					}
					results[i] = append(results[i], s)
				}
			}
			base := medianOf(results[0])
			for i, l := range lanes {
				m := medianOf(results[i])
				kind := "simple"
				if extended {
					kind = "extended"
				}
				p("| %s | %d | %s | %d | %d | %.0f | %d |", kind, clients, l.name, m.p50.Microseconds(), m.p99.Microseconds(), m.perSecond, (m.p50 - base.p50).Microseconds())
			}
		}
	}
	return nil
}

func medianOf(s []sample) sample {
	var p50, p99 []time.Duration
	var rate []float64
	for _, x := range s {
		p50, p99, rate = append(p50, x.p50), append(p99, x.p99), append(rate, x.perSecond)
	}
	return sample{median(p50), median(p99), median(rate)}
}

func (w *world) benchStream(ctx context.Context, p func(string, ...any), lanes []lane) error {
	p("\n| %d rows, six columns | lane | MB | s | MB/s |\n|---|---|---|---|---|", benchRows)
	for _, q := range []struct{ name, sql string }{
		{"one masked", "select * from bench.customers"},
		{"none masked", "select id, name, note, ref, street, id as again from bench.customers"},
	} {
		took := make([][]time.Duration, len(lanes))
		bytes := make([]int64, len(lanes))
		for range 3 {
			for i, l := range lanes {
				n, d, err := stream(ctx, l.dsn, q.sql)
				if err != nil {
					return fmt.Errorf("stream by %s: %w", l.name, err)
				}
				took[i], bytes[i] = append(took[i], d), n
			}
		}
		for i, l := range lanes {
			d := median(took[i])
			p("| %s | %s | %.0f | %.2f | %.0f |", q.name, l.name, float64(bytes[i])/1e6, d.Seconds(), float64(bytes[i])/1e6/d.Seconds())
		}
	}
	return nil
}

// local is a second system in front of the same database, whose agent asks nobody: benchagent in the place of sallyport-agent.
func (w *world) local(ctx context.Context) (*world, error) {
	dir := filepath.Join(w.dir, "local")
	l := &world{system: &dev{}, c: w.c, dir: dir, bin: filepath.Join(dir, "bin"), data: filepath.Join(dir, "data"), home: filepath.Join(dir, "alice")}
	if err := os.MkdirAll(l.bin, 0o700); err != nil {
		return nil, err
	}
	for _, f := range [][2]string{
		{filepath.Join(w.bin, "sallyport"), filepath.Join(l.bin, "sallyport")},
		{filepath.Join(w.c.Bin, "bench", "benchagent"), filepath.Join(l.bin, "sallyport-agent")},
		{filepath.Join(w.dir, "targets.yaml"), filepath.Join(l.dir, "targets.yaml")},
	} {
		if err := copyProgram(f[0], f[1]); err != nil {
			return nil, fmt.Errorf("%w (run `make bench`)", err)
		}
	}
	err := l.start(ctx)
	if err == nil {
		err = l.loginByToken(ctx, "alice", "engineers")
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// connect runs `sallyport connect app` and returns its DSN.
func (w *world) connect(ctx context.Context) (dsn string, stop func(), err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(w.bin, "sallyport"), "connect", "app", "-o", "json")
	cmd.Env, cmd.Stderr = w.env(), os.Stderr
	r, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() { _ = cmd.Process.Signal(os.Interrupt); _ = cmd.Wait() } // its exit code says nothing here
	b := make([]byte, 4096)
	n, err := r.Read(b)
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("sallyport connect: %w", err)
	}
	var c struct {
		DSN string `json:"dsn"`
	}
	for !strings.Contains(string(b[:n]), "}") && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	if err := parse(string(b[:n]), &c); err != nil {
		stop()
		return "", nil, err
	}
	return c.DSN, stop, nil
}

// usage is a process's memory in MB.
type usage struct{ rss, peak float64 }

func (w *world) memory() (usage, error) { return memoryOf(w.file.Agent) }

func memoryOf(pid int) (usage, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return usage{}, err
	}
	field := func(name string) float64 {
		_, after, _ := strings.Cut(string(b), name+":")
		n, err := strconv.Atoi(strings.Fields(after)[0])
		if err != nil {
			return 0
		}
		return float64(n) / 1000
	}
	return usage{field("VmRSS"), field("VmHWM")}, nil
}

func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	_, after, _ := strings.Cut(string(b), "model name\t: ")
	model, _, _ := strings.Cut(after, "\n")
	return model
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	major, _, _ := strings.Cut(strings.TrimSpace(string(b)), "-")
	return major
}

// relayMemory starts the relay program by itself, as it runs in a container, and reads its memory once it is ready.
func relayMemory(ctx context.Context, w *world) (float64, error) {
	dir := filepath.Join(w.dir, "relay")
	if err := embedded.RelayFiles(ctx, w.data, dir, w.file.Broker); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(w.c.Bin, "sallyport-relay"), "--config", filepath.Join(dir, "relay.yaml"))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }() // it carries nothing
	for range 500 {
		if _, err := os.Stat(filepath.Join(dir, "ready")); err == nil {
			m, err := memoryOf(cmd.Process.Pid)
			return m.rss, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return 0, errors.New("the relay is not ready after 5 s")
}
