package postgres

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/sallyport/sallyport/internal/access"
)

// statement analyses one statement and returns its verb.
func (a *analysis) statement(n *pg.Node) string {
	top := place{}
	switch s := unwrap(n).(type) {
	case *pg.SelectStmt:
		a.moving(s)
		a.query(s, top, true)
		return "SELECT"
	case *pg.InsertStmt:
		a.insert(s, top)
		return "INSERT"
	case *pg.UpdateStmt:
		a.update(s, top)
		return "UPDATE"
	case *pg.DeleteStmt:
		a.remove(s, top)
		return "DELETE"
	case *pg.MergeStmt:
		a.merge(s, top)
		return "MERGE"
	case *pg.CopyStmt:
		a.copy(s)
		return "COPY"
	case *pg.ExplainStmt:
		return a.explain(s)
	case *pg.TransactionStmt:
		return a.transaction(s)
	case *pg.VariableSetStmt:
		return a.set(s)
	case *pg.VariableShowStmt:
		a.touch(access.Read, access.KindSetting, strings.ToLower(s.GetName()))
		return "SHOW"
	case *pg.DoStmt:
		a.touch(access.Execute, access.KindFunction, "do")
		a.protectedAtLarge("in the body of DO")
		a.opaque()
		a.plan.unguards = true
		return "DO"
	case *pg.CallStmt:
		a.expr(s.GetFunccall(), top.in("in CALL"))
		return "CALL"
	case *pg.PrepareStmt:
		a.reservedName(s.GetName())
		verb := a.statement(s.GetQuery())
		a.renames, a.prepares = true, true
		return "PREPARE " + verb
	case *pg.ExecuteStmt:
		return a.prepared(s.GetName(), s.GetParams())
	case *pg.DeclareCursorStmt:
		a.query(s.GetQuery().GetSelectStmt(), top, true)
		a.limit, a.renames = 0, true
		return "DECLARE CURSOR"
	case *pg.FetchStmt:
		return a.fetched(s)
	case *pg.LockStmt:
		return a.lock(s)
	case *pg.ConstraintsSetStmt:
		for _, c := range s.GetConstraints() {
			a.see(c.GetRangeVar()) // names a constraint, touches no row
		}
		a.database(access.Read)
		return "SET CONSTRAINTS"
	case *pg.DeallocateStmt, *pg.DiscardStmt, *pg.UnlistenStmt, *pg.ClosePortalStmt:
		return a.tidy(s)
	case *pg.ListenStmt:
		// What comes is of other sessions, whatever they put in it: policy is asked as about the function that sends it.
		a.touch(access.Read, access.KindFunction, "pg_notify")
		a.plan.listens = true
		return "LISTEN"
	case *pg.NotifyStmt:
		a.touch(access.Execute, access.KindFunction, "pg_notify")
		return "NOTIFY"
	default:
		return a.definition(s)
	}
}

// tidy is what drivers and pools clean a session with. None of it can take the session anywhere but to where it began, and where that is
// not what the room holds on to, the check for drift ends it.
func (a *analysis) tidy(n any) string {
	a.database(access.Read)
	switch s := n.(type) {
	case *pg.DeallocateStmt:
		a.reservedName(s.GetName())
		a.plan.forgets = append(a.plan.forgets, s.GetName())
		a.plan.forgetsAll = a.plan.forgetsAll || s.GetName() == ""
		a.renames = true
		return "DEALLOCATE"
	case *pg.DiscardStmt:
		switch s.GetTarget() {
		case pg.DiscardMode_DISCARD_ALL:
			a.plan.forgetsAll, a.plan.mayDrift, a.plan.named, a.plan.moves, a.renames = true, true, true, true, true
			a.plan.changesCatalogue = a.cat.usesTemporary()
		case pg.DiscardMode_DISCARD_TEMP:
			a.plan.changesCatalogue = true
		}
		return "DISCARD"
	case *pg.ClosePortalStmt:
		a.renames = true
		return "CLOSE"
	}
	return "UNLISTEN"
}

// explain: EXPLAIN ANALYZE runs the statement, EXPLAIN alone only plans it, so that what would be written is merely read. Estimates tell
// about values, which is why columns of a class in its conditions count as they do without EXPLAIN.
func (a *analysis) explain(s *pg.ExplainStmt) string {
	runs := false
	for _, o := range s.GetOptions() {
		d := o.GetDefElem()
		switch name := strings.ToLower(d.GetDefname()); name {
		case "analyze":
			runs = runs || isOn(d.GetArg())
		case "verbose", "costs", "buffers", "timing", "summary", "format", "settings", "wal", "generic_plan", "memory", "serialize":
		default:
			a.incomplete("EXPLAIN option %q is not known", name)
			runs = true
		}
	}
	a.dry = !runs
	inner := a.statementInExplain(s.GetQuery())
	a.dry = false
	a.limit = 0
	if runs {
		return "EXPLAIN ANALYZE " + inner
	}
	return "EXPLAIN"
}

