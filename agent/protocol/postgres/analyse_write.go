package postgres

import (
	"strconv"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/sallyport/sallyport/internal/access"
)

// target resolves the table that a statement writes: never a WITH query, whatever its name.
func (a *analysis) target(rv *pg.RangeVar) *entry {
	r := a.resolve(rv)
	if r == nil {
		return &entry{name: orElse(rv.GetAlias().GetAliasname(), rv.GetRelname()), open: true}
	}
	return tableEntry(r, rv)
}

// targetColumns names the columns that a SET or a column list writes.
func (a *analysis) targetColumns(e *entry, list []*pg.Node, p place) []string {
	var names []string
	for _, n := range list {
		rt := n.GetResTarget()
		if rt == nil {
			a.incomplete("a column list holds a %s", kindOf(unwrap(n)))
			continue
		}
		for _, i := range rt.GetIndirection() {
			if i.GetString_() == nil {
				a.expr(i, p)
			}
		}
		if e.rel != nil && e.rel.column(rt.GetName()) == nil {
			a.incomplete("column %q of %s is not known", rt.GetName(), e.rel.display())
		}
		names = append(names, rt.GetName())
		a.expr(rt.GetVal(), p)
	}
	return names
}

func (a *analysis) insert(n *pg.InsertStmt, p place) (cols []outCol, open bool) {
	a.changing++
	a.see(n)
	how := p.how
	p.env = a.with(n.GetWithClause(), p)
	t := a.target(n.GetRelation())
	sc := &scope{parent: p.sc, entries: []*entry{t}}
	names := a.targetColumns(t, n.GetCols(), place{sc: sc, env: p.env, how: orElse(how, "in INSERT")})
	if t.rel != nil {
		a.write(t.rel, true, eventInsert, names...)
	}
	if s := n.GetSelectStmt(); s != nil {
		a.nested(s, place{sc: p.sc, env: p.env, how: orElse(how, "in INSERT … SELECT")})
	}
	if c := n.GetOnConflictClause(); c != nil {
		a.onConflict(c, t, place{sc: p.sc, env: p.env, how: how})
	}
	return a.returning(n.GetReturningList(), t, place{sc: sc, env: p.env, how: how})
}

func (a *analysis) onConflict(c *pg.OnConflictClause, t *entry, p place) {
	p = p.in("in ON CONFLICT")
	p.sc = &scope{parent: p.sc, entries: []*entry{t}}
	if i := c.GetInfer(); i != nil {
		for _, el := range i.GetIndexElems() {
			ie := el.GetIndexElem()
			if ie == nil {
				a.incomplete("ON CONFLICT holds a %s", kindOf(unwrap(el)))
				continue
			}
			if ie.GetName() != "" {
				a.bare(ie.GetName(), p, false)
			}
			a.expr(ie.GetExpr(), p)
		}
		a.expr(i.GetWhereClause(), p)
		if i.GetConname() != "" && t.rel != nil {
			a.constraintKeys(i.GetConname(), t, p)
		}
	}
	if i := c.GetInfer(); t.rel != nil && (i == nil || i.GetConname() != "") {
		// Whether the row is there already tells what is in the columns of every unique index.
		up, below := t.rel.family(true)
		for _, r := range append(append([]*relation{t.rel}, up...), below...) {
			for k := range r.columns {
				if col := &r.columns[k]; col.unique {
					a.class(r, col, p.how, false)
				}
			}
		}
	}
	if len(c.GetTargetList()) == 0 {
		return
	}
	set := p
	if t.rel != nil {
		set.sc = &scope{parent: p.sc.parent, entries: []*entry{t, {name: "excluded", rel: t.rel, quiet: true}}}
	}
	names := a.targetColumns(t, c.GetTargetList(), set)
	a.expr(c.GetWhereClause(), set)
	if t.rel != nil {
		a.write(t.rel, true, eventUpdate, names...)
		// The row that is there already is found and locked: that tells whether it exists.
		a.reach(access.Read, t.rel, true, t.rel.view())
	}
}

// constraintKeys notes the columns of a constraint: whether a row is in conflict tells of their values. An index bears its name.
func (a *analysis) constraintKeys(name string, t *entry, p place) {
	a.reach(access.Read, t.rel, true, false)
	for _, k := range a.cat.keys[relName{t.rel.schema, name}] {
		n, err := strconv.ParseUint(k, 10, 16)
		if col := t.rel.columnNum(uint16(n)); err == nil && col != nil {
			a.bare(col.name, p, false)
			continue
		}
		for i := range t.rel.columns { // of an expression, whatever it is of
			a.bare(t.rel.columns[i].name, p, false)
		}
	}
}

