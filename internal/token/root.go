package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

// MaxRoot is the largest root item in bytes: one that is read strongly at every decision costs one DynamoDB read unit.
const MaxRoot = 4 << 10

// Root is the one item that says whether a login and all actors under it are alive. The zero Root is dead.
type Root struct {
	ID           access.ActorID `json:"id"`
	Principal    string         `json:"principal"`
	Groups       []string       `json:"groups,omitempty"`
	AuthTime     time.Time      `json:"auth_time"`
	Created      time.Time      `json:"created"`
	RenewedUntil time.Time      `json:"renewed_until"`
	Thumbprint   string         `json:"jkt"` // of the principal's key
	Suspended    bool           `json:"suspended,omitempty"`
	Revoked      []Revoked      `json:"revoked,omitempty"`
	Epoch        int64          `json:"epoch"`
}

// Revoked names a node that is dead, with all under it. It is kept until nothing made under it can still be alive.
type Revoked struct {
	ID    access.ActorID `json:"id"`
	Until time.Time      `json:"until"`
	Under access.ActorID `json:"under,omitempty"` // the branch: the principal's own actor above it; "" where it is one itself
}

// maxBranch is how many revoked nodes under one of the principal's own actors a root remembers one by one. More than that, and the actor
// itself is revoked: what runs away takes its own branch with it, never the login and never another branch.
const maxBranch = 16

// ActorRecord is one delegated node, for the tree and for revocation. It permits nothing: tokens do.
type ActorRecord struct {
	Node       access.Node       `json:"node"`
	Parent     access.ActorID    `json:"parent"`
	Path       []access.ActorID  `json:"path"` // from the root down to the node itself
	Capability access.Capability `json:"capability"`
	Created    time.Time         `json:"created"`
	Expires    time.Time         `json:"expires"`
	Thumbprint string            `json:"jkt"`
}

// RootKey is where a root lives in store.Grants.
func RootKey(id access.ActorID) store.Key { return store.Key{PK: "root#" + string(id), SK: "root"} }

// ActorKey is where the record of a delegated node lives in store.Grants.
func ActorKey(root, id access.ActorID) store.Key {
	return store.Key{PK: "root#" + string(root), SK: "actor#" + string(id)}
}

// DayKey is a root's line in the index of the day on which it was made (its id's own day, UTC).
func DayKey(root access.ActorID, created time.Time) store.Key {
	return store.Key{PK: "roots#" + created.UTC().Format(time.DateOnly), SK: string(root)}
}

// GetRoot reads a root with its item, whose Version a later write must name. A root that is not there is api.ErrLogin, a store that
// does not answer api.ErrUnavailable. Decisions read strongly.
func GetRoot(ctx context.Context, items store.Items, id access.ActorID, strong bool) (Root, store.Item, error) {
	if !isID(string(id)) {
		return Root{}, store.Item{}, api.Because(api.ErrLogin, loginHint, "no such login")
	}
	it, err := items.Get(ctx, store.Grants, RootKey(id), strong)
	if errors.Is(err, store.ErrNotFound) {
		return Root{}, store.Item{}, api.Because(api.ErrLogin, loginHint, "no such login")
	}
	if err != nil {
		return Root{}, store.Item{}, unavailable(err)
	}
	var r Root
	if err := strict(it.Body, &r); err != nil {
		return Root{}, store.Item{}, fmt.Errorf("root %s: %w", id, err)
	}
	if r.ID != id {
		return Root{}, store.Item{}, fmt.Errorf("root %s: the item is of another root", id)
	}
	return r, it, nil
}

// Live reads the root of the caller's lineage strongly and says whether the lineage is alive.
func Live(ctx context.Context, items store.Items, c Claims, now time.Time) (Root, store.Item, error) {
	r, it, err := GetRoot(ctx, items, c.Lineage().Root(), true)
	if err != nil {
		return Root{}, store.Item{}, err
	}
	return r, it, r.Alive(c.Lineage(), now)
}

// Put is the write that stores the root under a condition.
func (r Root) Put(cond store.Cond) (store.Write, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return store.Write{}, fmt.Errorf("encode root: %w", err)
	}
	if len(b) > MaxRoot {
		return store.Write{}, fmt.Errorf("root %s: %d bytes, over %d", r.ID, len(b), MaxRoot)
	}
	// Kept for as long as sessions and pages may ask about it, an hour beyond its end.
	return store.Write{Table: store.Grants, Item: store.Item{Key: RootKey(r.ID), Body: b, Expires: r.Created.Add(RootMax + time.Hour).Truncate(time.Second)}, Cond: cond}, nil
}

// End is when the login ends at the latest.
func (r Root) End() time.Time { return r.Created.Add(RootMax) }

// Alive says whether a lineage under this root may act now: nil, api.ErrRevoked, or api.ErrLogin where only a new login helps.
func (r Root) Alive(l access.Lineage, now time.Time) error {
	switch {
	case r.ID == "" || l.Root() != r.ID || l.Principal != r.Principal:
		return api.Because(api.ErrLogin, loginHint, "the lineage is not of this login")
	case r.Suspended:
		return api.Because(api.ErrRevoked, "ask whoever revoked it, or "+loginHint, "the login of %s was revoked", r.Principal)
	case !now.Before(r.RenewedUntil) || !now.Before(r.End()):
		return api.Because(api.ErrLogin, loginHint, "the login of %s has ended", r.Principal).By(api.RuleLoginExpired)
	}
	for _, n := range l.Path {
		for _, x := range r.Revoked {
			if x.ID == n.ID {
				return api.Because(api.ErrRevoked, "ask "+r.Principal+" or an administrator", "%s was revoked", n.Name)
			}
		}
	}
	return nil
}

