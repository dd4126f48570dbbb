package deployed

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/localstack/child"
)

// process is a program that we started, in a group of its own, with its output in a file.
type process struct {
	name string
	log  string // path
	cmd  *exec.Cmd
	done chan struct{}
}

func start(name, logFile string, cmd *exec.Cmd) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the child has its own descriptor
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, child.Attr(syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, log: logFile, cmd: cmd, done: make(chan struct{})}
	go func() { defer close(p.done); _ = cmd.Wait() }() // its log says how it ended
	return p, nil
}

// await waits until ready says so.
func (p *process) await(ctx context.Context, limit time.Duration, ready func() bool) error {
	deadline := time.After(limit)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("%s ended before it was ready%s", p.name, lastLines(p.log))
		case <-deadline:
			return fmt.Errorf("%s is not ready after %s%s", p.name, limit, lastLines(p.log))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// answers says whether a URL answers with 200.
func answers(url string) func() bool {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Second}
	return func() bool {
		resp, err := client.Get(url)
		if err != nil {
			return false
		}
		_ = resp.Body.Close() // only whether it answers
		return resp.StatusCode == http.StatusOK
	}
}

// exists says whether a file is there.
func exists(path string) func() bool {
	return func() bool { _, err := os.Stat(path); return err == nil }
}

// stop ends the program in order and, past the limit, with all of its group.
func (p *process) stop(limit time.Duration) error {
	if p == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)                                // gone already is fine
	defer func() { _ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }() // what it started and left behind
	select {
	case <-p.done:
		return nil
	case <-time.After(limit):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not stop within %s", p.name, limit)
	}
}

// lastLines are what a program said last, for an error.
func lastLines(path string) string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return ""
	}
	return fmt.Sprintf("; %s ends with:\n%s", filepath.Base(path), b[max(0, len(b)-3000):])
}

// run runs a command to its end and returns what it printed to its standard output.
func run(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return out, ctx.Err()
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return out, fmt.Errorf("%s: %w: %s%s", filepath.Base(cmd.Path), err, out, exit.Stderr)
	}
	return out, err
}
