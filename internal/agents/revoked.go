package agents

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// revokedKey is the one item that lists the revocations that still matter: older ones are of certificates that have ended. No agent has this name.
var revokedKey = store.Key{PK: "agents", SK: "#revoked"}

// matters is how long a revocation is listed: as long as a certificate of before it may be good, and the clocks' difference.
const matters = token.CertificateLife + time.Hour

// maxRevoked bounds the list; beyond it the oldest go, whose certificates are the first to end.
const maxRevoked = 500

func recent(ctx context.Context, items store.Items, now time.Time) ([]api.RevokedAgent, store.Item, error) {
	it, err := items.Get(ctx, store.Registry, revokedKey, true)
	if errors.Is(err, store.ErrNotFound) {
		return nil, store.Item{}, nil
	}
	if err != nil {
		return nil, store.Item{}, fmt.Errorf("revoked agents: %w", err)
	}
	var all []api.RevokedAgent
	d := json.NewDecoder(bytes.NewReader(it.Body))
	d.DisallowUnknownFields()
	if err := d.Decode(&all); err != nil {
		return nil, store.Item{}, fmt.Errorf("decode revoked agents: %w", err)
	}
	return slices.DeleteFunc(all, func(r api.RevokedAgent) bool { return now.Sub(r.Before) > matters }), it, nil
}

// List puts a revocation on the list that clients are told. It may be asked again.
func List(ctx context.Context, items store.Items, r Record, now time.Time) error {
	for range tries {
		all, it, err := recent(ctx, items, now)
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(x api.RevokedAgent) bool { return x.Agent == r.Name })
		all = append(all, api.RevokedAgent{Agent: r.Name, Before: r.RevokedBefore})
		slices.SortFunc(all, func(a, b api.RevokedAgent) int { return a.Before.Compare(b.Before) })
		all = all[max(len(all)-maxRevoked, 0):]
		body, err := json.Marshal(all)
		if err != nil {
			return fmt.Errorf("encode revoked agents: %w", err)
		}
		err = items.Put(ctx, store.Write{Table: store.Registry, Item: store.Item{Key: revokedKey, Body: body}, Cond: store.Cond{Version: it.Version}})
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("revoked agents: others are changing the list: %w", store.ErrConflict)
}

// Revoked tells which agents were revoked lately, believing what it knows for a second.
type Revoked struct {
	items store.Items
	now   func() time.Time

	mu   sync.Mutex
	at   time.Time
	last []api.RevokedAgent
}

// NewRevoked makes one; now is the function's clock.
func NewRevoked(items store.Items, now func() time.Time) *Revoked {
	return &Revoked{items: items, now: now}
}

// Agents are the revocations that matter. A store that does not answer is an error.
func (r *Revoked) Agents(ctx context.Context) ([]api.RevokedAgent, error) {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if age := now.Sub(r.at); r.at.IsZero() || age < 0 || age >= remembered {
		all, _, err := recent(ctx, r.items, now)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", api.Because(api.ErrUnavailable, "try again", "the store did not answer"), err)
		}
		r.last, r.at = all, now
	}
	return r.last, nil
}
