package postgres

import (
	"cmp"
	"slices"

	"github.com/sallyport/sallyport/internal/access"
)

// maxTouches bounds the resources of one command: policy decides each. A table with more partitions must be named by partition.
const maxTouches = 512

type touchKey struct {
	effect access.Effect
	kind   access.ResourceKind
	name   string
}

// touched gathers columns; all says that every column takes part whatever else was named.
type touched struct {
	all     bool
	columns []string
}

type classKey struct{ class, on string }

// reachKey guards the walk over views: each is opened once per effect.
type reachKey struct {
	rel    *relation
	effect access.Effect
	down   bool
}

// touch notes an effect on a resource and the columns that take part.
func (a *analysis) touch(e access.Effect, kind access.ResourceKind, name string, columns ...string) *touched {
	k := touchKey{e, kind, name}
	t := a.touches[k]
	if t == nil {
		t = &touched{}
		a.touches[k] = t
		a.order = append(a.order, k)
	}
	for _, c := range columns {
		t.columns = appendNew(t.columns, c)
	}
	return t
}

// database notes an effect that concerns no table.
func (a *analysis) database(e access.Effect) { a.touch(e, access.KindDatabase, a.st.database) }

// reach notes an effect on a relation and on all that it takes with it: what it is part of, with down what is part of it, and what a
// view stands for. No columns and not all means that only the relation as a whole is named so far.
func (a *analysis) reach(e access.Effect, r *relation, down, all bool, columns ...string) {
	planned := e == access.Write && a.dry
	if planned {
		e = access.Read
	}
	k := reachKey{r, e, down}
	_, again := a.reached[k]
	a.reached[k] = struct{}{}
	if r.schema == "" {
		a.incomplete("a view reads %s, which is not in the catalogue", r.name)
		return
	}
	t := a.touch(e, access.KindTable, r.display(), columns...)
	t.all = t.all || all
	if !again {
		a.guard(e, r)
	}
	if e == access.Read && r.system() {
		a.readsSystem(r.relName, all, columns)
	}
	if planned {
		for _, o := range r.ruleTouches {
			a.reach(access.Read, o, true, true)
		}
	}
	if len(r.parents) > 0 || len(r.children) > 0 {
		up, below := r.family(down)
		if !a.spend(len(up) + len(below)) {
			return
		}
		for _, m := range append(up, below...) {
			t := a.touch(e, access.KindTable, m.display(), columns...)
			t.all = t.all || all
			if !again {
				a.guard(e, m)
			}
		}
	}
	if !again && r.view() {
		a.open(e, r)
	}
}

// guard refuses relations that must not be reached this way.
func (a *analysis) guard(e access.Effect, r *relation) {
	switch {
	case r.system() && e != access.Read:
		a.refuse("postgres.system-catalog", "the server's own tables cannot be changed through the gate")
	case leakyExtension(r.name):
		a.beyondDefinitions(r.display(), "sessions")
	case r.kind == 'f':
		// What it reads lies on another server, where the gate does not stand.
		a.touch(access.Forward, access.KindHost, "foreign-server:"+r.server)
	}
	if e == access.Define || e == access.Grant {
		return
	}
	a.ownCalls(r.policyCalls)
	for _, o := range r.policyReads {
		a.reach(access.Read, o, true, true)
	}
	if e != access.Write {
		return
	}
	a.ownCalls(r.writeCalls)
	if r.rules { // whatever they do with what they name
		a.changing++ // the completion's tag tells nothing then
		a.ownCalls(r.ruleCalls)
		a.reach(access.Read, r, true, true) // as OLD or by name, and a rule may put it anywhere
		for i := range r.columns {
			a.class(r, &r.columns[i], "through a rule of "+r.display(), false)
		}
		for _, o := range r.ruleTouches {
			a.reach(access.Read, o, true, true)
			a.write(o, true, eventInsert|eventUpdate|eventDelete)
			for i := range o.columns {
				a.class(o, &o.columns[i], "through a rule of "+r.display(), false)
			}
		}
	}
}

// open walks into a view. Whatever it reads of a class is derived, but where it shows in columns of its own: see lineage.
func (a *analysis) open(e access.Effect, v *relation) {
	for _, b := range v.bases {
		names := make([]string, 0, len(b.columns))
		for _, n := range b.columns {
			if c := b.rel.columnNum(n); c != nil {
				names = append(names, c.name)
			}
		}
		if e != access.Define {
			a.reach(access.Read, b.rel, true, b.whole, names...)
		}
		if e == access.Write {
			a.reach(access.Write, b.rel, true, true)
		}
		for i := range b.rel.columns {
			if c := &b.rel.columns[i]; e == access.Read && !v.clear && (b.whole || slices.Contains(b.columns, c.num)) {
				a.class(b.rel, c, "through the view "+v.display(), false)
			}
		}
	}
	a.shownCalls(v.viewCalls)
}

