package ssh

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/internal/access"
)

// exec decides and runs one command line, on a terminal where the client asked for one.
func (c *channel) exec(parent context.Context, text string) {
	cmd := analyse(text, c.l.shell())
	cmd.Classes = c.l.classes(&cmd)
	if c.pty != nil {
		if !c.l.settings.gives(ModeTerminal) {
			c.refuse(parent, refusedRequest("pty-req"))
			return
		}
		cmd.Touches = append(cmd.Touches, onTerminal()...)
		cmd.Classes = append(cmd.Classes, c.l.everything()...)
	}
	permit, err := c.ask(parent, cmd)
	if err != nil {
		c.deny(deniedBy(err))
		return
	}
	c.alone(parent, permit, job{request: "exec", payload: ssh.Marshal(&struct{ Command string }{text}), title: short(cmd.Normalised), carries: carriesFiles(&cmd)})
}

// alone runs the one thing that a channel is for, and tells the client how it ended.
func (c *channel) alone(parent context.Context, permit *gate.Permit, j job) {
	ctx, abort := context.WithCancelCause(parent)
	defer abort(nil)
	r := &run{permit: permit, started: time.Now()}
	defer r.done()
	if j.pty = c.pty; j.pty != nil {
		if err := c.record(permit, j.title, abort); err != nil {
			c.deny(unrecorded(err))
			return
		}
		defer func() { r.taped(c.tape.close()) }()
	}
	if j.in = c.client; c.pty != nil {
		j.in = c.typing(c.input().take())
	}
	j.out, j.errOut = c.output(permit, j.carries)
	e, d := c.perform(ctx, r, j)
	if d != nil {
		c.deny(d)
		return
	}
	c.finish(ctx, r, e)
}

// job is something to run on the host.
type job struct {
	request     string // of the channel: exec or shell
	payload     []byte
	title       string
	carries     bool // files, by a protocol of their own
	pty         *pty
	in          io.Reader
	out, errOut io.WriteCloser
}

var (
	errNoChannel  = &access.Denied{Code: access.CodeUnsupported, Rule: "ssh.host-refused", Retryable: true, Hint: "the host opens no more sessions: close some, or raise MaxSessions"}
	errNoTerminal = &access.Denied{Code: access.CodeUnsupported, Rule: "ssh.host-refused", Hint: "the host gives no terminal"}
	errNotKept    = &access.Denied{Code: access.CodeUnsupported, Rule: "ssh.recording", Hint: "the policy wants to keep what is carried, which it can of files that sftp carries: use sftp, or scp without -O"}
	errNotRun     = &access.Denied{Code: access.CodeUnsupported, Rule: "ssh.host-refused", Hint: "the host refused to run the command"}
)

// perform runs a permitted job on a channel of its own, to its end or that of ctx. What it denies never ran.
func (c *channel) perform(ctx context.Context, r *run, j job) (ending, *access.Denied) {
	r.mark = rand.Text()
	target, reqs, err := c.l.host.conn.OpenChannel("session", nil)
	if err != nil {
		c.l.s.Log.Error("host opens no channel", "session", c.l.s.ID, "target", c.l.s.Target, "error", err)
		return ending{}, errNoChannel
	}
	end := make(chan ending, 1)
	c.l.tail.Go(func() { end <- await(reqs) })
	if d := c.prepare(r, j, target); d != nil {
		_ = target.Close() // the host may have
		return ending{}, d
	}
	return c.carry(ctx, r, j, target, end)
}

// prepare sets a channel of the host up for a job, and uses the permit.
func (c *channel) prepare(r *run, j job, target ssh.Channel) *access.Denied {
	env := c.env
	if c.l.settings.Reap {
		env = append(slices.Clone(env), variable{reapName, c.l.mark + "." + r.mark})
	}
	for _, v := range env {
		if _, err := target.SendRequest("env", false, ssh.Marshal(&v)); err != nil {
			break // the exec tells
		}
	}
	if j.pty != nil {
		c.mu.Lock()
		request := j.pty.request()
		c.mu.Unlock()
		if ok, err := target.SendRequest("pty-req", true, request); err != nil || !ok {
			return errNoTerminal
		}
	}
	if j.carries && r.permit.Records() {
		return errNotKept
	}
	if err := r.permit.Use(); err != nil {
		return deniedBy(err)
	}
	return nil
}

// ask is one question to the gate about one command, with its hold told on standard error.
func (c *channel) ask(ctx context.Context, cmd access.Command) (*gate.Permit, error) {
	return c.asking(ctx, cmd, func() {})
}

// asking is ask; held is called if the command waits. On a terminal Ctrl-C gives it up, which is a key there.
func (c *channel) asking(ctx context.Context, cmd access.Command, held func()) (*gate.Permit, error) {
	if c.pty != nil {
		waiting, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		ctx = waiting
		c.input().wait(func() { cancel(nil) })
	}
	permits, err := c.l.s.Gate.Check(ctx, []access.Command{cmd}, func(h access.HeldCommand) { held(); c.say(heldText(h)) })
	if err != nil {
		for _, p := range permits {
			p.Done(access.Result{Status: access.StatusUnused})
		}
		return nil, err
	}
	if len(permits) != 1 {
		return nil, errors.New("the gate gave no permit")
	}
	return permits[0], nil
}

// run is a permitted command on its way.
type run struct {
	permit  *gate.Permit
	started time.Time
	mark    string // of what it starts; see reap
	bytes   atomic.Int64
	result  access.Result
}

func (r *run) done() {
	r.result.Bytes = r.bytes.Load()
	r.result.Duration = time.Since(r.started).Microseconds()
	r.permit.Done(r.result)
}

