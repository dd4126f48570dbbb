package postgres

import (
	"slices"
	"strings"
	"unicode"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/sallyport/sallyport/internal/access"
)

// definition analyses what is neither a query nor plain housekeeping, and returns its verb.
func (a *analysis) definition(n any) string {
	verb := verbOf(n)
	switch s := n.(type) {
	case *pg.CreateTableAsStmt:
		a.into(s.GetInto(), verb)
		a.nested(s.GetQuery(), place{how: "in " + verb})
		if a.dry {
			a.plan.changesCatalogue = false
		}
	case *pg.ViewStmt:
		if name, ok := a.newName(s.GetView(), verb); ok {
			a.touch(access.Define, access.KindTable, name)
		}
		a.nested(s.GetQuery(), place{how: "in " + verb})
		a.plan.changesCatalogue = true
	case *pg.RefreshMatViewStmt:
		if e := a.target(s.GetRelation()); e.rel != nil {
			a.reach(access.Define, e.rel, true, true)
			a.ownCalls(e.rel.writeCalls)
			a.open(access.Read, e.rel)
		}
	case *pg.TruncateStmt:
		a.truncate(s)
	case *pg.DropStmt:
		a.drop(s)
		a.plan.changesCatalogue = true
	case *pg.GrantStmt, *pg.GrantRoleStmt, *pg.AlterDefaultPrivilegesStmt, *pg.CreateRoleStmt, *pg.AlterRoleStmt, *pg.AlterRoleSetStmt,
		*pg.DropRoleStmt, *pg.AlterOwnerStmt, *pg.ReassignOwnedStmt, *pg.DropOwnedStmt, *pg.CreatePolicyStmt, *pg.AlterPolicyStmt:
		a.database(access.Grant)
		a.relations(n, access.Grant, verb)
		a.plan.changesCatalogue = true
	case *pg.CreateStmt, *pg.AlterTableStmt, *pg.IndexStmt, *pg.RenameStmt, *pg.AlterObjectSchemaStmt, *pg.CommentStmt, *pg.CreateSeqStmt,
		*pg.AlterSeqStmt, *pg.CreateSchemaStmt, *pg.CreateEnumStmt, *pg.AlterEnumStmt, *pg.CompositeTypeStmt, *pg.CreateStatsStmt,
		*pg.ReindexStmt, *pg.VacuumStmt, *pg.ClusterStmt, *pg.CreateDomainStmt, *pg.AlterDomainStmt, *pg.CreateTrigStmt:
		a.database(access.Define)
		a.relations(n, access.Define, verb)
		a.plan.changesCatalogue = true
	case *pg.CreateFunctionStmt:
		a.createFunction(s)
	case *pg.RuleStmt:
		a.database(access.Define)
		a.mentions(n, verb)
		a.plan.changesCatalogue = true
	default:
		if !a.administers(n) && !a.definesObject(n) {
			a.database(access.Define)
			a.incomplete("%s is not looked into", verb)
			a.plan.mayDrift = true
		}
		a.markSeen(n)
		a.plan.changesCatalogue = true
	}
	return verb
}

// relations notes every relation that a definition names, known or about to be. One that changes a table with protected columns is a
// derived use of them all: under a new name, or in a copy of the definition, no mask would find them.
func (a *analysis) relations(n any, e access.Effect, verb string) {
	var walk func(n any)
	walk = func(n any) {
		switch s := n.(type) {
		case *pg.CreateStmt:
			a.made = s.GetRelation()
		case *pg.CreateSeqStmt:
			a.made = s.GetSequence()
		case *pg.RangeVar:
			a.defined(s, e, verb)
			return
		case *pg.SelectStmt:
			a.query(s, place{sc: &scope{entries: []*entry{{open: true}}}, how: "in " + verb}, false)
			return
		case *pg.ColumnRef: // of the table that is defined
			a.see(s)
		case *pg.FuncCall:
			a.function(s, place{sc: &scope{entries: []*entry{{open: true}}}, how: "in " + verb})
			return
		case *pg.SubLink, *pg.A_Indirection:
			a.see(s)
		case *pg.GrantStmt: // inside CREATE SCHEMA
			a.database(access.Grant)
			outer := e
			e = access.Grant
			defer func() { e = outer }()
		}
		children(n, walk)
	}
	walk(n)
	switch s := n.(type) {
	case *pg.AlterTableStmt:
		if givesRights(s) {
			a.database(access.Grant)
			a.defined(s.GetRelation(), access.Grant, verb)
		}
		for _, c := range s.GetCmds() {
			if s.GetObjtype() == pg.ObjectType_OBJECT_TYPE && c.GetAlterTableCmd().GetBehavior() == pg.DropBehavior_DROP_CASCADE {
				a.incomplete("what CASCADE takes along is not looked into")
			}
		}
		if r, ok := a.cat.lookup(s.GetRelation().GetSchemaname(), s.GetRelation().GetRelname(), a.path); ok {
			a.alters(s, r)
			a.cascades(s, r)
		}
	case *pg.CreateStmt:
		if s.GetPartbound() != nil {
			for _, p := range s.GetInhRelations() {
				if r, ok := a.cat.lookup(p.GetRangeVar().GetSchemaname(), p.GetRangeVar().GetRelname(), a.path); ok {
					a.linked(r)
				}
			}
		}
	case *pg.AlterDomainStmt:
		switch s.GetSubtype() {
		case "C", "V", "O": // a constraint that rows are held to
			a.incomplete("the tables that use the domain are not looked into")
		}
	case *pg.ReassignOwnedStmt, *pg.DropOwnedStmt:
		a.incomplete("what the role owns is not looked into")
	}
	for _, name := range a.objectNames(n) {
		if r := a.named(name); r != nil {
			a.definedRelation(r, e, verb)
		}
	}
}

