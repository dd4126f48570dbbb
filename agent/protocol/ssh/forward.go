package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/internal/access"
)

// Payloads of RFC 4254 section 7 and OpenSSH PROTOCOL section 2.4.
type (
	tcpChannel struct {
		Host     string
		Port     uint32
		From     string
		FromPort uint32
	}
	localChannel struct {
		Path     string
		Reserved string
		More     uint32
	}
	localForwarded struct{ Path, Reserved string }
	tcpBind        struct {
		Host string
		Port uint32
	}
	localBind struct{ Path string }
)

var errAddress = errors.New("an address that is not plainly one")

// hostName is a name as DNS has it. One that is made of digits and dots alone is an address, and has to be written as such: what else resolvers
// take for one (127.1, 0x7f.1, 2130706433) would have many spellings.
var (
	hostName = regexp.MustCompile(`^[a-z0-9_][a-z0-9_-]*(\.[a-z0-9_][a-z0-9_-]*)*$`)
	numeric  = regexp.MustCompile(`^(0x[0-9a-f]*|[0-9]+)$`)
)

// address is the one spelling of where a channel leads: HOST:PORT.
func address(host string, port uint32) (string, error) {
	if port == 0 || port > 65535 {
		return "", errAddress
	}
	name, err := plainHost(host)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(name, strconv.FormatUint(uint64(port), 10)), nil
}

func plainHost(host string) (string, error) {
	if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		if ip.Zone() != "" {
			return "", errAddress
		}
		return ip.Unmap().String(), nil
	}
	name := strings.TrimSuffix(strings.ToLower(host), ".")
	last := name[strings.LastIndexByte(name, '.')+1:]
	if !hostName.MatchString(name) || len(name) > 253 || numeric.MatchString(last) {
		return "", errAddress
	}
	return name, nil
}

// socket is the one spelling of a socket's path.
func socket(p string) (string, error) {
	if len(p) == 0 || len(p) > maxPath || p[0] != '/' || printable(p) != p || path.Clean(p) != p {
		return "", errAddress
	}
	return p, nil
}

// binding is the one spelling of where a host is to listen, apart from where channels lead.
func binding(host string, port uint32) (string, error) {
	switch host {
	case "", "*":
		host = "*"
	default:
		name, err := plainHost(host)
		if err != nil {
			return "", err
		}
		host = name
	}
	if port > 65535 {
		return "", errAddress
	}
	return listening(net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10))), nil
}

func listening(at string) string { return "listen:" + at }

// forwarding is the command that a channel or a listener is.
func (l *link) forwarding(verb, what, to string) access.Command {
	text := what + " " + to
	return access.Command{Verb: verb, Text: text, Normalised: text, Complete: true, State: access.State{Role: l.s.Login.User}, Facts: access.Facts{Statement: 1},
		Touches: []access.Touch{{Effect: access.Forward, Resource: access.Resource{Kind: access.KindAddress, Name: to}}},
		Classes: l.opaque(to)}
}

// leadsTo reads where a channel of the client's is to lead, and what the host is asked for.
func leadsTo(kind string, extra []byte) (to string, err error) {
	switch kind {
	case "direct-tcpip":
		var p tcpChannel
		if err := ssh.Unmarshal(extra, &p); err != nil {
			return "", errAddress
		}
		return address(p.Host, p.Port)
	case "direct-streamlocal@openssh.com":
		var p localChannel
		if err := ssh.Unmarshal(extra, &p); err != nil {
			return "", errAddress
		}
		return socket(p.Path)
	}
	return "", errAddress
}

// plainExtra is what the host is sent: the address as it was decided, and nothing of where the client is.
func plainExtra(kind, to string) []byte {
	if kind == "direct-streamlocal@openssh.com" {
		return ssh.Marshal(&localChannel{Path: to})
	}
	host, port, _ := net.SplitHostPort(to) // address made it
	n, _ := strconv.ParseUint(port, 10, 16)
	return ssh.Marshal(&tcpChannel{Host: host, Port: uint32(n), From: "127.0.0.1", FromPort: 0})
}

// forward decides a channel that leads through the host, and carries it.
func (l *link) forward(ctx context.Context, nc ssh.NewChannel) {
	kind := nc.ChannelType()
	to, err := leadsTo(kind, nc.ExtraData())
	if err != nil {
		d := &access.Denied{Rule: "ssh.address", Hint: "name a host as DNS does, an address in its usual form, or a socket by its whole path"}
		_ = nc.Reject(ssh.ConnectionFailed, oneLine(d)) // the client may be gone
		_ = l.receipt(refused("FORWARD", "channel "+kind, d.Rule, d.Hint))
		return
	}
	permit, err := l.one(ctx, l.forwarding("FORWARD", "channel "+kind+" to", to))
	if err != nil {
		_ = nc.Reject(ssh.Prohibited, oneLine(deniedBy(err))) // as above
		return
	}
	r := &run{permit: permit, started: time.Now()}
	defer r.done()
	if err := permit.Use(); err != nil {
		_ = nc.Reject(ssh.Prohibited, oneLine(deniedBy(err))) // as above
		return
	}
	far, reqs, err := l.host.conn.OpenChannel(kind, plainExtra(kind, to))
	if err != nil {
		r.result.Status, r.result.Error = access.StatusError, "not-connected"
		_ = nc.Reject(ssh.ConnectionFailed, "sallyport: the host could not connect to "+printable(to)) // as above
		return
	}
	near, nearReqs, err := nc.Accept()
	if err != nil {
		l.tail.Go(func() { ssh.DiscardRequests(reqs) })
		_ = far.Close()
		r.result.Status = access.StatusLost
		return
	}
	l.join(ctx, r, end{near, nearReqs}, end{far, reqs})
}

// one asks about one command of the connection itself, where there is nobody to tell that it waits.
func (l *link) one(ctx context.Context, cmd access.Command) (*gate.Permit, error) {
	permits, err := l.s.Gate.Check(ctx, []access.Command{cmd}, nil)
	if err == nil && len(permits) == 1 {
		if !permits[0].Records() {
			return permits[0], nil
		}
		err = errNotKept
	}
	for _, p := range permits {
		p.Done(access.Result{Status: access.StatusUnused})
	}
	if err == nil {
		err = errors.New("the gate gave no permit")
	}
	return nil, err
}

// end is one end of a forwarded channel.
type end struct {
	ssh.Channel
	reqs <-chan *ssh.Request
}

// join carries bytes both ways until both sides have ended, or ctx has. That a side has no more to say is told to the other by itself, and that it
// is gone as well, once what it said before has arrived.
func (l *link) join(ctx context.Context, r *run, near, far end) {
	stop := context.AfterFunc(ctx, func() {
		_ = near.Close()
		_ = far.Close()
	})
	var sent atomic.Int64
	var wg sync.WaitGroup
	carry := func(dst, src end, n *atomic.Int64) {
		done := make(chan struct{})
		wg.Go(func() {
			defer close(done)
			if _, err := copyPooled(&counted{dst, n}, src); err != nil {
				_ = src.Close() // nobody takes what it says
			}
			_ = dst.CloseWrite()
		})
		l.tail.Go(func() {
			ssh.DiscardRequests(src.reqs) // until it is closed
			<-done
			_ = dst.Close()
		})
	}
	carry(near, far, &r.bytes)
	carry(far, near, &sent)
	wg.Wait()
	_ = near.Close()
	_ = far.Close()
	r.result.Status = access.StatusOK
	if !stop() {
		r.result.Status = access.StatusLost
	}
	r.result.Tag = fmt.Sprintf("sent %d received %d", sent.Load(), r.bytes.Load())
}
