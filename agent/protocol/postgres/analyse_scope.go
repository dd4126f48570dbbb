package postgres

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/sallyport/sallyport/internal/access"
)

// place is where an expression stands: the tables it can name, the WITH queries it can name, and, for refusals, where that is.
// An empty how is the select list of the message's own query, from where values go to the client as they are.
type place struct {
	sc  *scope
	env *cte
	how string
}

func (p place) in(how string) place {
	if p.how == "" {
		p.how = how
	}
	return p
}

// scope is one level of FROM; parent is the query around it.
type scope struct {
	parent  *scope
	entries []*entry
}

// visible lists what names without qualifier may mean: what is inside an aliased join is offered by the alias.
func (s *scope) visible() []*entry {
	for i, e := range s.entries {
		if e.hidden {
			out := slices.Clone(s.entries[:i])
			for _, e := range s.entries[i:] {
				if !e.hidden {
					out = append(out, e)
				}
			}
			return out
		}
	}
	return s.entries
}

// outCol is a column that a query, a WITH query or a function gives. soft says that its name was guessed the way the server does it: a
// match does not end the search, so that a wrong guess can hide nothing.
type outCol struct {
	name string
	soft bool
}

// cte is a WITH query in view, innermost first.
type cte struct {
	outer *cte
	name  string
	cols  []outCol
	open  bool
}

// entry is something that a FROM offers under a name.
type entry struct {
	name    string // alias, or the relation's name
	schema  string // of a relation without alias
	hidden  bool   // inside a join that has an alias: cannot be named with a qualifier
	rel     *relation
	down    bool     // reaches the relation's descendants too
	rename  []string // column aliases, of the first columns
	cols    []outCol // where rel is nil
	source  []source // where it is the alias of a join: parallel to cols
	open    bool     // there may be columns that are not known
	spliced bool     // a query may stand for it
	quiet   bool     // EXCLUDED: values that the client itself sent
}

// source is what a join's column stands for.
type source struct {
	e *entry
	i int
}

func (e *entry) len() int {
	if e.rel != nil {
		return len(e.rel.columns)
	}
	return len(e.cols)
}

func (e *entry) col(i int) outCol {
	if e.rel != nil {
		if i < len(e.rename) {
			return outCol{name: e.rename[i]}
		}
		return outCol{name: e.rel.columns[i].name}
	}
	return e.cols[i]
}

// systemColumn says that every table has a column of this name.
func systemColumn(name string) bool {
	switch name {
	case "ctid", "tableoid", "xmin", "xmax", "cmin", "cmax":
		return true
	}
	return false
}

// hidden notes a use of one of those: by where its rows lie a table is read, too.
func (a *analysis) hidden(e *entry, name string) {
	if !e.quiet {
		a.reach(access.Read, e.rel, e.down, false)
	}
	a.hiddenColumn(e.rel, name)
}

// mark notes that column i of e takes part. plain is honoured only where the column comes straight from a relation.
func (a *analysis) mark(e *entry, i int, how string, plain bool) {
	switch {
	case e.quiet || !a.spend(1):
	case e.rel != nil:
		a.use(e, &e.rel.columns[i], orElse(how, "in an expression"), plain && how == "")
	case i < len(e.source):
		s := e.source[i]
		a.mark(s.e, s.i, orElse(how, "through the alias of a join"), false)
	}
}

func (a *analysis) markAll(e *entry, how string, plain bool) {
	if !a.spend(e.len()) {
		return
	}
	for i := range e.len() {
		a.mark(e, i, how, plain)
	}
	if e.rel != nil && !e.quiet { // columns made since the snapshot take part too
		a.reach(access.Read, e.rel, e.down, true)
	}
}

// column resolves a reference. plain says that it is a whole item of a select list from which values go out as they are.
func (a *analysis) column(n *pg.ColumnRef, p place, plain bool) {
	a.see(n)
	var parts []string
	star := false
	for _, f := range n.GetFields() {
		switch {
		case f.GetAStar() != nil:
			star = true
		case f.GetString_() != nil && !star:
			parts = append(parts, f.GetString_().GetSval())
		default:
			a.incomplete("a column reference of an unknown shape")
			return
		}
	}
	if len(parts) == 4 || star && len(parts) == 3 { // database.schema.table.column
		if parts[0] != a.st.database {
			a.incomplete("another database, %q, is named", parts[0])
			return
		}
		parts = parts[1:]
	}
	switch {
	case star:
		if e := a.find(p.sc, parts); len(parts) > 1 && e != nil {
			a.longName(n, e, len(n.GetFields())-2)
		}
		a.star(parts, p, plain)
	case len(parts) == 1:
		a.bare(parts[0], p, plain)
	case len(parts) == 2, len(parts) == 3:
		if e := a.find(p.sc, parts[:len(parts)-1]); e != nil {
			if len(n.GetFields()) > 2 {
				a.longName(n, e, len(n.GetFields())-2)
			}
			a.member(e, parts[len(parts)-1], p, plain)
			return
		}
		a.incomplete("%q names no table of its query", strings.Join(parts, "."))
	default:
		a.incomplete("a column reference of an unknown shape")
	}
}

