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
	"syscall"

	"github.com/sallyport/sallyport/localstack/pgserver"
)

func main() {
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
	guarded  bool
	serve    bool
}

func parse(args []string) (options, error) {
	o := options{}
	set := flag.NewFlagSet("pgcompat", flag.ContinueOnError)
	versions := set.String("versions", "18", "server versions, with commas")
	suites := set.String("suites", "", "names in the directory of scripts, with commas; empty for all")
	set.StringVar(&o.only, "only", "", "which of a suite's tests, in its own words")
	set.StringVar(&o.dir, "dir", "build/compat", "where suites are installed, and results kept")
	set.StringVar(&o.scripts, "scripts", "localstack/pgcompat/suites", "where the scripts are")
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
		name := strings.TrimSuffix(filepath.Base(path), ".sh")
		if *suites == "" || slices.Contains(strings.Split(*suites, ","), name) {
			o.suites = append(o.suites, path)
		}
	}
	if len(o.suites) == 0 && !o.serve {
		return o, errors.New("no such suite")
	}
	return o, os.MkdirAll(o.dir, 0o755)
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	known, err := explanations(filepath.Join(filepath.Dir(o.scripts), "explained.tsv"))
	if err != nil {
		return err
	}
	var rows []row
	for _, v := range o.versions {
		if o.serve {
			return stay(ctx, o, v, out)
		}
		for _, script := range o.suites {
			r, err := o.suite(ctx, script, v, known, out)
			if err != nil {
				return err
			}
			rows = append(rows, r)
		}
	}
	return table(out, rows)
}

// suite runs one suite in both ways.
func (o options) suite(ctx context.Context, script string, version int, known map[string]string, out io.Writer) (row, error) {
	name := strings.TrimSuffix(filepath.Base(script), ".sh")
	r := row{suite: name, version: version}
	if err := o.script(ctx, script, "install", nil, out); err != nil {
		return r, fmt.Errorf("install %s: %w", name, err)
	}
	direct, err := o.side(ctx, script, version, "direct", nil)
	if err != nil {
		return r, err
	}
	asked := &gatekeeper{}
	gated, err := o.side(ctx, script, version, "gate", asked)
	if err != nil {
		return r, err
	}
	r.compare(direct, gated, known)
	r.commands = asked.commands()
	r.print(out)
	return r, nil
}

// side runs a suite on a server of its own.
func (o options) side(ctx context.Context, script string, version int, how string, g *gatekeeper) (map[string]string, error) {
	srv, err := pgserver.Start(ctx, pgserver.Config{Version: version, Parameters: map[string]string{"max_prepared_transactions": "10", "log_statement": "none"}})
	if err != nil {
		return nil, err
	}
	defer srv.Stop() //nolint:errcheck // a throw-away server
	name := strings.TrimSuffix(filepath.Base(script), ".sh")
	port := srv.Port
	env := environment(srv, port)
	if err := o.script(ctx, script, "prepare", env, os.Stderr); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", name, err)
	}
	if g != nil {
		house, err := open(srv, g, o.guarded)
		if err != nil {
			return nil, err
		}
		defer house.close()
		env = environment(srv, house.port())
	}
	log, err := os.Create(filepath.Join(o.dir, fmt.Sprintf("%s-%d-%s.log", name, version, how)))
	if err != nil {
		return nil, err
	}
	defer log.Close() //nolint:errcheck // it is for people
	err = o.script(ctx, script, "run", env, log)
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		return nil, errors.Join(err, ctx.Err())
	}
	return results(log.Name())
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
