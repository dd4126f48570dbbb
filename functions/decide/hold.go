package decide

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// hold prepares the approval that goes with a held command's entry, and completes the decision. taken says that an entry
// is stored in the command's place already, so that a repeated question takes no second slot.
func (p *plan) hold(ctx context.Context, cmd *access.Command, dec *access.Decision) (taken bool, err error) {
	_, err = p.Items.Get(ctx, store.Audit, p.key, true)
	switch {
	case err == nil:
		return true, nil
	case !errors.Is(err, store.ErrNotFound):
		return false, p.noDecision(ctx, "the evidence", err)
	}
	h, ok := p.bundle.Hold(dec.HoldName)
	if !ok {
		dec.Outcome, dec.Obligations = access.Deny, nil
		dec.Hint = fmt.Sprintf("the policy names a hold %q that it does not describe", dec.HoldName)
		return false, nil
	}
	raw, err := token.NewID(p.now)
	if err != nil {
		return false, fmt.Errorf("approval: %w", err)
	}
	id, expires := access.ApprovalID(raw), p.now.Add(h.Expires)
	if p.state.Expires.Before(expires) {
		expires = p.state.Expires // nobody could use it later
	}
	err = takeSlot(ctx, p.Items, p.state.Lineage.Root(), slot{Approval: id, Taken: p.now, Expires: expires})
	if errors.Is(err, errNoSlot) || errors.Is(err, errTooOften) {
		dec.Outcome, dec.Code, dec.Rule, dec.Obligations, dec.HoldName = access.Deny, access.CodeBusy, api.RuleTooManyHolds, nil, ""
		dec.Hint = fmt.Sprintf("%d commands of this login wait for reviewers: wait for them, or withdraw one", api.MaxHolds)
		if errors.Is(err, errTooOften) {
			dec.Hint = fmt.Sprintf("%d commands of this login were held within an hour, and reviewers were told of each: wait", api.MaxHoldsHour)
		}
		return false, nil
	}
	if err != nil {
		return false, p.noDecision(ctx, "the approvals", err)
	}
	if err := approval.Announce(ctx, p.Items, id, expires); err != nil {
		return false, p.noDecision(ctx, "the approvals", err)
	}
	dec.Approval, dec.Link, dec.Expires = id, p.Console+"/approve/"+string(id), expires
	p.held = &approval.Record{
		ID: id, Status: approval.Pending, Hold: h.Name, Session: cmd.Session, Command: cmd.ID, Seq: cmd.Seq, Digest: dec.Digest,
		Target: p.state.Target, State: cmd.State, Verb: cmd.Verb, Normalised: cmd.Normalised, Text: cmd.Text, Masked: cmd.Masked, Params: cmd.Params,
		Touches: cmd.Touches, Lineage: p.state.Lineage, Agent: p.state.Agent, Created: p.now, Expires: expires,
		Reviewers: h.Reviewers, Bundle: p.bundle.Address,
	}
	return false, nil
}

// slot is one of a login's api.MaxHolds places for commands that wait, and for an hour what says that there was one.
type slot struct {
	Approval access.ApprovalID `json:"approval"`
	Taken    time.Time         `json:"taken"`
	Expires  time.Time         `json:"expires"` // not after Taken: it waits no more
}

var (
	errNoSlot   = errors.New("every slot is taken")
	errTooOften = errors.New("too many were taken within an hour")
)

// slotTries bounds the compare-and-swap: at most a batch of one login's sessions competes.
const slotTries = 2 * api.MaxBatch

// slotGrace is how long a slot is kept for an approval that is not there yet: its taker is about to store it.
const slotGrace = time.Minute

// takeSlot reserves a place before the approval is stored: a compare-and-swap per login keeps the number of waiting commands
// exact however many processes ask. A place whose approval never came, or waits no more, is free again.
func takeSlot(ctx context.Context, items store.Items, root access.ActorID, mine slot) error {
	k := store.Key{PK: "holds#" + string(root), SK: "slots"}
	for range slotTries {
		var slots []slot
		it, err := items.Get(ctx, store.Approvals, k, true)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("hold slots: %w", err)
		}
		if err == nil {
			d := json.NewDecoder(bytes.NewReader(it.Body))
			d.DisallowUnknownFields()
			if err := d.Decode(&slots); err != nil {
				return fmt.Errorf("hold slots: %w", err)
			}
		}
		slots = slices.DeleteFunc(slots, func(s slot) bool { return !mine.Taken.Before(s.Expires) && !s.recent(mine.Taken) })
		if taken(slots, mine.Taken) >= api.MaxHolds {
			if err = giveBack(ctx, items, slots, mine.Taken); err != nil {
				return err
			}
		}
		if taken(slots, mine.Taken) >= api.MaxHolds {
			return errNoSlot
		}
		if len(slots) >= api.MaxHoldsHour {
			return errTooOften
		}
		slots = append(slots, mine)
		body, err := json.Marshal(slots)
		if err != nil {
			return fmt.Errorf("hold slots: %w", err)
		}
		latest := slices.MaxFunc(slots, func(a, b slot) int { return a.Expires.Compare(b.Expires) }).Expires
		if hour := mine.Taken.Add(holdHour); latest.Before(hour) {
			latest = hour
		}
		err = items.Put(ctx, store.Write{Table: store.Approvals, Cond: store.Cond{Version: it.Version},
			Item: store.Item{Key: k, Expires: latest.Add(slotGrace).Truncate(time.Second), Body: body}})
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("hold slots: %w", store.ErrConflict)
}

// holdHour is what api.MaxHoldsHour is about.
const holdHour = time.Hour

func (s slot) recent(now time.Time) bool { return now.Sub(s.Taken) < holdHour }

// taken is how many slots are for commands that may still wait.
func taken(slots []slot, now time.Time) (n int) {
	for _, s := range slots {
		if now.Before(s.Expires) {
			n++
		}
	}
	return n
}

// giveBack frees the slots whose approvals are neither pending nor about to be stored.
func giveBack(ctx context.Context, items store.Items, slots []slot, now time.Time) error {
	for i := range slots {
		s := &slots[i]
		if !now.Before(s.Expires) {
			continue
		}
		rec, _, err := approval.Get(ctx, items, s.Approval)
		switch {
		case errors.Is(err, store.ErrNotFound):
			if now.Sub(s.Taken) >= slotGrace {
				s.Expires = s.Taken
			}
		case err != nil:
			return fmt.Errorf("hold slots: %w", err)
		case rec.StatusAt(now) != approval.Pending:
			s.Expires = s.Taken
		}
	}
	return nil
}
