package ssh

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/internal/access"
)

// bindRequests are those about what the host listens on.
var bindRequests = []string{"tcpip-forward", "cancel-tcpip-forward", "streamlocal-forward@openssh.com", "cancel-streamlocal-forward@openssh.com"}

// maxBinds bounds what one connection listens on.
const maxBinds = 32

// bind is something that the host listens on for the client.
type bind struct {
	host string // as the client wrote it, and as the host gives it back
	port uint32
	path string // of a socket, in place of both
	at   string // as it was decided
}

// keepalive is how OpenSSH asks whether anybody is there: that there is an answer is the answer.
const keepalive = "keepalive@openssh.com"

// wants are requests about the connection where some of them have to be decided. Answers are told apart by their order alone: while one
// waits for a reviewer, so do those behind it.
type wants struct {
	mu    sync.Mutex
	queue []*wanted // the first is being answered
	more  chan struct{}
}

// wanted is a request, and the keepalives behind it, of which a client that waits for long sends any number.
type wanted struct {
	req   *ssh.Request
	beat  *ssh.Request // one of them: they are all answered alike
	beats int
}

// want has a request answered after those that came before it. A keepalive that has to wait is followed by a sign of life: OpenSSH's client counts whatever
// comes, and would leave otherwise.
func (l *link) want(req *ssh.Request) error {
	w := &l.wants
	w.mu.Lock()
	defer w.mu.Unlock()
	switch n := len(w.queue); {
	case n == 0 && req.Type == keepalive:
		_ = req.Reply(false, nil) // the client may be gone
	case req.Type == keepalive:
		w.queue[n-1].beat = req
		w.queue[n-1].beats++
		_, _, _ = l.client.SendRequest(keepalive, false, nil) // as above
	case n >= maxReceipts:
		return errFlood
	default:
		w.queue = append(w.queue, &wanted{req: req})
		select {
		case w.more <- struct{}{}:
		default: // it has been told
		}
	}
	return nil
}

// first is what is to be answered next; nil: nothing.
func (w *wants) first() *ssh.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return nil
	}
	return w.queue[0].req
}

// answered goes on to the next.
func (w *wants) answered() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range w.queue[0].beats {
		_ = w.queue[0].beat.Reply(false, nil) // the client may be gone
	}
	w.queue = w.queue[1:]
}

// listener answers requests about the connection one after the other.
func (l *link) listener(ctx context.Context) {
	for {
		select {
		case <-l.wants.more:
		case <-ctx.Done():
			return
		}
		for req := l.wants.first(); req != nil && ctx.Err() == nil; req = l.wants.first() {
			if !l.listen(ctx, req) {
				_ = req.Reply(false, nil) // the client may be gone
			}
			l.wants.answered()
		}
	}
}

// listen decides and carries one request; false: it is to be answered no.
func (l *link) listen(ctx context.Context, req *ssh.Request) bool {
	b, err := readBind(req.Type, req.Payload)
	cancels := strings.HasPrefix(req.Type, "cancel-")
	switch {
	case !slices.Contains(bindRequests, req.Type):
		_ = l.receipt(refusedGlobal(req.Type, req.Payload))
		return false
	case cancels && err == nil:
		return l.unlisten(req, b)
	case err != nil:
		_ = l.receipt(refused("LISTEN", req.Type, "ssh.address", "name an address in its usual form, or a socket by its whole path"))
		return false
	case l.full():
		_ = l.receipt(refused("LISTEN", req.Type, "ssh.too-many", "a connection listens on 32 addresses at most"))
		return false
	}
	permit, err := l.one(ctx, l.forwarding("LISTEN", req.Type+" at", b.at))
	if err != nil {
		l.s.Log.Info("listening refused", "session", l.s.ID, "target", l.s.Target, "decision", deniedBy(err).Rule)
		return false
	}
	r := &run{permit: permit, started: time.Now()}
	defer r.done()
	if permit.Use() != nil {
		return false
	}
	return l.begin(r, req, b)
}