func (a *analysis) statementInExplain(n *pg.Node) string {
	changed := a.plan.changesCatalogue
	switch s := unwrap(n).(type) {
	case *pg.SelectStmt, *pg.InsertStmt, *pg.UpdateStmt, *pg.DeleteStmt, *pg.MergeStmt, *pg.ExecuteStmt, *pg.DeclareCursorStmt:
		verb := a.statement(n)
		if a.dry {
			a.plan.changesCatalogue = changed
		}
		return verb
	case *pg.CreateTableAsStmt, *pg.RefreshMatViewStmt:
		return a.definition(s)
	default:
		a.definition(s)
		a.incomplete("EXPLAIN of a %s", kindOf(s))
		return "UNKNOWN"
	}
}

// isOn reads an option's value as the server does. What it cannot read counts as on.
func isOn(n *pg.Node) bool {
	switch v := unwrap(n).(type) {
	case *pg.String:
		switch strings.ToLower(v.GetSval()) {
		case "false", "off", "no", "0":
			return false
		}
	case *pg.Integer:
		return v.GetIval() != 0
	case *pg.Boolean:
		return v.GetBoolval()
	}
	return true
}

func (a *analysis) copy(s *pg.CopyStmt) {
	a.see(s)
	in := place{how: "in COPY"}
	switch {
	case s.GetQuery() != nil:
		if _, ok := unwrap(s.GetQuery()).(*pg.SelectStmt); ok {
			a.query(s.GetQuery().GetSelectStmt(), in, false)
		} else {
			a.nested(s.GetQuery(), in)
		}
	case s.GetIsFrom():
		a.copyFrom(s, in)
	default:
		e := a.target(s.GetRelation())
		if e.rel == nil {
			break
		}
		a.reach(access.Read, e.rel, true, len(s.GetAttlist()) == 0)
		a.copied(s.GetRelation(), e, stringsOf(s.GetAttlist()))
		if len(s.GetAttlist()) == 0 {
			a.markAll(e, in.how, false)
		}
		for _, name := range stringsOf(s.GetAttlist()) {
			a.member(e, name, in, false)
		}
	}
	switch {
	case s.GetIsProgram():
		a.touch(access.Transfer, access.KindHost, "program")
	case s.GetFilename() != "":
		a.touch(access.Transfer, access.KindHost, "files")
	case s.GetIsFrom():
		a.plan.copyIn = true
	default:
		a.plan.copyOut = true
	}
}

func (a *analysis) copyFrom(s *pg.CopyStmt, in place) {
	e := a.target(s.GetRelation())
	if e.rel == nil {
		return
	}
	a.write(e.rel, true, eventInsert, stringsOf(s.GetAttlist())...)
	// The columns here are those of the rows that come in.
	a.expr(s.GetWhereClause(), place{sc: &scope{entries: []*entry{{name: e.name, rel: e.rel, quiet: true}}}, how: in.how})
}

func (a *analysis) transaction(s *pg.TransactionStmt) string {
	a.database(access.Read)
	for _, o := range s.GetOptions() {
		a.transactionMode(o)
	}
	move := txnOther
	var verb string
	switch s.GetKind() {
	case pg.TransactionStmtKind_TRANS_STMT_BEGIN, pg.TransactionStmtKind_TRANS_STMT_START:
		move, verb = txnBegin, "BEGIN"
	case pg.TransactionStmtKind_TRANS_STMT_COMMIT:
		move, verb = txnEnd, "COMMIT"
	case pg.TransactionStmtKind_TRANS_STMT_ROLLBACK:
		move, verb = txnEnd, "ROLLBACK"
	case pg.TransactionStmtKind_TRANS_STMT_SAVEPOINT:
		verb = "SAVEPOINT"
	case pg.TransactionStmtKind_TRANS_STMT_RELEASE:
		verb = "RELEASE"
	case pg.TransactionStmtKind_TRANS_STMT_ROLLBACK_TO:
		verb = "ROLLBACK TO"
		a.renames = true // cursors made since are gone
	default:
		move, verb = a.twoPhase(s)
	}
	if s.GetChain() && move == txnEnd {
		move = txnOther
	}
	a.plan.txn = append(a.plan.txn, move)
	return verb
}

// twoPhase: a prepared transaction outlives its session with all that it has locked, and any session of the same role may end it.
func (a *analysis) twoPhase(s *pg.TransactionStmt) (txnMove, string) {
	a.touch(access.Execute, access.KindFunction, "two-phase")
	switch s.GetKind() {
	case pg.TransactionStmtKind_TRANS_STMT_PREPARE:
		return txnEnd, "PREPARE TRANSACTION"
	case pg.TransactionStmtKind_TRANS_STMT_COMMIT_PREPARED:
		a.plan.changesCatalogue = true // whatever was prepared
		return txnNone, "COMMIT PREPARED"
	case pg.TransactionStmtKind_TRANS_STMT_ROLLBACK_PREPARED:
		return txnNone, "ROLLBACK PREPARED"
	}
	a.incomplete("a transaction command of an unknown kind")
	return txnOther, "UNKNOWN"
}

