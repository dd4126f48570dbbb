package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/localstack/child"
	"github.com/sallyport/sallyport/localstack/pgserver"
	"github.com/sallyport/sallyport/localstack/story"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pgcorpus:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	dsn, server, log string
	command          string
	bin              string
	version          int
	quick, open      bool
	bareOnly         bool
	verbose          bool
	only             *regexp.Regexp
}

func parse(args []string) (options, error) {
	o := options{}
	set := flag.NewFlagSet("pgcorpus", flag.ContinueOnError)
	set.StringVar(&o.dsn, "dsn", "", "the proxy to attack; needs --server. Empty, without --proxy: Sallyport's own room, in this process")
	set.StringVar(&o.server, "server", "", "a superuser's DSN of the server behind the proxy: for set-up, and to see what happened. It is changed")
	set.StringVar(&o.log, "log", "", "that server's log file, readable here; without it nobody sees what only reached the server")
	set.StringVar(&o.command, "proxy", "", "a shell command that runs a proxy on PROXY_PORT before PGHOST:PGPORT (PGUSER, PGPASSWORD, PGDATABASE); its users log in as the same")
	set.StringVar(&o.bin, "bin", "", "the directory of sallyport, sallyport-agent and sallyport-relay: the whole system, as these programs, instead of the room alone")
	set.IntVar(&o.version, "version", 0, "of the server that is started where --server is not given")
	set.BoolVar(&o.quick, "quick", false, "not every form of every attack")
	set.BoolVar(&o.open, "open", false, "Sallyport's room under a policy that permits everything but to see masked values: only leaks count")
	set.BoolVar(&o.bareOnly, "bare", false, "attack the server itself, to see that the attacks are real")
	set.BoolVar(&o.verbose, "v", false, "say why each spelling was stopped, and which do nothing at the bare server")
	only := set.String("only", "", "a regular expression: which rows")
	if err := set.Parse(args); err != nil {
		return o, err
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, err
	}
	if set.NArg() > 0 || o.dsn != "" && o.server == "" || o.dsn != "" && o.command != "" {
		return o, errors.New("--dsn goes with --server, and without --proxy")
	}
	return o, nil
}

// errHoles is how a run ends that found something.
var errHoles = errors.New("not everything was stopped, or something harmless was")

func command(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	rows, err := load()
	if err != nil {
		return err
	}
	rows = slices.DeleteFunc(rows, func(r row) bool { return !o.only.MatchString(r.ID) })
	if o.open {
		rows = leaksOnly(rows)
	}
	st, err := openStage(ctx, o)
	if err != nil {
		return err
	}
	defer st.close()
	p := &player{ground: st.ground, turncoat: st.turncoat, all: !o.quick}
	if o.verbose {
		p.verbose = out
	}
	began := time.Now()
	works, err := p.bare(ctx, rows, st.bare)
	if err != nil {
		return err
	}
	s, err := st.subject(ctx, o)
	if err != nil {
		return err
	}
	results, err := p.play(ctx, rows, s, works)
	if err != nil {
		return err
	}
	if o.verbose {
		for _, r := range results {
			for k, v := range r.seen {
				_, _ = fmt.Fprintf(out, "%s\t%s\n", k, v)
			}
		}
	}
	holes, refusals := table(out, s, results)
	_, _ = fmt.Fprintf(out, "%.0f s\n", time.Since(began).Seconds())
	if holes+refusals > 0 {
		return errHoles
	}
	return nil
}

// leaksOnly leaves out what a policy that permits everything permits.
func leaksOnly(rows []row) []row {
	var out []row
	for _, r := range rows {
		r.Attacks = slices.DeleteFunc(slices.Clone(r.Attacks), func(a attack) bool { return a.harms() || a.Trusts || a.Shows != "" || a.Heard })
		r.Wire = nil
		if len(r.Attacks)+len(r.Hostile) > 0 {
			out = append(out, r)
		}
	}
	return out
}

// stage is everything that a run needs.
type stage struct {
	server   *pgserver.Server // nil: somebody else's
	ground   *ground
	turncoat *turncoat
	house    *house
	proxy    *exec.Cmd
	stop     func() error // of the whole system
	bare     string       // DSN of "app" at the server itself
	password string
	database string
}

func (s *stage) close() {
	s.stopProxy()
	if s.stop != nil {
		if err := s.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "pgcorpus:", err)
		}
	}
	if s.house != nil {
		s.house.close()
	}
	if s.turncoat != nil {
		s.turncoat.close()
	}
	if s.ground != nil {
		s.ground.close()
	}
	if s.server != nil {
		_ = s.server.Stop()
	}
}

func (s *stage) stopProxy() {
	if s.proxy != nil {
		_ = syscall.Kill(-s.proxy.Process.Pid, syscall.SIGTERM) // its whole group
		_ = s.proxy.Wait()                                      // ended by us
	}
	s.proxy = nil
}

