package run

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// sh is an argv of a shell script in which $ME is the helper.
func sh(script string) []string { return []string{"/bin/sh", "-c", script} }

func TestCallers(t *testing.T) {
	for name, tc := range map[string]struct {
		script string // of coder
		want   string
	}{
		"child":             {`exec $ME helper ask $SALLYPORT_SOCK`, "alice → coder"},
		"child's endpoint":  {`$ME helper knock $SALLYPORT_APP_DSN`, "hello alice → coder"},
		"deep child":        {`sh -c 'sh -c "$ME helper ask $SALLYPORT_SOCK; true"; true'; true`, "alice → coder"},
		"child in session":  {`setsid -w $ME helper ask $SALLYPORT_SOCK`, "alice → coder"},
		"nested":            {`$ME helper run tester $ME helper ask '` + "$SALLYPORT_SOCK" + `'`, "closed"}, // the shell of coder does not know tester's socket
		"nested's own":      {`$ME helper run tester sh -c '$ME helper ask $SALLYPORT_SOCK'`, "alice → coder → tester"},
		"nested's endpoint": {`$ME helper run tester sh -c '$ME helper knock $SALLYPORT_APP_DSN'`, "hello alice → coder → tester"},
		"nested at outer": {
			`O=$SALLYPORT_SOCK; export O; $ME helper run tester sh -c '$ME helper ask $O'`, `denied: denied by rule "run.nested"`,
		},
		"nested at outer's endpoint": {
			`O=$SALLYPORT_APP_DSN; export O; $ME helper run tester sh -c '$ME helper knock $O'`, "refused: run.nested",
		},
		"two below at outermost": {
			`O=$SALLYPORT_SOCK; export O; $ME helper run tester $ME helper run third sh -c '$ME helper ask $O'`, `denied: denied by rule "run.nested"`,
		},
		"two below at the middle": {
			`$ME helper run tester sh -c 'O=$SALLYPORT_APP_DSN; export O; $ME helper run third sh -c "\$ME helper knock \$O"'`, "refused: run.nested",
		},
		"two below": {
			`$ME helper run tester $ME helper run third sh -c '$ME helper ask $SALLYPORT_SOCK'`, "alice → coder → tester → third",
		},
		"outer at nested's is no descendant of it": {
			`$ME helper run tester sh -c 'echo $SALLYPORT_SOCK >$D/sock; read x' <$D/hold & exec 3>$D/hold; ` +
				`while ! [ -s $D/sock ]; do sleep 0.01; done; $ME helper ask $(cat $D/sock)`, `denied: denied by rule "run.unknown"`,
		},
		"coder again after a nested run": {
			`$ME helper run tester true; $ME helper ask $SALLYPORT_SOCK`, "alice → coder",
		},
		"lowered its own mark": {`ulimit -x 5 && $ME helper ask $SALLYPORT_SOCK`, `denied: denied by rule "run.ended"`},
		"refused delegation":   {`$ME helper run greedy echo started`, "denied: more than the parent has"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := syscall.Mkfifo(filepath.Join(dir, "hold"), 0o600); err != nil {
				t.Fatal(err)
			}
			script := "D=" + dir + "; export D; " + tc.script
			shell := "/bin/bash" // ulimit -x, and exec of a last command like other shells
			out, _ := output(t, "run", "coder", shell, "-c", script)
			if first, _, _ := strings.Cut(out, "\n"); first != tc.want {
				t.Errorf("got %q, want %q", out, tc.want)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("SALLYPORT_HOME", "/secret/home")
	t.Setenv("SALLYPORT_URL", "https://broker")
	t.Setenv("TESTPASSWORD", "hunter2")
	t.Setenv("TESTHOST", "elsewhere")
	t.Setenv("UNRELATED", "stays")
	out, code := output(t, "run", "coder", "/usr/bin/env")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	for _, absent := range []string{"/secret/home", "https://broker", "hunter2", "elsewhere"} {
		if strings.Contains(out, absent) {
			t.Errorf("%q is in the program's environment:\n%s", absent, out)
		}
	}
	for _, want := range []string{"UNRELATED=stays", "SALLYPORT_SOCK=/", "SALLYPORT_APP_DSN=/", "TESTHOST=/"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the program's environment:\n%s", want, out)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "exit 4": 4, "kill -TERM $$": 128 + 15, "kill -KILL $$": 128 + 9} {
		if out, code := output(t, append([]string{"run", "coder"}, sh(script)...)...); code != want {
			t.Errorf("%s: exit code %d, want %d: %s", script, code, want, out)
		}
	}
	if out, code := output(t, "run", "coder", "/nonexistent/program"); code != 99 || !strings.Contains(out, "bad_request") {
		t.Errorf("a program that does not exist: %d, %s", code, out)
	}
}

func TestNothingStays(t *testing.T) {
	out, _ := output(t, append([]string{"run", "coder"}, sh(`dirname $SALLYPORT_SOCK; dirname $SALLYPORT_APP_DSN`)...)...)
	dirs := strings.Fields(out)
	if len(dirs) != 2 || dirs[0] == dirs[1] {
		t.Fatalf("want two directories, got %q", out)
	}
	for _, d := range dirs {
		if _, err := os.Stat(d); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", d, err)
		}
	}
}

// live is a run that stays until its input ends.
type live struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(t *testing.T, args ...string) *live {
	t.Helper()
	l := &live{cmd: exec.Command(self(t), append([]string{"helper"}, args...)...)}
	l.cmd.Env = append(os.Environ(), "ME="+self(t))
	l.cmd.Stderr = os.Stderr
	var err error
	if l.in, err = l.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	l.out = bufio.NewReader(out)
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.in.Close(); _ = l.cmd.Process.Kill(); _ = l.cmd.Wait() })
	return l
}