func (a *analysis) transactionMode(o *pg.Node) {
	switch name := o.GetDefElem().GetDefname(); name {
	case "transaction_isolation", "transaction_read_only", "transaction_deferrable":
	default:
		a.refuse("postgres.set", "transaction mode "+name+" is not allowed")
	}
}

// settings that a client may change: they alter how values look or how long a statement may take, not what names or bytes mean nor on whose
// behalf it runs.
var freeSettings = []string{
	"application_name", "bytea_output", "datestyle", "extra_float_digits", "idle_in_transaction_session_timeout", "intervalstyle", "jit",
	"lock_timeout", "statement_timeout", "timezone", "transaction_timeout", "default_transaction_isolation",
	"default_transaction_read_only", "default_transaction_deferrable", "transaction_isolation", "transaction_read_only",
	"transaction_deferrable", "work_mem", "restrict_nonsystem_relation_kind",
}

// pinnedSettings may only be set to what they are.
var pinnedSettings = map[string][]string{
	"client_encoding":             {"utf8", "utf-8", "unicode"},
	"standard_conforming_strings": {"on", "true", "1", "yes"},
	"client_min_messages":         {"notice", "warning", "error"},
	"backslash_quote":             {"safe_encoding"},
}

func (a *analysis) set(s *pg.VariableSetStmt) string {
	name := strings.ToLower(s.GetName())
	verb := "SET"
	switch s.GetKind() {
	case pg.VariableSetKind_VAR_RESET_ALL:
		a.database(access.Read)
		a.plan.mayDrift, a.plan.named, a.plan.moves = true, true, true // back to how the session began
		return "RESET ALL"
	case pg.VariableSetKind_VAR_SET_MULTI:
		return a.setMulti(s, name)
	case pg.VariableSetKind_VAR_RESET:
		verb = "RESET"
	}
	for _, v := range s.GetArgs() {
		if unwrap(v) != nil && v.GetAConst() == nil && v.GetTypeCast() == nil {
			a.incomplete("a value of SET is not understood")
		}
	}
	allowed, pinned := pinnedSettings[name]
	switch {
	case name == "standard_conforming_strings":
		a.touch(access.Read, access.KindSetting, name)
		if len(s.GetArgs()) != 1 || !slices.Contains(allowed, strings.ToLower(settingValue(s.GetArgs()[0]))) {
			a.plan.loosens, a.plan.mayDrift, a.plan.named = true, true, true
		}
	case name == "client_encoding" && a.st.utf8 && len(s.GetArgs()) == 1 && isASCII(settingValue(s.GetArgs()[0])):
		a.touch(access.Read, access.KindSetting, name)
	case a.freeSetting(name), name == "search_path", name == "client_min_messages" && len(a.cat.classes) == 0, // DEBUG and LOG show constants of views and the like
		pinned && s.GetKind() == pg.VariableSetKind_VAR_SET_VALUE && len(s.GetArgs()) == 1 &&
			slices.Contains(allowed, strings.ToLower(settingValue(s.GetArgs()[0]))):
		a.touch(access.Read, access.KindSetting, name) // nothing of it lasts or reaches beyond the session
	case name == "role":
		a.touch(access.Grant, access.KindSetting, name)
	case pinned, name == "session_authorization":
		rule := map[string]string{"session_authorization": "postgres.set-role", "client_encoding": "postgres.set-encoding",
			"standard_conforming_strings": "postgres.set-strings"}[name]
		a.refuse(orElse(rule, "postgres.set"), "setting "+name+" cannot be changed through the gate")
	default:
		a.touch(access.Define, access.KindSetting, name)
	}
	if name == "search_path" || name == "role" || name == "session_authorization" {
		a.plan.moves, a.plan.mayDrift, a.plan.named = true, true, true
	}
	return verb
}

func (a *analysis) setMulti(s *pg.VariableSetStmt, name string) string {
	switch name {
	case "transaction", "session characteristics":
		a.touch(access.Read, access.KindSetting, "transaction")
		for _, o := range s.GetArgs() {
			a.transactionMode(o)
		}
	default:
		a.refuse("postgres.set", "SET "+s.GetName()+" does not pass the gate")
	}
	return "SET TRANSACTION"
}

func settingValue(n *pg.Node) string {
	c := n.GetAConst()
	switch {
	case c.GetSval() != nil:
		return c.GetSval().GetSval()
	case c.GetIval() != nil:
		return itoa(int(c.GetIval().GetIval()))
	case c.GetBoolval() != nil:
		if c.GetBoolval().GetBoolval() {
			return "true"
		}
		return "false"
	}
	return ""
}
