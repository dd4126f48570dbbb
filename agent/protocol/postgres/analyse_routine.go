package postgres

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/sallyport/sallyport/internal/access"
)

// maxRoutines bounds how deep functions in SQL are followed into each other, and maxBody what is read of one.
const (
	maxRoutines = 8
	maxBody     = 64 << 10
)

// into a function: what is written in SQL is looked into, everything else is opaque. A name stands for all its overloads.
func (a *analysis) routines(display string) {
	all := a.cat.routines[display]
	if len(all) == 0 {
		a.unseen(&routine{})
		return
	}
	a.looked(all[0].name)
	for _, f := range all {
		a.routine(f)
	}
}

// opaque notes that something runs whose statements are not seen: it may touch whatever the role may, and move what names mean.
func (a *analysis) opaque() {
	a.plan.opaque, a.plan.mayDrift, a.plan.named = true, true, true
}

func (a *analysis) routine(f *routine) {
	if shown, again := a.entered[f]; again && (shown || a.triggered) {
		return
	}
	if f.language != "sql" || f.body == "" || len(f.body) > maxBody || a.depth >= maxRoutines || a.st.loose && strings.Contains(f.body, `\`) {
		a.unseen(f)
		return
	}
	a.entered[f] = !a.triggered
	tree, err := a.cat.parse(statementsOf(f.body))
	if err != nil {
		a.unseen(f)
		return
	}
	outer := *a // what the body may not change for the statement around it
	a.depth++
	a.why = ""
	if f.ownPath {
		a.st.searchPath = f.path
	}
	if f.owner != "" {
		a.st.role = f.owner
	}
	a.path = a.cat.path(a.st)
	for _, s := range tree.GetStmts() {
		a.inBody(s, f)
	}
	if a.why != "" {
		a.unseen(f)
	}
	a.why, a.st, a.path, a.depth, a.limit, a.verbs = outer.why, outer.st, outer.path, outer.depth, outer.limit, outer.verbs
}

// inBody walks one statement of a body. Its arguments are columns that are not known, and nothing of it goes out as it is.
func (a *analysis) inBody(s *pg.RawStmt, f *routine) {
	p := place{sc: &scope{entries: []*entry{{name: f.name, open: true}}}, how: "in the function " + f.display()}
	switch n := unwrap(s.GetStmt()).(type) {
	case *pg.SelectStmt, *pg.InsertStmt, *pg.UpdateStmt, *pg.DeleteStmt, *pg.MergeStmt:
		a.nested(s.GetStmt(), p)
	case *pg.ReturnStmt:
		a.expr(n.GetReturnval(), p)
	default:
		a.mentions(n, "CREATE FUNCTION")
		a.incomplete("a %s in a function", kindOf(n))
		return
	}
	a.net(s)
}

// statementsOf takes what stands around the statements of a body off.
func statementsOf(body string) string {
	body = strings.TrimSpace(body)
	if rest, ok := strings.CutPrefix(body, "BEGIN ATOMIC"); ok {
		return strings.TrimSuffix(rest, "END")
	}
	if rest, ok := strings.CutPrefix(body, "RETURN "); ok {
		return "SELECT " + rest
	}
	return body
}

// ownCalls notes what the server runs by itself: it is the database owner's choice, not the client's.
func (a *analysis) ownCalls(functions []string) {
	triggered := a.triggered
	a.triggered = true
	a.shownCalls(functions)
	a.triggered = triggered
}

// shownCalls is ownCalls for those whose results are shown: a view's.
func (a *analysis) shownCalls(functions []string) {
	named := a.plan.named
	for _, f := range functions {
		a.risky(f, f)
	}
	a.plan.named = named
}

// prepared walks what EXECUTE runs. The text is the server's own, and becomes part of what is decided.
func (a *analysis) prepared(name string, args []*pg.Node) string {
	a.uncached = true
	a.exprs(args, place{how: "in EXECUTE"})
	var text string
	ok := false
	if a.st.prepared != nil && !a.renames {
		text, ok = a.st.prepared(name)
	}
	if !ok || a.depth >= maxRoutines {
		a.incomplete("the prepared statement %q is not known", name)
		return "EXECUTE"
	}
	text = a.firstOf(text)
	inner := a.inText(text, func(n any) *pg.Node {
		if s, ok := n.(*pg.PrepareStmt); ok && s.GetName() == name {
			return s.GetQuery()
		}
		return nil
	})
	if inner == nil {
		a.incomplete("the prepared statement %q is not understood", name)
		return "EXECUTE"
	}
	a.depth++
	verb := a.statement(inner)
	a.depth--
	a.net(inner)
	return "EXECUTE " + verb
}

// inText finds the statement that pick picks in a text, or the only one.
func (a *analysis) inText(text string, pick func(any) *pg.Node) (found *pg.Node) {
	if len(text) > maxBody {
		return nil
	}
	tree, err := a.cat.parse(text)
	if err != nil {
		return nil
	}
	for _, s := range tree.GetStmts() {
		if n := pick(unwrap(s.GetStmt())); n != nil {
			if found != nil {
				return nil
			}
			found = n
		}
	}
	if found == nil && len(tree.GetStmts()) == 1 {
		switch n := tree.GetStmts()[0].GetStmt(); unwrap(n).(type) {
		case *pg.PrepareStmt, *pg.DeclareCursorStmt: // of another name
		default:
			return n
		}
	}
	return found
}

// fetched walks the query of the cursor that FETCH and MOVE step through: its fields tell where they come from, as the query's own would.
func (a *analysis) fetched(s *pg.FetchStmt) string {
	a.uncached = true
	verb := "FETCH"
	if s.GetIsmove() {
		verb = "MOVE"
	}
	var text string
	ok := false
	if a.st.cursor != nil && !a.renames {
		text, ok = a.st.cursor(s.GetPortalname())
	}
	var inner *pg.Node
	if ok {
		text = a.firstOf(text)
		inner = a.inText(text, func(n any) *pg.Node {
			if d, ok := n.(*pg.DeclareCursorStmt); ok && d.GetPortalname() == s.GetPortalname() {
				return d.GetQuery()
			}
			return nil
		})
	}
	if inner == nil || a.depth >= maxRoutines {
		a.incomplete("the cursor %q is not known", s.GetPortalname())
		return verb
	}
	a.depth++
	a.statement(inner)
	a.depth--
	a.limit = 0
	a.net(inner)
	return verb
}

// unseen is for a function whose body is not looked into. Code in C does not read tables but by text that it is given, which is dealt with by
// name; any other language may, and gives back what it read. What a trigger reads, or a check, goes to no client.
func (a *analysis) unseen(f *routine) {
	a.opaque()
	if f.language != "c" && f.language != "internal" && !a.triggered {
		a.protectedAtLarge("in the body of a function")
	}
}

// protectedAtLarge notes every class of the database: code that is not looked into could read it, and show it by ways that no mask is on.
func (a *analysis) protectedAtLarge(how string) {
	for _, r := range a.cat.guarded {
		for i := range r.columns {
			if a.spend(1) {
				a.class(r, &r.columns[i], how, false)
			}
		}
	}
}

// lock is LOCK TABLE: the weakest mode keeps nobody out but who changes the definition.
func (a *analysis) lock(s *pg.LockStmt) string {
	for _, n := range s.GetRelations() {
		rv := n.GetRangeVar()
		if rv == nil {
			a.incomplete("LOCK of a %s", kindOf(unwrap(n)))
			continue
		}
		if r := a.resolve(rv); r != nil {
			e := access.Write
			if s.GetMode() == 1 { // ACCESS SHARE
				e = access.Read
			}
			a.reach(e, r, rv.GetInh(), false)
		}
	}
	a.locks = true
	return "LOCK"
}
