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

// maxEnv bounds the locale: LANG and the twelve LC_ of POSIX and GNU.
const maxEnv = 16

// channel is one session channel: one command, or one sftp session.
type channel struct {
	l      *link
	client ssh.Channel
	env    []variable

	mu     sync.Mutex
	target ssh.Channel // once the command runs
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
		return func(ctx context.Context) { c.refuse(ctx, refusedRequest(req.Type)) }
	}
	_ = req.Reply(false, nil)
	c.receipt(refusedRequest(req.Type))
	return nil
}

// later answers what comes once something runs: signals go on, everything else is too late.
func (c *channel) later(req *ssh.Request) {
	ok := false
	if req.Type == "signal" {
		var p struct{ Name string }
		if target := c.running(); target != nil && ssh.Unmarshal(req.Payload, &p) == nil && signalName.MatchString(p.Name) {
			_, err := target.SendRequest("signal", false, ssh.Marshal(&p))
			ok = err == nil
		}
		_ = req.Reply(ok, nil)
		return
	}
	_ = req.Reply(false, nil)
	if req.Type != "window-change" { // of a terminal that there is not
		c.receipt(refusedRequest(req.Type))
	}
}

// signalName is the shape of RFC 4254 section 6.10: a name without SIG, or a private one.
var signalName = regexp.MustCompile(`^[A-Z0-9]{1,10}$`)

func (c *channel) running() ssh.Channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.target
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
	if ssh.Unmarshal(payload, &v) != nil || !localeName.MatchString(v.Name) || !localeValue.MatchString(v.Value) || len(c.env) >= maxEnv {
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

// say writes to the client's standard error. A client that is gone hears nothing.
func (c *channel) say(text string) { _, _ = io.Copy(c.client.Stderr(), strings.NewReader(text)) }

func (c *channel) exit(status uint32) {
	_, _ = c.client.SendRequest("exit-status", false, ssh.Marshal(&struct{ Status uint32 }{status})) // as in say
	_ = c.client.CloseWrite()
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
