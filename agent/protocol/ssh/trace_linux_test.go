package ssh

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// execution is a program that a command line really started: the file that runs, its arguments, and what had been started around it.
type execution struct {
	Exe    string   `json:"exe"`
	Argv   []string `json:"argv"`
	Around []int    `json:"around"` // indexes of the executions that this one came from, of which the first is the shell
}

// traced is what a command line really did.
type traced struct {
	Executions []execution `json:"executions"`
	Changed    []string    `json:"changed"` // paths that were made, written or removed
	TimedOut   bool        `json:"timed_out"`
}

const (
	traceEnv  = "SALLYPORT_TEST_TRACE" // the directory in which the tracer runs lines that it reads from standard input
	traceLine = time.Second            // what hangs longer is killed: some lines never end
)

// TestTracer is the tracer itself, in a process of its own: it waits for all children that there are.
func TestTracer(t *testing.T) {
	dir := os.Getenv(traceEnv)
	if dir == "" {
		return // nobody asked: trace starts it
	}
	runtime.LockOSThread() // ptrace belongs to a thread
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var line struct{ Shell, Text string }
		if err := in.Decode(&line); err != nil {
			return
		}
		got, err := follow(dir, line.Shell, line.Text)
		if err != nil {
			t.Fatal(err)
		}
		if err := out.Encode(got); err != nil {
			t.Fatal(err)
		}
	}
}

// furnish makes the directory what every line finds, and nothing else.
func furnish(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	for name, text := range map[string]string{"a": "x 1\ny 2\n", "b": "b\n", "list": "a\nb\n", "d/f": "f\n", "d/g": "g\n", "script": "#!/bin/sh\nid -u\n", "prog": "{ print }\n", "empty": ""} {
		path := filepath.Join(dir, name)
		err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)) //nolint:gosec // a script
	}
	return err
}

// picture is what a directory holds: names, contents and modes.
func picture(dir string) map[string]string {
	all := map[string]string{}
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == dir {
			return nil //nolint:nilerr // what went away meanwhile is a change
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		text := info.Mode().String()
		if info.Mode().IsRegular() {
			b, _ := os.ReadFile(path)
			text += string(b)
		}
		all[path] = text
		return nil
	})
	return all
}

func follow(dir, shell, text string) (traced, error) {
	var got traced
	before := picture(dir)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return got, err
	}
	defer null.Close()
	pid, err := syscall.ForkExec(shell, []string{filepath.Base(shell), "-c", text}, &syscall.ProcAttr{Dir: dir,
		Env:   []string{"HOME=" + dir, "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG=C", "SHELL=" + shell, "USER=deploy"},
		Files: []uintptr{null.Fd(), null.Fd(), null.Fd()}, Sys: &syscall.SysProcAttr{Ptrace: true, Setsid: true}})
	if err != nil {
		return got, err
	}
	tr := tracer{got: &got, chains: map[int][]int{}, early: map[int]bool{}}
	late := time.AfterFunc(traceLine, tr.kill)
	err = tr.run(pid)
	late.Stop()
	if err != nil {
		return got, fmt.Errorf("%q: %w", text, err)
	}
	after := picture(dir)
	for path, was := range before {
		if is, ok := after[path]; !ok || is != was {
			got.Changed = append(got.Changed, path)
		}
	}
	for path := range after {
		if _, ok := before[path]; !ok {
			got.Changed = append(got.Changed, path)
		}
	}
	slices.Sort(got.Changed)
	if len(got.Changed) > 0 {
		return got, furnish(dir)
	}
	return got, nil
}

type tracer struct {
	got *traced

	mu     sync.Mutex
	chains map[int][]int // of each process: what it came from
	early  map[int]bool  // processes that stopped before the one that made them was heard of: they wait for that
}

// kill ends everything that is still there.
func (tr *tracer) kill() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.got.TimedOut = true
	for p := range tr.chains {
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
	for p := range tr.early {
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
}

const traceOptions = syscall.PTRACE_O_TRACEEXEC | syscall.PTRACE_O_TRACEFORK | syscall.PTRACE_O_TRACEVFORK | syscall.PTRACE_O_TRACECLONE | 0x100000 // PTRACE_O_EXITKILL

func (tr *tracer) run(pid int) error {
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil {
		return err
	}
	tr.chains[pid] = nil
	tr.executed(pid)
	if err := syscall.PtraceSetOptions(pid, traceOptions); err != nil {
		return err
	}
	if err := syscall.PtraceCont(pid, 0); err != nil {
		return err
	}
	for {
		who, err := syscall.Wait4(-1, &ws, syscall.WALL, nil)
		switch {
		case errors.Is(err, syscall.ECHILD):
			return nil
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return err
		}
		tr.one(who, ws)
	}
}

// one deals with a process that stopped or ended, and lets it go on.
func (tr *tracer) one(pid int, ws syscall.WaitStatus) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if ws.Exited() || ws.Signaled() {
		delete(tr.chains, pid)
		delete(tr.early, pid)
		return
	}
	if _, known := tr.chains[pid]; !known {
		if tr.early[pid] = true; tr.got.TimedOut {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return
	}
	signal := 0
	switch cause := ws.TrapCause(); {
	case cause == syscall.PTRACE_EVENT_EXEC:
		tr.executed(pid)
	case cause == syscall.PTRACE_EVENT_FORK, cause == syscall.PTRACE_EVENT_VFORK, cause == syscall.PTRACE_EVENT_CLONE:
		if child, err := syscall.PtraceGetEventMsg(pid); err == nil {
			tr.made(int(child), tr.chains[pid]) //nolint:gosec // a process id
		}
	case ws.StopSignal() == syscall.SIGTRAP, ws.StopSignal() == syscall.SIGSTOP:
	default:
		signal = int(ws.StopSignal())
	}
	_ = syscall.PtraceCont(pid, signal) // it may have been killed
}

func (tr *tracer) made(child int, chain []int) {
	tr.chains[child] = slices.Clone(chain)
	if tr.got.TimedOut {
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
	if tr.early[child] {
		delete(tr.early, child)
		_ = syscall.PtraceCont(child, 0) // as in one
	}
}

func (tr *tracer) executed(pid int) {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return // it was killed
	}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	argv := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	tr.got.Executions = append(tr.got.Executions, execution{Exe: exe, Argv: argv, Around: tr.chains[pid]})
	tr.chains[pid] = append(slices.Clone(tr.chains[pid]), len(tr.got.Executions)-1)
}

// trace runs lines one after the other, each in the shell that it names, and returns what they did.
func trace(t *testing.T, dir string, shells, lines []string) []traced {
	t.Helper()
	if err := furnish(dir); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var in, errOut bytes.Buffer
	enc := json.NewEncoder(&in)
	for i, text := range lines {
		if err := enc.Encode(struct{ Shell, Text string }{shells[i], text}); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(self, "-test.run=^TestTracer$")
	cmd.Env = append(os.Environ(), traceEnv+"="+dir)
	cmd.Stdin, cmd.Stderr = &in, &errOut
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []traced
	scan := bufio.NewScanner(out)
	scan.Buffer(nil, 16<<20)
	for len(all) < len(lines) && scan.Scan() {
		var got traced
		if err := json.Unmarshal(scan.Bytes(), &got); err != nil {
			t.Fatalf("%v: %s", err, scan.Text())
		}
		all = append(all, got)
	}
	rest := ""
	for scan.Scan() {
		rest += scan.Text() + "\n"
	}
	if err := cmd.Wait(); err != nil || len(all) < len(lines) {
		t.Fatalf("after %d lines: %v\n%s%s", len(all), err, rest, errOut.String())
	}
	return all
}
