package policy

import (
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/sallyport/sallyport/internal/access"
)

// none stands for a scope that names no entity.
var none types.EntityUID

// world is a request as Cedar sees it: who asks and in what context, the same for every step of a decision.
type world struct {
	bundle    *Bundle
	target    Target
	principal types.EntityUID
	// principals is the principal, everything it is in, and none.
	principals []types.EntityUID
	// targets is the target, its labels, and none.
	targets  []types.EntityUID
	entities types.EntityMap
	context  types.Record
}

func newWorld(b *Bundle, r *Request, t Target) *world {
	w := &world{bundle: b, target: t, entities: make(types.EntityMap, 16)}
	w.who(r.Lineage)
	uid := types.NewEntityUID(typeTarget, types.String(t.Name))
	labels := make([]types.EntityUID, 0, len(t.Labels))
	for k, v := range t.Labels {
		labels = append(labels, types.NewEntityUID(typeLabel, types.String(k+"="+v)))
	}
	w.add(uid, string(t.Name), labels...)
	w.targets = append(append([]types.EntityUID{uid}, labels...), none)
	w.context = newContext(r)
	return w
}

// who adds the chain: Actor in Actor … in User in Groups.
func (w *world) who(l access.Lineage) {
	user := types.NewEntityUID(typeUser, types.String(l.Principal))
	groups := make([]types.EntityUID, 0, len(l.Groups))
	for _, g := range l.Groups {
		groups = append(groups, types.NewEntityUID(typeGroup, types.String(g)))
	}
	w.entities[user] = types.Entity{UID: user, Parents: types.NewEntityUIDSet(groups...)}
	parent := user
	for _, n := range l.Path {
		actor := types.NewEntityUID(typeActor, types.String(n.ID))
		w.add(actor, n.Name, parent)
		w.principals = append(w.principals, actor)
		parent = actor
	}
	w.principal = parent
	w.principals = append(append(append(w.principals, user), groups...), none)
}

// add puts an entity with a name below its parents.
func (w *world) add(uid types.EntityUID, name string, parents ...types.EntityUID) {
	w.entities[uid] = types.Entity{UID: uid, Parents: types.NewEntityUIDSet(parents...),
		Attributes: types.NewRecord(types.RecordMap{"name": types.String(name)})}
}

// resource adds what a touch names. The second result is the resource, everything it is in, and none.
func (w *world) resource(r access.Resource, database string) (types.EntityUID, []types.EntityUID, bool) {
	kind, ok := map[access.ResourceKind]types.EntityType{access.KindDatabase: typeDatabase, access.KindTable: typeTable,
		access.KindFunction: typeFunction, access.KindSetting: typeSetting, access.KindHost: typeHost,
		access.KindProgram: typeProgram, access.KindPath: typePath, access.KindAddress: typeAddress}[r.Kind]
	if !ok {
		return none, nil, false
	}
	prefix := types.String(w.target.Name) + "/"
	if database == "" {
		database = w.target.Database
	}
	if kind == typeDatabase {
		name := r.Name
		if name == "" {
			name = database
		}
		uid := types.NewEntityUID(typeDatabase, prefix+types.String(name))
		w.add(uid, name, w.targets[0])
		return uid, append([]types.EntityUID{uid}, w.targets...), true
	}
	uid := types.NewEntityUID(kind, prefix+types.String(r.Name))
	if database == "" || !slices.Contains(inDatabase, kind) {
		w.add(uid, r.Name, w.targets[0])
		return uid, append([]types.EntityUID{uid}, w.targets...), true
	}
	in := types.NewEntityUID(typeDatabase, prefix+types.String(database))
	w.add(in, database, w.targets[0])
	w.add(uid, r.Name, in)
	return uid, append([]types.EntityUID{uid, in}, w.targets...), true
}

// inDatabase are the types whose entities lie in a database where the target has one.
var inDatabase = []types.EntityType{typeTable, typeFunction, typeSetting}

// authorize evaluates policies on one action and resource. fired are those whose scope and conditions hold, in order; failed is the
// first that could not be evaluated.
func (w *world) authorize(action types.String, resource types.EntityUID, rules []*rule) (fired []*rule, failed *rule, why string) {
	if len(rules) == 0 {
		return nil, nil, ""
	}
	_, diag := cedar.Authorize(set(rules), w.entities, cedar.Request{Principal: w.principal,
		Action: types.NewEntityUID(typeAction, action), Resource: resource, Context: w.context})
	if len(diag.Errors) > 0 {
		return nil, w.bundle.index.byID[string(diag.Errors[0].PolicyID)], diag.Errors[0].Message
	}
	for _, reason := range diag.Reasons {
		fired = append(fired, w.bundle.index.byID[string(reason.PolicyID)])
	}
	return fired, nil, ""
}

// set lets Cedar walk over candidates.
type set []*rule

// All implements cedar.PolicyIterator.
func (s set) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, r := range s {
			if !yield(cedar.PolicyID(r.id), r.policy) {
				return
			}
		}
	}
}

func newContext(r *Request) types.Record {
	c, l := &r.Command, &r.Lineage
	names := make([]string, 0, len(l.Path))
	for _, n := range l.Path[1:] {
		names = append(names, n.Name)
	}
	actor := l.Actor()
	classes := map[string]bool{}
	for _, u := range c.Classes {
		classes[u.Class] = true
	}
	return types.NewRecord(types.RecordMap{
		"verb":      types.String(c.Verb),
		"agent":     types.String(r.Agent),
		"time":      datetime(r.Now),
		"approvals": stringSet(r.Approved),
		"classes":   stringSet(slices.Collect(maps.Keys(classes))),
		"facts": types.NewRecord(types.RecordMap{
			"complete":   types.Boolean(c.Complete),
			"deletes":    types.Boolean(c.Facts.Deletes),
			"functions":  stringSet(c.Facts.Functions),
			"has_where":  types.Boolean(c.Facts.HasWhere),
			"in_txn":     types.Boolean(c.Facts.InTxn),
			"locks":      types.Boolean(c.Facts.Locks),
			"prepare":    types.Boolean(c.Prepare),
			"row_limit":  types.Long(c.Facts.RowLimit),
			"statements": types.Long(c.Facts.Statement),
		}),
		"state": types.NewRecord(types.RecordMap{
			"database":    types.String(c.State.Database),
			"role":        types.String(c.State.Role),
			"search_path": types.String(c.State.SearchPath),
		}),
		"delegation": types.NewRecord(types.RecordMap{
			"actor":     types.String(actor.Name),
			"actors":    stringSet(names),
			"assurance": types.Long(l.Assurance),
			"auth_time": datetime(l.AuthTime),
			"depth":     types.Long(l.Depth()),
			"purpose":   types.String(actor.Purpose),
		}),
	})
}

// datetime gives the zero time as 1970, so that a login of unknown time is an old one.
func datetime(t time.Time) types.Datetime {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return types.NewDatetime(t)
}

func stringSet(ss []string) types.Set {
	vs := make([]types.Value, len(ss))
	for i, s := range ss {
		vs[i] = types.String(s)
	}
	return types.NewSet(vs...)
}
