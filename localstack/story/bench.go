package story

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/localstack/pgserver"
)

// million is a table of a million rows with six columns of text, of which policy masks one.
const million = `
create schema bench;
create table bench.customers as select 'name of customer ' || g as name, 'customer' || g || '@example.com' as email,
  md5(g::text) as note, md5((g+1)::text) as ref, 'street ' || g as street, 'city of ' || g %% 1000 as city from generate_series(1, %d) g;
grant usage on schema bench to app; grant select on bench.customers to app;
vacuum freeze analyze bench.customers;
`

const (
	benchRows   = 1_000_000
	benchRounds = 3
	roundLength = 1500 * time.Millisecond
	benchClient = 600 // more sessions than any table has at a time
)

// table is one of the benchmark's tables.
type table struct {
	name string
	fill func(context.Context, *bench) error
}

// measured are all tables there are, in the order in which they are printed.
var measured = []table{
	{"one-client", oneClient},
	{"many-clients", manyClients},
	{"pipelines", pipelines},
	{"rows", rows},
	{"connect", connects},
	{"memory", memories},
}

// bench is a run: a database and several ways to it.
type bench struct {
	w       *world
	lanes   []lane // direct, PgBouncer, straight, local, gate
	looking []lane // straight, local, gate, whose policy looks for values in all text
	close   []func() error
	ready   time.Duration // what the latest system took to start
}

func (b *bench) p(format string, args ...any) { _, _ = fmt.Fprintf(b.w.c.Out, format+"\n", args...) }

// Bench fills the tables of docs/BENCHMARKS.md that speak of PostgreSQL, all of them or those named, and prints them in Markdown. The lanes
// take turns, round by round, so that a machine whose speed drifts drifts for all of them.
func Bench(ctx context.Context, c Config, names []string) (err error) {
	for _, name := range names {
		if !slices.ContainsFunc(measured, func(t table) bool { return t.name == name }) {
			return fmt.Errorf("no table %q", name)
		}
	}
	b := &bench{}
	defer func() {
		for _, f := range slices.Backward(b.close) {
			err = errors.Join(err, f())
		}
	}()
	if err := b.open(ctx, c); err != nil {
		return err
	}
	b.p("Machine: %d × %s, %s/%s, Linux %s; PostgreSQL on the same machine; %s", runtime.NumCPU(), cpuModel(), runtime.GOOS, runtime.GOARCH, kernel(), time.Now().UTC().Format("2006-01-02"))
	began := time.Now()
	for _, t := range measured {
		if len(names) > 0 && !slices.Contains(names, t.name) {
			continue
		}
		if err := t.fill(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	b.p("\nMeasured in %s.", time.Since(began).Round(time.Second))
	return nil
}

// open starts the database, what it is compared with, and every system.
func (b *bench) open(ctx context.Context, c Config) error {
	certificate, key, err := selfSigned()
	if err != nil {
		return err
	}
	w, err := newWorldOn(ctx, c, "", pgserver.Config{Certificate: certificate, Key: key,
		Parameters: map[string]string{"log_statement": "none", "max_connections": fmt.Sprint(benchClient), "shared_buffers": "512MB"}})
	if err != nil {
		return err
	}
	b.w, b.close = w, append(b.close, w.Close)
	for sql := range strings.SplitSeq(fmt.Sprintf(million, benchRows), ";\n") { // VACUUM must stand alone
		if strings.TrimSpace(sql) == "" {
			continue
		}
		if _, err := w.pg.Exec(ctx, sql); err != nil {
			return fmt.Errorf("seed: %w", err)
		}
	}
	plain, looking := filepath.Join(w.dir, "policy"), filepath.Join(w.dir, "policy-looking")
	if err := errors.Join(writePolicy(plain, false), writePolicy(looking, true)); err != nil {
		return err
	}
	b.lanes = []lane{{name: "direct", dsn: w.dsn(w.pg.Port)}}
	switch bouncer, err := b.bouncer(ctx, certificate, key); {
	case errors.Is(err, errNoBouncer):
		b.p("**%v**\n", err)
	case err != nil:
		return err
	default:
		b.lanes = append(b.lanes, bouncer)
	}
	gate, err := b.system(ctx, "", plain)
	if err != nil {
		return err
	}
	local, err := b.system(ctx, "benchagent", plain)
	if err != nil {
		return err
	}
	straight, err := b.straight(ctx, plain)
	if err != nil {
		return err
	}
	b.lanes = append(b.lanes, straight, local, gate)
	for _, f := range []func() (lane, error){
		func() (lane, error) { return b.straight(ctx, looking) },
		func() (lane, error) { return b.system(ctx, "benchagent", looking) },
		func() (lane, error) { return b.system(ctx, "", looking) },
	} {
		l, err := f()
		if err != nil {
			return err
		}
		b.looking = append(b.looking, l)
	}
	return nil
}

// dsn is the way to a port of this machine that speaks TLS and knows the target's own user.
func (w *world) dsn(port int) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=app password=%s dbname=shop sslmode=require", port, w.secret)
}

// relayMemory starts the relay program by itself, as it runs in a container, and reads its memory once it is ready.
func relayMemory(ctx context.Context, w *world) (float64, error) {
	dir, err := relayFiles(ctx, w)
	if err != nil {
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
