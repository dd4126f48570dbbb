package postgres

import (
	"bufio"
	"context"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/sallyport/sallyport/agent/protocol"
)

// TakeAside deals with a cancel request: a message on a connection of its own. It waits for the length word of any connection, and
// for the four bytes after it where the length is one that a cancel request can have.
func (r *Room) TakeAside(ctx context.Context, client *bufio.Reader, owner protocol.Owner) (bool, error) {
	head, err := client.Peek(4)
	if err != nil {
		return false, fmt.Errorf("read first bytes: %w", err)
	}
	n := binary.BigEndian.Uint32(head)
	if n <= cancelShort || n > cancelLong {
		return false, nil
	}
	if head, err = client.Peek(8); err != nil {
		return false, fmt.Errorf("read first bytes: %w", err)
	}
	if binary.BigEndian.Uint32(head[4:]) != codeCancel {
		return false, nil
	}
	msg := make([]byte, n)
	if _, err := io.ReadFull(client, msg); err != nil {
		return true, fmt.Errorf("read cancel request: %w", err)
	}
	r.cancel(ctx, owner, msg[cancelKeyAt:])
	return true, nil
}

// cancel ends what the session with this key is doing, if owner opened it. As in PostgreSQL, the asker is told nothing.
func (r *Room) cancel(ctx context.Context, owner protocol.Owner, key []byte) {
	if l := r.find(owner, key); l != nil {
		ctx, stop := context.WithTimeout(ctx, cancelWait)
		defer stop()
		l.cancel(ctx)
	}
}

func (r *Room) find(owner protocol.Owner, key []byte) *link {
	if len(key) < 8 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.live[binary.BigEndian.Uint32(key)] {
		if l.s.Owner == owner && subtle.ConstantTimeCompare(l.ours, key[4:]) == 1 {
			l.wg.Add(1) // cancel gives it back: Serve does not return while a cancel uses the link
			return l
		}
	}
	return nil
}

func (r *Room) add(l *link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live[l.pid] = append(r.live[l.pid], l)
}

func (r *Room) remove(l *link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rest := slices.DeleteFunc(r.live[l.pid], func(x *link) bool { return x == l })
	if len(rest) == 0 {
		delete(r.live, l.pid)
		return
	}
	r.live[l.pid] = rest
}

// cancel aborts the question that is open, held or not; else it passes the cancel on if a command is on its way.
func (l *link) cancel(ctx context.Context) {
	defer l.wg.Done()
	l.askMu.Lock()
	abort := l.abort
	l.askMu.Unlock()
	if abort != nil {
		abort(errCancelled)
		return
	}
	l.flight.Lock()
	defer l.flight.Unlock()
	if l.q.busy() {
		l.sendCancel(ctx)
	}
}

// stopTarget cancels what runs at the target without waiting for it.
func (l *link) stopTarget(ctx context.Context) {
	l.flight.Lock()
	l.wg.Go(func() {
		defer l.flight.Unlock()
		ctx, stop := context.WithTimeout(ctx, cancelWait)
		defer stop()
		l.sendCancel(ctx)
	})
}

// sendCancel delivers a cancel request with the target's own key, over TLS where the session has it. The caller holds flight, or
// nothing can be sent any more.
func (l *link) sendCancel(ctx context.Context) {
	if len(l.key.secret) == 0 {
		return
	}
	c, err := l.key.dial(ctx)
	if err != nil {
		l.s.Log.Warn("cancel not delivered", "session", l.s.ID, "target", l.s.Target, "error", err)
		return
	}
	defer c.Close()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(cancelWait)
	}
	_ = c.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
	defer stop()
	secured, err := l.key.secure(ctx, c)
	if err != nil {
		l.s.Log.Warn("cancel not delivered", "session", l.s.ID, "target", l.s.Target, "error", err)
		return
	}
	msg := binary.BigEndian.AppendUint32(nil, uint32(12+len(l.key.secret)))
	msg = binary.BigEndian.AppendUint32(msg, codeCancel)
	msg = binary.BigEndian.AppendUint32(msg, l.key.pid)
	if _, err := secured.Write(append(msg, l.key.secret...)); err != nil {
		l.s.Log.Warn("cancel not delivered", "session", l.s.ID, "target", l.s.Target, "error", err)
		return
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(secured, 1)) // the target closes once the signal is sent
}
