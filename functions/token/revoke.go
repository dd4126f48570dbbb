package token

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/idtoken"
	"github.com/sallyport/sallyport/internal/store"
	tokens "github.com/sallyport/sallyport/internal/token"
)

// revoke ends a node and everything under it, at the next decision of each.
func (f *function) revoke(r *http.Request) (any, error) {
	now := f.Now()
	c, _, _, err := f.caller(r, now)
	if err != nil {
		return nil, err
	}
	var in api.RevokeRequest
	if err := api.Read(r, &in); err != nil {
		return nil, err
	}
	if in.Reason != "" && !idtoken.PlainText(in.Reason, maxPurpose) {
		return nil, api.Because(api.ErrBadRequest, "", "reason: want at most %d bytes of plain text", maxPurpose)
	}
	admin, unknown := f.administers(r, c)
	if in.Root != c.Lineage().Root() && !admin {
		return nil, cmp.Or(unknown, notYours(c))
	}
	path, until, err := f.victim(r, in, now)
	if err != nil {
		return nil, err
	}
	if !admin && !mayRevoke(c, in.Actor, path) {
		return nil, cmp.Or(unknown, notYours(c))
	}
	return struct{}{}, f.kill(r, c, in, path, until, now)
}

func notYours(c tokens.Claims) error {
	return api.Because(api.ErrDenied, "ask its principal or an administrator", "%s may not revoke that", c.Lineage().Actor().Name)
}

// administers says whether the caller is an administrator in person: what a person may administer, the actors under them may not. Where that
// is not known the error says so; revoking one's own works without a policy, since it only ever closes.
func (f *function) administers(r *http.Request, c tokens.Claims) (bool, error) {
	if c.Lineage().Depth() != 0 {
		return false, nil
	}
	b, err := f.active(r.Context())
	if err != nil {
		return false, err
	}
	return b.Roles.Administrator(c.Groups), nil
}

// victim finds a node's way from its root, and when nothing under it can be alive any more.
func (f *function) victim(r *http.Request, in api.RevokeRequest, now time.Time) ([]access.ActorID, time.Time, error) {
	if in.Actor == in.Root {
		return []access.ActorID{in.Root}, now, nil
	}
	rec, err := tokens.GetActor(r.Context(), f.Items, in.Root, in.Actor)
	if err != nil {
		return nil, time.Time{}, err
	}
	return rec.Path, rec.Expires.Add(tokens.AccessLife), nil
}

// mayRevoke says whether the node is the caller's to revoke, within one root: a principal's are all, an actor's those under it.
func mayRevoke(c tokens.Claims, node access.ActorID, path []access.ActorID) bool {
	self := c.Lineage().Actor().ID
	return c.Lineage().Depth() == 0 || node != self && slices.Contains(path, self)
}

// Whoever is to be revoked may change the same item as fast as it can, by revoking what it started itself: revoking waits its turn, for
// some seconds if need be.
const (
	revokeAttempts = 200
	maxPause       = 50 * time.Millisecond
)

// pause waits a random while after a lost race, longer the more were lost.
func pause(ctx context.Context, lost int) error {
	if lost == 0 {
		return nil
	}
	t := time.NewTimer(rand.N(min(time.Duration(lost)*2*time.Millisecond, maxPause)))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (f *function) kill(r *http.Request, c tokens.Claims, in api.RevokeRequest, path []access.ActorID, until, now time.Time) error {
	lineage := c.Lineage()
	for try := range revokeAttempts {
		if err := pause(r.Context(), try); err != nil {
			return unavailable(err)
		}
		root, it, err := tokens.GetRoot(r.Context(), f.Items, in.Root, true)
		if err != nil {
			if errors.Is(err, api.ErrLogin) {
				return api.Because(api.ErrNotFound, "", "no such login")
			}
			return err
		}
		dead, err := root.Revoke(in.Actor, path, until, now)
		if err != nil {
			return err
		}
		w, err := dead.Put(store.Cond{Version: it.Version})
		if err != nil {
			return err
		}
		id, err := tokens.NewID(now)
		if err != nil {
			return err
		}
		err = f.store(r.Context(), w, audit.Entry{
			V: 1, Kind: audit.KindRevoke, ID: id, Time: now.UTC(), Lineage: &lineage,
			Note: map[string]string{"root": string(in.Root), "actor": string(in.Actor), "reason": in.Reason},
		})
		if err == nil {
			f.Log.Info("revoke", "principal", c.Principal, "actor", in.Actor, "entry", id)
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return unavailable(err)
		}
	}
	return api.Because(api.ErrBusy, "try again", "the login is being changed by many at once")
}
