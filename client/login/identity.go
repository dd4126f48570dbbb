package login

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sallyport/sallyport/client/state"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
)

// Identity is who this process speaks as: a key, and a token bound to it that is renewed in time. It is safe for concurrent
// use, and prints nothing of either.
type Identity struct {
	url   string
	key   *ecdsa.PrivateKey
	actor *broker.Actor
	renew func(ctx context.Context) (state.Login, error)
	now   func() time.Time

	mu  sync.Mutex
	cur state.Login
}

// Fixed is an identity that lives in this process alone: an actor's. now nil means time.Now.
func Fixed(l state.Login, now func() time.Time) (*Identity, error) {
	i, err := newIdentity(l, now)
	if err != nil {
		return nil, err
	}
	i.renew = func(ctx context.Context) (state.Login, error) {
		t, err := i.actor.Renew(ctx)
		if err != nil {
			return state.Login{}, err
		}
		return i.current().With(t, i.now()), nil
	}
	return i, nil
}

// Stored is the principal's identity, shared with other processes through the state directory: whoever finds the token due
// renews it for all.
func Stored(dir state.Dir, now func() time.Time) (*Identity, error) {
	l, err := dir.Load()
	if err != nil {
		return nil, err
	}
	i, err := newIdentity(l, now)
	if err != nil {
		return nil, err
	}
	i.renew = func(ctx context.Context) (state.Login, error) {
		return dir.Update(func(disk state.Login) (state.Login, bool, error) {
			mine := i.current()
			if disk.Lineage.Root() != mine.Lineage.Root() {
				return state.Login{}, false, state.NeedLogin("somebody logged in again or out meanwhile")
			}
			if disk.Expires.After(mine.Expires) {
				return disk, false, nil
			}
			t, err := i.actor.Renew(ctx)
			if err != nil {
				return state.Login{}, false, err
			}
			return disk.With(t, i.now()), true, nil
		})
	}
	return i, nil
}

func newIdentity(l state.Login, now func() time.Time) (*Identity, error) {
	if now == nil {
		now = time.Now
	}
	i := &Identity{url: l.URL, key: l.Key, cur: l, now: now}
	actor, err := broker.NewActor(broker.ActorConfig{URL: l.URL, Key: l.Key, Token: i.Token, Now: now})
	if err != nil {
		return nil, fmt.Errorf("broker %s: %w", l.URL, err)
	}
	i.actor = actor
	return i, nil
}

// String keeps key and token out of whatever prints an identity.
func (i *Identity) String() string { return "identity of " + i.Lineage().Chain() }

// GoString does the same for %#v.
func (i *Identity) GoString() string { return i.String() }

// Actor calls the broker as this identity.
func (i *Identity) Actor() *broker.Actor { return i.actor }

// Key signs for this identity.
func (i *Identity) Key() *ecdsa.PrivateKey { return i.key }

// URL is the broker's, with its pin.
func (i *Identity) URL() string { return i.url }

// Token is the current access token.
func (i *Identity) Token() string { return i.current().Token.Reveal() }

// Lineage is who speaks.
func (i *Identity) Lineage() access.Lineage { return i.current().Lineage }

// Capability is what the token carries.
func (i *Identity) Capability() access.Capability { return i.current().Capability }

func (i *Identity) current() state.Login {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.cur
}

// Times of renewal. A token lives 5 minutes.
const (
	// due is how long before its end a token is renewed: time for several attempts while the broker is away.
	due = 2 * time.Minute
	// attempt bounds one call to the broker.
	attempt = 10 * time.Second
	// retry is how long to wait after a failure that may pass.
	retry = 5 * time.Second
)

// Fresh renews the token if it is due. An error that may pass is none while the token is still good.
func (i *Identity) Fresh(ctx context.Context) error {
	left := i.current().Expires.Sub(i.now())
	if left > due {
		return nil
	}
	err := i.renewOnce(ctx)
	if err != nil && left > 0 && !final(err) {
		return nil
	}
	return err
}

func (i *Identity) renewOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	next, err := i.renew(ctx)
	if err != nil {
		return fmt.Errorf("renew token: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cur = next
	return nil
}

// final says whether trying again cannot help.
func final(err error) bool {
	return errors.Is(err, api.ErrLogin) || errors.Is(err, api.ErrRevoked) || errors.Is(err, api.ErrDenied) ||
		errors.Is(err, api.ErrBadRequest) || errors.Is(err, api.ErrNotFound)
}

// Keep renews the token in time until ctx ends (nil), or until the broker says that this identity is no longer good (why).
func (i *Identity) Keep(ctx context.Context) error {
	for {
		wait := i.current().Expires.Sub(i.now()) - due
		if !pause(ctx, wait) {
			return nil
		}
		err := i.renewOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // an orderly end
		case err == nil:
			// A broker whose tokens are all but over when they arrive must not be asked without pause.
			if i.current().Expires.Sub(i.now()) <= due && !pause(ctx, retry) {
				return nil
			}
		case final(err):
			return err
		default:
			if !pause(ctx, retry) {
				return nil
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
