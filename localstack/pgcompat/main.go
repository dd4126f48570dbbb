// Command pgcompat runs the test suites of PostgreSQL's clients twice, straight at a server and through the room, and prints test by test what
// differs: every statement is decided and every outcome kept, by a gate in this process that says yes.
// It refuses to call two runs alike of which one did not run, and knows a difference only by the name and reason that explained.tsv gives.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/agent/protocol/postgres"
	"github.com/sallyport/sallyport/localstack/pgserver"
)

// parserWord is the only argument of a process that runs the grammar for the room.
const parserWord = "parse-sql"

func main() {
	if len(os.Args) == 2 && os.Args[1] == parserWord {
		if err := postgres.ParserMain(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pgcompat:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	versions []int
	suites   []string
	only     string // passed to the suite: which of its tests
	dir      string // where suites are installed
	scripts  string
	limit    time.Duration
	parallel int
	bouncer  string
	guarded  bool
	serve    bool
}

func parse(args []string) (options, error) {
	o := options{}
	set := flag.NewFlagSet("pgcompat", flag.ContinueOnError)
	versions := set.String("versions", "15,18", "server versions, with commas")
	suites := set.String("suites", "", "names in the directory of scripts, with commas; empty for all")
	set.StringVar(&o.only, "only", "", "which of a suite's tests, in its own words")
	set.StringVar(&o.dir, "dir", "build/compat", "where suites are installed, and results kept")
	set.StringVar(&o.scripts, "scripts", "localstack/pgcompat/suites", "where the scripts are")
	set.DurationVar(&o.limit, "limit", 12*time.Minute, "how long one run of a suite may take; what it has done by then is kept, and the command fails")
	set.IntVar(&o.parallel, "parallel", 2, "how many suites run at a time, each on servers of its own")
	set.StringVar(&o.bouncer, "pgbouncer", "", "a PgBouncer to run the suites through as well, in session mode, to compare with")
	set.BoolVar(&o.guarded, "guarded", false, "protect a column of a table that no suite has, so that the way of masked sessions is taken")
	set.BoolVar(&o.serve, "serve", false, "start a server and the room before it, print where, and stay")
	if err := set.Parse(args); err != nil {
		return o, err
	}
	for v := range strings.SplitSeq(*versions, ",") {
		n, err := strconv.Atoi(v)
		if err != nil {
			return o, fmt.Errorf("version %q: %w", v, err)
		}
		o.versions = append(o.versions, n)
	}
	var err error
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return o, err
	}
	all, err := filepath.Glob(filepath.Join(o.scripts, "*.sh"))
	if err != nil {
		return o, err
	}
	for _, path := range all {
		if *suites == "" || slices.Contains(strings.Split(*suites, ","), nameOf(path)) {
			o.suites = append(o.suites, path)
		}
	}
	if len(o.suites) == 0 && !o.serve || o.parallel < 1 {
		return o, errors.New("no such suite")
	}
	return o, os.MkdirAll(o.dir, 0o755)
}

func nameOf(script string) string { return strings.TrimSuffix(filepath.Base(script), ".sh") }

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.serve {
		return stay(ctx, o, o.versions[0], out)
	}
	known, err := explanations(filepath.Join(filepath.Dir(o.scripts), "explained.tsv"))
	if err != nil {
		return err
	}
	for _, script := range o.suites {
		if err := o.script(ctx, script, "install", nil, os.Stderr); err != nil {
			return fmt.Errorf("install %s: %w", nameOf(script), err)
		}
	}
	var jobs []func() (row, error)
	for _, v := range o.versions {
		for _, script := range o.suites {
			jobs = append(jobs, func() (row, error) { return o.suite(ctx, script, v, known, out) })
		}
	}
	rows, err := each(jobs, o.parallel)
	return errors.Join(table(out, rows), err)
}

// each runs jobs, so many at a time, and keeps what they came to in their order; one that fails does not end the others.
func each(jobs []func() (row, error), parallel int) ([]row, error) {
	rows, errs := make([]row, len(jobs)), make([]error, len(jobs))
	places := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for i, job := range jobs {
		places <- struct{}{}
		wg.Go(func() {
			rows[i], errs[i] = job()
			<-places
		})
	}
	wg.Wait()
	return rows, errors.Join(errs...)
}

// errCut says that results are not all that there would have been.
var errCut = errors.New("not done")

// repeats is how often tests are run again, as long as some of them pass: a suite that panics leaves out what comes after that.
const repeats = 4