func (l *live) line(t *testing.T) string {
	t.Helper()
	s, err := l.out.ReadString('\n')
	if err != nil {
		t.Fatalf("read: %v (%q)", err, s)
	}
	return strings.TrimSpace(s)
}

func TestStrangerIsRefused(t *testing.T) {
	l := start(t, append([]string{"run", "coder"}, sh(`echo $SALLYPORT_SOCK; echo $SALLYPORT_APP_DSN; read x`)...)...)
	sock, dsn := l.line(t), l.line(t)
	// This test is the run's parent and of the same user: that makes it nobody's process inside.
	if got := ask(t.Context(), sock); !strings.Contains(got, "run.unknown") {
		t.Errorf("at the socket: %q", got)
	}
	if got := knock(dsn); got != "refused: run.unknown" {
		t.Errorf("at the endpoint: %q", got)
	}
	for path, want := range map[string]os.FileMode{sock: 0o600, dsn: 0o600, filepath.Dir(sock): 0o700, filepath.Dir(dsn): 0o700} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %o", path, fi.Mode(), err, want)
		}
	}
}

// untilReady waits in a shell until the orphan has seen who its parent was.
const untilReady = `while ! [ -e $OUT.ready ]; do sleep 0.01; done`

func TestOrphans(t *testing.T) {
	for name, tc := range map[string]struct {
		tree string // coder's program; $OUT is where the orphan answers, $ME the helper
		kill string // "nested" kills the run inside by kill -9 once the orphan is ready
		want []string
	}{
		// The middle one ends at once: the orphan goes to whoever reaps above the run.
		"double fork": {
			tree: `( setsid $ME helper orphan $OUT $SALLYPORT_SOCK $SALLYPORT_APP_DSN & ` + untilReady + ` ) ; echo none; read x`,
			want: []string{"run.unknown", "run.unknown"},
		},
		// The orphan's own run dies, and it is adopted by a process of the run around it.
		"nested killed, adopted by coder's process": {
			tree: `A=$SALLYPORT_SOCK B=$SALLYPORT_APP_DSN; export A B
exec $ME helper reaper $ME helper run tester /bin/sh -c 'echo $PPID; exec $ME helper orphan $OUT $SALLYPORT_SOCK $A $B'`,
			kill: "nested",
			want: []string{"closed", "run.ended", "run.ended"},
		},
		// The same without anybody who adopts inside.
		"nested killed": {
			tree: `A=$SALLYPORT_SOCK B=$SALLYPORT_APP_DSN; export A B
$ME helper run tester /bin/sh -c 'echo $PPID; exec $ME helper orphan $OUT $SALLYPORT_SOCK $A $B'; read x`,
			kill: "nested",
			want: []string{"closed", "run.unknown", "run.unknown"},
		},
		// The nested run ends in order and leaves a process behind, which is adopted by a process of coder's.
		"nested ended": {
			tree: `A=$SALLYPORT_SOCK B=$SALLYPORT_APP_DSN; export A B
exec $ME helper reaper $ME helper run tester /bin/sh -c 'setsid $ME helper orphan $OUT $SALLYPORT_SOCK $A $B & ` + untilReady + `; echo none'`,
			want: []string{"closed", "run.ended", "run.ended"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			t.Setenv("OUT", out)
			l := start(t, append([]string{"run", "coder"}, sh(tc.tree)...)...)
			first := l.line(t)
			if tc.kill == "nested" {
				eventually(t, "the orphan is ready", func() bool { _, err := os.Stat(out + ".ready"); return err == nil })
				pid, err := strconv.Atoi(first)
				if err != nil {
					t.Fatal(err)
				}
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "the orphan answers", func() bool { _, err := os.Stat(out); return err == nil })
			b, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(string(b)), "\n")
			if len(lines) != len(tc.want) {
				t.Fatalf("answers %q, want %d", lines, len(tc.want))
			}
			for i, want := range tc.want {
				if strings.Contains(lines[i], "alice") || !strings.Contains(lines[i], want) {
					t.Errorf("answer %d: %q, want %q", i, lines[i], want)
				}
			}
		})
	}
}

