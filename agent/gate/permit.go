package gate

import (
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// Permit is the gate's leave to run one command. Only this package makes one; the zero Permit permits nothing.
type Permit struct {
	command access.CommandID
	masks   []string
	rows    int64
	records bool
	asked   time.Time // monotonic: when the question left
	done    func(access.Result)

	mu    sync.Mutex
	state permitState
}

type permitState uint8

const (
	permitNone permitState = iota
	permitIssued
	permitUsed
	permitDone
)

// Use must be called right before the first byte of the command goes to the target. It fails, with *access.Denied, for a
// zero permit, a second use, and later than api.PermitLife after the question was asked.
func (p *Permit) Use() error {
	if p == nil {
		return noDecision("permit-missing")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.state != permitIssued:
		return noDecision("permit-not-valid")
	case time.Since(p.asked) > api.PermitLife:
		return noDecision("permit-late")
	}
	p.state = permitUsed
	return nil
}

// Command is the id of the command that the permit is for.
func (p *Permit) Command() access.CommandID { return p.command }

// Masks says whether values of a class must be masked. Rooms ask it for every class they know.
func (p *Permit) Masks(class string) bool { return slices.Contains(p.masks, class) }

// RowLimit is the most rows that may be delivered; 0 means no limit.
func (p *Permit) RowLimit() int64 { return p.rows }

// Records says whether what the command leaves beside its outcome must be recorded, where the room can.
func (p *Permit) Records() bool { return p.records }

// Done reports how the command ended: exactly one call counts. A permit that was never used is reported as unused.
func (p *Permit) Done(r access.Result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == permitNone || p.state == permitDone {
		return
	}
	if p.state == permitIssued {
		r = access.Result{Status: access.StatusUnused}
	}
	p.state = permitDone
	p.done(r)
}

func noDecision(rule string) *access.Denied {
	return &access.Denied{Code: access.CodeNoDecision, Rule: rule, Retryable: true,
		Hint: "the broker did not decide in time; try again, and look at the agent's log if it goes on"}
}
