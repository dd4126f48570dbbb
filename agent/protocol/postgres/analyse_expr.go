package postgres

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/sallyport/sallyport/internal/access"
)

// expr walks an expression, or any list of them.
func (a *analysis) expr(n any, p place) {
	if !a.spend(1) {
		return
	}
	switch n := n.(type) {
	case nil:
	case *pg.Node:
		children(n, func(c any) { a.expr(c, p) })
	case *pg.ColumnRef:
		a.column(n, p.in("in an expression"), false)
	case *pg.FuncCall:
		a.function(n, p)
	case *pg.SubLink:
		a.see(n)
		a.operator(n.GetOperName())
		if n.GetTestexpr() != nil && len(n.GetOperName()) == 0 { // IN
			a.operators("=")
		}
		a.expr(n.GetTestexpr(), p.in("in an expression"))
		a.expr(n.GetSubselect(), p)
	case *pg.SelectStmt:
		a.query(n, place{sc: p.sc, env: p.env, how: orElse(p.how, "in a subquery")}, false)
	case *pg.A_Expr:
		switch n.GetKind() {
		case pg.A_Expr_Kind_AEXPR_BETWEEN, pg.A_Expr_Kind_AEXPR_NOT_BETWEEN, pg.A_Expr_Kind_AEXPR_BETWEEN_SYM, pg.A_Expr_Kind_AEXPR_NOT_BETWEEN_SYM:
			a.operators("<", "<=", ">", ">=")
		case pg.A_Expr_Kind_AEXPR_IN:
			a.operators("=", "<>") // which one it is looked up by is the planner's choice
		default:
			a.operator(n.GetName())
		}
		a.expr(n.GetLexpr(), p.in("in an expression"))
		a.expr(n.GetRexpr(), p.in("in an expression"))
	case *pg.A_Indirection:
		a.indirection(n, p)
	case *pg.TypeCast:
		a.expr(n.GetArg(), p.in("in an expression"))
		a.typeName(n.GetTypeName())
	case *pg.TypeName:
		a.typeName(n)
	case *pg.SortBy:
		a.operator(n.GetUseOp())
		a.expr(n.GetNode(), p)
	case *pg.CurrentOfExpr:
		a.see(n) // a row of the table that is written, whose reading was decided with the cursor
	default:
		if !plainNode(n) {
			a.incomplete("%s is not understood", kindOf(n))
		}
		if c, ok := n.(*pg.CaseExpr); ok && c.GetArg() != nil {
			a.operators("=")
		}
		a.older(n)
		children(n, func(c any) { a.expr(c, p.in("in an expression")) })
	}
}

func (a *analysis) exprs(ns []*pg.Node, p place) {
	for _, n := range ns {
		a.expr(n, p)
	}
}

// plainNode lists the nodes that mean no more than their parts.
func plainNode(n any) bool {
	switch n.(type) {
	case *pg.BoolExpr, *pg.CaseExpr, *pg.CaseWhen, *pg.CoalesceExpr, *pg.MinMaxExpr, *pg.NullTest, *pg.BooleanTest, *pg.RowExpr,
		*pg.CollateClause, *pg.A_ArrayExpr, *pg.A_Indices, *pg.A_Const, *pg.Integer, *pg.Float, *pg.Boolean, *pg.String, *pg.BitString,
		*pg.ParamRef, *pg.NamedArgExpr, *pg.SQLValueFunction, *pg.XmlExpr, *pg.XmlSerialize, *pg.GroupingFunc, *pg.GroupingSet, *pg.List,
		*pg.ResTarget, *pg.SetToDefault, *pg.WindowDef, *pg.A_Star, *pg.MultiAssignRef, *pg.Alias,
		*pg.RangeTableFuncCol, *pg.MergeSupportFunc:
		return true
	case *pg.JsonObjectConstructor, *pg.JsonArrayConstructor, *pg.JsonArrayQueryConstructor, *pg.JsonKeyValue, *pg.JsonValueExpr,
		*pg.JsonFormat, *pg.JsonOutput, *pg.JsonReturning, *pg.JsonObjectAgg, *pg.JsonArrayAgg, *pg.JsonAggConstructor, *pg.JsonFuncExpr,
		*pg.JsonArgument, *pg.JsonBehavior, *pg.JsonIsPredicate, *pg.JsonParseExpr, *pg.JsonScalarExpr, *pg.JsonSerializeExpr,
		*pg.JsonTable, *pg.JsonTableColumn, *pg.JsonTablePathSpec:
		return true
	}
	return false
}

func (a *analysis) function(n *pg.FuncCall, p place) {
	a.see(n)
	names := stringsOf(n.GetFuncname())
	if a.sets(n, names) {
		a.exprs(n.GetArgs(), p.in("in a function"))
		return
	}
	if last := names[max(0, len(names)-1):]; len(last) == 1 && last[0] == "ts_rewrite" && len(n.GetArgs()) == 3 && len(a.cat.functions["ts_rewrite"]) == 0 && (len(names) == 1 || names[0] == "pg_catalog") {
		a.call("ts_rewrite") // with three arguments it only computes; with two it runs a query
	} else if !a.callNamed(names) {
		a.incomplete("function %q is not known", strings.Join(names, "."))
	}
	in := p.in("in a function")
	if n.GetFuncformat() == pg.CoercionForm_COERCE_SQL_SYNTAX && names[len(names)-1] == "system_user" {
		a.namesakes("system_user", in) // before version 16 it is the name of a column
	}
	a.exprs(n.GetArgs(), in)
	a.exprs(n.GetAggOrder(), in)
	a.expr(n.GetAggFilter(), in)
	if w := n.GetOver(); w != nil {
		a.expr(w, in)
	}
}