func TestRunAroundDies(t *testing.T) {
	l := start(t, "run", "coder", "/bin/sh", "-c",
		`echo $PPID; exec $ME helper run tester /bin/sh -c 'echo $SALLYPORT_SOCK; while $ME helper ask $SALLYPORT_SOCK >$OUT.who; do :; done' 2>/dev/null`)
	pid, err := strconv.Atoi(l.line(t))
	if err != nil {
		t.Fatal(err)
	}
	sock := l.line(t)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "tester's socket closes with coder's run", func() bool {
		return ask(t.Context(), sock) == "closed"
	})
}

func TestSignalsGoOn(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		l := start(t, "run", "coder", self(t), "helper", "signals")
		if got := l.line(t); got != "ready" {
			t.Fatal(got)
		}
		if err := l.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if got := l.line(t); got != s.String() {
			t.Errorf("the program got %q, want %q", got, s)
		}
	}
}

// TestKeyIsOutOfReach looks into a run's process as another process of the same, unprivileged user.
func TestKeyIsOutOfReach(t *testing.T) {
	exe, cred := unprivileged(t)
	look := `look() { for f in environ maps; do cat /proc/$1/$f >/dev/null 2>&1 && echo "$2 $f"; done; ls /proc/$1/fd >/dev/null 2>&1 && echo "$2 fd"; }; `
	cmd := exec.Command(exe, "helper", "run", "coder", "/bin/sh", "-c", look+`RUN=$PPID; sh -c "$0 look $RUN run; look $$ shell; true"`, look)
	cmd.SysProcAttr = cred
	cmd.Env, cmd.Dir = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=/tmp"}, "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// An ordinary process of the same user is looked into, to see that the looking works; the run is not.
	if got, want := string(out), "shell environ\nshell maps\nshell fd\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// unprivileged is the helper where everybody can run it, and credentials without privileges for it.
func unprivileged(t *testing.T) (string, *syscall.SysProcAttr) {
	t.Helper()
	if os.Geteuid() != 0 {
		return self(t), nil
	}
	return publicCopy(t), &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

func publicCopy(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sallyport-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b, err := os.ReadFile(self(t))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "helper"), b, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "helper")
}

func TestAsUser(t *testing.T) {
	if os.Geteuid() != 0 {
		if out, _ := output(t, "run", "coder", "--as", "nobody", "true"); !strings.Contains(out, "--as-user needs root") {
			t.Errorf("without root: %q", out)
		}
		return
	}
	if out, _ := output(t, "run", "coder", "--as", "root", "true"); !strings.Contains(out, "from whom nothing isolates") {
		t.Errorf("as root: %q", out)
	}
	if out, _ := output(t, "run", "coder", "--as", "no-such-user", "true"); !strings.Contains(out, "no such user") {
		t.Errorf("as nobody known: %q", out)
	}
	t.Setenv("SALLYPORT_HOME", "/secret/home")
	t.Setenv("ROOTS_OWN", "secret")
	t.Setenv("ME", publicCopy(t))
	script := `test $(cut -d' ' -f6 /proc/$$/stat) = $$ || echo in our session; test -e /proc/$$/fd/3 && echo with our descriptor; ` +
		`id -u; id -g; id -G; echo $HOME; $0 helper ask $SALLYPORT_SOCK; $0 helper knock $SALLYPORT_APP_DSN; ` +
		`stat -c '%u %a' $SALLYPORT_SOCK $SALLYPORT_APP_DSN $(dirname $SALLYPORT_SOCK) $(dirname $SALLYPORT_APP_DSN); ` +
		`cat /proc/$PPID/environ >/dev/null 2>&1 && echo can read; ` +
		`O=$SALLYPORT_APP_DSN; export O; $0 helper run tester $0 helper knock $O; env | grep -c -e ROOTS_OWN -e SALLYPORT_HOME`
	cmd := exec.Command(self(t), "helper", "run", "coder", "--as", "nobody", "/bin/sh", "-c", script, os.Getenv("ME"))
	mine, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	cmd.ExtraFiles = []*os.File{mine} // as a shell hands on what it has open
	out, _ := cmd.CombinedOutput()    // grep -c ends with 1 where it counts none
	want := fmt.Sprintf("%d\n%d\n%d\n%s\nalice → coder\nhello alice → coder65534 600\n65534 600\n65534 700\n65534 700\nrefused: run.nested\n0\n",
		65534, 65534, 65534, "/nonexistent")
	if got := strings.Replace(string(out), "coder\n65534 600", "coder65534 600", 1); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
