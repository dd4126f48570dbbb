package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/store"
)

// event is what is told of an approval; each is told once by each channel.
type event string

const (
	requested event = "approval.requested"
	decided   event = "approval.decided"
)

// Names of channels in the outbox.
const (
	byMail = "mail"
	byHook = "hook"
)

const (
	// lease is how long who claimed a delivery has for it. Nobody else tries meanwhile; when it is killed, the next sweep does.
	lease = 30 * time.Second
	// sendLimit is for one attempt, well within the lease.
	sendLimit = 20 * time.Second
	// firstPause is how long a delivery that failed waits at least; it doubles with each.
	firstPause = 5 * time.Second
	lastPause  = 5 * time.Minute
	// maxAttempts bounds them: a recipient that is away for hours finds the approval on the live page.
	maxAttempts = 20
	// kept is how long the outbox remembers beyond the approval's end: longer than the stream repeats anything (24 h).
	kept = 48 * time.Hour
)

// entry is one delivery's item: PK "outbox#DAY" as the approval's own day, SK ID#EVENT#CHANNEL.
type entry struct {
	Done     bool      `json:"done,omitempty"`
	Until    time.Time `json:"until"` // of the lease, or the pause after a failure
	Attempts int       `json:"attempts"`
}

func outboxKey(rec approval.Record, e event, channel string) (store.Key, error) {
	k, err := approval.Key(rec.ID)
	if err != nil {
		return store.Key{}, err
	}
	return store.Key{PK: "outbox#" + k.PK, SK: string(rec.ID) + "#" + string(e) + "#" + channel}, nil
}

// deliver makes the deliveries that an event has, each apart from the other.
func (n *Notifier) deliver(ctx context.Context, rec approval.Record, e event, status approval.Status) error {
	d := delivery{rec: rec, event: e, status: status, link: n.Console + "/approve/" + string(rec.ID)}
	var errs []error
	if n.Mail != nil && e == requested { // a verdict needs nobody's attention
		errs = append(errs, n.once(ctx, d, byMail, func(ctx context.Context) error {
			m, err := d.mail(n.From, n.To, n.Now())
			if err != nil {
				return err
			}
			return n.Mail.Send(ctx, m)
		}))
	}
	if n.Hook != nil {
		errs = append(errs, n.once(ctx, d, byHook, func(ctx context.Context) error {
			body, err := json.Marshal(d.hook())
			if err != nil {
				return fmt.Errorf("encode: %w", err)
			}
			return n.Hook.Post(ctx, d.id(), body)
		}))
	}
	return errors.Join(errs...)
}

// once claims the delivery, makes it, and marks it as made. Killed in between, it is made again by whoever finds the claim expired: at least once.
// nil means that it is made, or that somebody else is at it or will be.
func (n *Notifier) once(ctx context.Context, d delivery, channel string, send func(context.Context) error) error {
	k, err := outboxKey(d.rec, d.event, channel)
	if err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	n.mu.Lock()
	made := n.made[k]
	n.mu.Unlock()
	if made {
		return nil
	}
	var e entry
	it, err := n.Items.Get(ctx, store.Approvals, k, true)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("notify: outbox: %w", err)
	}
	if err == nil {
		if e, err = decodeEntry(it.Body); err != nil {
			return fmt.Errorf("notify: outbox %s: %w", k.SK, err)
		}
	}
	now := n.Now()
	if e.Done || e.Attempts >= maxAttempts {
		n.remember(k)
		return nil
	}
	if now.Before(e.Until) {
		return nil
	}
	e.Attempts++
	e.Until = now.Add(lease).UTC()
	if err := n.keep(ctx, k, d.rec, e, it.Version); errors.Is(err, store.ErrConflict) {
		return nil // somebody else has just claimed it
	} else if err != nil {
		return fmt.Errorf("notify: claim: %w", err)
	}
	sending, cancel := context.WithTimeout(ctx, sendLimit)
	failed := send(sending)
	cancel()
	log := n.Log.With("approval", string(d.rec.ID), "event", string(d.event), "channel", channel, "attempt", e.Attempts)
	if failed == nil {
		e.Done = true
		if err := n.keep(ctx, k, d.rec, e, it.Version+1); err != nil {
			return fmt.Errorf("notify: mark as delivered, it may come twice: %w", err)
		}
		n.remember(k)
		log.InfoContext(ctx, "delivered")
		return nil
	}
	e.Until = n.Now().Add(min(firstPause<<min(e.Attempts-1, 10), lastPause)).UTC()
	if err := n.keep(ctx, k, d.rec, e, it.Version+1); err != nil {
		failed = errors.Join(failed, err)
	}
	if e.Attempts >= maxAttempts {
		log.ErrorContext(ctx, "given up: the approval is on the live page alone", "error", failed)
		return nil // again would not help, and would keep what is behind it
	}
	log.WarnContext(ctx, "not delivered", "error", failed, "again_after", e.Until)
	return fmt.Errorf("notify: %s of %s by %s: %w", d.event, d.rec.ID, channel, failed)
}

func (n *Notifier) remember(k store.Key) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.made) >= maxMade {
		clear(n.made)
	}
	n.made[k] = true
}

func (n *Notifier) keep(ctx context.Context, k store.Key, rec approval.Record, e entry, version int64) error {
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return n.Items.Put(ctx, store.Write{Table: store.Approvals, Cond: store.Cond{Version: version},
		Item: store.Item{Key: k, Body: body, Expires: rec.Expires.Add(kept).Truncate(time.Second)}})
}

func decodeEntry(b []byte) (entry, error) {
	var e entry
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return e, d.Decode(&e)
}