// find looks a qualifier up, innermost level first.
func (a *analysis) find(sc *scope, parts []string) *entry {
	for ; sc != nil && a.spend(len(sc.entries)); sc = sc.parent {
		for _, e := range sc.entries {
			if e.hidden {
				continue
			}
			if len(parts) == 1 && e.name == parts[0] || len(parts) == 2 && e.rel != nil && e.schema == parts[0] && e.name == parts[1] {
				return e
			}
		}
	}
	return nil
}

// member resolves qualifier.name: a column, or, as the server has it, a function of the whole row.
func (a *analysis) member(e *entry, name string, p place, plain bool) {
	found, guessed := false, e.open
	for i := range e.len() {
		if c := e.col(i); c.name == name {
			a.mark(e, i, p.how, plain)
			found, guessed = found || !c.soft, guessed || c.soft
		}
	}
	if !found && e.rel != nil && systemColumn(name) {
		a.hidden(e, name)
		return
	}
	if found {
		return
	}
	// Where not all names of columns are known it may be one of the others, or a call all the same: f.pg_sleep of unnest(…) f is one.
	a.markAll(e, orElse(p.how, "in a whole row"), false)
	if !a.maybeFunction(name) && !guessed {
		a.incomplete("column %q of %q is not known", name, e.name)
	}
}

// bare resolves a name without qualifier: the columns of the innermost level that has one, else the whole row of a table of that name.
func (a *analysis) bare(name string, p place, plain bool) {
	open := false
	for sc := p.sc; sc != nil; sc = sc.parent {
		hits, firm := 0, false
		for _, e := range sc.entries {
			if !a.spend(1 + e.len()) {
				return
			}
		}
		for _, e := range sc.visible() {
			open = open || e.open
			for i := range e.len() {
				if c := e.col(i); c.name == name {
					hits++
					firm, open = firm || !c.soft, open || c.soft
				}
			}
		}
		for _, e := range sc.visible() {
			for i := range e.len() {
				if e.col(i).name == name {
					a.mark(e, i, p.how, plain && hits == 1)
				}
			}
			if hits == 0 && e.rel != nil && systemColumn(name) {
				firm = true
				a.hidden(e, name)
			}
		}
		if firm {
			return
		}
	}
	if e := a.find(p.sc, []string{name}); e != nil {
		a.markAll(e, orElse(p.how, "in a whole row"), false)
		return
	}
	if !open {
		a.incomplete("column %q is not known", name)
	}
}

// namesakes marks every column of a name in view, without asking that there be one.
func (a *analysis) namesakes(name string, p place) {
	for sc := p.sc; sc != nil; sc = sc.parent {
		for _, e := range sc.entries {
			for i := range e.len() {
				if e.col(i).name == name {
					a.mark(e, i, p.how, false)
				}
			}
		}
	}
}

func (a *analysis) star(parts []string, p place, plain bool) {
	if len(parts) > 0 {
		if e := a.find(p.sc, parts); e != nil {
			a.markAll(e, p.how, plain)
			return
		}
		a.incomplete("%q names no table of its query", strings.Join(parts, "."))
		return
	}
	if p.sc != nil {
		for _, e := range p.sc.visible() {
			a.markAll(e, p.how, plain)
		}
	}
}

// outputs lists what a star stands for.
func (a *analysis) outputs(sc *scope, parts []string) (cols []outCol, open bool) {
	entries := sc.visible()
	if len(parts) > 0 {
		e := a.find(sc, parts)
		if e == nil {
			return nil, true
		}
		entries = []*entry{e}
	}
	for _, e := range entries {
		open = open || e.open
		if !a.spend(e.len()) {
			return cols, true
		}
		for i := range e.len() {
			cols = append(cols, e.col(i))
		}
	}
	return cols, open
}

// aliases reads "AS name (columns)".
func aliases(al *pg.Alias) (name string, columns []string) {
	for _, n := range al.GetColnames() {
		columns = append(columns, n.GetString_().GetSval())
	}
	return al.GetAliasname(), columns
}

// renamed lays column aliases over the first columns.
func renamed(cols []outCol, names []string) []outCol {
	out := slices.Clone(cols)
	for i, n := range names {
		if i < len(out) {
			out[i] = outCol{name: n}
		} else {
			out = append(out, outCol{name: n})
		}
	}
	return out
}

// lookupCTE finds the WITH query that a name without schema means.
func lookupCTE(env *cte, name string) *cte {
	for ; env != nil; env = env.outer {
		if env.name == name {
			return env
		}
	}
	return nil
}
