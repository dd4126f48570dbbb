package token

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

func sampleRoot(t testing.TB) (Root, access.Lineage) {
	id := func() access.ActorID { return access.ActorID(newID(t)) }
	r := Root{ID: id(), Principal: "alice", Groups: []string{"engineers"}, Created: at, RenewedUntil: at.Add(RootIdle), Thumbprint: NewRandom()}
	return r, access.Lineage{Principal: "alice", Path: []access.Node{{ID: r.ID, Name: "alice"}, {ID: id(), Name: "coder"}, {ID: id(), Name: "tester"}}}
}

func TestAlive(t *testing.T) {
	r, l := sampleRoot(t)
	ids := []access.ActorID{l.Path[0].ID, l.Path[1].ID, l.Path[2].ID}
	revoked := func(i int) Root { return must(r.Revoke(ids[i], ids[:i+1], at.Add(time.Hour), at)) }
	coder := access.Lineage{Principal: "alice", Path: l.Path[:2]}
	suspended := r
	suspended.Suspended = true
	other := l
	other.Principal = "rita"
	tests := map[string]struct {
		root Root
		l    access.Lineage
		now  time.Time
		want error
	}{
		"alive":                     {r, l, at, nil},
		"last second":               {r, l, r.RenewedUntil.Add(-time.Second), nil},
		"not renewed":               {r, l, r.RenewedUntil, api.ErrLogin},
		"over the maximum":          {Root{ID: r.ID, Principal: "alice", Created: at, RenewedUntil: at.Add(100 * RootMax)}, l, at.Add(RootMax), api.ErrLogin},
		"itself revoked":            {revoked(2), l, at, api.ErrRevoked},
		"ancestor revoked":          {revoked(1), l, at, api.ErrRevoked},
		"root revoked":              {revoked(0), l, at, api.ErrRevoked},
		"child revoked, not itself": {revoked(2), coder, at, nil},
		"suspended":                 {suspended, l, at, api.ErrRevoked},
		"another root":              {func() Root { o, _ := sampleRoot(t); return o }(), l, at, api.ErrLogin},
		"another principal":         {r, other, at, api.ErrLogin},
		"the zero root":             {Root{}, access.Lineage{}, at, api.ErrLogin},
		"the zero lineage":          {r, access.Lineage{}, at, api.ErrLogin},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if err := tt.root.Alive(tt.l, tt.now); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestRevokeStaysSmall(t *testing.T) {
	r, _ := sampleRoot(t)
	first := access.ActorID(newID(t))
	r = must(r.Revoke(first, []access.ActorID{r.ID, first}, at.Add(time.Minute), at))
	// Twice, or below a dead node: nothing to add.
	below := access.ActorID(newID(t))
	if x := must(r.Revoke(below, []access.ActorID{r.ID, first, below}, at.Add(time.Minute), at)); len(x.Revoked) != 1 {
		t.Errorf("%d nodes", len(x.Revoked))
	}
	// What can be alive no more is dropped.
	second := access.ActorID(newID(t))
	if x := must(r.Revoke(second, []access.ActorID{r.ID, second}, at.Add(time.Hour), at.Add(time.Minute))); len(x.Revoked) != 1 || x.Revoked[0].ID != second {
		t.Errorf("%+v", x.Revoked)
	}
	for i := 0; !r.Suspended; i++ {
		id := access.ActorID(newID(t))
		r = must(r.Revoke(id, []access.ActorID{r.ID, id}, at.Add(time.Hour), at))
		if b := must(json.Marshal(r)); len(b) > MaxRoot {
			t.Fatalf("%d bytes", len(b))
		}
		if i > 1000 {
			t.Fatal("the list grows without end")
		}
		if !r.Suspended && i > 0 && len(r.Revoked) != i+2 {
			t.Fatalf("%d revoked, %d in the list: one came alive again", i+2, len(r.Revoked))
		}
	}
	if _, err := r.Put(store.Cond{}); err != nil {
		t.Error(err)
	}
}

// An actor that revokes what it started, on and on, ends its own branch: not the login, and not what its neighbours revoked.
func TestRevokingOnAndOnEndsTheBranch(t *testing.T) {
	for name, groups := range map[string][]string{"few groups": {"engineers"}, "many groups": {strings.Repeat("g", 2000)}} {
		t.Run(name, func(t *testing.T) {
			r, _ := sampleRoot(t)
			r.Groups = groups
			id := func() access.ActorID { return access.ActorID(newID(t)) }
			quiet, wild, ones := id(), id(), []access.ActorID{}
			for range 5 {
				n := id()
				ones = append(ones, n)
				r = must(r.Revoke(n, []access.ActorID{r.ID, quiet, n}, at.Add(time.Hour), at))
			}
			lineage := func(path ...access.ActorID) access.Lineage {
				l := access.Lineage{Principal: r.Principal, Path: []access.Node{{ID: r.ID}}}
				for _, p := range path {
					l.Path = append(l.Path, access.Node{ID: p})
				}
				return l
			}
			for i := range 200 {
				n := id()
				r = must(r.Revoke(n, []access.ActorID{r.ID, wild, id(), n}, at.Add(time.Hour), at))
				if err := r.Alive(lineage(wild, n), at); !errors.Is(err, api.ErrRevoked) {
					t.Fatalf("after %d, the node that was revoked last lives: %v", i, err)
				}
				if b := must(json.Marshal(r)); len(b) > MaxRoot {
					t.Fatalf("%d bytes", len(b))
				}
			}
			if r.Suspended || r.Alive(lineage(wild), at) == nil || r.Alive(lineage(quiet), at) != nil || r.Alive(lineage(), at) != nil {
				t.Errorf("suspended %v, %d in the list", r.Suspended, len(r.Revoked))
			}
			for _, n := range ones {
				if r.Alive(lineage(quiet, n), at) == nil {
					t.Error("what a neighbour had revoked lives again")
				}
			}
			if x := must(r.Revoke(id(), []access.ActorID{r.ID, id()}, at.Add(time.Hour), r.End().Add(-time.Second))); x.Alive(lineage(wild), at) == nil {
				t.Error("the branch lives again before the login ends")
			}
		})
	}
}

func TestRenew(t *testing.T) {
	r, _ := sampleRoot(t)
	if _, changed := r.Renew(at.Add(time.Minute)); changed {
		t.Error("a write for a minute")
	}
	x, changed := r.Renew(at.Add(time.Hour))
	if !changed || !x.RenewedUntil.Equal(at.Add(time.Hour+RootIdle)) {
		t.Errorf("%v %s", changed, x.RenewedUntil)
	}
	x, changed = r.Renew(at.Add(RootMax - time.Minute))
	if !changed || !x.RenewedUntil.Equal(r.End()) {
		t.Errorf("%v %s", changed, x.RenewedUntil)
	}
	if _, changed := x.Renew(at.Add(RootMax - time.Second)); changed {
		t.Error("renewed beyond the end")
	}
}

func TestRootsAndActorsInTheStore(t *testing.T) {
	items := newItems(t)
	r, l := sampleRoot(t)
	if _, _, err := GetRoot(t.Context(), items, r.ID, true); !errors.Is(err, api.ErrLogin) {
		t.Errorf("not there: %v", err)
	}
	if _, _, err := GetRoot(t.Context(), items, "../x", true); !errors.Is(err, api.ErrLogin) {
		t.Errorf("no id: %v", err)
	}
	put := func(w store.Write, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if err := items.Put(t.Context(), w); err != nil {
			t.Fatal(err)
		}
	}
	put(r.Put(store.Cond{}))
	put(store.Write{Table: store.Grants, Item: store.Item{Key: DayKey(r.ID, at), Body: []byte(`{}`)}}, nil)
	put(store.Write{Table: store.Grants, Item: store.Item{Key: DayKey(access.ActorID(newID(t)), at), Body: []byte(`{}`)}}, nil) // its root is gone
	got, it, err := GetRoot(t.Context(), items, r.ID, true)
	if err != nil || it.Version != 1 || got.Principal != "alice" {
		t.Errorf("%+v %+v %v", got, it, err)
	}
	roots, err := Roots(t.Context(), items, at, 100)
	if err != nil || len(roots) != 1 || roots[0].ID != r.ID {
		t.Errorf("%+v %v", roots, err)
	}
	for _, n := range l.Path[1:] {
		put(ActorRecord{Node: n, Parent: r.ID, Path: []access.ActorID{r.ID, n.ID}, Created: at, Expires: at.Add(time.Hour), Thumbprint: NewRandom()}.Put(r.ID))
	}
	actors, err := Actors(t.Context(), items, r.ID, 100)
	if err != nil || len(actors) != 2 {
		t.Errorf("%+v %v", actors, err)
	}
	if one, err := Actors(t.Context(), items, r.ID, 1); err != nil || len(one) != 1 {
		t.Errorf("%+v %v", one, err)
	}
	if _, err := GetActor(t.Context(), items, r.ID, r.ID); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("root as an actor: %v", err)
	}
	// An item that says something else than its key is nobody's.
	x, _ := sampleRoot(t)
	w, err := r.Put(store.Cond{})
	w.Item.Key = RootKey(x.ID)
	put(w, err)
	if _, _, err := GetRoot(t.Context(), items, x.ID, true); err == nil {
		t.Error("a root under another's key")
	}
}
