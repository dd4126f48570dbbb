package postgres

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/sallyport/sallyport/internal/access"
)

// sets judges a call of set_config as the SET that it is, and says whether it may be one: the setting must be written out, and be none that
// the room pins. pg_dump begins with it, and drivers set what only concerns themselves. What it gives back is the value that was given.
func (a *analysis) sets(n *pg.FuncCall, names []string) bool {
	args := n.GetArgs()
	if len(names) == 0 || names[len(names)-1] != "set_config" || len(names) > 1 && names[0] != "pg_catalog" || len(args) != 3 || len(a.cat.functions["set_config"]) > 0 {
		return false
	}
	name := strings.ToLower(orElse(args[0].GetAConst().GetSval().GetSval(), a.chosen[n]))
	_, pinned := pinnedSettings[name]
	switch {
	case name == "", pinned, name == "role", name == "session_authorization":
		return false
	case name == "search_path":
		if !a.alone[n] {
			return false
		}
		a.plan.moves, a.plan.mayDrift, a.plan.named = true, true, true
		a.touch(access.Read, access.KindSetting, name)
	case a.freeSetting(name):
		a.touch(access.Read, access.KindSetting, name)
	default:
		a.touch(access.Define, access.KindSetting, name)
	}
	a.call("set_config")
	return true
}

// freeSetting says that a setting only concerns how values look, or how long a statement may take. By which way rows are read is no longer free
// where columns are protected: an index gives them in the order of its values.
func (a *analysis) freeSetting(name string) bool {
	return slices.Contains(freeSettings, name) || strings.HasPrefix(name, "enable_") && len(a.cat.guarded) == 0
}

// moving finds the calls of a query that is nothing but calls of set_config with constants and parameters: no name is looked up after the
// first of them has run, so that the search path may change there as it does with SET. What it is then, the room asks the server before the next command.
func (a *analysis) moving(s *pg.SelectStmt) {
	if len(s.GetFromClause()) == 1 {
		a.choosing(s)
		return
	}
	if s.GetOp() != pg.SetOperation_SETOP_NONE || parts(s) != len(s.GetTargetList()) {
		return
	}
	calls := map[*pg.FuncCall]bool{}
	for _, t := range s.GetTargetList() {
		switch v := unwrap(t.GetResTarget().GetVal()).(type) {
		case *pg.A_Const:
		case *pg.FuncCall:
			names := stringsOf(v.GetFuncname())
			if parts(v) != len(names)+len(v.GetArgs()) || len(names) == 0 || names[len(names)-1] != "set_config" || slices.ContainsFunc(v.GetArgs(), computed) {
				return
			}
			calls[v] = true
		default:
			return
		}
	}
	a.alone = calls
}

// choosing finds set_config(name, …) FROM pg_settings WHERE name = 'NAME', with which pg_dump sets what not every server has.
func (a *analysis) choosing(s *pg.SelectStmt) {
	rv, where := s.GetFromClause()[0].GetRangeVar(), s.GetWhereClause().GetAExpr()
	if rv == nil || rv.GetAlias() != nil || rv.GetCatalogname() != "" || where.GetKind() != pg.A_Expr_Kind_AEXPR_OP || parts(s) != len(s.GetTargetList())+2 {
		return
	}
	if op := stringsOf(where.GetName()); len(op) != 1 || op[0] != "=" || slices.ContainsFunc(a.cat.operators["="], func(o operator) bool { return slices.Contains(a.path, o.schema) }) {
		return
	}
	if r, ok := a.cat.lookup(rv.GetSchemaname(), rv.GetRelname(), a.path); !ok || r.relName != (relName{"pg_catalog", "pg_settings"}) || !isName(where.GetLexpr()) {
		return
	}
	chosen := map[*pg.FuncCall]string{}
	for _, t := range s.GetTargetList() {
		if f := t.GetResTarget().GetVal().GetFuncCall(); f != nil && len(f.GetArgs()) > 0 && isName(f.GetArgs()[0]) {
			chosen[f] = where.GetRexpr().GetAConst().GetSval().GetSval()
		}
	}
	a.chosen = chosen
}

// isName says that a node is the column "name".
func isName(n *pg.Node) bool {
	names := stringsOf(n.GetColumnRef().GetFields())
	return len(names) == 1 && names[0] == "name"
}

// computed says that a value is neither written out nor a parameter.
func computed(n *pg.Node) bool { return n.GetAConst() == nil && n.GetParamRef() == nil }

// parts counts the nodes that a node holds directly.
func parts(n any) (count int) {
	children(n, func(any) { count++ })
	return count
}
