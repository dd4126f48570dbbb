package postgres

import (
	"slices"
	"strconv"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/sallyport/sallyport/internal/access"
)

func itoa(n int) string { return strconv.Itoa(n) }

// from adds what one item of a FROM offers to sc.
func (a *analysis) from(n *pg.Node, sc *scope, p place) {
	p.sc = sc
	switch f := unwrap(n).(type) {
	case *pg.RangeVar:
		e := a.table(f, p.env)
		a.spliceable(f, e)
		sc.entries = append(sc.entries, e)
	case *pg.RangeSubselect:
		in := place{sc: sc.parent, env: p.env, how: orElse(p.how, "in a subquery")}
		if f.GetLateral() {
			in.sc = sc
		}
		cols, open := a.nested(f.GetSubquery(), in)
		name, names := aliases(f.GetAlias())
		sc.entries = append(sc.entries, &entry{name: name, cols: renamed(cols, names), open: open})
	case *pg.JoinExpr:
		a.join(f, sc, p)
	case *pg.RangeFunction:
		a.rangeFunction(f, sc, p)
	case *pg.RangeTableFunc:
		a.expr(f.GetDocexpr(), p.in("in a function"))
		a.expr(f.GetRowexpr(), p.in("in a function"))
		a.exprs(f.GetNamespaces(), p.in("in a function"))
		var cols []outCol
		for _, c := range f.GetColumns() {
			a.expr(c, p.in("in a function"))
			cols = append(cols, outCol{name: c.GetRangeTableFuncCol().GetColname()})
		}
		name, names := aliases(f.GetAlias())
		sc.entries = append(sc.entries, &entry{name: orElse(name, "xmltable"), cols: renamed(cols, names)})
	case *pg.JsonTable:
		a.expr(f, p.in("in a function"))
		name, names := aliases(f.GetAlias())
		sc.entries = append(sc.entries, &entry{name: orElse(name, "json_table"), cols: renamed(nil, names), open: true})
	case *pg.RangeTableSample:
		a.exprs(f.GetArgs(), p.in("in TABLESAMPLE")) // before the table: they cannot see it
		a.expr(f.GetRepeatable(), p.in("in TABLESAMPLE"))
		a.stiff("in TABLESAMPLE")
		a.from(f.GetRelation(), sc, p)
		if m := stringsOf(f.GetMethod()); len(m) == 0 || m[len(m)-1] != "system" && m[len(m)-1] != "bernoulli" {
			a.incomplete("a sampling method that is not the server's own")
		}
	default:
		a.incomplete("a %s in FROM is not understood", kindOf(f))
		sc.entries = append(sc.entries, &entry{open: true})
	}
}

// table resolves a name in FROM: a WITH query first, then the catalogue.
func (a *analysis) table(rv *pg.RangeVar, env *cte) *entry {
	a.see(rv)
	alias, names := aliases(rv.GetAlias())
	if rv.GetSchemaname() == "" {
		if c := lookupCTE(env, rv.GetRelname()); c != nil {
			return &entry{name: orElse(alias, rv.GetRelname()), cols: renamed(c.cols, names), open: c.open}
		}
	}
	r := a.resolve(rv)
	if r == nil {
		return &entry{name: orElse(alias, rv.GetRelname()), cols: renamed(nil, names), open: true}
	}
	a.reach(access.Read, r, rv.GetInh(), false)
	e := tableEntry(r, rv)
	if alias == "" {
		a.unaliased = append(a.unaliased, e)
	}
	return e
}

func tableEntry(r *relation, rv *pg.RangeVar) *entry {
	alias, names := aliases(rv.GetAlias())
	e := &entry{name: alias, rel: r, down: rv.GetInh(), rename: names}
	if alias == "" {
		e.name, e.schema = r.name, r.schema
	}
	return e
}

// resolve finds the relation that a name means, as the server would.
func (a *analysis) resolve(rv *pg.RangeVar) *relation {
	a.see(rv)
	if db := rv.GetCatalogname(); db != "" && db != a.st.database {
		a.incomplete("another database, %q, is named", db)
		return nil
	}
	if strings.HasPrefix(rv.GetSchemaname(), "pg_toast") {
		a.refuse("postgres.statistics", "the server keeps long values of other tables there")
		return nil
	}
	r, ok := a.cat.lookup(rv.GetSchemaname(), rv.GetRelname(), a.path)
	if !ok {
		a.incomplete("relation %q is not known", strings.TrimPrefix(rv.GetSchemaname()+"."+rv.GetRelname(), "."))
		return nil
	}
	a.meant(rv, r)
	return r
}

