package story

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/localstack/embedded"
	"github.com/sallyport/sallyport/localstack/pgserver"
)

// Config says what to play with.
type Config struct {
	Bin string    // directory of sallyport, sallyport-agent, sallyport-relay and demo
	Out io.Writer // what people read
	// AWS plays on the SAM template deployed to this emulator (deployed.MiniStack or LocalStack); "" on the embedded system. Root, the
	// repository, is needed then, and what each function called of AWS is held to infra/calls.tsv, where the emulator can tell.
	AWS, Root string
	// Done is given the data directory at the end, with nothing running and before it is removed; nil is given nothing.
	Done func(ctx context.Context, data string) error
}

// world is everything that a story needs, in one temporary directory.
type world struct {
	c      Config
	dir    string // of everything; the children may enter it, not list it
	bin    string // the programs, where a second user can run them
	data   string // the system's
	server pgserver.Config
	pg     *pgserver.Server
	secret string // the database password that nobody but the agent may know
	system system
	file   embedded.DevFile
	reach  []string   // environment that programs need to reach the broker; mostly nil
	roots  string     // file with what vouches for the console's name; "": file.CA
	child  *user.User // whom actors run as; nil where this process may not choose
	home   string     // the requester's SALLYPORT_HOME
}

// lockedBuffer collects what a running program says, while others read it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// schema is the demo's database: what the pack guarded-postgres speaks of.
const schema = `
create role app login password '%s';
create database shop owner postgres;
`

const tables = `
create table customers (id int primary key, name text not null, email text not null unique, card_number text not null);
create table orders (id int primary key, customer_id int not null references customers, amount numeric(10,2) not null);
create table accounts (id int primary key, owner text not null, balance numeric(12,2) not null);
insert into customers values (1,'Ada Lovelace','ada@example.com','4111111111111111'),(2,'Alan Turing','alan@example.org','5500005555555559');
insert into orders select g, 1 + g %% 2, g * 10 from generate_series(1, 20) g;
insert into accounts values (1,'Ada Lovelace',100),(2,'Alan Turing',250);
grant select, insert, update, delete on all tables in schema public to app;
%s`

// newWorld starts PostgreSQL. Close ends and removes everything, whatever state it is in.
func newWorld(ctx context.Context, c Config, extra string) (*world, error) {
	return newWorldOn(ctx, c, extra, pgserver.Config{})
}

// newWorldOn is newWorld on a server of one's own choice.
func newWorldOn(ctx context.Context, c Config, extra string, server pgserver.Config) (*world, error) {
	w := &world{c: c, system: &dev{}, server: server}
	if c.AWS != "" {
		w.system = &cloud{emulator: c.AWS, root: c.Root}
	}
	var err error
	if w.dir, err = os.MkdirTemp("", "sallyport-demo-"); err != nil {
		return nil, err
	}
	if err := w.fill(ctx, extra); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *world) fill(ctx context.Context, extra string) error {
	if err := os.Chmod(w.dir, 0o711); err != nil { // children pass through to the programs
		return err
	}
	w.bin, w.data, w.home = filepath.Join(w.dir, "bin"), filepath.Join(w.dir, "data"), filepath.Join(w.dir, "alice")
	if err := os.Mkdir(w.bin, 0o755); err != nil {
		return err
	}
	for _, p := range []string{"sallyport", "sallyport-agent", "sallyport-relay", "demo"} {
		if err := copyProgram(filepath.Join(w.c.Bin, p), filepath.Join(w.bin, p)); err != nil {
			return fmt.Errorf("%w (run `make build`)", err)
		}
	}
	var err error
	if w.pg, err = pgserver.Start(ctx, w.server); err != nil {
		return err
	}
	w.secret = "canary-" + w.pg.Password
	for _, sql := range strings.SplitAfter(fmt.Sprintf(schema, w.secret), ";\n") {
		if strings.TrimSpace(sql) == "" {
			continue
		}
		if _, err := w.pg.Exec(ctx, sql); err != nil {
			return fmt.Errorf("seed: %w", err)
		}
	}
	w.pg.Database = "shop"
	if _, err := w.pg.Exec(ctx, fmt.Sprintf(tables, extra)); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	if w.child, err = secondUser(); err != nil {
		return err
	}
	return w.writeTargets()
}

// writeTargets is what a user would write to put a database of theirs behind the gate.
func (w *world) writeTargets() error {
	secret := filepath.Join(w.dir, "app.password")
	if err := os.WriteFile(secret, []byte(w.secret+"\n"), 0o600); err != nil {
		return err
	}
	yaml := fmt.Sprintf(`targets:
  app:
    protocol: postgres
    address: %s
    database: shop
    user: app
    password: {file: %s}
    tls: {mode: disable}   # loopback only
`, net.JoinHostPort(w.pg.Host, strconv.Itoa(w.pg.Port)), secret)
	return os.WriteFile(filepath.Join(w.dir, "targets.yaml"), []byte(yaml), 0o600)
}

// copyProgram links where it can: a second user may not be able to enter the checkout.
func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // read only
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// secondUser is an unprivileged user that is not the database's, where this process may become it.
func secondUser() (*user.User, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"daemon", "games", "mail"} {
		if u, err := user.Lookup(name); err == nil {
			return u, nil
		}
	}
	return nil, errors.New("running as root, and there is no user \"daemon\" to run the actors as")
}

// start brings the system up.
func (w *world) start(ctx context.Context) (err error) {
	w.file, err = w.system.start(ctx, w)
	return err
}

// Close ends and removes everything.
func (w *world) Close() error {
	err := w.system.stop()
	if w.pg != nil {
		err = errors.Join(err, w.pg.Stop())
	}
	return errors.Join(err, os.RemoveAll(w.dir))
}

// env is a clean environment for the requester's commands.
func (w *world) env() []string {
	return append([]string{"PATH=" + w.bin + ":" + os.Getenv("PATH"), "HOME=" + w.dir, "LC_ALL=C.UTF-8", "PAGER=cat", "PSQLRC=/dev/null",
		"SALLYPORT_HOME=" + w.home, "SALLYPORT_URL=" + w.file.Broker}, w.reach...)
}

// cli runs a command of the requester's and returns what it printed and its exit code.
func (w *world) cli(ctx context.Context, stdin string, args ...string) (string, int, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(w.bin, "sallyport"), args...)
	cmd.Env, cmd.Stdin = w.env(), strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return string(out), exit.ExitCode(), nil
	}
	return string(out), 0, err
}
