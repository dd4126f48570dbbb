package ssh

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
)

// Waits and limits, each with its reason.
const (
	handshakeWait = 30 * time.Second // a client's handshake takes milliseconds; nobody is asked anything in it
	loginWait     = 20 * time.Second // to the host: a slow one resolves our name first
	farewellWait  = time.Second      // to tell a client why its session ends
	maxChannels   = 64               // open on one connection: OpenSSH's server allows 10 (MaxSessions)
	maxReceipts   = 64               // refused requests whose entries are not stored yet
)

// Config of the room. The zero Config is good for tests.
type Config struct {
	// KeyDir keeps the keys that the agent shows to clients, one for each target; empty: a key lasts as long as the process.
	KeyDir string
	// Targets are the settings of each target; one that has none allows nothing but commands and sftp.
	Targets map[access.TargetName]Settings
}

// Room serves SSH.
type Room struct {
	dir     string
	targets map[access.TargetName]Settings

	mu     sync.Mutex
	keys   map[access.TargetName]ssh.Signer
	family map[access.TargetName][]string // of the host key that was pinned
}

// New makes a room.
func New(c Config) *Room {
	return &Room{dir: c.KeyDir, targets: c.Targets, keys: make(map[access.TargetName]ssh.Signer), family: make(map[access.TargetName][]string)}
}

func (r *Room) settings(target access.TargetName) *Settings {
	s := r.targets[target]
	return &s
}

var (
	_ protocol.Protocol = (*Room)(nil)
	_ protocol.Refuser  = (*Room)(nil)
)

// link is one client's connection joined to one of the host.
type link struct {
	room     *Room
	s        *protocol.Session
	settings *Settings
	host     *host
	client   ssh.Conn
	failed   error // of the login to the host

	slots    chan struct{} // one for each open channel
	receipts chan access.Command
	wants    wants         // about the connection
	home     func() string // where the agent's user starts on the host; empty where it does not tell

	mark    string     // of programs that this connection starts; see reap
	reaped  sync.Once  // all of them
	binding sync.Mutex // while the host is asked to listen

	mu     sync.Mutex
	binds  []bind         // what the host listens on for the client
	noMore bool           // the client said that it opens no more sessions
	wg     sync.WaitGroup // channels that have something to say
	kills  sync.WaitGroup // programs of the host that are being ended: before its connection
	tail   sync.WaitGroup // what ends with the connections
}

var (
	errTarget = errors.New("connection to the host lost")
	errFlood  = errors.New("more refused requests than can be recorded")
	errGone   = errors.New("the client is gone")

	errInterrupted = errors.New("the client interrupted it")
)

// Serve is the whole life of one client.
func (r *Room) Serve(parent context.Context, client net.Conn, s *protocol.Session) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	l := &link{room: r, s: s, settings: r.settings(s.Target), slots: make(chan struct{}, maxChannels), receipts: make(chan access.Command, maxReceipts),
		wants: wants{more: make(chan struct{}, 1)}, mark: rand.Text()}
	if l.s.Log == nil {
		l.s.Log = slog.New(slog.DiscardHandler)
	}
	_ = client.SetDeadline(time.Now().Add(handshakeWait))
	stop := context.AfterFunc(ctx, func() { _ = client.SetDeadline(time.Now()) })
	conn, channels, requests, err := l.greet(ctx, client)
	if stop() {
		_ = client.SetDeadline(time.Time{})
	} else {
		err = errors.Join(err, context.Cause(ctx))
	}
	if err != nil {
		return errors.Join(l.ended(ctx, err), l.close(client, conn, channels, requests))
	}
	err = l.serve(ctx, cancel, client, conn, channels, requests)
	return l.ended(ctx, err)
}

// ended is what Serve returns: nothing where the client left.
func (l *link) ended(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case l.failed != nil:
		return l.failed
	case errors.Is(cause, errGone), cause == nil && errors.Is(err, errGone):
		return nil
	case cause != nil:
		return cause
	}
	return err
}

// close closes both legs, and takes what the library still has to say: it waits for that.
func (l *link) close(client net.Conn, conn *ssh.ServerConn, channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) error {
	if conn != nil {
		_ = conn.Close()      // it may have been closed by the other side
		var wg sync.WaitGroup // beside each other: what has one of them to say waits until it is taken
		wg.Go(func() { ssh.DiscardRequests(requests) })
		for nc := range channels {
			_ = nc.Reject(ssh.ConnectionFailed, "") // the connection is closed
		}
		wg.Wait()
		_ = conn.Wait()
	}
	_ = client.Close()
	l.waitKills()
	if l.host != nil {
		_ = l.host.conn.Close()
		_ = l.host.conn.Wait()
	}
	return nil
}

