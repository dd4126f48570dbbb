package postgres

import (
	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/sallyport/sallyport/internal/access"
)

// query walks a SELECT, VALUES, TABLE or set operation and returns its columns. top says that its rows go to the client as they
// are; only then can a plain item of its select list be masked.
func (a *analysis) query(n *pg.SelectStmt, p place, top bool) (cols []outCol, open bool) {
	if n == nil {
		return nil, false
	}
	a.see(n)
	p.env = a.with(n.GetWithClause(), p)
	if into := n.GetIntoClause(); into != nil {
		p = p.in("in SELECT INTO")
		a.into(into, "SELECT INTO")
		top = false
	}
	for _, l := range n.GetLockingClause() {
		a.locks = true
		for _, r := range l.GetLockingClause().GetLockedRels() { // names of entries in FROM, which are touched already
			a.see(r.GetRangeVar())
		}
	}
	switch {
	case n.GetOp() != pg.SetOperation_SETOP_NONE:
		cols, open = a.setOperation(n, p)
	case len(n.GetValuesLists()) > 0:
		for _, l := range n.GetValuesLists() {
			for range max(0, len(l.GetList().GetItems())-len(cols)) {
				cols = append(cols, outCol{name: "column" + itoa(len(cols)+1)})
			}
			a.expr(l, p)
		}
		a.sorts(n, cols, nil, place{sc: &scope{parent: p.sc, entries: []*entry{{cols: cols}}}, env: p.env, how: p.how})
	default:
		cols, open = a.plainSelect(n, p, top)
	}
	tail := place{sc: &scope{parent: p.sc}, env: p.env, how: p.how}.in("in LIMIT")
	a.expr(n.GetLimitOffset(), tail)
	a.expr(n.GetLimitCount(), tail)
	if c := n.GetLimitCount().GetAConst(); top && c != nil && c.GetIval() != nil {
		a.limit = int64(c.GetIval().GetIval())
	}
	return cols, open
}

func (a *analysis) setOperation(n *pg.SelectStmt, p place) (cols []outCol, open bool) {
	in := p.in("in a set operation")
	cols, open = a.query(n.GetLarg(), in, false)
	a.query(n.GetRarg(), in, false)
	a.sorts(n, cols, nil, place{sc: &scope{parent: p.sc, entries: []*entry{{cols: cols, open: open}}}, env: p.env, how: in.how})
	return cols, open
}

func (a *analysis) plainSelect(n *pg.SelectStmt, p place, top bool) (cols []outCol, open bool) {
	p.sc = &scope{parent: p.sc}
	for _, f := range n.GetFromClause() {
		a.from(f, p.sc, p)
	}
	a.expr(n.GetWhereClause(), p.in("in WHERE"))
	list := p
	switch {
	case len(n.GetDistinctClause()) > 0:
		list = p.in("with DISTINCT")
	case len(n.GetGroupClause()) > 0, n.GetHavingClause() != nil:
		list = p.in("with GROUP BY")
	case !top:
		list = p.in("in a subquery")
	}
	cols, open = a.items(n.GetTargetList(), list, list.how == "")
	for _, g := range n.GetGroupClause() {
		a.byOutput(g, cols, n.GetTargetList(), p.in("in GROUP BY"))
	}
	for _, d := range n.GetDistinctClause() {
		if unwrap(d) != nil { // SELECT DISTINCT without ON holds one empty node
			a.byOutput(d, cols, n.GetTargetList(), p.in("in DISTINCT ON"))
		}
	}
	a.expr(n.GetHavingClause(), p.in("in HAVING"))
	for _, w := range n.GetWindowClause() {
		a.expr(w, p.in("in a window"))
	}
	a.sorts(n, cols, n.GetTargetList(), p)
	return cols, open
}

// maxColumns is the server's own limit of a select list (MaxTupleAttributeNumber).
const maxColumns = 1664

