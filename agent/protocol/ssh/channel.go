package ssh

import (
	"context"
	"errors"
	"io"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/internal/access"
)

// maxCommand is the longest command line: what would fill a screen cannot be reviewed. Linux takes 128 kB in one argument.
const maxCommand = 32 << 10

// variable is one of the environment that the client may set.
type variable struct{ Name, Value string }

// maxEnv bounds the environment: LANG, the twelve LC_ of POSIX and GNU, and as many again of a target's own.
const maxEnv = 32

// channel is one session channel: one command, one shell, or one sftp session.
type channel struct {
	l      *link
	client ssh.Channel
	env    []variable
	keys   *keyboard // what the client types on a terminal, or as a script; nil until somebody reads it

	mu     sync.Mutex
	pty    *pty        // where the client asked for one and got it; its size changes
	target ssh.Channel // once the command runs
	tape   *cast       // of the terminal; nil: not recorded. Set before anything runs
	abort  context.CancelCauseFunc
	line   func() // tells the line editor of another size
}

// serve answers the channel's requests until the client closes it, or ctx ends.
func (c *channel) serve(parent context.Context, reqs <-chan *ssh.Request) {
	ctx, cancel := context.WithCancelCause(parent)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(errGone)
	started := false
	for req := range reqs {
		run := (func(context.Context))(nil)
		if !started {
			run = c.first(req)
		}
		switch {
		case run != nil:
			started = true
			wg.Go(func() {
				run(ctx)
				_ = c.client.Close() // the client may have
				if c.keys != nil {
					c.keys.end()
				}
			})
		case started:
			c.later(req)
		}
	}
}

// first answers what comes before the channel has a purpose; it returns what to run once it has one.
func (c *channel) first(req *ssh.Request) func(context.Context) {
	switch req.Type {
	case "env":
		_ = req.Reply(c.setEnv(req.Payload), nil) // the channel ends by itself
		return nil
	case "pty-req":
		c.terminal(req)
		return nil
	case "window-change":
		_ = req.Reply(c.resize(req.Payload), nil)
		return nil
	case "exec":
		var p struct{ Command string }
		if err := ssh.Unmarshal(req.Payload, &p); err != nil || len(p.Command) > maxCommand {
			cmd := refused("EXEC", "exec", "ssh.command-too-long", "a command line has at most 32768 bytes, and its length is the one that it says")
			_ = req.Reply(false, nil)
			c.receipt(cmd)
			return nil
		}
		_ = req.Reply(true, nil)
		return func(ctx context.Context) { c.exec(ctx, p.Command) }
	case "subsystem":
		var p struct{ Name string }
		if err := ssh.Unmarshal(req.Payload, &p); err != nil || p.Name != "sftp" {
			_ = req.Reply(false, nil)
			c.receipt(refused("SUBSYSTEM", "subsystem "+short(p.Name), "ssh.subsystem", "of the subsystems only sftp is carried"))
			return nil
		}
		_ = req.Reply(true, nil)
		return c.sftp
	case "shell":
		_ = req.Reply(true, nil) // so that the client shows what it is told
		return c.shell
	}
	_ = req.Reply(false, nil)
	c.receipt(refusedRequest(req.Type))
	return nil
}

// terminal gives the client a terminal where its target does: what runs on it is another question.
func (c *channel) terminal(req *ssh.Request) {
	p, err := readPTY(req.Payload)
	switch {
	case len(c.l.settings.Shells) == 0:
		_ = req.Reply(false, nil)
		c.receipt(refusedRequest(req.Type))
	case err != nil || c.pty != nil:
		_ = req.Reply(false, nil)
		c.receipt(refused("PTY", "pty-req", "ssh.malformed", "a channel has one terminal, of at most 4096 columns and rows, whose type is a plain name"))
	default:
		c.pty = p
		_ = req.Reply(true, nil)
	}
}

// resize notes the size of the client's terminal, and tells whoever draws on it.
func (c *channel) resize(payload []byte) bool {
	s, err := readSize(payload)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || c.pty == nil {
		return false
	}
	c.pty.size = s
	if c.tape.resize(s) != nil && c.target != nil {
		_ = c.target.Close() // what cannot be recorded ends
	}
	if c.line != nil {
		c.line()
	}
	if c.target != nil {
		_, _ = c.target.SendRequest("window-change", false, ssh.Marshal(&s)) // a host that is gone draws nothing
	}
	return true
}

// later answers what comes once something runs: signals and what belongs to a terminal go on, everything else is too late.
func (c *channel) later(req *ssh.Request) {
	switch req.Type {
	case "signal":
		_ = req.Reply(c.signal(req.Payload), nil)
	case "window-change":
		_ = req.Reply(c.resize(req.Payload), nil)
	case "break":
		_ = req.Reply(c.sendBreak(req.Payload), nil)
	case "eow@openssh.com": // the client takes no more: what it is sent is dropped, and the host learns it when the channel closes
		_ = req.Reply(false, nil)
	default:
		_ = req.Reply(false, nil)
		c.receipt(refusedRequest(req.Type))
	}
}