// appPassword is the role's that proxies log in with. Nothing but a throw-away server knows it.
const appPassword = "corpus-app-password" //nolint:gosec // of a throw-away server

func openStage(ctx context.Context, o options) (*stage, error) {
	s := &stage{password: appPassword}
	admin, log := o.server, o.log
	if admin == "" {
		var err error
		if s.server, err = pgserver.Start(ctx, pgserver.Config{Version: o.version, Parameters: map[string]string{"max_prepared_transactions": "5"}}); err != nil {
			return nil, err
		}
		if _, err := s.server.Exec(ctx, "create database shop"); err != nil {
			s.close()
			return nil, err
		}
		s.server.Database = "shop"
		admin, log = s.server.DSN(), s.server.LogFile
	}
	c, err := pgconn.ParseConfig(admin)
	if err == nil {
		err = s.prepare(ctx, admin, log, c)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *stage) prepare(ctx context.Context, admin, log string, c *pgconn.Config) error {
	conn, err := pgconn.Connect(ctx, admin)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "do $$ begin create role app; exception when duplicate_object then null; end $$; alter role app superuser login password '"+appPassword+"'").ReadAll()
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		return err
	}
	s.database = c.Database
	s.bare = dsn(c.Host, int(c.Port), c.Database)
	if s.ground, err = openGround(ctx, admin, s.bare, log); err != nil {
		return err
	}
	s.turncoat, err = openTurncoat(net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))), appPassword)
	return err
}

func dsn(host string, port int, database string) string {
	return fmt.Sprintf("host=%s port=%d user=app password=%s dbname=%s sslmode=disable", host, port, appPassword, database)
}

// subject brings up what is attacked.
func (s *stage) subject(ctx context.Context, o options) (*subject, error) {
	switch {
	case o.bareOnly:
		return &subject{name: "the server itself", dsn: s.bare, g: s.ground}, nil
	case o.dsn != "":
		s.turncoat.close()
		s.turncoat = nil
		return &subject{name: "the proxy at --dsn", dsn: o.dsn, g: s.ground}, nil
	case o.command != "":
		port, err := s.startProxy(ctx, o.command)
		sub := &subject{name: o.command, dsn: dsn("127.0.0.1", port, s.database), g: s.ground}
		sub.revive = func(ctx context.Context) error {
			s.stopProxy()
			port, err := s.startProxy(ctx, o.command)
			sub.dsn = dsn("127.0.0.1", port, s.database)
			return err
		}
		return sub, err
	}
	name := "the pack guarded-postgres"
	if o.open {
		name = "a policy that permits all but to reveal"
	}
	if o.bin != "" {
		return s.system(ctx, o, "Sallyport's programs, "+name)
	}
	var err error
	if s.house, err = openHouse(fmt.Sprintf("127.0.0.1:%d", s.turncoat.port()), appPassword, s.database, o.open); err != nil {
		return nil, err
	}
	return &subject{name: "Sallyport's room, " + name, dsn: s.house.dsn(), g: s.ground}, nil
}

// system is everything from the endpoint to the agent, as programs of their own.
func (s *stage) system(ctx context.Context, o options, name string) (*subject, error) {
	dir, err := os.MkdirTemp("", "sallyport-corpus-policy-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // read at the start
	if err := writePolicy(dir, o.open); err != nil {
		return nil, err
	}
	where, stop, err := story.Front(ctx, story.Config{Bin: o.bin, Out: os.Stderr}, story.Database{Host: "127.0.0.1", Port: strconv.Itoa(s.turncoat.port()), Name: s.database,
		User: "app", Password: s.password, Policy: dir})
	if err != nil {
		return nil, err
	}
	s.stop = stop
	return &subject{name: name, dsn: where, g: s.ground}, nil
}

// startProxy runs a proxy before the turncoat and waits until it takes connections.
func (s *stage) startProxy(ctx context.Context, command string) (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close() // freed for the proxy
	s.proxy = exec.Command("bash", "-c", command)
	s.proxy.SysProcAttr = child.Attr(syscall.SIGTERM)
	s.proxy.SysProcAttr.Setpgid = true
	s.proxy.Env = append(os.Environ(), "PROXY_PORT="+strconv.Itoa(port), "PGHOST=127.0.0.1", "PGPORT="+strconv.Itoa(s.turncoat.port()), "PGUSER=app",
		"PGPASSWORD="+appPassword, "PGDATABASE="+s.database)
	s.proxy.Stdout, s.proxy.Stderr = os.Stderr, os.Stderr
	if err := s.proxy.Start(); err != nil {
		s.proxy = nil
		return 0, err
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		c, err := connect(ctx, dsn("127.0.0.1", port, s.database), nil)
		if err == nil {
			c.close()
			return port, nil
		}
		if strings.Contains(err.Error(), "context canceled") {
			return 0, err
		}
	}
	return 0, errors.New("the proxy takes no connections")
}