// givesRights says that an ALTER TABLE changes who may see or do what.
func givesRights(s *pg.AlterTableStmt) bool {
	for _, c := range s.GetCmds() {
		switch c.GetAlterTableCmd().GetSubtype() {
		case pg.AlterTableType_AT_ChangeOwner, pg.AlterTableType_AT_EnableRowSecurity, pg.AlterTableType_AT_DisableRowSecurity,
			pg.AlterTableType_AT_ForceRowSecurity, pg.AlterTableType_AT_NoForceRowSecurity:
			return true
		}
	}
	return false
}

func (a *analysis) defined(rv *pg.RangeVar, e access.Effect, verb string) {
	a.see(rv)
	// A new table goes where the path says, whatever has its name further down the path.
	if r, ok := a.cat.lookup(rv.GetSchemaname(), rv.GetRelname(), a.path); ok && (rv != a.made || a.madeAs(rv) == r.relName.display()) {
		a.definedRelation(r, e, verb)
		return
	}
	if rv != a.made {
		if t := a.cat.tableOf(rv.GetSchemaname(), rv.GetRelname(), a.path); t != nil { // an index
			a.definedRelation(t, e, verb)
			return
		}
	}
	if name, ok := a.newName(rv, verb); ok {
		a.touch(e, access.KindTable, name)
	}
}

func (a *analysis) definedRelation(r *relation, e access.Effect, verb string) {
	switch verb {
	case "VACUUM", "ANALYZE", "REINDEX":
		if r.system() { // kept in order, not changed: vacuumdb names them one by one
			a.touch(e, access.KindTable, r.display()).all = true
			return
		}
	}
	a.reach(e, r, true, true)
	a.ownCalls(r.writeCalls) // an index that is made anew, rows that are checked or counted
	for _, p := range r.partitionsBeside() {
		a.reach(e, p, true, true)
	}
	switch verb {
	case "COMMENT", "REINDEX", "VACUUM", "ANALYZE", "GRANT", "REVOKE": // not CLUSTER: rows in the order of an index tell of its values
		return
	}
	for i := range r.columns {
		a.class(r, &r.columns[i], "in "+verb, false)
	}
}

// objectNames lists names that statements carry as lists of words and not as a RangeVar.
func (a *analysis) objectNames(n any) [][]string {
	var out [][]string
	switch s := n.(type) {
	case *pg.CommentStmt:
		if l := s.GetObject().GetList(); l != nil {
			words := stringsOf(l.GetItems())
			switch s.GetObjtype() {
			case pg.ObjectType_OBJECT_COLUMN, pg.ObjectType_OBJECT_TABCONSTRAINT, pg.ObjectType_OBJECT_RULE, pg.ObjectType_OBJECT_TRIGGER,
				pg.ObjectType_OBJECT_POLICY: // the last word is the thing's name, on the table before it
				words = words[:max(0, len(words)-1)]
			}
			out = append(out, words)
		}
	case *pg.RenameStmt:
		if s.GetRenameType() == pg.ObjectType_OBJECT_ATTRIBUTE && s.GetBehavior() == pg.DropBehavior_DROP_CASCADE {
			a.incomplete("what CASCADE takes along is not looked into")
		}
	case *pg.AlterSeqStmt:
		out = append(out, ownedBy(s.GetOptions())...)
	case *pg.CreateSeqStmt:
		out = append(out, ownedBy(s.GetOptions())...)
	}
	return out
}

func (a *analysis) named(parts []string) *relation {
	schema := ""
	if len(parts) > 1 {
		schema = parts[0]
		parts = parts[1:]
	}
	if len(parts) == 0 {
		return nil
	}
	r, _ := a.cat.lookup(schema, parts[0], a.path)
	return r
}

