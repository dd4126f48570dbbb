package ssh

import (
	"context"
	"errors"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// killWait is what a program has to end when it is told to: a session that is revoked has ended within a second.
	killWait = 500 * time.Millisecond
	// killLimit bounds all that is done to end programs before the host's connection is closed.
	killLimit = 2 * time.Second
)

// kill ends a program of the host: it is told to, then made to, and loses its channel, which takes its terminal away. A closed channel alone lets a
// program without a terminal run on until it next reads or writes. One whose client left is told to, and not more: as with any
// connection that breaks, what it does then is its own matter.
func (c *channel) kill(ctx context.Context, target ssh.Channel, mark string, gone <-chan struct{}, terminal bool) {
	defer target.Close() //nolint:errcheck // the host may have
	cause := context.Cause(ctx)
	if errors.Is(cause, errGone) {
		signal(target, "TERM")
		return
	}
	if terminal {
		signal(target, "HUP") // which a shell passes on
	}
	// RFC 4254 has signals unanswered; OpenSSH answers who asks.
	took, err := target.SendRequest("signal", true, ssh.Marshal(&struct{ Name string }{"TERM"}))
	if reaps := c.l.settings.Reap; reaps && (terminal || !took && err == nil) {
		if errors.Is(cause, errInterrupted) {
			c.l.reap(c.l.mark + "." + mark)
		} else {
			c.l.reaped.Do(func() { c.l.reap(c.l.mark + "[.][A-Z2-7]*") })
		}
		return
	}
	wait := time.NewTimer(killWait)
	defer wait.Stop()
	if terminal && !took && err == nil { // what is left is to take the terminal away
		return
	}
	select {
	case <-gone:
	case <-wait.C:
		signal(target, "KILL")
	}
}

func signal(target ssh.Channel, name string) {
	_, _ = target.SendRequest("signal", false, ssh.Marshal(&struct{ Name string }{name})) // a host that is gone runs nothing of ours
}

// reapName is the variable by which a program is known as one of this connection's. It is one of the locale, because that is what hosts accept;
// none has that name.
const reapName = "LC_SALLYPORT"

// reap ends the programs on the host whose mark is like one, on a Linux that shows processes to who owns them. What runs there may have used up all the
// sessions that the host gives to a connection: then there is another connection.
func (l *link) reap(mark string) {
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	ch, reqs, err := l.host.conn.OpenChannel("session", nil)
	if err != nil {
		h, err := l.room.login(ctx, l.s)
		if err != nil {
			l.s.Log.Warn("what was left running may go on", "session", l.s.ID, "target", l.s.Target, "error", err)
			return
		}
		l.tail.Go(func() { ssh.DiscardRequests(h.requests) })
		l.tail.Go(func() {
			for nc := range h.channels {
				_ = nc.Reject(ssh.Prohibited, "refused") // the connection ends by itself
			}
		})
		defer h.conn.Close() //nolint:errcheck // it has served its purpose
		if ch, reqs, err = h.conn.OpenChannel("session", nil); err != nil {
			return
		}
	}
	defer ch.Close() //nolint:errcheck // as above
	done := make(chan struct{})
	l.tail.Go(func() { ssh.DiscardRequests(reqs); close(done) })
	line := "for p in /proc/[0-9]*; do tr '\\0' '\\n' <$p/environ 2>/dev/null | grep -qx '" + reapName + "=" + mark + "' && kill -9 ${p#/proc/}; done"
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(&struct{ Command string }{line})); err != nil || !ok {
		l.s.Log.Warn("what was left running may go on", "session", l.s.ID, "target", l.s.Target)
		return
	}
	_ = ch.CloseWrite()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// waitKills waits until what is being ended has, or long enough.
func (l *link) waitKills() {
	done := make(chan struct{})
	go func() { l.kills.Wait(); close(done) }() // ends with the host's connection
	late := time.NewTimer(killLimit)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
	}
}
