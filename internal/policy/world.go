package policy

import (
	"iter"
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
	*asker
	memo     *memo
	bundle   *Bundle
	target   Target
	entities types.EntityMap // beside the asker's
	context  types.Record
}

// asker is who asks, and for which target.
type asker struct {
	target    key // all of the target that is in here
	self      key // and of who asks
	principal types.EntityUID
	// principals is the principal, everything it is in, and none.
	principals []types.EntityUID
	// targets is the target, its labels, and none.
	targets    []types.EntityUID
	known      types.EntityMap
	delegation types.Record
}

func newWorld(b *Bundle, r *Request, t Target) *world {
	w := &world{bundle: b, target: t, entities: make(types.EntityMap, 4)}
	w.memo = b.memo
	if w.memo == nil {
		w.memo = new(memo)
	}
	target := key(nil).target(&t)
	self := target.lineage(&r.Lineage)
	w.asker = w.memo.askers.of(self, func() *asker { return newAsker(target, self, &r.Lineage, t) })
	w.context = w.about(r)
	return w
}

// Get implements types.EntityGetter.
func (w *world) Get(uid types.EntityUID) (types.Entity, bool) {
	if e, ok := w.entities[uid]; ok {
		return e, true
	}
	e, ok := w.known[uid]
	return e, ok
}

// newAsker makes the chain: Actor in Actor … in User in Groups; and the target with its labels.
func newAsker(target, self key, l *access.Lineage, t Target) *asker {
	a := &asker{target: slices.Clone(target), self: slices.Clone(self), known: make(types.EntityMap, 8)}
	user := types.NewEntityUID(typeUser, types.String(l.Principal))
	groups := make([]types.EntityUID, 0, len(l.Groups))
	for _, g := range l.Groups {
		groups = append(groups, types.NewEntityUID(typeGroup, types.String(g)))
	}
	a.known[user] = types.Entity{UID: user, Parents: types.NewEntityUIDSet(groups...)}
	parent := user
	for _, n := range l.Path {
		actor := types.NewEntityUID(typeActor, types.String(n.ID))
		a.known[actor] = named(actor, n.Name, parent)
		a.principals = append(a.principals, actor)
		parent = actor
	}
	a.principal = parent
	a.principals = append(append(append(a.principals, user), groups...), none)
	uid := types.NewEntityUID(typeTarget, types.String(t.Name))
	labels := make([]types.EntityUID, 0, len(t.Labels))
	for k, v := range t.Labels {
		labels = append(labels, types.NewEntityUID(typeLabel, types.String(k+"="+v)))
	}
	a.known[uid] = named(uid, string(t.Name), labels...)
	a.targets = append(append([]types.EntityUID{uid}, labels...), none)
	a.delegation = newDelegation(l)
	return a
}

// named is an entity with a name below its parents.
func named(uid types.EntityUID, name string, parents ...types.EntityUID) types.Entity {
	return types.Entity{UID: uid, Parents: types.NewEntityUIDSet(parents...), Attributes: types.NewRecord(types.RecordMap{"name": types.String(name)})}
}

// add puts an entity with a name below its parents.
func (w *world) add(uid types.EntityUID, name string, parents ...types.EntityUID) {
	w.entities[uid] = named(uid, name, parents...)
}

// entityTypes are the kinds of resources that policy knows.
var entityTypes = map[access.ResourceKind]types.EntityType{access.KindDatabase: typeDatabase, access.KindTable: typeTable,
	access.KindFunction: typeFunction, access.KindSetting: typeSetting, access.KindHost: typeHost,
	access.KindProgram: typeProgram, access.KindPath: typePath, access.KindAddress: typeAddress}

// placed is a resource and what it lies in.
type placed struct {
	uid      types.EntityUID
	in       []types.EntityUID // itself, everything it is in, and none
	entities []types.Entity
}

// resource adds what a touch names. The second result is the resource, everything it is in, and none.
func (w *world) resource(r access.Resource, database string) (types.EntityUID, []types.EntityUID, bool) {
	kind, ok := entityTypes[r.Kind]
	if !ok {
		return none, nil, false
	}
	if database == "" {
		database = w.target.Database
	}
	p := w.memo.resources.of(slices.Clip(w.asker.target).text(string(r.Kind)).text(r.Name).text(database),
		func() *placed { return w.place(kind, r.Name, database) })
	for _, e := range p.entities {
		w.entities[e.UID] = e
	}
	return p.uid, p.in, true
}

