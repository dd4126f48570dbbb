package postgres

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/sallyport/sallyport/internal/access"
)

// administers notes the effects of a statement that concerns the server, other databases or other servers, and says whether it was one.
// None of them is plain define: a policy that lets people change tables does not let them do this.
func (a *analysis) administers(n any) bool {
	host := func(e access.Effect, name string) bool {
		a.touch(e, access.KindHost, name)
		return true
	}
	switch s := n.(type) {
	case *pg.AlterSystemStmt:
		return host(access.Grant, "configuration")
	case *pg.LoadStmt:
		return host(access.Transfer, "program")
	case *pg.CheckPointStmt:
		return host(access.Define, "configuration")
	case *pg.CreateExtensionStmt:
		return a.extension(s.GetExtname())
	case *pg.AlterExtensionStmt:
		return a.extension(s.GetExtname())
	case *pg.AlterExtensionContentsStmt:
		return a.extension(s.GetExtname())
	case *pg.CreatedbStmt:
		a.touch(access.Define, access.KindDatabase, s.GetDbname())
	case *pg.DropdbStmt:
		a.touch(access.Define, access.KindDatabase, s.GetDbname())
	case *pg.AlterDatabaseStmt:
		a.touch(access.Define, access.KindDatabase, s.GetDbname())
	case *pg.AlterDatabaseRefreshCollStmt:
		a.touch(access.Define, access.KindDatabase, s.GetDbname())
	case *pg.AlterDatabaseSetStmt: // what sessions of others begin with
		a.touch(access.Grant, access.KindDatabase, s.GetDbname())
	case *pg.CreateTableSpaceStmt, *pg.DropTableSpaceStmt, *pg.AlterTableSpaceOptionsStmt:
		return host(access.Transfer, "files")
	case *pg.CreateFdwStmt, *pg.AlterFdwStmt, *pg.CreateForeignServerStmt, *pg.AlterForeignServerStmt, *pg.CreateUserMappingStmt,
		*pg.AlterUserMappingStmt, *pg.DropUserMappingStmt, *pg.ImportForeignSchemaStmt:
		a.database(access.Define)
		return host(access.Forward, "foreign-servers")
	case *pg.CreateForeignTableStmt:
		a.database(access.Define)
		a.relations(s.GetBaseStmt(), access.Define, verbOf(n))
		return host(access.Forward, "foreign-server:"+s.GetServername())
	case *pg.CreateSubscriptionStmt, *pg.AlterSubscriptionStmt, *pg.DropSubscriptionStmt:
		return host(access.Forward, "subscriptions")
	case *pg.CreatePublicationStmt, *pg.AlterPublicationStmt:
		a.database(access.Grant)
		a.mentions(n, verbOf(n))
		if alter, ok := n.(*pg.AlterPublicationStmt); ok && alter.GetAction() == pg.AlterPublicationAction_AP_SetObjects {
			for _, r := range a.cat.published[alter.GetPubname()] {
				a.reach(access.Define, r, true, false)
			}
		}
	case *pg.CreateEventTrigStmt, *pg.AlterEventTrigStmt, *pg.SecLabelStmt:
		a.database(access.Grant)
	case *pg.CreatePLangStmt:
		a.database(access.Grant)
		return host(access.Transfer, "program")
	default:
		return false
	}
	return true
}

// extension notes what a known extension brings with it: creating one installs code that others wrote, with the rights of the server.
func (a *analysis) extension(name string) bool {
	a.database(access.Define)
	a.touch(access.Grant, access.KindHost, "extension:"+name)
	switch e := extensionReach(name); e {
	case "":
	case access.Forward:
		a.touch(e, access.KindHost, "foreign-servers")
	default:
		a.touch(e, access.KindHost, "files")
	}
	return true
}

// extensionReach is what functions of an extension reach beyond the database. Languages that are not trusted run programs.
func extensionReach(name string) access.Effect {
	switch name {
	case "dblink", "postgres_fdw", "mysql_fdw", "oracle_fdw", "tds_fdw", "http", "pg_net", "aws_lambda", "pg_cron", "plproxy":
		return access.Forward
	case "file_fdw", "adminpack", "pageinspect", "pg_surgery", "pg_walinspect", "aws_s3", "lo", "plperlu", "plsh", "pltclu", "plr", "pljavau":
		return access.Transfer
	}
	if strings.HasPrefix(name, "plpython") {
		return access.Transfer
	}
	return ""
}