func (l *link) serve(ctx context.Context, cancel context.CancelCauseFunc, client net.Conn, conn *ssh.ServerConn, channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) error {
	var far sync.WaitGroup // ends once the host's connection is closed
	far.Go(func() {
		_ = l.host.conn.Wait()
		cancel(errTarget)
	})
	l.client = conn
	far.Go(func() { l.takeHost(ctx) })
	l.wg.Go(func() { l.listener(ctx) })
	l.home = sync.OnceValue(l.askHome)
	l.tail.Go(func() { l.home() }) // so that the first command need not wait
	recording, stopRecording := context.WithCancel(ctx)
	var recorder sync.WaitGroup
	recorder.Go(func() { l.record(recording) })
	err := l.loop(ctx, cancel, channels, requests)
	cancel(err)
	// What still runs hears why, and its channels close; a client that does not read is given up.
	_ = client.SetWriteDeadline(time.Now().Add(farewellWait))
	done := make(chan struct{})
	go func() { l.wg.Wait(); close(done) }()
	patience := time.NewTimer(2 * farewellWait)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
	}
	closeErr := l.close(client, conn, channels, requests)
	<-done
	l.kills.Wait()
	l.tail.Wait()
	stopRecording()
	recorder.Wait()
	far.Wait()
	return errors.Join(err, closeErr)
}

// loop takes channels and global requests until the client leaves or ctx ends.
func (l *link) loop(ctx context.Context, cancel context.CancelCauseFunc, channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case nc, ok := <-channels:
			if !ok {
				return errGone
			}
			if err := l.open(ctx, nc); err != nil {
				return err
			}
		case req, ok := <-requests:
			if !ok {
				return errGone
			}
			if err := l.global(req); err != nil {
				return err
			}
		}
	}
}

// takeHost takes what the host wants: connections to what it was asked to listen on, and nothing else.
func (l *link) takeHost(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for req := range l.host.requests {
			_ = req.Reply(false, nil) // the connection ends by itself
		}
	})
	for nc := range l.host.channels {
		select {
		case l.slots <- struct{}{}:
		default:
			_ = nc.Reject(ssh.ResourceShortage, "refused") // as above
			continue
		}
		wg.Go(func() {
			defer func() { <-l.slots }()
			if err := l.incoming(ctx, nc); err != nil {
				l.s.Log.Warn("the host asked for a channel", "session", l.s.ID, "target", l.s.Target, "type", short(nc.ChannelType()), "error", err)
			}
		})
	}
	wg.Wait()
}

// open decides what becomes of a channel that the client wants.
func (l *link) open(ctx context.Context, nc ssh.NewChannel) error {
	kind := nc.ChannelType()
	forwards := l.settings.Forward && (kind == "direct-tcpip" || kind == "direct-streamlocal@openssh.com")
	if kind != "session" && !forwards {
		cmd := refusedChannel(kind, nc.ExtraData())
		_ = nc.Reject(ssh.Prohibited, oneLine(&access.Denied{Rule: cmd.Refused.Rule, Hint: cmd.Refused.Hint}))
		return l.receipt(cmd)
	}
	l.mu.Lock()
	closed := l.noMore
	l.mu.Unlock()
	if closed && !forwards {
		return l.receiptAnd(nc, refused("SESSION", "session", "ssh.no-more-sessions", "the client itself said that it opens no more sessions"))
	}
	select {
	case l.slots <- struct{}{}:
	default:
		_ = nc.Reject(ssh.ResourceShortage, fmt.Sprintf("sallyport: %d channels are open already: close some", maxChannels))
		return nil
	}
	if forwards {
		l.wg.Go(func() {
			defer func() { <-l.slots }()
			l.forward(ctx, nc)
		})
		return nil
	}
	ch, reqs, err := nc.Accept()
	if err != nil {
		<-l.slots
		return errGone
	}
	l.wg.Go(func() {
		defer func() { <-l.slots }()
		(&channel{l: l, client: ch}).serve(ctx, reqs)
	})
	return nil
}

func (l *link) receiptAnd(nc ssh.NewChannel, cmd access.Command) error {
	_ = nc.Reject(ssh.Prohibited, "sallyport: denied by rule "+cmd.Refused.Rule) // the connection ends by itself
	return l.receipt(cmd)
}

// global answers a request about the connection. None is passed on.
func (l *link) global(req *ssh.Request) error {
	switch {
	case req.Type == "no-more-sessions@openssh.com":
		l.mu.Lock()
		l.noMore = true
		l.mu.Unlock()
		_ = req.Reply(false, nil)
		return nil
	case l.settings.Listen:
		return l.want(req)
	case req.Type == keepalive:
		_ = req.Reply(false, nil) // that there is an answer is the answer: OpenSSH's own server says no, too
		return nil
	}
	_ = req.Reply(false, nil)
	return l.receipt(refusedGlobal(req.Type, req.Payload))
}

// receipt has a refusal recorded, off the connection's path: nothing runs, so nobody waits for the entry.
func (l *link) receipt(cmd access.Command) error {
	cmd.State.Role = l.s.Login.User
	select {
	case l.receipts <- cmd:
		return nil
	default:
		return errFlood
	}
}

func (l *link) record(ctx context.Context) {
	for {
		select {
		case cmd := <-l.receipts:
			permits, err := l.s.Gate.Check(ctx, []access.Command{cmd}, nil)
			for _, p := range permits {
				p.Done(access.Result{Status: access.StatusUnused}) // refused all the same
			}
			if d := (*access.Denied)(nil); err != nil && (!errors.As(err, &d) || d.Rule != cmd.Refused.Rule) {
				l.s.Log.Warn("a refusal may not be recorded", "session", l.s.ID, "rule", cmd.Refused.Rule, "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}