// callNamed notes a call by its name of up to three parts. false means that no such function is known.
func (a *analysis) callNamed(names []string) bool {
	if len(names) == 3 {
		if names[0] != a.st.database {
			return false
		}
		names = names[1:]
	}
	switch len(names) {
	case 1:
		return a.maybeFunction(names[0])
	case 2:
		if names[0] != "pg_catalog" {
			a.looked(names[1])
		}
		return a.callIn(names[0], names[1])
	}
	return false
}

// maybeFunction notes a call by bare name: of every function that the search path could lead to, for which one it is depends on types.
func (a *analysis) maybeFunction(name string) bool {
	known := false
	a.looked(name)
	for _, schema := range a.path {
		known = a.callIn(schema, name) || known
	}
	return known
}

func (a *analysis) callIn(schema, name string) bool {
	known := false
	if schema == "pg_catalog" {
		_, builtin := a.cat.builtin[name]
		switch {
		case harmless(name):
			a.call(name)
			known = true
		case builtin:
			a.risky("pg_catalog."+name, name)
			known = true
		}
	}
	if schema == "information_schema" && strings.HasPrefix(name, "_pg_") { // the server's own, behind those views: they only compute
		a.call(relName{schema, name}.display())
		known = true
	} else if slices.Contains(a.cat.functions[name], schema) {
		a.risky(relName{schema, name}.display(), name)
		known = true
	}
	return known
}

// risky notes a call of a function that is not on the allow-list.
func (a *analysis) risky(display, name string) {
	a.call(display)
	a.touch(access.Execute, access.KindFunction, display)
	if !strings.HasPrefix(display, "pg_catalog.") {
		a.routines(display)
	}
	if name == "set_config" {
		a.refuse("postgres.set-config", "set_config() could change what names mean; use SET, or name the setting as it is: set_config('NAME', …)")
	}
	if host, ok := showsMore(name); ok {
		a.beyondDefinitions(display, host)
	}
	if runsText(name) {
		a.incomplete("%s runs SQL that it is given as text", display)
	}
	if strings.HasPrefix(name, "brin_summarize") { // it computes what the index is of
		a.opaque()
	}
	if reachesHost(name) {
		a.touch(access.Transfer, access.KindHost, "files")
	}
	if readsStorage(name) || reachesHost(name) {
		a.protectedAtLarge("in a function that reads what tables are stored in")
	}
}

// older notes the user's own functions that servers before these expressions were syntax would call in their place.
func (a *analysis) older(n any) {
	var names []string
	switch n.(type) {
	case *pg.JsonObjectConstructor:
		names = []string{"json_object"}
	case *pg.JsonArrayConstructor, *pg.JsonArrayQueryConstructor:
		names = []string{"json_array"}
	case *pg.JsonObjectAgg:
		names = []string{"json_objectagg"}
	case *pg.JsonArrayAgg:
		names = []string{"json_arrayagg"}
	case *pg.JsonParseExpr:
		names = []string{"json"}
	case *pg.JsonScalarExpr:
		names = []string{"json_scalar"}
	case *pg.JsonSerializeExpr:
		names = []string{"json_serialize"}
	case *pg.JsonFuncExpr:
		names = []string{"json_exists", "json_query", "json_value"}
	case *pg.MergeSupportFunc:
		names = []string{"merge_action"}
	}
	for _, name := range names {
		for _, schema := range a.path {
			if schema != "pg_catalog" && slices.Contains(a.cat.functions[name], schema) {
				a.callIn(schema, name)
			}
		}
	}
}

// operators notes what stands behind operators that syntax uses without writing them.
func (a *analysis) operators(names ...string) {
	for _, name := range names {
		a.operator([]*pg.Node{pg.MakeStrNode(name)})
	}
}

// operator notes the function behind a user-made operator. The server's own only compute.
func (a *analysis) operator(name []*pg.Node) {
	parts := stringsOf(name)
	if len(parts) == 0 {
		return
	}
	op := parts[len(parts)-1]
	for _, o := range a.cat.operators[op] {
		if len(parts) > 1 && o.schema == parts[len(parts)-2] || len(parts) == 1 && slices.Contains(a.path, o.schema) {
			a.risky(o.function, o.function)
		}
	}
}

// typeName notes what a cast to a user-made type runs. Names of types are not names of commands: they touch nothing else.
func (a *analysis) typeName(t *pg.TypeName) {
	if t == nil {
		return
	}
	names := stringsOf(t.GetNames())
	if len(names) > 0 {
		for _, f := range a.cat.casts[names[len(names)-1]] {
			a.risky(f, f)
		}
	}
	var modifier func(n any)
	modifier = func(n any) { // geometry(Point): words here are no columns
		if c, ok := n.(*pg.ColumnRef); ok {
			a.see(c)
			return
		}
		if _, ok := n.(*pg.Node); !ok && !plainNode(n) {
			a.incomplete("%s in a type is not understood", kindOf(n))
		}
		children(n, modifier)
	}
	for _, m := range t.GetTypmods() {
		modifier(m)
	}
}

// indirection is (expr).field, (expr)[i] and (expr).*. A field may be a function of the value: (5).pg_sleep is a call.
func (a *analysis) indirection(n *pg.A_Indirection, p place) {
	a.see(n)
	p = p.in("in an expression")
	a.expr(n.GetArg(), p)
	for _, i := range n.GetIndirection() {
		if s := i.GetString_(); s != nil {
			a.maybeFunction(s.GetSval())
			continue
		}
		a.expr(i, p)
	}
}

func stringsOf(ns []*pg.Node) []string {
	out := make([]string, 0, len(ns))
	for _, n := range ns {
		out = append(out, n.GetString_().GetSval())
	}
	return out
}
