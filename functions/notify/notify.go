// Package notify tells reviewers what waits for them: of each approval one e-mail and one signed webhook, at least once.
// It refuses to say what masking would hide, to send where the connection is not encrypted, and to take its own silence for success.
package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/telemetry"
)

// Mail delivers one message to all that it is for, or to nobody.
type Mail interface {
	Send(ctx context.Context, m Mailing) error
}

// Poster delivers one webhook.
type Poster interface {
	Post(ctx context.Context, id string, body []byte) error
}

// Config is what New needs: Items and Console. Without Mail and Hook nobody is told, and only the figures are kept.
type Config struct {
	Items   store.Items
	Console string           // URL of the reviewer's pages
	Mail    Mail             // nil: no e-mail
	From    string           // address of the sender, with Mail
	To      []string         // addresses of the reviewers, with Mail: at most maxTo
	Hook    Poster           // nil: no webhook
	Figures func(Figures)    // nil: nobody asks
	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger     // nil: nothing is logged
}

// Figures are what a sweep has seen.
type Figures struct {
	Pending int
	Oldest  time.Duration // age of the oldest that is pending; 0 without one
	Failed  int           // deliveries that the sweep tried and could not make
}

// maxTo bounds the recipients of one message: SES takes 50.
const maxTo = 50

// Notifier is the function. Its methods may be called by several processes at once: the outbox decides who sends.
type Notifier struct {
	Config
	waiting approval.Waiting
	mu      sync.Mutex
	made    map[store.Key]bool // deliveries that are known to be made, so that a sweep need not look; at most maxMade
}

// maxMade bounds that memory. When full it starts anew.
const maxMade = 4096

// New checks the configuration.
func New(c Config) (*Notifier, error) {
	if c.Items == nil || c.Console == "" {
		return nil, errors.New("notify: Items and Console are required")
	}
	if c.Mail != nil {
		if len(c.To) == 0 || len(c.To) > maxTo {
			return nil, fmt.Errorf("notify: %d recipients, want 1 to %d", len(c.To), maxTo)
		}
		for _, a := range append([]string{c.From}, c.To...) {
			if err := checkAddress(a); err != nil {
				return nil, fmt.Errorf("notify: %w", err)
			}
		}
	}
	c.Console = strings.TrimSuffix(c.Console, "/")
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Notifier{Config: c, made: map[store.Key]bool{}}, nil
}

// Changed handles one item of the approvals table that was written: the item's key is all that the stream carries. Keys that are not of approvals are
// nobody's business. An error means that this item must come again; what was delivered of it is not delivered twice.
func (n *Notifier) Changed(ctx context.Context, pk, sk string) error {
	k, err := approval.Key(access.ApprovalID(sk))
	if err != nil || k.PK != pk {
		return nil //nolint:nilerr // slots, or our own outbox
	}
	rec, _, err := approval.Get(ctx, n.Items, access.ApprovalID(sk))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	return n.tell(ctx, rec)
}

// tell delivers what the record's state asks for.
func (n *Notifier) tell(ctx context.Context, rec approval.Record) error {
	status := rec.StatusAt(n.Now())
	switch status {
	case approval.Pending:
		return n.deliver(ctx, rec, requested, status)
	case approval.Approved, approval.Denied, approval.Withdrawn, approval.Expired:
		return n.deliver(ctx, rec, decided, status)
	}
	return nil // used: the verdict was told before, or it came and went too fast for anybody to care
}

// Limits of a sweep.
const (
	// sweepLimit leaves Lambda's timeout room for the answer.
	sweepLimit = 45 * time.Second
	// worthTelling is how long a verdict or an expiry still is.
	worthTelling = time.Hour
)

// Sweep looks at everything that waits, once a minute: what an event did not bring about is delivered, what expired is told, and the figures
// are taken. One that cannot be delivered does not keep the others.
func (n *Notifier) Sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepLimit)
	defer cancel()
	now := n.Now()
	all, err := approval.List(ctx, n.Items, now, 2)
	if err != nil {
		return fmt.Errorf("notify: sweep: %w", err)
	}
	all = slices.DeleteFunc(all, func(r approval.Record) bool { return r.StatusAt(now) == approval.Pending })
	pending, err := n.waiting.List(ctx, n.Items, now)
	if err != nil {
		return fmt.Errorf("notify: sweep: %w", err)
	}
	all = append(pending, all...)
	var f Figures
	var errs []error
	for _, rec := range all {
		status := rec.StatusAt(now)
		if status == approval.Pending {
			f.Pending++
			f.Oldest = max(f.Oldest, now.Sub(rec.Created))
		}
		ended := rec.DecidedAt
		switch status {
		case approval.Expired:
			ended = rec.Expires
		case approval.Withdrawn:
			ended = rec.UsedAt
		}
		if status != approval.Pending && now.Sub(ended) > worthTelling {
			continue
		}
		if err := n.tell(ctx, rec); err != nil {
			f.Failed++
			errs = append(errs, err)
		}
	}
	telemetry.Most(ctx, telemetry.ApprovalsPending, float64(f.Pending))
	telemetry.Most(ctx, telemetry.OldestApprovalSeconds, f.Oldest.Seconds())
	telemetry.Most(ctx, telemetry.DeliveriesFailed, float64(f.Failed))
	if n.Figures != nil {
		n.Figures(f)
	}
	return errors.Join(errs...)
}