// signalName is the shape of RFC 4254 section 6.10: a name without SIG, or a private one.
var signalName = regexp.MustCompile(`^[A-Z0-9]{1,10}$`)

func (c *channel) signal(payload []byte) bool {
	var p struct{ Name string }
	target := c.running()
	if target == nil || ssh.Unmarshal(payload, &p) != nil || !signalName.MatchString(p.Name) {
		return false
	}
	_, err := target.SendRequest("signal", false, ssh.Marshal(&p))
	return err == nil
}

// sendBreak carries a break (RFC 4335), which only a terminal can have.
func (c *channel) sendBreak(payload []byte) bool {
	var p struct{ Milliseconds uint32 }
	target := c.running()
	if target == nil || c.pty == nil || ssh.Unmarshal(payload, &p) != nil {
		return false
	}
	ok, err := target.SendRequest("break", true, ssh.Marshal(&p))
	return ok && err == nil
}

func (c *channel) running() ssh.Channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.target
}

// input begins to read what the client types.
func (c *channel) input() *keyboard {
	if c.keys == nil {
		c.keys = newKeyboard()
		c.l.tail.Go(func() { c.keys.feed(c.client) }) // ends with the channel
	}
	return c.keys
}

// runs makes target what signals and sizes go to; nil: nothing.
func (c *channel) runs(target ssh.Channel) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.target = target
}

func (c *channel) receipt(cmd access.Command) {
	if err := c.l.receipt(cmd); err != nil {
		_ = c.client.Close() // this channel asks for too much
	}
}

var (
	localeName = regexp.MustCompile(`^(LANG|LC_[A-Z]{1,20})$`)
	// localeValue wants UTF-8, or no encoding at all: in others a byte of a letter can be a shell's backslash.
	localeValue = regexp.MustCompile(`^(C|POSIX|C\.UTF-?8|[a-z]{2,3}(_[A-Z]{2})?(\.UTF-?8|\.utf-?8)(@[a-z]{1,16})?)?$`)
)

func (c *channel) setEnv(payload []byte) bool {
	var v variable
	if ssh.Unmarshal(payload, &v) != nil || len(c.env) >= maxEnv {
		return false
	}
	if localeName.MatchString(v.Name) {
		if !localeValue.MatchString(v.Value) {
			return false
		}
	} else if !c.l.settings.takes(v.Name, v.Value) {
		return false // unrecorded: clients offer what they have, and go on without
	}
	c.env = append(c.env, v)
	return true
}

// refuse has the refusal decided like any command, so that its entry is there, and tells it.
func (c *channel) refuse(ctx context.Context, cmd access.Command) {
	cmd.State.Role = c.l.s.Login.User
	permits, err := c.l.s.Gate.Check(ctx, []access.Command{cmd}, nil)
	for _, p := range permits {
		p.Done(access.Result{Status: access.StatusUnused})
	}
	d := &access.Denied{Code: access.CodeUnsupported, Rule: cmd.Refused.Rule, Hint: cmd.Refused.Hint}
	if err != nil {
		d = deniedBy(err)
	}
	c.deny(d)
}

// deny is the end of a command that does not run.
func (c *channel) deny(d *access.Denied) {
	c.say(refusal(d))
	c.exit(exitDenied)
}

// leave is the end of something that we end. What it still says may be on its way to the client, so that the channel closes without an end of it.
func (c *channel) leave(d *access.Denied) {
	c.say(refusal(d))
	c.status(exitDenied)
}

// say writes to the client's standard error, or to its terminal, which is raw. A client that is gone hears nothing.
func (c *channel) say(text string) {
	if c.pty == nil {
		_, _ = io.Copy(c.client.Stderr(), strings.NewReader(text))
		return
	}
	_, _ = io.Copy(c.screen(), strings.NewReader(strings.ReplaceAll(text, "\n", "\r\n")))
}

func (c *channel) exit(status uint32) {
	c.status(status)
	_ = c.client.CloseWrite()
}

func (c *channel) status(status uint32) {
	_, _ = c.client.SendRequest("exit-status", false, ssh.Marshal(&struct{ Status uint32 }{status})) // as in say
}

// farewell is what a client hears whose command was ended by us.
func farewell(ctx context.Context) *access.Denied {
	cause := context.Cause(ctx)
	d := (*access.Denied)(nil)
	switch {
	case errors.As(cause, &d):
		return d
	case errors.Is(cause, errTarget):
		return &access.Denied{Code: access.CodeUnsupported, Rule: "ssh.host-gone", Retryable: true, Hint: "the connection to the host was lost; whether the command ran to its end is unknown"}
	}
	return &access.Denied{Code: access.CodeRevoked, Rule: "session-ended", Retryable: true, Hint: "the agent is stopping: connect again"}
}
