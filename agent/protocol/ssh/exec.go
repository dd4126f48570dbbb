package ssh

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/internal/access"
)

// exec decides and runs one command line.
func (c *channel) exec(ctx context.Context, text string) {
	cmd := analyse(text, c.l.shell())
	cmd.Classes = c.l.classes(cmd.Touches)
	permit, err := c.ask(ctx, cmd)
	if err != nil {
		c.deny(deniedBy(err))
		return
	}
	r := &run{permit: permit, started: time.Now()}
	defer r.done()
	target, reqs, err := c.l.host.conn.OpenChannel("session", nil)
	if err != nil {
		c.l.s.Log.Error("host opens no channel", "session", c.l.s.ID, "target", c.l.s.Target, "error", err)
		c.deny(&access.Denied{Code: access.CodeUnsupported, Rule: "ssh.host-refused", Retryable: true, Hint: "the host opens no more sessions: close some, or raise MaxSessions"})
		return
	}
	defer target.Close() //nolint:errcheck // the host may have
	for _, v := range c.env {
		if _, err := target.SendRequest("env", false, ssh.Marshal(&v)); err != nil {
			break // the exec tells
		}
	}
	if err := permit.Use(); err != nil {
		c.l.tail.Go(func() { ssh.DiscardRequests(reqs) })
		c.deny(deniedBy(err))
		return
	}
	r.used = true
	c.carry(ctx, r, target, reqs, ssh.Marshal(&struct{ Command string }{text}))
}

// ask is one question to the gate about one command, with its hold told on standard error.
func (c *channel) ask(ctx context.Context, cmd access.Command) (*gate.Permit, error) {
	permits, err := c.l.s.Gate.Check(ctx, []access.Command{cmd}, func(h access.HeldCommand) { c.say(heldText(h)) })
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
	used    bool
	bytes   atomic.Int64
	result  access.Result
}

func (r *run) done() {
	r.result.Bytes = r.bytes.Load()
	r.result.Duration = time.Since(r.started).Microseconds()
	r.permit.Done(r.result)
}

// carry starts the command on the host and joins the two channels until the host is done or ctx ends.
func (c *channel) carry(ctx context.Context, r *run, target ssh.Channel, reqs <-chan *ssh.Request, payload []byte) {
	end := make(chan ending, 1)
	c.l.tail.Go(func() { end <- await(reqs) })
	stop := context.AfterFunc(ctx, func() {
		_, _ = target.SendRequest("signal", false, ssh.Marshal(&struct{ Name string }{"TERM"})) // a closed channel alone lets a program run on
		_ = target.Close()
	})
	defer stop()
	ok, err := target.SendRequest("exec", true, payload)
	if err != nil || !ok {
		_ = target.Close()
		r.result.Status, r.result.Error = access.StatusError, "exec-refused"
		if ctx.Err() != nil || err != nil {
			r.result = access.Result{Status: access.StatusLost}
		}
		c.deny(&access.Denied{Code: access.CodeUnsupported, Rule: "ssh.host-refused", Hint: "the host refused to run the command"})
		return
	}
	c.mu.Lock()
	c.target = target
	c.mu.Unlock()
	c.l.tail.Go(func() { // ends with the client's channel, at the latest when the connection closes
		_, _ = copyPooled(target, c.client)
		_ = target.CloseWrite()
	})
	out, errOut := c.output(r.permit)
	copied := make(chan struct{})
	c.l.tail.Go(func() { // a host whose program goes on keeps its channel: a client that is to be told is not kept waiting
		var wg sync.WaitGroup
		wg.Go(func() { r.drain(out, target) })
		wg.Go(func() { r.drain(errOut, target.Stderr()) })
		wg.Wait()
		close(copied)
	})
	var e ending
	select {
	case <-copied:
		select {
		case e = <-end:
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
	c.mu.Lock()
	c.target = nil
	c.mu.Unlock()
	c.finish(ctx, r, e)
}

// finish tells the client how the command ended: after all of its output, and before the channel closes.
func (c *channel) finish(ctx context.Context, r *run, e ending) {
	switch {
	case errors.Is(context.Cause(ctx), errGone):
		r.result.Status = access.StatusCancelled
	case ctx.Err() != nil:
		r.result.Status = access.StatusLost
		c.deny(farewell(ctx))
	case e.signal != nil:
		r.result.Status, r.result.Error = access.StatusError, "signal "+short(e.signalName)
		_, _ = c.client.SendRequest("exit-signal", false, e.signal) // the client may be gone
		_ = c.client.CloseWrite()
	case e.known:
		r.result.Status, r.result.Tag = access.StatusOK, "exit 0"
		if e.status != 0 {
			r.result.Status, r.result.Tag, r.result.Error = access.StatusError, "", "exit "+strconv.FormatUint(uint64(e.status), 10)
		}
		c.exit(e.status)
	default:
		r.result.Status = access.StatusUnknown
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
func (r *run) drain(dst io.WriteCloser, src io.Reader) {
	if _, err := copyPooled(&counted{dst, &r.bytes}, src); err != nil {
		_, _ = copyPooled(io.Discard, src)
	}
	_ = dst.Close() // what a mask still holds back; the client may be gone
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

// plainOut is an output without a mask.
type plainOut struct{ io.Writer }

func (plainOut) Close() error { return nil }
