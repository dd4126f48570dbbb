package story

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Hands run commands inside an actor: `sallyport run … -- demo hands SOCKET` starts them, so that what they start has the
// actor's place in the process tree, its user and its environment. One connection is one command: a request line, then lines of
// input, against lines of output and the exit code.
type request struct {
	Shell string `json:"shell"`
}

type event struct {
	Out  string `json:"out,omitempty"`
	Exit *int   `json:"exit,omitempty"`
}

// ServeHands serves commands on a unix socket until its standard input ends or ctx does.
func ServeHands(ctx context.Context, socket string) error {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { <-ctx.Done(); _ = l.Close() }() // unblocks Accept
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }()
	var jobs sync.WaitGroup
	defer jobs.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		jobs.Go(func() {
			defer func() { _ = c.Close() }() // the driver reads the exit code before
			serveHand(ctx, c, os.Environ())
		})
	}
}

func serveHand(ctx context.Context, c net.Conn, env []string) {
	in := bufio.NewReader(c)
	line, err := in.ReadBytes('\n')
	var r request
	if err != nil || json.Unmarshal(line, &r) != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", r.Shell)
	cmd.WaitDelay, cmd.Env = time.Second, env
	enc := json.NewEncoder(c)
	out := &eventWriter{enc: enc}
	cmd.Stdout, cmd.Stderr = out, out
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	code := 127
	if err == nil {
		go func() { // the driver closing its side is the end of input; its leaving ends the command
			_, _ = io.Copy(stdin, in)
			_ = stdin.Close()
		}()
		err = cmd.Wait()
		code = cmd.ProcessState.ExitCode()
	}
	if err != nil && code == 127 {
		_, _ = out.Write([]byte(err.Error()))
	}
	_ = enc.Encode(event{Exit: &code}) // a driver that left has no use for it
}

type eventWriter struct {
	mu  sync.Mutex
	enc *json.Encoder
}

func (w *eventWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(b), w.enc.Encode(event{Out: string(b)})
}

// job is one command that runs in an actor's hands.
type job struct {
	conn *net.UnixConn
	mu   sync.Mutex
	out  strings.Builder
	code int
	done chan struct{}
	more chan struct{} // one token: there is new output
}

// start runs a shell command in the hands behind socket.
func start(socket, shell string) (*job, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(request{Shell: shell})
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(append(b, '\n')); err != nil {
		return nil, err
	}
	j := &job{conn: c.(*net.UnixConn), code: -1, done: make(chan struct{}), more: make(chan struct{}, 1)}
	go j.read()
	return j, nil
}

func (j *job) read() {
	defer close(j.done)
	d := json.NewDecoder(j.conn)
	for {
		var e event
		if err := d.Decode(&e); err != nil {
			return
		}
		j.mu.Lock()
		j.out.WriteString(e.Out)
		if e.Exit != nil {
			j.code = *e.Exit
		}
		j.mu.Unlock()
		select {
		case j.more <- struct{}{}:
		default:
		}
		if e.Exit != nil {
			return
		}
	}
}

func (j *job) output() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.out.String()
}

// say writes a line to the command's standard input.
func (j *job) say(line string) error {
	_, err := io.WriteString(j.conn, line+"\n")
	return err
}

// until waits for text in the output that came after the position from, and returns all of the output.
func (j *job) until(from int, want string, limit time.Duration) (string, error) {
	deadline := time.After(limit)
	for {
		if out := j.output(); len(out) >= from && strings.Contains(out[from:], want) {
			return out, nil
		}
		select {
		case <-j.more:
		case <-j.done:
			if out := j.output(); len(out) >= from && strings.Contains(out[from:], want) {
				return out, nil
			}
			return "", fmt.Errorf("the command ended without %q: %s", want, j.output())
		case <-deadline:
			return "", fmt.Errorf("no %q within %s: %s", want, limit, j.output())
		}
	}
}

// wait returns the output and the exit code.
func (j *job) wait(limit time.Duration) (string, int, error) {
	_ = j.conn.CloseWrite() // no more input; already closed is fine
	select {
	case <-j.done:
		return j.output(), j.code, nil
	case <-time.After(limit):
		return j.output(), -1, errors.New("still running: " + j.output())
	}
}

// stop leaves the command.
func (j *job) stop() { _ = j.conn.Close(); <-j.done }

// serveOne is ServeHands for one command with an environment of its own.
func serveOne(ctx context.Context, socket string, env []string) error {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }() // one connection was all
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // the driver reads the exit code before
	serveHand(ctx, c, env)
	return nil
}
