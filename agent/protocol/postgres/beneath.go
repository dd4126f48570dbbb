package postgres

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/sallyport/sallyport/internal/access"
)

// A value that is computed with cannot be masked on its way out. What can be done is to mask it beneath the computation: where a SELECT
// names a table with columns of a class, a second text names a query in its place that reads those columns through their masks.
//
//	SELECT id FROM customers WHERE email LIKE 'a%'
//	SELECT id FROM (SELECT "id", (CASE WHEN … END)::text AS "email" FROM customers) AS "customers" WHERE email LIKE 'a%'
//
// Nothing but the name of the table is exchanged, at the place where the parser met it, so that everything else means what it meant. Where
// that cannot be sure (see rigid), or a mask is keyed and its key must not reach the target, there is no second text and the use is
// denied as before. Policy chooses the text: the first where all classes of such uses are revealed, the second where none is.
//
// What writes has no second text. A masked value that is stored somewhere would be taken for the true one by everybody who reads it there.
// Nor has EXPLAIN: the server's estimates come from what it knows of the true values, whatever expression stands over them.

// splice is a table in FROM, or the one of COPY … TO, that a query may stand for.
type splice struct {
	rv   *pg.RangeVar
	e    *entry
	copy bool
	list []string // of COPY: the columns, in order
}

// spliceable notes an entry of FROM that names a table with classes, or a view that shows them in columns of its own.
func (a *analysis) spliceable(rv *pg.RangeVar, e *entry) {
	if e.rel == nil || e.rel.view() && !e.rel.clear || a.depth > 0 || !e.rel.protected() {
		return
	}
	e.spliced = true
	if slices.ContainsFunc(a.splices, func(s splice) bool { return s.rv == rv }) {
		return // ORDER BY 1 walks what it means once more
	}
	a.splices = append(a.splices, splice{rv: rv, e: e})
}

// copied notes the table of COPY … TO. What COPY gives of a table by itself is its own rows, and no column that the server computes.
func (a *analysis) copied(rv *pg.RangeVar, e *entry, named []string) {
	if e.rel == nil || e.rel.kind != 'r' || a.depth > 0 || !e.rel.protected() {
		return
	}
	list := named
	for i := range e.rel.columns {
		c := &e.rel.columns[i]
		switch {
		case c.computes && slices.Contains(named, c.name):
			return // the server's own error
		case !c.computes && len(named) == 0:
			list = append(list, c.name)
		}
	}
	e.spliced = true
	a.splices = append(a.splices, splice{rv: rv, e: e, copy: true, list: list})
}

func (r *relation) protected() bool {
	return slices.ContainsFunc(r.columns, func(c column) bool { return len(c.classes) > 0 })
}

// stiff notes why no query may stand for a table in this text.
func (a *analysis) stiff(why string) { a.rigid = orElse(a.rigid, why) }

// hiddenColumn notes a use of one of the columns that every table has. A query offers one where it names it, but then a star would show it.
func (a *analysis) hiddenColumn(r *relation, name string) {
	if a.hiddenColumns == nil {
		a.hiddenColumns = map[*relation][]string{}
	}
	a.hiddenColumns[r] = appendNew(a.hiddenColumns[r], name)
}

// longName notes a reference that names its table with the schema, which a query that stands for the table has not.
func (a *analysis) longName(n *pg.ColumnRef, e *entry, parts int) {
	if e == nil || !e.spliced {
		return
	}
	a.longNames = append(a.longNames, longName{n, e, parts})
}

type longName struct {
	ref   *pg.ColumnRef
	e     *entry
	parts int // before the table's name
}