// begin has the host listen. Whoever connects meanwhile waits until the client has been told.
func (l *link) begin(r *run, req *ssh.Request, b bind) bool {
	l.binding.Lock()
	defer l.binding.Unlock()
	ok, payload, err := l.host.conn.SendRequest(req.Type, true, req.Payload)
	if err != nil || !ok {
		r.result.Status, r.result.Error = access.StatusError, "not-listening"
		return false
	}
	if b.port == 0 && b.path == "" { // the host chose one
		var p struct{ Port uint32 }
		if ssh.Unmarshal(payload, &p) != nil {
			r.result.Status, r.result.Error = access.StatusError, "protocol"
			return false
		}
		b.port = p.Port
	}
	l.mu.Lock()
	l.binds = append(l.binds, b)
	l.mu.Unlock()
	r.result.Status = access.StatusOK
	_ = req.Reply(true, payload) // the client may be gone
	return true
}

func readBind(kind string, payload []byte) (b bind, err error) {
	switch kind {
	case "tcpip-forward", "cancel-tcpip-forward":
		var p tcpBind
		if ssh.Unmarshal(payload, &p) != nil {
			return b, errAddress
		}
		b.host, b.port = p.Host, p.Port
		b.at, err = binding(p.Host, p.Port)
	case "streamlocal-forward@openssh.com", "cancel-streamlocal-forward@openssh.com":
		var p localBind
		if ssh.Unmarshal(payload, &p) != nil {
			return b, errAddress
		}
		if b.path, err = socket(p.Path); err == nil {
			b.at = listening(b.path)
		}
	default:
		err = errAddress
	}
	return b, err
}

func (l *link) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.binds) >= maxBinds
}

// unlisten ends what was begun. It needs no leave.
func (l *link) unlisten(req *ssh.Request, b bind) bool {
	if !l.forget(b) {
		return false
	}
	ok, _, err := l.host.conn.SendRequest(req.Type, true, req.Payload)
	if !ok || err != nil {
		return false
	}
	_ = req.Reply(true, nil) // the client may be gone
	return true
}

func (l *link) forget(b bind) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, o := range l.binds {
		if o.host == b.host && o.port == b.port && o.path == b.path {
			l.binds = append(l.binds[:i], l.binds[i+1:]...)
			return true
		}
	}
	return false
}

// bound is what the host listens on for the client, of which a channel of the host's says that somebody connected to it.
func (l *link) bound(kind string, extra []byte) (bind, bool) {
	var want bind
	switch kind {
	case "forwarded-tcpip":
		var p tcpChannel
		if ssh.Unmarshal(extra, &p) != nil {
			return bind{}, false
		}
		want.host, want.port = p.Host, p.Port
	case "forwarded-streamlocal@openssh.com":
		var p localForwarded
		if ssh.Unmarshal(extra, &p) != nil {
			return bind{}, false
		}
		want.path = p.Path
	default:
		return bind{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.binds {
		if b.host == want.host && b.port == want.port && b.path == want.path {
			return b, true
		}
	}
	return bind{}, false
}

var errNotBound = errors.New("the host asked for a channel that it was not asked for")

// incoming decides and carries a connection that somebody made to what the host listens on.
func (l *link) incoming(ctx context.Context, nc ssh.NewChannel) error {
	l.binding.Lock() // until what is being begun has begun
	b, ok := l.bound(nc.ChannelType(), nc.ExtraData())
	l.binding.Unlock()
	if !ok {
		_ = nc.Reject(ssh.Prohibited, "refused") // the connection ends by itself
		return errNotBound
	}
	permit, err := l.one(ctx, l.forwarding("FORWARDED", "channel "+nc.ChannelType()+" from", b.at))
	if err != nil {
		_ = nc.Reject(ssh.Prohibited, "refused") // as above
		return nil
	}
	r := &run{permit: permit, started: time.Now()}
	defer r.done()
	if permit.Use() != nil {
		_ = nc.Reject(ssh.Prohibited, "refused") // as above
		return nil
	}
	near, nearReqs, err := l.client.OpenChannel(nc.ChannelType(), nc.ExtraData())
	if err != nil {
		r.result.Status, r.result.Error = access.StatusError, "not-taken"
		_ = nc.Reject(ssh.ConnectionFailed, "refused") // as above
		return nil
	}
	far, reqs, err := nc.Accept()
	if err != nil {
		l.tail.Go(func() { ssh.DiscardRequests(nearReqs) })
		_ = near.Close()
		r.result.Status = access.StatusLost
		return nil
	}
	l.join(ctx, r, end{near, nearReqs}, end{far, reqs})
	return nil
}