// use notes that a column's values take part in a read. plain says that they go out as they are in a field that tells its origin.
func (a *analysis) use(e *entry, c *column, how string, plain bool) {
	r := e.rel
	a.reach(access.Read, r, e.down, false, c.name)
	if c.name == "attmissingval" && r.system() {
		a.missingValues()
	}
	if r.kind == 'v' && !r.clear {
		plain, how = false, orElse(how, "through the view "+r.display())
	}
	if e.spliced {
		a.classOf(r, c, how, plain)
		return
	}
	a.class(r, c, how, plain)
}

// missingValues notes the columns that pg_attribute holds a value of.
func (a *analysis) missingValues() {
	for _, r := range a.cat.guarded {
		for i := range r.columns {
			if r.columns[i].missing {
				a.class(r, &r.columns[i], "in pg_attribute.attmissingval", false)
			}
		}
	}
}

// class notes the classes of a column that is used where no query may stand for its table: see beneath.
func (a *analysis) class(r *relation, c *column, how string, plain bool) {
	for _, cl := range c.classes {
		a.fixed[classKey{cl, r.display() + "." + plainPart(c.name)}] = true
	}
	a.classOf(r, c, how, plain)
}

// classOf notes a column's classes. Only the first of several can be masked, because only one mask can be laid on.
func (a *analysis) classOf(r *relation, c *column, how string, plain bool) {
	for i, cl := range c.classes {
		k := classKey{cl, r.display() + "." + plainPart(c.name)}
		u := a.classes[k]
		if u == nil {
			u = &access.ClassUse{Class: cl, On: k.on}
			a.classes[k] = u
		}
		if (!plain || i > 0) && !u.Derived {
			u.Derived = true
			u.How = orElse(how, "in a column of more than one class")
		}
	}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// write notes a write and what the server does by itself because of it: triggers and the actions of foreign keys.
func (a *analysis) write(r *relation, down bool, event int, columns ...string) {
	a.reach(access.Write, r, down, len(columns) == 0, columns...)
	if a.dry {
		return
	}
	a.deletes = a.deletes || event&(eventDelete|eventTruncate) != 0
	a.consequences(r, down, event, map[*relation]bool{})
}

func (a *analysis) consequences(r *relation, down bool, event int, done map[*relation]bool) {
	if done[r] {
		return
	}
	done[r] = true
	up, below := r.family(down)
	if event&eventUpdate != 0 && (r.kind == 'p' || slices.ContainsFunc(up, func(m *relation) bool { return m.kind == 'p' })) {
		event |= eventInsert | eventDelete // a row that moves to another partition is deleted here and inserted there
	}
	for _, m := range append(append([]*relation{r}, below...), up...) {
		for _, t := range m.triggers {
			if t.events&event != 0 {
				a.ownCalls([]string{t.function})
			}
		}
		for _, ref := range m.references {
			for _, act := range [...]struct {
				event int
				do    byte
			}{{eventDelete, ref.onDelete}, {eventUpdate, ref.onUpdate}} {
				if event&act.event == 0 || act.do != 'c' && act.do != 'n' && act.do != 'd' {
					continue
				}
				a.reach(access.Write, ref.from, true, true)
				next := eventUpdate
				if act.do == 'c' && act.event == eventDelete {
					next = eventDelete
				}
				a.consequences(ref.from, true, next, done)
			}
		}
	}
	if r.view() {
		for _, b := range r.bases {
			a.consequences(b.rel, true, event, done)
		}
	}
}

func (a *analysis) call(name string) {
	a.calls = appendNew(a.calls, name)
}

func (a *analysis) sortedTouches() []access.Touch {
	out := make([]access.Touch, 0, len(a.order))
	for _, k := range a.order {
		t := a.touches[k]
		r := access.Resource{Kind: k.kind, Name: k.name}
		if !t.all {
			slices.Sort(t.columns)
			r.Columns = t.columns
		}
		out = append(out, access.Touch{Effect: k.effect, Resource: r})
	}
	return out
}

func (a *analysis) sortedClasses() []access.ClassUse {
	if len(a.classes) == 0 {
		return nil
	}
	out := make([]access.ClassUse, 0, len(a.classes))
	for _, u := range a.classes {
		out = append(out, *u)
	}
	slices.SortFunc(out, func(x, y access.ClassUse) int { return cmp.Or(cmp.Compare(x.On, y.On), cmp.Compare(x.Class, y.Class)) })
	return out
}