// items walks a select or RETURNING list.
func (a *analysis) items(list []*pg.Node, p place, plain bool) (cols []outCol, open bool) {
	for _, t := range list {
		if len(cols) > maxColumns || !a.spend(1) {
			a.incomplete("a query of more than %d columns", maxColumns)
			return cols, true
		}
		rt := t.GetResTarget()
		if rt == nil {
			a.incomplete("a select list holds a %s", kindOf(unwrap(t)))
			continue
		}
		ref := rt.GetVal().GetColumnRef()
		if ref == nil {
			a.expr(rt.GetVal(), p.in("in an expression"))
			if ind := rt.GetVal().GetAIndirection(); ind != nil && rt.GetName() == "" && endsInStar(ind.GetIndirection()) {
				open = true
			}
			cols = append(cols, nameOf(rt))
			continue
		}
		a.column(ref, p, plain)
		if fields := ref.GetFields(); endsInStar(fields) {
			more, o := a.outputs(p.sc, stringsOf(fields[:len(fields)-1]))
			cols, open = append(cols, more...), open || o
			continue
		}
		cols = append(cols, nameOf(rt))
	}
	return cols, open
}

func endsInStar(fields []*pg.Node) bool {
	return len(fields) > 0 && fields[len(fields)-1].GetAStar() != nil
}

// nameOf is the name that the server gives an item. Where that is more than an alias or a column it is a guess.
func nameOf(rt *pg.ResTarget) outCol {
	if rt.GetName() != "" {
		return outCol{name: rt.GetName()}
	}
	if f := rt.GetVal().GetColumnRef().GetFields(); len(f) > 0 {
		return outCol{name: f[len(f)-1].GetString_().GetSval()}
	}
	return outCol{name: guess(rt.GetVal()), soft: true}
}

func guess(n *pg.Node) string {
	last := func(ns []*pg.Node) string {
		if len(ns) == 0 {
			return ""
		}
		return ns[len(ns)-1].GetString_().GetSval()
	}
	switch v := unwrap(n).(type) {
	case *pg.ColumnRef:
		return last(v.GetFields())
	case *pg.FuncCall:
		return last(v.GetFuncname())
	case *pg.TypeCast:
		if s := guess(v.GetArg()); s != "" {
			return s
		}
		return last(v.GetTypeName().GetNames())
	case *pg.CollateClause:
		return guess(v.GetArg())
	case *pg.A_Indirection:
		for i := len(v.GetIndirection()) - 1; i >= 0; i-- {
			if s := v.GetIndirection()[i].GetString_().GetSval(); s != "" {
				return s
			}
		}
		return guess(v.GetArg())
	case *pg.CaseExpr:
		return orElse(guess(v.GetDefresult()), "case")
	case *pg.CoalesceExpr:
		return "coalesce"
	case *pg.A_ArrayExpr:
		return "array"
	case *pg.RowExpr:
		return "row"
	case *pg.SubLink:
		switch v.GetSubLinkType() {
		case pg.SubLinkType_EXISTS_SUBLINK:
			return "exists"
		case pg.SubLinkType_ARRAY_SUBLINK:
			return "array"
		}
		if l := v.GetSubselect().GetSelectStmt().GetTargetList(); len(l) > 0 {
			return nameOf(l[0].GetResTarget()).name
		}
	}
	return ""
}

func (a *analysis) sorts(n *pg.SelectStmt, cols []outCol, list []*pg.Node, p place) {
	for _, s := range n.GetSortClause() {
		sb := s.GetSortBy()
		if sb == nil {
			a.incomplete("ORDER BY holds a %s", kindOf(unwrap(s)))
			continue
		}
		a.operator(sb.GetUseOp())
		a.byOutput(sb.GetNode(), cols, list, p.in("in ORDER BY"))
	}
}