// Renew extends the lease from now, never beyond the end. changed says whether it is worth a write.
func (r Root) Renew(now time.Time) (renewed Root, changed bool) {
	until := now.Add(RootIdle)
	if until.After(r.End()) {
		until = r.End()
	}
	if until.Sub(r.RenewedUntil) < RootIdle/16 && !until.Equal(r.End()) || !until.After(r.RenewedUntil) {
		return r, false
	}
	r.RenewedUntil = until.UTC()
	return r, true
}

// Revoke kills a node until no token under it can be alive. A branch with more dead nodes than maxBranch is killed whole, and so is the largest one where the
// list would no longer fit into MaxRoot; only where nothing is left to fold, because every dead node is the principal's own actor, the login is.
// path is the node's way from the root: below a dead node there is nothing left to do.
func (r Root) Revoke(id access.ActorID, path []access.ActorID, until, now time.Time) (Root, error) {
	if r.Suspended {
		return r, nil
	}
	if id == r.ID {
		r.Suspended, r.Revoked = true, nil
		return r, nil
	}
	kept := make([]Revoked, 0, len(r.Revoked)+1)
	for _, x := range r.Revoked {
		for _, p := range path {
			if x.ID == p {
				return r, nil
			}
		}
		if now.Before(x.Until) {
			kept = append(kept, x)
		}
	}
	dead := Revoked{ID: id, Until: until.UTC()}
	if len(path) > 2 {
		dead.Under = path[1]
	}
	r.Revoked = append(kept, dead)
	for {
		b, err := json.Marshal(r)
		if err != nil {
			return Root{}, fmt.Errorf("encode root: %w", err)
		}
		branch, size := r.largest()
		if size <= maxBranch && len(b) <= MaxRoot-128 { // room for the fields that may still change
			return r, nil
		}
		if size < 2 {
			r.Suspended, r.Revoked = true, nil
			return r, nil
		}
		r.fold(branch)
	}
}

// largest is the branch with the most dead nodes.
func (r Root) largest() (branch access.ActorID, size int) {
	count := map[access.ActorID]int{}
	for _, x := range r.Revoked {
		if x.Under == "" {
			continue
		}
		if count[x.Under]++; count[x.Under] > size {
			branch, size = x.Under, count[x.Under]
		}
	}
	return branch, size
}

// fold kills a branch in the place of what is dead in it.
func (r *Root) fold(branch access.ActorID) {
	r.Revoked = append(slices.DeleteFunc(r.Revoked, func(x Revoked) bool { return x.Under == branch || x.ID == branch }),
		Revoked{ID: branch, Until: r.End().Add(AccessLife).UTC()})
}

// Put is the write that makes a node's record.
func (a ActorRecord) Put(root access.ActorID) (store.Write, error) {
	b, err := json.Marshal(a)
	if err != nil {
		return store.Write{}, fmt.Errorf("encode actor: %w", err)
	}
	return store.Write{Table: store.Grants, Item: store.Item{Key: ActorKey(root, a.Node.ID), Body: b, Expires: a.Expires.Add(time.Hour).Truncate(time.Second)}}, nil
}

// GetActor reads one node's record, strongly. One that is not there is api.ErrNotFound.
func GetActor(ctx context.Context, items store.Items, root, id access.ActorID) (ActorRecord, error) {
	if !isID(string(root)) || !isID(string(id)) {
		return ActorRecord{}, api.Because(api.ErrNotFound, "", "no such actor")
	}
	it, err := items.Get(ctx, store.Grants, ActorKey(root, id), true)
	if errors.Is(err, store.ErrNotFound) {
		return ActorRecord{}, api.Because(api.ErrNotFound, "", "no such actor")
	}
	if err != nil {
		return ActorRecord{}, unavailable(err)
	}
	return decodeActor(it)
}

func decodeActor(it store.Item) (ActorRecord, error) {
	var a ActorRecord
	if err := strict(it.Body, &a); err != nil {
		return ActorRecord{}, fmt.Errorf("actor %s: %w", it.SK, err)
	}
	if it.SK != "actor#"+string(a.Node.ID) {
		return ActorRecord{}, fmt.Errorf("actor %s: the item is of another actor", it.SK)
	}
	return a, nil
}

// Actors lists the delegated nodes of a root in order of id, at most limit.
func Actors(ctx context.Context, items store.Items, root access.ActorID, limit int) ([]ActorRecord, error) {
	var out []ActorRecord
	err := walk(ctx, items, "root#"+string(root), "actor#", limit, func(it store.Item) error {
		a, err := decodeActor(it)
		out = append(out, a)
		return err
	})
	return out, err
}

// Roots lists the logins made on a day (UTC), at most limit.
func Roots(ctx context.Context, items store.Items, day time.Time, limit int) ([]Root, error) {
	var out []Root
	err := walk(ctx, items, DayKey("", day).PK, "", limit, func(it store.Item) error {
		r, _, err := GetRoot(ctx, items, access.ActorID(it.SK), true)
		if errors.Is(err, api.ErrLogin) { // expired and deleted: the index line may live longer
			return nil
		}
		out = append(out, r)
		return err
	})
	return out, err
}

func walk(ctx context.Context, items store.Items, pk, prefix string, limit int, each func(store.Item) error) error {
	cursor := ""
	for limit > 0 {
		page, err := items.Query(ctx, store.Grants, pk, prefix, cursor, min(limit, 1000))
		if err != nil {
			return unavailable(err)
		}
		for _, it := range page.Items {
			if err := each(it); err != nil {
				return err
			}
		}
		if limit -= len(page.Items); page.Cursor == "" {
			return nil
		}
		cursor = page.Cursor
	}
	return nil
}

func unavailable(err error) error {
	return fmt.Errorf("%w: %w", api.Because(api.ErrUnavailable, "try again", "the store did not answer"), err)
}
