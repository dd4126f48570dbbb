package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sallyport": func() { os.Exit(start()) }})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			b := newFakeBroker(e.T().(testing.TB))
			e.Setenv("SALLYPORT_URL", b.url())
			e.Setenv("SALLYPORT_HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("TZ", "UTC")
			e.Setenv("TMPDIR", "/tmp") // sockets need short paths
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits CODE PROGRAM ARGS… runs a program that must end with exactly this code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	if e := (*exec.ExitError)(nil); errors.As(err, &e) {
		code = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

// client is the CLI with a login of its own at a fake broker.
type client struct {
	t   *testing.T
	b   *fakeBroker
	env []string
}

func newClient(t *testing.T) *client {
	t.Helper()
	b := newFakeBroker(t)
	c := &client{t: t, b: b, env: append(os.Environ(), "SALLYPORT_URL="+b.url(), "SALLYPORT_HOME="+filepath.Join(t.TempDir(), "home"))}
	cmd := c.command("login", "--id-token-file", "-")
	cmd.Stdin = strings.NewReader("id-token-of-alice\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("login: %v: %s", err, out)
	}
	return c
}

func (c *client) command(args ...string) *exec.Cmd {
	cmd := exec.Command("sallyport", args...)
	cmd.Env = c.env
	return cmd
}

// connected is a `sallyport connect` that has printed where it listens.
func (c *client) connected(args ...string) (connectView, *exec.Cmd) {
	c.t.Helper()
	cmd := c.command(append([]string{"connect", "-o", "json"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = cmd.Process.Signal(os.Interrupt); _ = cmd.Wait() }) // in order, so that it removes its socket
	var v connectView
	if err := json.NewDecoder(out).Decode(&v); err != nil {
		_ = cmd.Wait()
		c.t.Fatalf("connect: %v: %s", err, stderr.String())
	}
	return v, cmd
}

func TestConnect(t *testing.T) {
	c := newClient(t)
	v, cmd := c.connected("app")
	for path, want := range map[string]os.FileMode{v.Socket: 0o600, filepath.Dir(v.Socket): 0o700} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %o", path, fi.Mode(), err, want)
		}
	}
	u, err := url.Parse(v.DSN)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	if v.Host != "127.0.0.1" || u.Host != net.JoinHostPort(v.Host, strconv.Itoa(v.Port)) || u.Path != "/shop" || len(password) < 40 {
		t.Errorf("got %+v", v)
	}
	// Neither relay nor agent is there: the gate is closed, and PostgreSQL's clients are told so in their own words.
	for _, dsn := range []string{v.DSN, "host=" + filepath.Dir(v.Socket) + " user=x database=x"} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		_, err := pgx.Connect(ctx, dsn)
		cancel()
		pe := (*pgconn.PgError)(nil)
		if !errors.As(err, &pe) || pe.Message != "no decision: the gate is closed" || !strings.Contains(pe.Detail, `"code":"no_decision"`) {
			t.Errorf("%s: %v", dsn, err)
		}
	}
	second, other := c.connected("app")
	if second.Port == v.Port || second.Socket == v.Socket {
		t.Errorf("two at once: %+v and %+v", v, second)
	}
	for _, p := range []*exec.Cmd{cmd, other} {
		if err := p.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil {
			t.Errorf("interrupted: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Dir(v.Socket)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's directory stays: %v", err)
	}
	again, _ := c.connected("app")
	if u2, err := url.Parse(again.DSN); err != nil || again.Port != v.Port || u2.User.String() == u.User.String() {
		t.Errorf("the next time %+v, the first %+v: want the same port and another password", again, v)
	}
}

// TestPersonsEndpointRefusesActors holds a person's socket against a program of an actor, of the same user.
func TestPersonsEndpointRefusesActors(t *testing.T) {
	c := newClient(t)
	v, _ := c.connected("app")
	script := `PGHOST=$1 PGUSER=x PGDATABASE=x psql -c 'select 1'`
	cmd := c.command("run", "--actor", "coder", "--allow", "read:app", "--", "/bin/sh", "-c", script, "sh", filepath.Dir(v.Socket))
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "endpoint.caller") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestRunPassesSignalsOn(t *testing.T) {
	c := newClient(t)
	cmd := c.command("run", "--actor", "coder", "--allow", "read:app", "--", "/bin/sh", "-c", `trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.05; done`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	b := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, b); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(out)
	if err != nil || string(rest) != "got it\n" {
		t.Errorf("%q, %v", rest, err)
	}
	if e := (*exec.ExitError)(nil); !errors.As(cmd.Wait(), &e) || e.ExitCode() != 9 {
		t.Errorf("exit %v, want 9", e)
	}
}

func TestLogoutRevokes(t *testing.T) {
	c := newClient(t)
	if out, err := c.command("logout").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !c.b.called("POST /revoke") {
		t.Error("nothing was revoked")
	}
}

// TestEveryCommandHelps holds every command to a summary and an example, or to subcommands that have them.
func TestEveryCommandHelps(t *testing.T) {
	a := &app{getenv: func(string) string { return "" }, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Name() == "help" || c.Name() == "completion" {
			return
		}
		if c.Short == "" {
			t.Errorf("%s says nothing about itself", c.CommandPath())
		}
		if c.Example == "" && !c.HasSubCommands() {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(a.root())
}