// carry starts the job on the host and joins the two channels until the host is done or ctx ends.
func (c *channel) carry(ctx context.Context, r *run, j job, target ssh.Channel, end <-chan ending) (ending, *access.Denied) {
	c.l.kills.Add(1)
	copied := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { // it may run by the time that the host says so
		defer c.l.kills.Done()
		c.kill(ctx, target, r.mark, copied, j.pty != nil)
	})
	ok, err := target.SendRequest(j.request, true, j.payload)
	ends := !stop()
	if !ends {
		c.l.kills.Done()
	}
	if err != nil || !ok {
		_ = target.Close()
		r.result.Status, r.result.Error = access.StatusError, "exec-refused"
		if ctx.Err() != nil || err != nil {
			r.result = access.Result{Status: access.StatusLost}
		}
		return ending{}, errNotRun
	}
	c.runs(target)
	defer c.runs(nil)
	c.l.tail.Go(func() { // ends with the client's channel, at the latest when the connection closes
		_, _ = copyPooled(target, j.in)
		_ = target.CloseWrite()
	})
	c.l.tail.Go(func() { // a host whose program goes on keeps its channel: a client that is to be told is not kept waiting
		var wg sync.WaitGroup
		wg.Go(func() { r.drain(ctx, j.out, target) })
		wg.Go(func() { r.drain(ctx, j.errOut, target.Stderr()) })
		wg.Wait()
		close(copied)
	})
	var e ending
	select {
	case <-copied:
		r.result.Masked = maskedIn(j.out, j.errOut)
		select {
		case e = <-end:
			_ = target.Close() // the host has
			return e, nil
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
	if !ends {
		c.l.kills.Go(func() { c.kill(ctx, target, r.mark, copied, j.pty != nil) })
	}
	return e, nil
}

// conclude is how a job ended, for the record.
func (r *run) conclude(ctx context.Context, e ending) {
	switch {
	case errors.Is(context.Cause(ctx), errGone), errors.Is(context.Cause(ctx), errInterrupted):
		r.result.Status = access.StatusCancelled
	case ctx.Err() != nil:
		r.result.Status = access.StatusLost
	case e.signal != nil:
		r.result.Status, r.result.Error = access.StatusError, "signal "+short(e.signalName)
	case e.known:
		r.result.Status, r.result.Tag = access.StatusOK, "exit 0"
		if e.status != 0 {
			r.result.Status, r.result.Tag, r.result.Error = access.StatusError, "", "exit "+strconv.FormatUint(uint64(e.status), 10)
		}
	default:
		r.result.Status = access.StatusUnknown
	}
}

// finish tells the client how the command ended: after all of its output, and before the channel closes.
func (c *channel) finish(ctx context.Context, r *run, e ending) {
	r.conclude(ctx, e)
	switch {
	case errors.Is(context.Cause(ctx), errGone):
	case ctx.Err() != nil:
		c.leave(farewell(ctx))
	case e.signal != nil:
		_, _ = c.client.SendRequest("exit-signal", false, e.signal) // the client may be gone
		_ = c.client.CloseWrite()
	case e.known:
		c.exit(e.status)
	default:
		_ = c.client.CloseWrite() // the host said nothing of the end, and neither do we
	}
}

// ending is what the host says of a command's end.
type ending struct {
	known      bool
	status     uint32
	signal     []byte // the payload of exit-signal, without the host's own text
	signalName string
}

// code is what a shell would say of it.
func (e ending) code() uint32 {
	switch {
	case e.signal != nil:
		return 128 + signalNumbers[e.signalName]
	case e.known:
		return e.status
	}
	return exitUnknown
}

// exitUnknown is OpenSSH's word for a command whose end is not known.
const exitUnknown = 255

// signalNumbers are those of RFC 4254 section 6.10 that all systems number alike.
var signalNumbers = map[string]uint32{"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "ABRT": 6, "FPE": 8, "KILL": 9, "SEGV": 11, "PIPE": 13, "ALRM": 14, "TERM": 15}

// await takes the host's requests until it closes the channel.
func await(reqs <-chan *ssh.Request) (e ending) {
	for req := range reqs {
		switch req.Type {
		case "exit-status":
			var p struct{ Status uint32 }
			if ssh.Unmarshal(req.Payload, &p) == nil {
				e.known, e.status = true, p.Status
			}
		case "exit-signal":
			var p struct {
				Name   string
				Core   bool
				Text   string
				Locale string
			}
			if ssh.Unmarshal(req.Payload, &p) == nil {
				p.Text, p.Locale = "", ""
				e.signal, e.signalName = ssh.Marshal(&p), p.Name
			}
		}
		_ = req.Reply(false, nil) // keepalives of the host get the answer that they want: any
	}
	return e
}

// buffers are for copying: the largest packet of the library.
var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

func copyPooled(dst io.Writer, src io.Reader) (int64, error) {
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	return io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, *b)
}

// drain copies what the host says; once the client takes no more, the rest is read and dropped, so that the host's own end is still seen.
func (r *run) drain(ctx context.Context, dst io.WriteCloser, src io.Reader) {
	if _, err := copyPooled(while{ctx.Err, &counted{dst, &r.bytes}}, src); err != nil {
		_, _ = copyPooled(io.Discard, src)
	}
	_ = dst.Close() // what a mask still holds back; the client may be gone
}

// while writes until its context ends: then the client has been told, and hears no more.
type while struct {
	ended func() error
	io.Writer
}

func (w while) Write(b []byte) (int, error) {
	if err := w.ended(); err != nil {
		return 0, err
	}
	return w.Writer.Write(b)
}

// counted counts what was written.
type counted struct {
	io.Writer
	n *atomic.Int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n.Add(int64(n))
	return n, err
}