// definesObject notes the definition of something that is neither relation nor function, and says whether it was one.
func (a *analysis) definesObject(n any) bool {
	switch n.(type) {
	case *pg.DefineStmt, *pg.CreateCastStmt, *pg.CreateOpClassStmt, *pg.CreateOpFamilyStmt, *pg.AlterOpFamilyStmt, *pg.CreateRangeStmt,
		*pg.CreateConversionStmt, *pg.CreateTransformStmt, *pg.AlterOperatorStmt, *pg.AlterTypeStmt, *pg.AlterTSDictionaryStmt,
		*pg.AlterTSConfigurationStmt, *pg.AlterCollationStmt, *pg.AlterFunctionStmt, *pg.AlterStatsStmt, *pg.CreateAmStmt,
		*pg.AlterObjectDependsStmt:
		a.database(access.Define)
		return true
	}
	return false
}

// createFunction notes the definition of a function. What it will do is decided when it is called, as far as that can be seen; what can
// not be seen could read every protected column.
func (a *analysis) createFunction(s *pg.CreateFunctionStmt) {
	a.bodyOf(s)
	a.markSeen(s)
	a.touch(access.Define, access.KindFunction, strings.Join(stringsOf(s.GetFuncname()), "."))
	a.database(access.Define)
	a.plan.changesCatalogue = true
	language := "sql"
	for _, o := range s.GetOptions() {
		switch d := o.GetDefElem(); d.GetDefname() {
		case "language":
			language = strings.ToLower(d.GetArg().GetString_().GetSval())
		case "security":
			if isOn(d.GetArg()) {
				a.database(access.Grant) // whoever calls it has its owner's rights
			}
		}
	}
	switch language {
	case "sql", "internal":
	case "plpgsql", "plperl", "pltcl", "plv8", "plrust":
		a.protectedAtLarge("in the body of a function")
	default: // C, and languages that are not trusted
		a.touch(access.Transfer, access.KindHost, "program")
		a.protectedAtLarge("in the body of a function")
	}
}

// bodyOf notes what the body of a function in SQL names, as read: the server looks at it now, and whoever may call it reaches it later.
func (a *analysis) bodyOf(s *pg.CreateFunctionStmt) {
	why, limit, noWhere, dry := a.why, a.limit, a.noWhere, a.dry
	a.dry = true
	text, language := "", "sql"
	for _, o := range s.GetOptions() {
		switch d := o.GetDefElem(); d.GetDefname() {
		case "as":
			if l := d.GetArg().GetList().GetItems(); len(l) == 1 {
				text = l[0].GetString_().GetSval()
			}
		case "language":
			language = strings.ToLower(d.GetArg().GetString_().GetSval())
		}
	}
	f := &routine{relName: relName{"", "it"}}
	if names := stringsOf(s.GetFuncname()); len(names) > 0 {
		f.name = names[len(names)-1]
	}
	switch {
	case s.GetSqlBody() != nil:
		a.inSyntax(s.GetSqlBody(), f)
	case language == "sql" && len(text) <= maxBody:
		if tree, err := a.cat.parse(text); err == nil {
			for _, st := range tree.GetStmts() {
				a.inBody(st, f)
			}
		}
	}
	a.why, a.limit, a.noWhere, a.dry = why, limit, noWhere, dry
}

// inSyntax walks a body that is part of the statement itself.
func (a *analysis) inSyntax(n *pg.Node, f *routine) {
	if l := n.GetList(); l != nil {
		for _, i := range l.GetItems() {
			a.inSyntax(i, f)
		}
		return
	}
	a.inBody(&pg.RawStmt{Stmt: n}, f)
}

// mentions notes every relation that a definition names, without looking into what is done with it.
func (a *analysis) mentions(n any, verb string) {
	a.see(n)
	if rv, ok := n.(*pg.RangeVar); ok {
		if r, ok := a.cat.lookup(rv.GetSchemaname(), rv.GetRelname(), a.path); ok {
			a.definedRelation(r, access.Define, verb)
		}
		return
	}
	children(n, func(c any) { a.mentions(c, verb) })
}
