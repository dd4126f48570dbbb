package postgres

import (
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/internal/access"
)

// A view shows columns of tables under names of its own. Where all that it does with columns of a class is to show them, its columns are of
// that class as the tables' are: they are masked in the frames of results, which name the view as their origin, and beneath, where a query
// stands for the view itself. So nothing has to be known of rights or row security: the view is read as the client reads it. Where it does
// anything else with them (a condition, a join, an order, DISTINCT), its rows tell of the values, and it cannot be masked.

const sqlViewTrees = `SELECT ev_class, ev_action::text FROM pg_catalog.pg_rewrite WHERE ev_type = '1' AND ev_class IN (`

// lineage gives the columns of views the classes of what they show.
func (l *loader) lineage(classes []access.Class) {
	c := l.cat
	reaches := map[*relation]bool{}
	var ids []string
	for _, r := range c.byOID {
		if r.view() && !r.system() && r.reaches(reaches, 0) {
			ids = append(ids, strconv.FormatUint(uint64(r.oid), 10))
		}
	}
	slices.Sort(ids)
	trees := map[*relation]string{}
	for chunk := range slices.Chunk(ids, 50) {
		l.each(sqlViewTrees+strings.Join(chunk, ", ")+")", 2, func(row []string) {
			if v := l.relation(row[0]); v != nil {
				trees[v] = row[1]
			}
		})
	}
	done := map[*relation]bool{}
	for _, r := range c.byOID {
		if r.view() && !r.system() {
			c.trace(r, trees, done)
		}
	}
	c.guard(classes)
}

// reaches says that something of a class may be among what a view reads, at any depth.
func (r *relation) reaches(known map[*relation]bool, depth int) bool {
	if found, ok := known[r]; ok || depth > maxTreeDepth {
		return found || depth > maxTreeDepth
	}
	known[r] = false
	found := slices.ContainsFunc(r.bases, func(b viewBase) bool {
		return b.protected() || b.rel.view() && b.rel.reaches(known, depth+1)
	})
	known[r] = found
	return found
}

// protected says that the view reads a column of a class.
func (b viewBase) protected() bool {
	return slices.ContainsFunc(b.rel.columns, func(c column) bool { return len(c.classes) > 0 && (b.whole || slices.Contains(b.columns, c.num)) })
}

// trace classifies a view's columns, those of the views that it reads first. The server lets no view read itself.
func (c *catalogue) trace(v *relation, trees map[*relation]string, done map[*relation]bool) {
	if done[v] {
		return
	}
	done[v] = true
	open := false
	for _, b := range v.bases {
		if b.rel.view() && !b.rel.system() {
			c.trace(b.rel, trees, done)
			open = open || !b.rel.clear
		}
	}
	if open {
		return
	}
	if v.clear = !slices.ContainsFunc(v.bases, viewBase.protected); v.clear {
		return
	}
	tree, err := readTree(trees[v])
	if err != nil || len(tree.list) != 1 || tree.list[0].tag() != "QUERY" {
		return
	}
	t := &tracer{cat: c}
	cols := t.query(tree.list[0].node, nil, true)
	if t.lost || len(cols) < len(v.columns) || v.columns[len(v.columns)-1].num != uint16(len(v.columns)) {
		return
	}
	v.clear = true
	for i := range v.columns {
		to := &v.columns[i]
		to.computed = len(to.classes) == 0 && cols[i].computed
		for _, cl := range cols[i].classes {
			to.classes = appendNew(to.classes, cl)
		}
	}
}

// showing is what a column of a query shows: values of classes, as they are or computed from them.
type showing struct {
	classes  []string
	computed bool
}

func (s *showing) add(o showing) {
	for _, c := range o.classes {
		s.classes = appendNew(s.classes, c)
	}
	s.computed = s.computed || o.computed
}

// tracer walks the tree of a view's query.
type tracer struct {
	cat  *catalogue
	lost bool // values of a class do something else than being shown
}

// level is one query of the tree.
type level struct {
	outer  *level
	tables []treeValue
	cols   [][]showing          // of the subqueries and WITH queries among tables
	ctes   map[string][]showing // of its own WITH
	joins  int                  // aliases of joins that are being followed
}