// quiet verbs may stand in one message with a SELECT that is masked beneath; those in texts read for themselves.
var quietVerbs = []string{"BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "ROLLBACK TO", "SET", "RESET", "SET TRANSACTION", "SHOW", "CLOSE", "DEALLOCATE"}

// onlyReads says that all statements of the text are of those that a second text may stand for.
func (a *analysis) onlyReads(c *access.Command) bool {
	for _, v := range a.verbs {
		switch {
		case v == "SELECT", v == "PREPARE SELECT", v == "DECLARE CURSOR", slices.Contains(quietVerbs, v):
		case v == "COPY" && a.plan.copyOut && len(a.verbs) == 1:
		default:
			return false
		}
	}
	return !slices.ContainsFunc(c.Touches, func(t access.Touch) bool { return t.Effect != access.Read && t.Effect != access.Execute })
}

// firstOf is the text to look into where the target keeps one under a name: the client's own, where what is kept is the second text that would
// be made of it now.
func (a *analysis) firstOf(kept string) string {
	a.text += kept
	if a.st.first == nil || len(a.classes) > 0 {
		return kept
	}
	first, ok := a.st.first(kept)
	if !ok {
		return kept
	}
	st := a.st
	st.prepared, st.cursor, st.first = nil, nil, nil
	f := study(first, st, a.cat, defaultLimits)
	if f.command.Masked != kept {
		return kept
	}
	a.proven = f.command.Classes
	return first
}

// keptBeneath marks the uses of what a name stands for that are masked in the text behind it. The command itself is the same in both its texts.
func (a *analysis) keptBeneath(c *access.Command) {
	if a.why != "" || a.refused != nil || len(a.verbs) != 1 || !slices.Contains([]string{"FETCH", "MOVE", "EXECUTE SELECT"}, a.verbs[0]) {
		return
	}
	uses := slices.Clone(c.Classes)
	for i, u := range uses {
		uses[i].Beneath = u.Derived && slices.ContainsFunc(a.proven, func(p access.ClassUse) bool { return p.Class == u.Class && p.On == u.On && p.Beneath })
		if uses[i].Beneath {
			c.Masked = c.Text
		}
	}
	c.Classes = uses
}

// beneath makes the second text, and marks the uses that it masks.
func (a *analysis) beneath(c *access.Command) {
	if a.proven != nil {
		a.keptBeneath(c)
		return
	}
	if a.why != "" || a.refused != nil || a.rigid != "" || len(a.splices) == 0 || !a.onlyReads(c) {
		return
	}
	derived := map[string]bool{} // by ClassUse.On
	for _, u := range c.Classes {
		if u.Derived {
			if a.fixed[classKey{u.Class, u.On}] {
				return
			}
			derived[u.On] = true
		}
	}
	if len(derived) == 0 {
		return
	}
	text, ok := a.spliced(c.Text, derived)
	if !ok {
		return
	}
	if tree, err := a.cat.parse(text); err != nil || len(tree.GetStmts()) != len(a.verbs) {
		return // a name stood where no query may
	}
	uses := slices.Clone(c.Classes)
	for i := range uses {
		uses[i].Beneath = uses[i].Derived
	}
	c.Classes, c.Masked = uses, text
}

// spliced is the text with queries in the places of the tables that have to be masked.
func (a *analysis) spliced(text string, derived map[string]bool) (string, bool) {
	var edits []edit
	exchanged := map[*entry]bool{}
	for _, s := range a.splices {
		list, masked, ok := a.maskedList(s, derived)
		if !ok {
			return "", false
		}
		if !masked {
			continue
		}
		ed, ok := placeOf(text, s, list)
		if !ok {
			return "", false
		}
		edits, exchanged[s.e] = append(edits, ed), true
	}
	for _, l := range a.longNames {
		if !exchanged[l.e] {
			continue
		}
		ed, ok := schemaOf(text, l)
		if !ok {
			return "", false
		}
		edits = append(edits, ed)
	}
	text, ok := applied(text, edits)
	return text, ok && len(text) <= defaultLimits.text && !a.namesakesOf(exchanged)
}

// namesakesOf says that two tables of different schemas go by the same name somewhere in the text, one of them by that of a query.
func (a *analysis) namesakesOf(exchanged map[*entry]bool) bool {
	for e := range exchanged {
		for _, other := range a.unaliased {
			if e.schema != "" && other.name == e.name && other.rel != e.rel {
				return true
			}
		}
	}
	return false
}

// maskedList is the select list of the query that stands for a table: the columns that the statement uses, in the table's order, or
// all where their order counts. masked says whether one of them is masked there.
func (a *analysis) maskedList(s splice, derived map[string]bool) (list string, masked, ok bool) {
	r := s.e.rel
	t := a.touches[touchKey{access.Read, access.KindTable, r.display()}]
	if t == nil {
		return "", false, false
	}
	every := t.all || len(s.e.rename) > 0
	names := s.list
	for i := range r.columns {
		if c := &r.columns[i]; !s.copy && (every || slices.Contains(t.columns, c.name)) {
			names = append(names, c.name)
		}
	}
	var items []string
	for _, name := range names {
		item, c := quoted(name), r.column(name)
		if c == nil {
			return "", false, false
		}
		if len(c.classes) > 0 && derived[r.display()+"."+plainPart(name)] {
			expr, ok := a.maskExpr(c)
			if !ok {
				return "", false, false
			}
			item, masked = expr+" AS "+item, true
		}
		items = append(items, item)
	}
	if hidden := a.hiddenColumns[r]; len(hidden) > 0 && masked {
		if every {
			return "", false, false
		}
		for _, name := range hidden {
			items = append(items, quoted(name))
		}
	}
	return strings.Join(items, ", "), masked, true
}
