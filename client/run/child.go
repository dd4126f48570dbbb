package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/mattn/go-isatty"

	"github.com/sallyport/sallyport/client/process"
	"github.com/sallyport/sallyport/internal/api"
)

// Command is a program to run in the foreground.
type Command struct {
	Argv  []string
	Env   []string
	User  *User // nil: this process' own
	Stdin *os.File
	Out   *os.File
	Err   *os.File
}

// Exit is how a program ended, where not by 0. Code is what a shell would show: 128 and the signal's number where one ended it.
type Exit struct{ Code int }

func (e *Exit) Error() string { return fmt.Sprintf("the program ended with exit status %d", e.Code) }

func catchSignals(u *User) (<-chan os.Signal, func()) {
	c := make(chan os.Signal, 16)
	signal.Notify(c, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	if u != nil { // its session hears nothing of the terminal by itself; and stopping us alone would leave two readers at it
		signal.Notify(c, syscall.SIGWINCH, syscall.SIGTSTP)
	}
	return c, func() { signal.Stop(c) }
}

// Wait starts the program and waits for it. Signals to this process go on to it, but for those that a terminal sends to both
// anyway. When ctx ends the program is told to terminate, and waited for.
func (c Command) Wait(ctx context.Context) error {
	signals, release := catchSignals(c.User)
	defer release()
	return c.wait(ctx, signals)
}

func (c Command) wait(ctx context.Context, signals <-chan os.Signal) error {
	path, err := exec.LookPath(c.Argv[0])
	if err != nil {
		return api.Because(api.ErrBadRequest, "", "%v", err)
	}
	cmd := &exec.Cmd{Path: path, Args: c.Argv, Env: c.Env, Stdin: c.Stdin, Stdout: c.Out, Stderr: c.Err}
	if u := c.User; u != nil {
		// A session of its own: who shares a controlling terminal can type into it (TIOCSTI, ioctl_tty(2)), and what is typed runs as us.
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Credential: &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID), Groups: u.Groups}, Setsid: true,
		}
		if err := process.KeepDescriptors(); err != nil {
			return err
		}
	}
	if err := cmd.Start(); err != nil {
		return api.Because(api.ErrBadRequest, "", "start %s: %v", c.Argv[0], err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	shared := c.User == nil && c.Stdin != nil && isatty.IsTerminal(c.Stdin.Fd())
	ended := ctx.Done()
	for {
		select {
		case s := <-signals:
			if shared && (s == syscall.SIGINT || s == syscall.SIGQUIT) {
				continue // the terminal sent it to the whole foreground group
			}
			c.pass(cmd.Process, s)
		case <-ended:
			ended = nil
			_ = cmd.Process.Signal(syscall.SIGTERM)
		case err := <-done:
			return exitOf(err)
		}
	}
}

// pass hands a signal on. What a terminal would send to all in the foreground goes to all of another user's session.
func (c Command) pass(p *os.Process, s os.Signal) {
	switch {
	case s == syscall.SIGTSTP:
	case c.User != nil && (s == syscall.SIGINT || s == syscall.SIGQUIT || s == syscall.SIGWINCH):
		_ = syscall.Kill(-p.Pid, s.(syscall.Signal)) // it has just ended: done will tell
	default:
		_ = p.Signal(s)
	}
}

func exitOf(err error) error {
	e := (*exec.ExitError)(nil)
	if !errors.As(err, &e) {
		return err
	}
	if ws, ok := e.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return &Exit{Code: 128 + int(ws.Signal())}
	}
	return &Exit{Code: e.ExitCode()}
}