// query is what the columns of a query show. Where passes is false nothing may be shown at all.
func (t *tracer) query(q *treeNode, outer *level, passes bool) []showing {
	if q.number("commandType") != 1 || t.lost {
		t.lost = true
		return nil
	}
	l := &level{outer: outer, tables: q.get("rtable").list, ctes: map[string][]showing{}}
	for _, c := range q.get("cteList").list {
		inner := c.node.get("ctequery")
		recursive := c.node.get("cterecursive").word != "false"
		if inner.tag() != "QUERY" || c.node.get("search_clause").node != nil || c.node.get("cycle_clause").node != nil {
			t.lost = true
			return nil
		}
		name := c.node.get("ctename").word
		l.ctes[name] = nil
		l.ctes[name] = t.query(inner.node, l, !recursive)
	}
	l.cols = make([][]showing, len(l.tables))
	for i, e := range l.tables {
		l.cols[i] = t.table(e.node, l)
	}
	for _, f := range q.fields {
		switch f.label {
		case "rtable", "cteList", "targetList", "rteperminfos", "setOperations":
		default:
			for _, v := range f.values {
				t.uses(v, l)
			}
		}
	}
	if set := q.get("setOperations"); set.node != nil {
		var cols []showing
		t.union(set, l, &cols)
		return t.kept(cols, passes)
	}
	var cols []showing
	for _, e := range q.get("targetList").list {
		s := t.item(e.node, l)
		if e.node.get("resjunk").word != "false" || e.node.number("ressortgroupref") != 0 {
			t.kept([]showing{s}, false)
		}
		cols = append(cols, s)
	}
	return t.kept(cols, passes)
}

func (t *tracer) kept(cols []showing, passes bool) []showing {
	if !passes && slices.ContainsFunc(cols, func(s showing) bool { return len(s.classes) > 0 }) {
		t.lost = true
	}
	return cols
}

// table is what the columns of a subquery in FROM show, or of a WITH query; whatever else stands in FROM may use nothing.
func (t *tracer) table(e *treeNode, l *level) []showing {
	switch kind := e.number("rtekind"); {
	case kind == 0 && e.get("tablesample").node == nil, kind == 2: // a relation; a join, which repeats what it joins
	case kind == 1 && e.get("subquery").tag() == "QUERY":
		return t.query(e.get("subquery").node, l, true)
	case kind == 6:
		at := l
		for up := e.number("ctelevelsup"); up > 0 && at != nil; up-- {
			at = at.outer
		}
		if at == nil {
			t.lost = true
			return nil
		}
		return at.ctes[e.get("ctename").word]
	default:
		t.uses(treeValue{node: e}, l)
	}
	return nil
}

// union adds what the branches of a set operation show, column by column. Only UNION ALL looks at no value.
func (t *tracer) union(v treeValue, l *level, cols *[]showing) {
	switch v.tag() {
	case "RANGETBLREF":
		i := v.node.number("rtindex") - 1
		if i < 0 || i >= len(l.cols) {
			t.lost = true
			return
		}
		for k, s := range l.cols[i] {
			if k >= len(*cols) {
				*cols = append(*cols, showing{})
			}
			(*cols)[k].add(s)
		}
	case "SETOPERATIONSTMT":
		t.union(v.node.get("larg"), l, cols)
		t.union(v.node.get("rarg"), l, cols)
		t.kept(*cols, v.node.number("op") == 1 && v.node.get("all").word == "true")
	default:
		t.lost = true
	}
}

// item is what one item of a select list shows.
func (t *tracer) item(e *treeNode, l *level) showing {
	v := e.get("expr")
	for v.tag() == "RELABELTYPE" {
		v = v.node.get("arg")
	}
	if v.tag() == "VAR" {
		return t.variable(v.node, l)
	}
	var s showing
	t.gather(v, l, &s)
	if len(s.classes) > 0 && !total(v) {
		t.lost = true
	}
	s.computed = len(s.classes) > 0
	return s
}

// uses walks what must use nothing of a class.
func (t *tracer) uses(v treeValue, l *level) {
	var s showing
	t.gather(v, l, &s)
	t.kept([]showing{s}, false)
}

