// Package agents keeps the broker's record of every agent: when its last certificate was issued, and which ones count no more.
// It refuses an agent whose certificate is not younger than its revocation, and one of which it cannot know that.
package agents

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// Record is what the broker knows of one agent. It lives in store.Registry under PK "agents", SK the name. Times are whole seconds, as
// in certificates.
type Record struct {
	Name          access.AgentName `json:"name"`
	Issued        time.Time        `json:"issued,omitzero"`         // of the newest certificate
	RevokedBefore time.Time        `json:"revoked_before,omitzero"` // certificates and join tokens of then, or earlier, are worth nothing
	RevokedBy     string           `json:"revoked_by,omitempty"`
	Reason        string           `json:"reason,omitempty"`
}

// Key is where an agent's record lives.
func Key(name access.AgentName) store.Key { return store.Key{PK: "agents", SK: string(name)} }

// Get reads a record, strongly. An agent without one was never revoked.
func Get(ctx context.Context, items store.Items, name access.AgentName) (Record, store.Item, error) {
	it, err := items.Get(ctx, store.Registry, Key(name), true)
	if errors.Is(err, store.ErrNotFound) {
		return Record{Name: name}, store.Item{}, nil
	}
	if err != nil {
		return Record{}, store.Item{}, fmt.Errorf("agent %s: %w", name, err)
	}
	var r Record
	d := json.NewDecoder(bytes.NewReader(it.Body))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Record{}, store.Item{}, fmt.Errorf("decode agent %s: %w", name, err)
	}
	if r.Name != name {
		return Record{}, store.Item{}, fmt.Errorf("decode agent %s: the record is of another agent", name)
	}
	return r, it, nil
}

func (r Record) put(it store.Item) (store.Write, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return store.Write{}, fmt.Errorf("encode agent %s: %w", r.Name, err)
	}
	return store.Write{Table: store.Registry, Item: store.Item{Key: Key(r.Name), Body: body}, Cond: store.Cond{Version: it.Version}}, nil
}

// Good says whether what was issued then still counts.
func (r Record) Good(issued time.Time) error {
	if issued.After(r.RevokedBefore) {
		return nil
	}
	return api.Because(api.ErrRevoked, "make a new join token (sallyport agent enroll "+string(r.Name)+"), give it to the agent as join_token, and restart the agent",
		"agent %q was revoked", r.Name).By(api.RuleAgentRevoked)
}

// After is now, or the first second that a revocation leaves good: clocks of two processes differ.
func (r Record) After(now time.Time) time.Time {
	now = now.UTC().Truncate(time.Second)
	if first := r.RevokedBefore.Add(time.Second); now.Before(first) {
		return first
	}
	return now
}

// Issue prepares a certificate: when it is issued, and the write that must succeed before it leaves. A revocation between reading and
// that write makes the write fail, so that no revoked agent gets a fresh certificate.
func (r Record) Issue(it store.Item, now time.Time) (at time.Time, w store.Write, err error) {
	at = r.After(now)
	if at.After(r.Issued) {
		r.Issued = at
	}
	w, err = r.put(it)
	return at, w, err
}

// Revocation is an administrator's word on an agent.
type Revocation struct {
	Agent      access.AgentName
	By, Reason string
	Now        time.Time
}

// tries bounds the compare-and-swap: an agent's own renewals compete, once a minute.
const tries = 16

// Revoke makes every certificate and join token of the agent worthless that was issued so far. entry makes the evidence, which is stored with it or not
// at all.
func Revoke(ctx context.Context, items store.Items, rev Revocation, entry func(before time.Time) (store.Write, error)) (Record, error) {
	for range tries {
		r, it, err := Get(ctx, items, rev.Agent)
		if err != nil {
			return Record{}, err
		}
		before := rev.Now.UTC().Truncate(time.Second)
		for _, t := range []time.Time{r.Issued, r.RevokedBefore} {
			if t.After(before) {
				before = t
			}
		}
		r.RevokedBefore, r.RevokedBy, r.Reason = before, rev.By, rev.Reason
		w, err := r.put(it)
		if err != nil {
			return Record{}, err
		}
		e, err := entry(before)
		if err != nil {
			return Record{}, err
		}
		if err := items.Transact(ctx, w, e); errors.Is(err, store.ErrConflict) {
			continue
		} else if err != nil {
			return Record{}, fmt.Errorf("revoke agent %s: %w", rev.Agent, err)
		}
		return r, nil
	}
	return Record{}, fmt.Errorf("revoke agent %s: somebody else is changing it: %w", rev.Agent, store.ErrConflict)
}

const (
	// remembered is how long a record is believed without looking again.
	remembered = time.Second
	// maxRemembered bounds the memory: more agents than one broker serves at once. When full it starts anew.
	maxRemembered = 4096
)

// Guard is asked about every call of an agent whose signature holds.
type Guard struct {
	items store.Items
	now   func() time.Time

	mu    sync.Mutex
	known map[access.AgentName]seen
}

type seen struct {
	record Record
	at     time.Time
}

// NewGuard makes one; now is the function's clock.
func NewGuard(items store.Items, now func() time.Time) *Guard {
	return &Guard{items: items, now: now, known: map[access.AgentName]seen{}}
}

// Check refuses an agent that was revoked since its certificate was issued. A store that does not answer refuses.
func (g *Guard) Check(ctx context.Context, a token.Agent) error {
	now := g.now()
	g.mu.Lock()
	s, ok := g.known[a.Name]
	g.mu.Unlock()
	if age := now.Sub(s.at); !ok || age < 0 || age >= remembered {
		r, _, err := Get(ctx, g.items, a.Name)
		if err != nil {
			return fmt.Errorf("%w: %w", api.Because(api.ErrUnavailable, "try again", "the store did not answer"), err)
		}
		s = seen{r, now}
		g.mu.Lock()
		if len(g.known) >= maxRemembered {
			clear(g.known)
		}
		g.known[a.Name] = s
		g.mu.Unlock()
	}
	return s.record.Good(a.Issued)
}