// newName is the name that a CREATE of rv gives.
func (a *analysis) newName(rv *pg.RangeVar, verb string) (string, bool) {
	a.see(rv)
	schema := orElse(rv.GetSchemaname(), creation(a.path, a.st))
	if rv.GetRelpersistence() == "t" && rv.GetSchemaname() == "" {
		schema = "pg_temp"
	}
	if schema == "" || rv.GetCatalogname() != "" && rv.GetCatalogname() != a.st.database {
		a.incomplete("%s does not say where", verb)
		return "", false
	}
	return relName{schema, rv.GetRelname()}.display(), true
}

func (a *analysis) rangeFunction(f *pg.RangeFunction, sc *scope, p place) {
	alias, names := aliases(f.GetAlias())
	var cols []outCol
	for _, item := range f.GetFunctions() {
		for i, part := range item.GetList().GetItems() { // the call, then its column definitions
			if i > 0 {
				for _, d := range part.GetList().GetItems() {
					cols = append(cols, outCol{name: d.GetColumnDef().GetColname()})
				}
				continue
			}
			a.expr(part, p.in("in a function"))
			cols = append(cols, outCol{name: orElse(alias, guess(part)), soft: true})
			alias = orElse(alias, guess(part))
		}
	}
	for _, d := range f.GetColdeflist() {
		cols = append(cols, outCol{name: d.GetColumnDef().GetColname()})
	}
	for _, n := range names {
		cols = append(cols, outCol{name: n})
	}
	sc.entries = append(sc.entries, &entry{name: alias, cols: cols, open: true})
}

func (a *analysis) join(j *pg.JoinExpr, sc *scope, p place) {
	start := len(sc.entries)
	a.from(j.GetLarg(), sc, p)
	mid := len(sc.entries)
	a.from(j.GetRarg(), sc, p)
	left, right := sc.entries[start:mid], sc.entries[mid:]
	using := stringsOf(j.GetUsingClause())
	if j.GetIsNatural() {
		using = append(using, a.common(left, right, p)...)
	}
	if len(using) > 0 {
		a.operators("=")
	}
	for _, name := range using {
		a.shared(left, name, p.in("in JOIN USING"))
		a.shared(right, name, p.in("in JOIN USING"))
	}
	// ON sees the two sides and the queries around, not what stands before the join in the same FROM.
	on := place{sc: &scope{parent: sc.parent, entries: slices.Clone(sc.entries[start:])}, env: p.env, how: p.how}
	a.expr(j.GetQuals(), on.in("in a join condition"))
	if u := j.GetJoinUsingAlias(); u != nil {
		sc.entries = append(sc.entries, &entry{name: u.GetAliasname(), cols: renamed(nil, using)})
	}
	if j.GetAlias() == nil {
		return
	}
	name, names := aliases(j.GetAlias())
	e := &entry{name: name}
	// The columns of a join come merged ones first, then the left's, then the right's. Column aliases follow that order.
	for _, u := range using {
		e.cols, e.source = append(e.cols, outCol{name: u}), append(e.source, source{&entry{}, 0})
	}
	for _, in := range sc.entries[start:] {
		e.open = e.open || in.open
		for i := range in.len() {
			if !in.hidden && !slices.Contains(using, in.col(i).name) {
				e.cols, e.source = append(e.cols, in.col(i)), append(e.source, source{in, i})
			}
		}
	}
	e.cols = renamed(e.cols, names)
	if len(names) > 0 && e.open {
		// How many columns stand before one is not known, so any of them may be the one that a name means.
		a.markAll(e, orElse(p.how, "through the alias of a join"), false)
	}
	for _, in := range sc.entries[start:] {
		in.hidden = true
	}
	sc.entries = append(sc.entries, e)
}

// shared marks the columns of a name that a join merges.
func (a *analysis) shared(side []*entry, name string, p place) {
	found := false
	for _, e := range side {
		found = found || e.open
		for i := range e.len() {
			if e.col(i).name == name {
				a.mark(e, i, p.how, false)
				found = true
			}
		}
	}
	if !found {
		a.incomplete("column %q of JOIN USING is not known", name)
	}
}

// common lists the columns that a NATURAL JOIN merges. Where a side has columns that are not known, all may be.
func (a *analysis) common(left, right []*entry, p place) (names []string) {
	open := false
	for _, e := range append(slices.Clone(left), right...) {
		open = open || e.open
	}
	for _, l := range left {
		for i := range l.len() {
			for _, r := range right {
				for k := range r.len() {
					if l.col(i).name == r.col(k).name {
						names = appendNew(names, l.col(i).name)
					}
				}
			}
		}
	}
	if open {
		for _, e := range append(slices.Clone(left), right...) {
			a.markAll(e, orElse(p.how, "in a NATURAL JOIN"), false)
		}
	}
	return names
}