// byOutput walks an item of ORDER BY, GROUP BY or DISTINCT ON, which may also be the name or the number of an output column.
func (a *analysis) byOutput(n *pg.Node, cols []outCol, list []*pg.Node, p place) {
	if c := n.GetAConst(); c != nil && c.GetIval() != nil {
		a.items(list, p, false) // which one the number means depends on stars: all take part
		return
	}
	ref := n.GetColumnRef()
	if len(ref.GetFields()) != 1 || ref.GetFields()[0].GetString_() == nil {
		a.expr(n, p)
		return
	}
	name := ref.GetFields()[0].GetString_().GetSval()
	if !a.spend(len(cols) + len(list)) {
		return
	}
	matched, firm := false, false
	for _, c := range cols {
		matched = matched || c.name == name
		firm = firm || c.name == name && !c.soft
	}
	for _, t := range list {
		if rt := t.GetResTarget(); rt != nil && nameOf(rt).name == name {
			a.items([]*pg.Node{t}, p, false)
		}
	}
	a.see(ref)
	if !matched || !firm || offersColumn(p.sc, name) {
		why := a.why
		a.column(ref, p, false)
		if matched {
			a.why = why // an output column after all
		}
	}
}

// offersColumn says that the innermost FROM has a column of this name.
func offersColumn(sc *scope, name string) bool {
	for _, e := range sc.visible() {
		for i := range e.len() {
			if e.col(i).name == name {
				return true
			}
		}
	}
	return false
}

// with brings the WITH queries into view, one after the other, or all at once where they are recursive.
func (a *analysis) with(w *pg.WithClause, p place) *cte {
	env := p.env
	if w == nil {
		return env
	}
	if w.GetRecursive() {
		for _, n := range w.GetCtes() {
			c := n.GetCommonTableExpr()
			cols := renamed(nil, stringsOf(c.GetAliascolnames()))
			env = &cte{outer: env, name: c.GetCtename(), cols: cols, open: true}
		}
	}
	for _, n := range w.GetCtes() {
		c := n.GetCommonTableExpr()
		if c == nil {
			a.incomplete("WITH holds a %s", kindOf(unwrap(n)))
			continue
		}
		a.see(c)
		cols, open := a.nested(c.GetCtequery(), place{sc: p.sc, env: env, how: orElse(p.how, "in a WITH query")})
		cols = renamed(cols, stringsOf(c.GetAliascolnames()))
		if s := c.GetSearchClause(); s != nil {
			cols = append(cols, outCol{name: s.GetSearchSeqColumn()})
		}
		if cy := c.GetCycleClause(); cy != nil {
			cols = append(cols, outCol{name: cy.GetCycleMarkColumn()}, outCol{name: cy.GetCyclePathColumn()})
			none := place{env: env, how: "in CYCLE"}
			a.expr(cy.GetCycleMarkValue(), none)
			a.expr(cy.GetCycleMarkDefault(), none)
		}
		env = &cte{outer: env, name: c.GetCtename(), cols: cols, open: open}
	}
	return env
}

// nested walks a query that stands inside another statement, data-modifying or not.
func (a *analysis) nested(n *pg.Node, p place) (cols []outCol, open bool) {
	switch q := unwrap(n).(type) {
	case *pg.SelectStmt:
		return a.query(q, p, false)
	case *pg.InsertStmt:
		return a.insert(q, p)
	case *pg.UpdateStmt:
		return a.update(q, p)
	case *pg.DeleteStmt:
		return a.remove(q, p)
	case *pg.MergeStmt:
		return a.merge(q, p)
	case *pg.ExecuteStmt:
		a.prepared(q.GetName(), q.GetParams())
		for _, u := range a.classes {
			u.Derived, u.How = true, orElse(u.How, orElse(p.how, "in EXECUTE"))
		}
		return nil, true
	default:
		a.incomplete("a %s stands inside another statement", kindOf(q))
		return nil, true
	}
}

// into notes the table that SELECT INTO or CREATE TABLE AS makes.
func (a *analysis) into(into *pg.IntoClause, verb string) {
	r := into.GetRel()
	a.see(r)
	name, ok := a.newName(r, verb)
	if !ok {
		return
	}
	a.touch(access.Define, access.KindTable, name)
	if !a.dry {
		a.touch(access.Write, access.KindTable, name)
	}
	a.plan.changesCatalogue = true
}