// cascades notes what goes, or loses a policy or a rule, along with a column or a constraint.
func (a *analysis) cascades(s *pg.AlterTableStmt, r *relation) {
	if !slices.ContainsFunc(s.GetCmds(), func(c *pg.Node) bool { return c.GetAlterTableCmd().GetBehavior() == pg.DropBehavior_DROP_CASCADE }) {
		return
	}
	up, below := r.family(true)
	gone := a.cat.withViews(append(append(up, below...), r))
	slices.SortFunc(gone, func(x, y *relation) int { return strings.Compare(x.display(), y.display()) })
	for _, g := range gone {
		a.reach(access.Define, g, true, true)
	}
}

func (a *analysis) truncate(s *pg.TruncateStmt) {
	a.noWhere = true
	done := map[*relation]bool{}
	var wipe func(r *relation, down bool)
	wipe = func(r *relation, down bool) {
		if done[r] {
			return
		}
		done[r] = true
		a.write(r, down, eventTruncate)
		if s.GetBehavior() == pg.DropBehavior_DROP_CASCADE {
			for _, ref := range r.references {
				wipe(ref.from, true)
			}
		}
	}
	for _, n := range s.GetRelations() {
		rv := n.GetRangeVar()
		if rv == nil {
			a.incomplete("TRUNCATE of a %s", kindOf(unwrap(n)))
			continue
		}
		if e := a.target(rv); e.rel != nil {
			wipe(e.rel, rv.GetInh())
		}
	}
}

func (a *analysis) drop(s *pg.DropStmt) {
	a.database(access.Define)
	var gone []*relation
	known := true // what goes along with CASCADE
	for _, o := range s.GetObjects() {
		parts := stringsOf(o.GetList().GetItems())
		switch kind := s.GetRemoveType(); kind {
		case pg.ObjectType_OBJECT_TABLE, pg.ObjectType_OBJECT_VIEW, pg.ObjectType_OBJECT_MATVIEW, pg.ObjectType_OBJECT_SEQUENCE,
			pg.ObjectType_OBJECT_FOREIGN_TABLE, pg.ObjectType_OBJECT_INDEX:
			r := a.named(parts)
			if r == nil && len(parts) > 0 {
				schema := ""
				if len(parts) > 1 {
					schema = parts[len(parts)-2]
				}
				r = a.cat.tableOf(schema, parts[len(parts)-1], a.path)
			}
			if r != nil {
				gone = append(gone, r)
				gone = append(gone, r.partitionsBeside()...)
			} else {
				a.touch(access.Define, access.KindTable, strings.Join(parts, "."))
			}
		case pg.ObjectType_OBJECT_TRIGGER, pg.ObjectType_OBJECT_RULE, pg.ObjectType_OBJECT_POLICY: // the last part is the name, on the table before it
			e := access.Define
			if kind == pg.ObjectType_OBJECT_POLICY {
				e = access.Grant
				a.database(e)
			}
			if r := a.named(parts[:max(0, len(parts)-1)]); r != nil {
				a.reach(e, r, true, true)
			} else {
				a.incomplete("the table of a dropped %s is not known", strings.ToLower(verbOf(s)[len("DROP "):]))
			}
		case pg.ObjectType_OBJECT_SCHEMA:
			for _, r := range a.cat.byOID {
				if r.schema == o.GetString_().GetSval() {
					gone = append(gone, r)
				}
			}
		case pg.ObjectType_OBJECT_FUNCTION, pg.ObjectType_OBJECT_PROCEDURE, pg.ObjectType_OBJECT_ROUTINE, pg.ObjectType_OBJECT_AGGREGATE:
			a.touch(access.Define, access.KindFunction, strings.Join(stringsOf(o.GetObjectWithArgs().GetObjname()), "."))
			known = false
		case pg.ObjectType_OBJECT_STATISTIC_EXT:
			if len(parts) > 0 {
				if r := a.cat.tableOf(strings.Join(parts[:len(parts)-1], "."), statisticsName+parts[len(parts)-1], a.path); r != nil {
					a.reach(access.Define, r, false, false)
				}
			}
			known = false
		default:
			known = false
		}
	}
	if s.GetBehavior() == pg.DropBehavior_DROP_CASCADE {
		if !known {
			a.incomplete("what CASCADE takes along is not looked into")
		}
		gone = a.cat.withViews(gone)
	}
	for _, r := range slices.Clone(gone) {
		if k := s.GetRemoveType(); k == pg.ObjectType_OBJECT_TABLE || k == pg.ObjectType_OBJECT_SCHEMA {
			a.linked(r)
		}
	}
	slices.SortFunc(gone, func(x, y *relation) int { return strings.Compare(x.display(), y.display()) })
	for _, r := range gone {
		a.reach(access.Define, r, true, true)
	}
}