// suite runs one suite in both ways, and again through the gate what passed directly and not there: a test that needs a quiet machine is
// none that the gate breaks. The row says how many there were.
func (o options) suite(ctx context.Context, script string, version int, known map[string]string, out io.Writer) (row, error) {
	r := row{suite: nameOf(script), version: version}
	var cut []error
	run := func(how string, g *gatekeeper) map[string]string {
		all, err := o.side(ctx, script, version, how, g)
		cut = append(cut, err)
		return all
	}
	asked := &gatekeeper{}
	r.direct = run("direct", nil)
	if o.bouncer != "" {
		r.bouncer = run("pgbouncer", nil)
	}
	r.gated = run("gate", asked)
	if err := errors.Join(cut...); err != nil && !errors.Is(err, errCut) {
		return r, err
	}
	for range repeats {
		again := r.differing(known)
		if len(again) == 0 {
			break
		}
		next, err := o.again(ctx, script, version, again, asked)
		if err != nil && !errors.Is(err, errCut) {
			return r, err
		}
		if r.more(again, next) == 0 {
			break
		}
	}
	r.compare(known)
	r.commands = asked.commands()
	r.print(out)
	return r, errors.Join(cut...)
}

// side runs a suite on a server of its own.
func (o options) side(ctx context.Context, script string, version int, how string, g *gatekeeper) (map[string]string, error) {
	return o.on(ctx, script, version, how, "run", g, nil)
}

// again runs some tests of a suite a second time, where its script can.
func (o options) again(ctx context.Context, script string, version int, tests []string, g *gatekeeper) (map[string]string, error) {
	list := filepath.Join(o.dir, fmt.Sprintf("%s-%d-again.txt", nameOf(script), version))
	if err := os.WriteFile(list, []byte(strings.Join(tests, "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	return o.on(ctx, script, version, "gate-again", "again", g, []string{"COMPAT_TESTS=" + list})
}

func (o options) on(ctx context.Context, script string, version int, how, step string, g *gatekeeper, more []string) (map[string]string, error) {
	srv, err := pgserver.Start(ctx, pgserver.Config{Version: version, Parameters: map[string]string{"max_prepared_transactions": "10", "wal_level": "logical", "log_statement": "none"}})
	if err != nil {
		return nil, err
	}
	defer srv.Stop() //nolint:errcheck // a throw-away server
	env := environment(srv, srv.Port)
	if err := o.script(ctx, script, "prepare", env, os.Stderr); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", nameOf(script), err)
	}
	port, end, err := o.before(ctx, srv, how, g)
	if err != nil {
		return nil, err
	}
	defer end()
	log, err := os.Create(filepath.Join(o.dir, fmt.Sprintf("%s-%d-%s.log", nameOf(script), version, how)))
	if err != nil {
		return nil, err
	}
	defer log.Close() //nolint:errcheck // it is for people
	bounded, stop := context.WithTimeout(ctx, o.limit)
	defer stop()
	err = o.script(bounded, script, step, append(environment(srv, port), more...), log)
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) && bounded.Err() == nil || ctx.Err() != nil {
		return nil, errors.Join(err, ctx.Err())
	}
	all, err := results(log.Name())
	if err == nil && bounded.Err() != nil {
		err = fmt.Errorf("%s on %d, %s: %w within %s", nameOf(script), version, how, errCut, o.limit)
	}
	return all, err
}

// before puts what a run goes through in front of a server.
func (o options) before(ctx context.Context, srv *pgserver.Server, how string, g *gatekeeper) (port int, end func(), err error) {
	switch {
	case g != nil:
		house, err := open(srv, g, o.guarded)
		if err != nil {
			return 0, nil, err
		}
		return house.port(), house.close, nil
	case how == "pgbouncer":
		return bounce(ctx, o.bouncer, srv)
	}
	return srv.Port, func() {}, nil
}

func environment(srv *pgserver.Server, port int) []string {
	return []string{"PGHOST=127.0.0.1", "PGPORT=" + strconv.Itoa(port), "PGUSER=" + srv.User, "PGPASSWORD=" + srv.Password, "PGDATABASE=" + srv.Database,
		"PGSSLMODE=disable"}
}

// script runs one step: install, prepare (always straight at the server), or run.
func (o options) script(ctx context.Context, path, step string, env []string, out io.Writer) error {
	cmd := exec.CommandContext(ctx, "bash", path, step, o.only)
	cmd.Env = append(os.Environ(), "COMPAT="+o.dir)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what the script started ends with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd.Run()
}

// stay keeps a server and the room before it up.
func stay(ctx context.Context, o options, version int, out io.Writer) error {
	srv, err := pgserver.Start(ctx, pgserver.Config{Version: version})
	if err != nil {
		return err
	}
	defer srv.Stop() //nolint:errcheck // a throw-away server
	house, err := open(srv, &gatekeeper{}, o.guarded)
	if err != nil {
		return err
	}
	defer house.close()
	fmt.Fprintf(out, "export PGHOST=127.0.0.1 PGUSER=%s PGPASSWORD=%s PGDATABASE=%s PGPORT=%d DIRECT=%d\n", srv.User, srv.Password, srv.Database, house.port(), srv.Port)
	<-ctx.Done()
	return nil
}