func (a *analysis) update(n *pg.UpdateStmt, p place) (cols []outCol, open bool) {
	a.changing++
	a.see(n)
	p.env = a.with(n.GetWithClause(), p)
	t := a.target(n.GetRelation())
	sc := &scope{parent: p.sc, entries: []*entry{t}}
	p.sc = sc
	for _, f := range n.GetFromClause() {
		a.from(f, sc, p)
	}
	names := a.targetColumns(t, n.GetTargetList(), p.in("in UPDATE … SET"))
	if t.rel != nil {
		a.write(t.rel, t.down, eventUpdate, names...)
	}
	a.where(n.GetWhereClause(), p)
	return a.returning(n.GetReturningList(), t, p)
}

func (a *analysis) remove(n *pg.DeleteStmt, p place) (cols []outCol, open bool) {
	a.changing++
	a.see(n)
	p.env = a.with(n.GetWithClause(), p)
	t := a.target(n.GetRelation())
	sc := &scope{parent: p.sc, entries: []*entry{t}}
	p.sc = sc
	for _, f := range n.GetUsingClause() {
		a.from(f, sc, p)
	}
	if t.rel != nil {
		a.write(t.rel, t.down, eventDelete)
	}
	a.where(n.GetWhereClause(), p)
	return a.returning(n.GetReturningList(), t, p)
}

// where walks the WHERE of an UPDATE or DELETE. One that names no column ("WHERE true") picks no rows and counts as none.
func (a *analysis) where(w *pg.Node, p place) {
	if w == nil || !namesColumn(w) {
		a.noWhere = true
	}
	a.expr(w, p.in("in WHERE"))
}

func namesColumn(n any) bool {
	switch n.(type) {
	case *pg.ColumnRef, *pg.CurrentOfExpr:
		return true
	case *pg.SelectStmt: // its own columns
		return false
	}
	found := false
	children(n, func(c any) { found = found || namesColumn(c) })
	return found
}

// returning walks a RETURNING list. Plain items of the table itself go out as they are; those of other tables count as derived.
func (a *analysis) returning(list []*pg.Node, t *entry, p place) (cols []outCol, open bool) {
	if len(list) == 0 {
		return nil, false
	}
	if t.rel == nil || len(p.sc.entries) != 1 {
		p = p.in("in RETURNING with other tables")
	}
	return a.items(list, p, p.how == "")
}

func (a *analysis) merge(n *pg.MergeStmt, p place) (cols []outCol, open bool) {
	a.changing++
	a.see(n)
	p.env = a.with(n.GetWithClause(), p)
	t := a.target(n.GetRelation())
	if t.rel != nil {
		a.reach(access.Read, t.rel, t.down, false) // which rows match tells what is there, whatever is done with them
	}
	sc := &scope{parent: p.sc, entries: []*entry{t}}
	p.sc = sc
	a.from(n.GetSourceRelation(), sc, p)
	a.expr(n.GetJoinCondition(), p.in("in MERGE"))
	for _, w := range n.GetMergeWhenClauses() {
		c := w.GetMergeWhenClause()
		if c == nil {
			a.incomplete("MERGE holds a %s", kindOf(unwrap(w)))
			continue
		}
		a.mergeAction(c, t, p.in("in MERGE"))
	}
	return a.returning(n.GetReturningList(), t, p.in("in RETURNING of MERGE"))
}

func (a *analysis) mergeAction(c *pg.MergeWhenClause, t *entry, p place) {
	a.expr(c.GetCondition(), p)
	names := a.targetColumns(t, c.GetTargetList(), p)
	a.exprs(c.GetValues(), p)
	event := 0
	switch c.GetCommandType() {
	case pg.CmdType_CMD_INSERT:
		event = eventInsert
	case pg.CmdType_CMD_UPDATE:
		event = eventUpdate
	case pg.CmdType_CMD_DELETE:
		event, names = eventDelete, nil
	case pg.CmdType_CMD_NOTHING:
		return
	default:
		a.incomplete("MERGE with an action that is not understood")
	}
	if t.rel != nil { // ONLY keeps no new row out of the partition that it belongs to
		a.write(t.rel, t.down || event == eventInsert, event, names...)
	}
}