// withViews adds the views that read any of the relations, at any depth, and what has a policy or a rule that names one.
func (c *catalogue) withViews(rels []*relation) []*relation {
	in := make(map[*relation]bool, len(rels))
	for _, r := range rels {
		in[r] = true
	}
	for more := true; more; {
		more = false
		for _, v := range c.byOID {
			if !in[v] && (slices.ContainsFunc(v.bases, func(b viewBase) bool { return in[b.rel] }) ||
				slices.ContainsFunc(v.policyReads, func(r *relation) bool { return in[r] }) ||
				slices.ContainsFunc(v.ruleTouches, func(r *relation) bool { return in[r] })) {
				in[v], more = true, true
				rels = append(rels, v)
			}
		}
	}
	return rels
}

// markSeen accounts for all of a statement that is refused or incomplete as a whole.
func (a *analysis) markSeen(n any) {
	a.see(n)
	children(n, a.markSeen)
}

// verbOf names a statement for people: the words of its node's name, in order.
func verbOf(n any) string {
	switch s := n.(type) {
	case nil:
		return "EMPTY"
	case *pg.CreateStmt:
		return "CREATE TABLE"
	case *pg.IndexStmt:
		return "CREATE INDEX"
	case *pg.ViewStmt:
		return "CREATE VIEW"
	case *pg.RuleStmt:
		return "CREATE RULE"
	case *pg.DropStmt:
		return "DROP " + strings.ReplaceAll(strings.TrimPrefix(s.GetRemoveType().String(), "OBJECT_"), "_", " ")
	case *pg.RenameStmt:
		return "ALTER " + strings.ReplaceAll(strings.TrimPrefix(s.GetRenameType().String(), "OBJECT_"), "_", " ") + " RENAME"
	case *pg.GrantStmt:
		if !s.GetIsGrant() {
			return "REVOKE"
		}
	case *pg.VacuumStmt:
		if !s.GetIsVacuumcmd() {
			return "ANALYZE"
		}
	case *pg.CreateTableAsStmt:
		if s.GetObjtype() == pg.ObjectType_OBJECT_MATVIEW {
			return "CREATE MATERIALIZED VIEW"
		}
		return "CREATE TABLE AS"
	}
	var b strings.Builder
	for i, r := range strings.TrimSuffix(kindOf(n), "Stmt") {
		if i > 0 && unicode.IsUpper(r) {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}

// madeAs is the name that a CREATE of rv gives, or nothing.
func (a *analysis) madeAs(rv *pg.RangeVar) string {
	schema := orElse(rv.GetSchemaname(), creation(a.path, a.st))
	if rv.GetRelpersistence() == "t" {
		schema = "pg_temp"
	}
	return relName{schema, rv.GetRelname()}.display()
}

// partitionsBeside lists the other partitions of what r is part of: the default one takes the rows that r no longer does.
func (r *relation) partitionsBeside() (out []*relation) {
	for _, p := range r.parents {
		if p.kind == 'p' {
			out = append(out, p.children...)
		}
	}
	return out
}

// alters notes the tables that an ALTER TABLE changes beside its own: those that foreign keys tie to it.
func (a *analysis) alters(s *pg.AlterTableStmt, r *relation) {
	for _, c := range s.GetCmds() {
		cmd := c.GetAlterTableCmd()
		switch cmd.GetSubtype() {
		case pg.AlterTableType_AT_DropConstraint, pg.AlterTableType_AT_AlterColumnType, pg.AlterTableType_AT_AttachPartition,
			pg.AlterTableType_AT_DetachPartition, pg.AlterTableType_AT_DropColumn, pg.AlterTableType_AT_AlterConstraint,
			pg.AlterTableType_AT_ValidateConstraint, pg.AlterTableType_AT_SetLogged, pg.AlterTableType_AT_SetUnLogged:
			a.linked(r)
		}
	}
}

// linked notes the tables that foreign keys tie to r or to what it is part of: their definitions change with its own.
func (a *analysis) linked(r *relation) {
	up, below := r.family(true)
	for _, m := range append(append(up, below...), r) {
		for _, ref := range m.references {
			a.reach(access.Define, ref.from, true, false)
		}
		for _, to := range m.refersTo {
			a.reach(access.Define, to, true, false)
		}
	}
}

// ownedBy lists the tables that a sequence is to belong to a column of.
func ownedBy(options []*pg.Node) (out [][]string) {
	for _, o := range options {
		if d := o.GetDefElem(); d.GetDefname() == "owned_by" {
			if words := stringsOf(d.GetArg().GetList().GetItems()); len(words) > 1 {
				out = append(out, words[:len(words)-1])
			}
		}
	}
	return out
}
