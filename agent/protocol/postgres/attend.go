package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"time"
)

// next reads one message. What its length may be depends on its tag, and is checked before memory is taken.
func (f *front) next(ctx context.Context) (tag byte, msg []byte, err error) {
	var head [header]byte
	if err := f.pause(ctx); err != nil {
		return 0, nil, err
	}
	if err := f.idle(ctx); err != nil {
		return 0, nil, err
	}
	if err := f.attend(ctx); err != nil {
		return 0, nil, err
	}
	if err := f.in.read(ctx, head[:]); err != nil {
		return 0, nil, err
	}
	n, limit := binary.BigEndian.Uint32(head[1:]), uint32(maxMessage)
	switch head[0] {
	case 'Q', 'P', 'B', 'F':
	case 'd':
		limit = maxRow
	case 'D', 'C', 'E', 'f':
		limit = maxSmall
	case 'H', 'S', 'X', 'c':
		limit = lengthWord
	default:
		return 0, nil, violated("unknown message %q", head[0])
	}
	if n < lengthWord || n > limit {
		return 0, nil, violated("message %q of %d bytes: at most %d", head[0], n, limit)
	}
	switch head[0] {
	case 'd', 'c', 'f':
		copied := head // what is written through an interface escapes: here alone
		return 0, nil, f.copyMessage(ctx, copied[:], int(n)-lengthWord)
	}
	msg, err = f.body(ctx, head[:], int(n)-lengthWord)
	return head[0], msg, err
}

// breath is how long the rest of a segment may stay away before what has come of it goes on: long against the pieces that one write arrives in,
// short against what a server's own timeouts are set to, which begin with what it has received.
const breath = 10 * time.Millisecond

// pause deals with a client that takes its time in the middle of a segment: the target gets what came, as it would without the room.
func (f *front) pause(ctx context.Context) error {
	if len(f.seg.items) == 0 && f.w.Buffered() == 0 || f.in.waiting() {
		return nil
	}
	tick, stop := context.WithTimeout(ctx, breath)
	quiet := errors.Is(f.in.fill(tick), context.DeadlineExceeded)
	stop()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !quiet {
		return nil // more has come, or nothing will: what is read next tells
	}
	if err := f.decide(ctx); err != nil {
		return err
	}
	return f.flush()
}

// attend waits for the client's next byte, and mends what breaks meanwhile.
func (f *front) attend(ctx context.Context) error {
	for {
		alarmed, err := f.in.await(ctx, f.q.alarmed())
		if !alarmed || err != nil {
			return err
		}
		if err := f.mend(ctx); err != nil {
			return err
		}
	}
}

// Ends of a session that waited for too long, as the server words them.
var (
	errIdle    = refuseStart("57P05", "the target's configuration bounds how long a session may be idle: connect again", "terminating connection due to idle-session timeout")
	errIdleTxn = refuseStart("25P03", "the target's configuration bounds how long a transaction may be idle: connect again",
		"terminating connection due to idle-in-transaction timeout")
)

// idle waits for the client's next byte, as long as the settings let it.
func (f *front) idle(ctx context.Context) error {
	free, block := f.set.Idle, f.set.IdleInTransaction
	if free == 0 && block == 0 {
		return nil
	}
	since := time.Now()
	for {
		var wait time.Duration
		_, empty, status, err := f.q.state()
		if err != nil {
			return err
		}
		limit, end := free, errIdle
		if status != statusIdle {
			limit, end = block, errIdleTxn
		}
		switch {
		case !empty: // something runs, and what follows may be in a transaction or out of it
			since, wait = time.Now(), time.Second
		case limit == 0:
			return nil // nothing can change that but the client
		case time.Since(since) >= limit:
			return end
		default:
			wait = limit - time.Since(since)
		}
		tick, stop := context.WithTimeout(ctx, wait)
		alarmed, err := f.in.await(tick, f.q.alarmed())
		stop()
		if alarmed {
			if err := f.mend(ctx); err != nil {
				return err
			}
			since = time.Now()
			continue
		}
		if err == nil || ctx.Err() != nil || errors.Is(err, errClientGone) {
			return err
		}
	}
}

// bye lets the target finish what is short, and closes it in order.
func (f *front) bye(ctx context.Context) error {
	ctx, stop := context.WithTimeoutCause(ctx, goneGrace, errClientGone)
	defer stop()
	if _, err := f.settled(ctx); err != nil {
		return err
	}
	f.settle()
	if err := f.out.flush(); err != nil { // the last answers may be gathered still
		return err
	}
	if _, err := f.w.Write(appendBare(nil, 'X')); err != nil {
		return f.lost(err)
	}
	if err := f.flush(); err != nil {
		return err
	}
	return errDone
}
