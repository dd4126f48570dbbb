//go:build aws

package deployed

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/localstack/child"
	"github.com/sallyport/sallyport/localstack/pgserver"
)

// world is a deployed stack on MiniStack, with a database behind its gate and alice logged in.
type world struct {
	*System
	root string
	dir  string
	pg   *pgserver.Server
	home string
}

// open deploys. Everything ends with the test.
func open(t *testing.T) *world {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{root: root, dir: t.TempDir()}
	w.home = filepath.Join(w.dir, "alice")
	if w.pg, err = pgserver.Start(t.Context(), pgserver.Config{Seed: "create database shop"}); err != nil {
		t.Fatal(err)
	}
	w.pg.Database = "shop" // as the pack guarded-postgres has it
	t.Cleanup(func() {
		if err := w.pg.Stop(); err != nil {
			t.Error(err)
		}
	})
	targets := filepath.Join(w.dir, "targets.yaml")
	yaml := fmt.Sprintf("targets:\n  app:\n    protocol: postgres\n    address: %s\n    database: %s\n    user: %s\n    password: {file: %s/app.password}\n    tls: {mode: disable}\n",
		net.JoinHostPort(w.pg.Host, strconv.Itoa(w.pg.Port)), w.pg.Database, w.pg.User, w.dir)
	if err := errors.Join(os.WriteFile(filepath.Join(w.dir, "app.password"), []byte(w.pg.Password+"\n"), 0o600), os.WriteFile(targets, []byte(yaml), 0o600)); err != nil {
		t.Fatal(err)
	}
	w.System, err = Start(t.Context(), Config{Emulator: MiniStack, Root: root, Bin: filepath.Join(root, "bin"), Dir: filepath.Join(w.dir, "system"), AgentConfig: targets, Users: People(), Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the agent's log%s", lastLines(filepath.Join(w.dir, "system", "agent", "agent.log")))
		}
		if err := w.Stop(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// call runs the CLI as somebody, with an operator's AWS credentials, and returns its exit code and what it said.
func (w *world) call(t *testing.T, home, stdin string, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := w.cloud.command(ctx, "sallyport", args...)
	cmd.Path, cmd.Err = filepath.Join(w.root, "bin", "sallyport"), nil
	cmd.Env = append(cmd.Env, append([]string{"SALLYPORT_HOME=" + home, "PSQLRC=/dev/null", "LC_ALL=C.UTF-8"}, w.Env...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode(), string(out)
	}
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return 0, string(out)
}

// good is a call that must succeed.
func (w *world) good(t *testing.T, home, stdin string, args ...string) string {
	t.Helper()
	code, out := w.call(t, home, stdin, args...)
	if code != 0 {
		t.Fatalf("sallyport %q: exit %d: %s", args, code, out)
	}
	return out
}

// login is init, which finds the broker, and then a login.
func (w *world) login(t *testing.T, home, user string) {
	t.Helper()
	w.good(t, home, "", "init", "--stack", stackName)
	id, err := w.IDToken(user)
	if err != nil {
		t.Fatal(err)
	}
	w.good(t, home, id, "login", "--id-token-file", "-")
}

// eventually calls until it holds; what it said last is told where it never does.
func eventually(t *testing.T, limit time.Duration, what string, holds func() (bool, string)) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		ok, said := holds()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %s", what, limit, said)
		}
	}
}

// works asks through the gate until it is open.
func (w *world) works(t *testing.T, what string) {
	t.Helper()
	eventually(t, 30*time.Second, what, func() (bool, string) {
		code, out := w.call(t, w.home, "", "psql", "app", "--", "-qAtc", "select 'open-' || 'gate'")
		return code == 0 && strings.Contains(out, "open-gate"), out
	})
}

// shut asks through the gate, which must be closed and say so.
func (w *world) shut(t *testing.T, what string) string {
	t.Helper()
	code, out := w.call(t, w.home, "", "psql", "app", "--", "-v", "VERBOSITY=verbose", "-qAtc", "select 'through-' || 'the-gate'")
	if code == 0 || strings.Contains(out, "through-the-gate") {
		t.Fatalf("%s: the gate is open: %s", what, out)
	}
	if strings.TrimSpace(out) == "" || strings.Contains(out, "panic") {
		t.Errorf("%s: refused without a word: %s", what, out)
	}
	return out
}

// session is a psql that stays open.
type session struct {
	in   io.WriteCloser
	mu   sync.Mutex
	said bytes.Buffer
}

func (w *world) session(t *testing.T) *session {
	t.Helper()
	cmd := w.cloud.command(t.Context(), "sallyport", "psql", "app", "--", "-v", "VERBOSITY=verbose", "-v", "PROMPT1=", "-v", "PROMPT2=", "-qAt")
	cmd.Path, cmd.Err = filepath.Join(w.root, "bin", "sallyport"), nil
	cmd.Env = append(cmd.Env, append([]string{"SALLYPORT_HOME=" + w.home, "PSQLRC=/dev/null", "LC_ALL=C.UTF-8"}, w.Env...)...)
	cmd.SysProcAttr = child.Attr(15)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &session{in: in}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.mu.Lock()
			s.said.WriteString(lines.Text() + "\n")
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() { _ = in.Close(); <-read; _ = cmd.Wait() })
	return s
}

func (s *session) output() string { s.mu.Lock(); defer s.mu.Unlock(); return s.said.String() }

// ask says a line and returns what came until one of the words.
func (s *session) ask(t *testing.T, sql string, words ...string) string {
	t.Helper()
	from := len(s.output())
	if _, err := io.WriteString(s.in, sql+"\n"); err != nil {
		t.Fatal(err)
	}
	var said string
	eventually(t, 45*time.Second, sql, func() (bool, string) {
		said = s.output()[from:]
		for _, w := range words {
			if strings.Contains(said, w) {
				return true, ""
			}
		}
		return false, said
	})
	return said
}

// report is what doctor prints.
type report struct {
	OK     bool
	Checks []struct{ Name, Status, Found, Next string }
}

func (w *world) doctor(t *testing.T) (report, map[string]string) {
	t.Helper()
	code, out := w.call(t, w.home, "", "doctor", "--stack", stackName, "-o", "json")
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("doctor: exit %d: %v in %s", code, err, out)
	}
	if (code == 0) != r.OK {
		t.Errorf("doctor: exit %d, ok %v", code, r.OK)
	}
	by := map[string]string{}
	for _, c := range r.Checks {
		if c.Status != "ok" && c.Next == "" {
			t.Errorf("doctor: %s is %s and nothing says what to do", c.Name, c.Status)
		}
		by[c.Name] = c.Status + ": " + c.Found
	}
	return r, by
}