func (w *world) place(kind types.EntityType, name, database string) *placed {
	prefix := types.String(w.target.Name) + "/"
	if kind == typeDatabase {
		if name == "" {
			name = database
		}
		uid := types.NewEntityUID(typeDatabase, prefix+types.String(name))
		return &placed{uid, append([]types.EntityUID{uid}, w.targets...), []types.Entity{named(uid, name, w.targets[0])}}
	}
	uid := types.NewEntityUID(kind, prefix+types.String(name))
	if database == "" || !slices.Contains(inDatabase, kind) {
		return &placed{uid, append([]types.EntityUID{uid}, w.targets...), []types.Entity{named(uid, name, w.targets[0])}}
	}
	in := types.NewEntityUID(typeDatabase, prefix+types.String(database))
	return &placed{uid, append([]types.EntityUID{uid, in}, w.targets...), []types.Entity{named(in, database, w.targets[0]), named(uid, name, in)}}
}

// inDatabase are the types whose entities lie in a database where the target has one.
var inDatabase = []types.EntityType{typeTable, typeFunction, typeSetting}

// authorize evaluates policies on one action and resource. fired are those whose scope and conditions hold, in order; failed is the
// first that could not be evaluated.
func (w *world) authorize(action types.String, resource types.EntityUID, rules []*rule) (fired []*rule, failed *rule, why string) {
	if len(rules) == 0 {
		return nil, nil, ""
	}
	_, diag := cedar.Authorize(set(rules), w, cedar.Request{Principal: w.principal,
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

// about is the context of a request. Where no policy looks at the time, the time is left at 1970, and equal requests share one.
func (w *world) about(r *Request) types.Record {
	if w.bundle.index.timed || len(r.Approved) > 0 {
		return w.newContext(r, r.Now)
	}
	c := &r.Command
	k := append(slices.Clip(w.self), 'c').text(c.Verb).text(string(r.Agent)).facts(c).state(&c.State)
	for _, u := range c.Classes {
		k = k.text(u.Class)
	}
	return w.memo.contexts.of(k, func() types.Record { return w.newContext(r, time.Time{}) })
}

func (w *world) newContext(r *Request, now time.Time) types.Record {
	c := &r.Command
	classes := noStrings
	if len(c.Classes) > 0 {
		names := make([]string, len(c.Classes))
		for i, u := range c.Classes {
			names[i] = u.Class
		}
		classes = stringSet(names)
	}
	return types.NewRecord(types.RecordMap{
		"verb":       types.String(c.Verb),
		"agent":      types.String(r.Agent),
		"time":       datetime(now),
		"approvals":  stringSet(r.Approved),
		"classes":    classes,
		"facts":      w.memo.facts(c),
		"state":      w.memo.state(&c.State),
		"delegation": w.delegation,
	})
}

func (m *memo) facts(c *access.Command) types.Record {
	f := &c.Facts
	return m.records.of(append(key(nil), 'f').facts(c), func() types.Record {
		return types.NewRecord(types.RecordMap{
			"complete":   types.Boolean(c.Complete),
			"deletes":    types.Boolean(f.Deletes),
			"functions":  stringSet(f.Functions),
			"has_where":  types.Boolean(f.HasWhere),
			"in_txn":     types.Boolean(f.InTxn),
			"locks":      types.Boolean(f.Locks),
			"prepare":    types.Boolean(c.Prepare),
			"row_limit":  types.Long(f.RowLimit),
			"statements": types.Long(f.Statement),
		})
	})
}

func (m *memo) state(s *access.State) types.Record {
	return m.records.of(append(key(nil), 's').state(s), func() types.Record {
		return types.NewRecord(types.RecordMap{
			"database":    types.String(s.Database),
			"role":        types.String(s.Role),
			"search_path": types.String(s.SearchPath),
		})
	})
}

func newDelegation(l *access.Lineage) types.Record {
	names := make([]string, 0, len(l.Path))
	for _, n := range l.Path[1:] {
		names = append(names, n.Name)
	}
	actor := l.Actor()
	return types.NewRecord(types.RecordMap{
		"actor":     types.String(actor.Name),
		"actors":    stringSet(names),
		"assurance": types.Long(l.Assurance),
		"auth_time": datetime(l.AuthTime),
		"depth":     types.Long(l.Depth()),
		"purpose":   types.String(actor.Purpose),
	})
}

// datetime gives the zero time as 1970, so that a login of unknown time is an old one.
func datetime(t time.Time) types.Datetime {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return types.NewDatetime(t)
}

var noStrings = types.NewSet()

func stringSet(ss []string) types.Set {
	if len(ss) == 0 {
		return noStrings
	}
	vs := make([]types.Value, len(ss))
	for i, s := range ss {
		vs[i] = types.String(s)
	}
	return types.NewSet(vs...)
}