// gather adds all that an expression names.
func (t *tracer) gather(v treeValue, l *level, s *showing) {
	for _, e := range v.list {
		t.gather(e, l, s)
	}
	switch {
	case v.node == nil || t.lost:
	case v.tag() == "VAR":
		s.add(t.variable(v.node, l))
	case v.tag() == "QUERY":
		t.query(v.node, l, false)
	default:
		for _, f := range v.node.fields {
			for _, e := range f.values {
				t.gather(e, l, s)
			}
		}
	}
}

// variable is what a reference to a column shows.
func (t *tracer) variable(v *treeNode, l *level) showing {
	for up := v.number("varlevelsup"); up != 0 && l != nil; up-- {
		l = l.outer
	}
	table, col := v.number("varno")-1, v.number("varattno")
	if l == nil || table < 0 || table >= len(l.tables) || col < 0 {
		t.lost = t.lost || l == nil || table < 0 || table >= len(l.tables)
		return showing{} // or a system column
	}
	e := l.tables[table].node
	switch e.number("rtekind") {
	case 0:
		return t.relation(e, col)
	case 2, 9: // a join under an alias; what is grouped by, which is walked where it stands
		list := e.get("joinaliasvars").list
		if e.number("rtekind") == 9 {
			list = e.get("groupexprs").list
		}
		l.joins++
		defer func() { l.joins-- }()
		if col > len(list) || l.joins > maxTreeDepth {
			t.lost = true
			return showing{}
		}
		var s showing
		if col == 0 {
			t.gather(treeValue{list: list}, l, &s)
			s.computed = len(s.classes) > 0
			return s
		}
		t.gather(list[col-1], l, &s)
		s.computed = s.computed || len(s.classes) > 0 && list[col-1].tag() != "VAR"
		return s
	case 1, 6:
		return columnOf(l.cols[table], col)
	}
	return showing{} // of what uses nothing
}

// columnOf is one column, or the whole row.
func columnOf(cols []showing, col int) showing {
	if col > 0 && col <= len(cols) {
		return cols[col-1]
	}
	var s showing
	for _, c := range cols {
		s.add(c)
	}
	s.computed = len(s.classes) > 0
	return s
}

func (t *tracer) relation(e *treeNode, col int) showing {
	r := t.cat.byOID[uint32(max(0, e.number("relid")))]
	if r == nil {
		t.lost = true
		return showing{}
	}
	var s showing
	for _, c := range r.columns {
		if col == 0 || c.num == uint16(col) {
			s.add(showing{c.classes, c.computed || col == 0 && len(c.classes) > 0})
		}
	}
	return s
}

// total says that an expression has a value whatever its columns hold: one that can fail would tell of them by failing.
func total(v treeValue) bool {
	for _, e := range v.list {
		if !total(e) {
			return false
		}
	}
	if v.node == nil {
		return true
	}
	is := func(label string, ids []int) bool { return slices.Contains(ids, v.node.number(label)) }
	switch v.tag() {
	case "VAR", "CONST", "RELABELTYPE", "COALESCE", "COALESCEEXPR", "CASE", "CASEEXPR", "WHEN", "CASEWHEN", "NULLTEST", "BOOLEXPR", "TARGETENTRY", "SORTGROUPCLAUSE":
	case "FUNCEXPR":
		if !is("funcid", totalFunctions) {
			return false
		}
	case "OPEXPR":
		if !is("opfuncid", totalFunctions) {
			return false
		}
	case "AGGREF":
		if !is("aggfnoid", totalFunctions) {
			return false
		}
	default:
		return false
	}
	for _, f := range v.node.fields {
		for _, e := range f.values {
			if (e.node != nil || e.list != nil) && !total(e) {
				return false
			}
		}
	}
	return true
}

// totalFunctions are functions of the server by their numbers, which do not change (pg_proc.dat): they have a value for all texts, and give no
// set. lower upper initcap length octet_length textcat anytextcat textanycat left right concat concat_ws md5 replace btrim ltrim rtrim
// reverse strpos; = <> LIKE, NOT LIKE, ILIKE of texts; count, and max, min, array_agg, json_agg, jsonb_agg, string_agg of them.
var totalFunctions = []int{
	870, 871, 872, 1317, 1374, 1258, 2003, 2004, 3060, 3061, 3058, 3059, 2311, 2087, 884, 885, 875, 881, 876, 882, 3062, 868,
	67, 157, 850, 851, 1633, 2147, 2129, 2145, 2335, 3175, 3267, 3538,
}
