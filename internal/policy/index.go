package policy

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/sallyport/sallyport/internal/access"
)

// index finds the policies whose scope can fit a request, so that a thousand policies of which few concern a table cost what
// the few cost. It may offer a policy that does not fit; it never leaves out one that does.
type index struct {
	byAction map[types.String]byResource
	// columns are the columns that some policy names, by their table.
	columns map[types.String][]types.EntityUID
	byID    map[string]*rule
	timed   bool // some policy may look at context.time
}

// byResource and byPrincipal are keyed by the entity in the scope, the zero EntityUID for a scope that names none.
type (
	byResource  map[types.EntityUID]byPrincipal
	byPrincipal map[types.EntityUID][]*rule
)

func newIndex(rules []*rule) index {
	x := index{byAction: map[types.String]byResource{}, columns: map[types.String][]types.EntityUID{}, byID: map[string]*rule{}}
	for _, r := range rules {
		x.byID[r.id] = r
		x.timed = x.timed || looksAtTime(r.policy)
		actions := r.actions
		if actions == nil {
			actions = everyAction
		}
		for _, a := range actions {
			resources := x.byAction[a]
			if resources == nil {
				resources = byResource{}
				x.byAction[a] = resources
			}
			principals := resources[r.resource]
			if principals == nil {
				principals = byPrincipal{}
				resources[r.resource] = principals
			}
			principals[r.principal] = append(principals[r.principal], r)
		}
		if r.resource.Type == typeColumn {
			id := string(r.resource.ID)
			table := types.String(id[:max(strings.LastIndexByte(id, '.'), 0)])
			if !slices.Contains(x.columns[table], r.resource) {
				x.columns[table] = append(x.columns[table], r.resource)
			}
		}
	}
	return x
}

// looksAtTime says whether a policy names an attribute "time" anywhere: without its name nothing of a context can be read, and a context that
// is compared whole is equal to nothing but what names all of its attributes, or to itself.
func looksAtTime(p *cedar.Policy) bool {
	b, err := p.MarshalJSON()
	return err != nil || bytes.Contains(b, []byte(`"time"`))
}

// everyAction is what a scope without an action covers.
var everyAction = func() []types.String {
	all := []types.String{types.String(access.Unknown), actionReveal}
	for _, e := range access.Effects {
		all = append(all, types.String(e))
	}
	return all
}()

// candidates are the policies for an action whose scope names one of the resources and one of the principals, in order. The zero
// EntityUID among them stands for scopes that name none.
func (x index) candidates(action types.String, resources, principals []types.EntityUID) []*rule {
	var out []*rule
	of := x.byAction[action]
	for _, resource := range resources {
		by := of[resource]
		if len(by) < len(principals) {
			for principal, rules := range by {
				if slices.Contains(principals, principal) {
					out = append(out, rules...)
				}
			}
			continue
		}
		for _, principal := range principals {
			out = append(out, by[principal]...)
		}
	}
	slices.SortFunc(out, func(a, b *rule) int { return cmp.Compare(a.order, b.order) })
	return slices.Compact(out) // a scope may name an action twice
}
