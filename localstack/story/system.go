package story

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/localstack/child"
	"github.com/sallyport/sallyport/localstack/deployed"
	"github.com/sallyport/sallyport/localstack/embedded"
)

// system is what a story is played on. Its data lies below world.data: agent/agent.log while it runs, evidence/ when it has stopped.
type system interface {
	// start brings it up and returns where everything is.
	start(ctx context.Context, w *world) (embedded.DevFile, error)
	// name is what people call it.
	name() string
	// outage stops the broker alone, or starts it again; door is the address that does not answer meanwhile.
	outage(w *world, down bool) error
	door(w *world) string
	// log is what its programs said.
	log() string
	// finish ends everything in order, and leaves the evidence of all that happened.
	finish() error
	// stop ends everything. Stopping what does not run changes nothing.
	stop() error
}

// dev is `sallyport dev`: the embedded system in a process of its own.
type dev struct {
	more   []string // flags
	cmd    *exec.Cmd
	exited chan error // its end
	said   lockedBuffer
}

func (d *dev) name() string { return "sallyport dev" }

func (d *dev) log() string { return d.said.String() }

// readyLimit is how long `sallyport dev` may take on a slow machine.
const readyLimit = 30 * time.Second

func (d *dev) start(ctx context.Context, w *world) (embedded.DevFile, error) {
	d.cmd = exec.Command(filepath.Join(w.bin, "sallyport"), append([]string{"dev", "--dir", w.data, "--agent-config", filepath.Join(w.dir, "targets.yaml")}, d.more...)...)
	d.cmd.SysProcAttr = child.Attr(syscall.SIGTERM)
	d.cmd.Stdout, d.cmd.Stderr, d.cmd.Env = &d.said, &d.said, w.env()
	if err := d.cmd.Start(); err != nil {
		d.cmd = nil
		return embedded.DevFile{}, err
	}
	done := make(chan error, 1)
	go func(cmd *exec.Cmd) { done <- cmd.Wait() }(d.cmd)
	deadline := time.After(readyLimit)
	for {
		if f, err := embedded.ReadDevFile(w.data); err == nil {
			d.exited = done
			return f, nil
		}
		select {
		case err := <-done:
			d.cmd = nil
			return embedded.DevFile{}, fmt.Errorf("sallyport dev ended: %w\n%s", err, d.log())
		case <-deadline:
			return embedded.DevFile{}, fmt.Errorf("sallyport dev is not ready after %s\n%s", readyLimit, d.log())
		case <-ctx.Done():
			return embedded.DevFile{}, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stopLimit is how long `sallyport dev` may take to end its agent and to seal.
const stopLimit = 20 * time.Second

// stop stops it in order and waits until nothing of it is left.
func (d *dev) stop() error {
	if d.cmd == nil {
		return nil
	}
	cmd := d.cmd
	d.cmd = nil
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop sallyport dev: %w", err)
	}
	select {
	case err := <-d.exited:
		if err != nil {
			return fmt.Errorf("sallyport dev: %w\n%s", err, d.log())
		}
		return nil
	case <-time.After(stopLimit):
		return errors.Join(fmt.Errorf("sallyport dev did not stop within %s", stopLimit), cmd.Process.Kill())
	}
}

func (d *dev) finish() error { return d.stop() }

func (d *dev) outage(w *world, down bool) error {
	sig := syscall.SIGUSR2
	if down {
		sig = syscall.SIGUSR1
	}
	return syscall.Kill(w.file.PID, sig)
}

func (d *dev) door(w *world) string {
	return strings.TrimPrefix(strings.SplitN(w.file.Broker, "/#", 2)[0], "https://")
}

// cloud is the SAM template on a local AWS, with relay and agent beside it.
type cloud struct {
	emulator string
	root     string // of the repository
	w        *world
	system   *deployed.System
}

func (c *cloud) name() string { return "the stack on " + c.emulator }

func (c *cloud) start(ctx context.Context, w *world) (embedded.DevFile, error) {
	users := deployed.People()
	s, err := deployed.Start(ctx, deployed.Config{Emulator: c.emulator, Root: c.root, Bin: w.bin, Dir: w.data, AgentConfig: filepath.Join(w.dir, "targets.yaml"),
		Users: users, Say: func(format string, args ...any) { _, _ = fmt.Fprintf(w.c.Out, format+"\n", args...) }})
	if err != nil {
		return embedded.DevFile{}, err
	}
	c.system, c.w = s, w
	w.reach, w.roots = s.Env, s.Roots
	f := embedded.DevFile{Broker: s.Broker, Relay: s.Relay, Issuer: s.Issuer, Console: s.Console, CA: s.CA, Users: map[string]string{}}
	for _, u := range users {
		f.Users[u.Name] = u.Password
	}
	return f, nil
}

func (c *cloud) outage(_ *world, down bool) error { return c.system.Outage(down) }

func (c *cloud) door(*world) string { return c.system.Door() }

func (c *cloud) log() string {
	if c.system == nil {
		return ""
	}
	return c.system.Log()
}

func (c *cloud) stop() error {
	s := c.system
	if s == nil {
		return nil
	}
	c.system = nil
	return s.Stop()
}

// finish ends agent and relay, waits until everything is sealed, and fetches the evidence as an auditor would, before the local AWS goes
// and all that it holds with it.
func (c *cloud) finish() error {
	s := c.system
	ctx, cancel := context.WithTimeout(context.Background(), deployed.SealLimit+5*time.Minute)
	defer cancel()
	err := s.StopPrograms()
	if err == nil {
		err = s.Seal(ctx)
	}
	if err == nil {
		_, err = s.Operator(ctx, "stack", "evidence", c.w.data)
	}
	if err == nil {
		err = s.Copies(ctx, filepath.Join(c.w.data, embedded.CopiesDir))
	}
	if err == nil {
		err = s.Locked(ctx)
	}
	if err == nil {
		err = s.Remove(ctx)
	}
	calls, refused := s.Calls()
	if len(refused) > 0 {
		err = errors.Join(err, fmt.Errorf("the local AWS refused calls of functions, whose roles lack them: %q", refused))
	}
	if len(calls) > 0 {
		err = errors.Join(err, c.compare(calls))
	}
	return errors.Join(err, c.stop())
}

// compare holds what the functions called to the list that their roles are held to, both ways.
func (c *cloud) compare(calls []deployed.Call) error {
	must, err := deployed.ReadCalls(filepath.Join(c.root, "infra", "calls.tsv"))
	if err != nil {
		return err
	}
	var wrong error
	for _, call := range calls {
		if _, ok := must[call]; !ok {
			wrong = errors.Join(wrong, fmt.Errorf("infra/calls.tsv lacks %q", call.Line()))
		}
		must[call] = false
	}
	for call, unseen := range must {
		if unseen {
			wrong = errors.Join(wrong, fmt.Errorf("infra/calls.tsv has %q, which nothing called", call.Line()))
		}
	}
	return wrong
}
