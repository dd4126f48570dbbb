package postgres

import (
	"cmp"
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/sallyport/sallyport/internal/access"
)

// maxRelied bounds the relations of one command that the guard looks at: a table of a thousand partitions would make it dearer than the
// command. What is beyond is seen when the whole catalogue is looked at.
const maxRelied = 128

// reliance is what a command's facts rest on, as far as other sessions may change it: see guard. It is nil where there is nothing of the kind.
type reliance struct {
	relations []uint32 // with what comes with them: views' tables, partitions, what triggers and keys lead to
	names     []string // of relations, as the server's regclass reads them
	means     []uint32 // what each name meant
	functions []string // names, whatever their schema: one that comes into being may be what a call means
	writes    bool     // what runs by itself when rows change counts too
	// The sums of the stamps of all these: see stamps.
	relation, function, own int64
	// locks are texts whose Parse takes, and keeps until the end of the transaction, locks on what the command names.
	locks []string
	// apart says that the server lets nothing go before the command in one transaction, or that it ends the one that it begins in.
	apart bool
}

// stamps are digests of definitions, which the server computes by the same expressions when the catalogue is loaded and when it runs the guard.
type stamps struct {
	relations map[uint32]stamp
	functions map[string]int64
	own       int64 // operators, casts and checks of domains
}

type stamp struct{ read, write int64 }

// Any change of a definition writes its row anew, and so gives it another xmin. What pg_class has beside definitions changes too often for
// that (TRUNCATE, statistics, indexes): there the columns count that mean something.
const (
	stampRow  = `pg_catalog.sum(pg_catalog.hashint8extended(x.xmin::text::bigint, x.oid::bigint) >> 20)`
	stampRead = `(pg_catalog.hash_record_extended(ROW(c.relname, c.relnamespace, c.relkind, c.relowner, c.relrowsecurity, c.relforcerowsecurity, c.relispartition), c.oid::bigint) >> 20)
+ coalesce((SELECT pg_catalog.sum(pg_catalog.hashint8extended(x.xmin::text::bigint, x.attnum::bigint) >> 20) FROM pg_catalog.pg_attribute x WHERE x.attrelid = c.oid AND x.attnum > 0), 0)
+ CASE WHEN c.relhasrules THEN coalesce((SELECT ` + stampRow + ` FROM pg_catalog.pg_rewrite x WHERE x.ev_class = c.oid), 0) ELSE 0 END
+ CASE WHEN c.relrowsecurity THEN coalesce((SELECT ` + stampRow + ` FROM pg_catalog.pg_policy x WHERE x.polrelid = c.oid), 0) ELSE 0 END
+ CASE WHEN c.relhassubclass THEN coalesce((SELECT pg_catalog.sum(pg_catalog.hashint8extended(x.xmin::text::bigint, x.inhrelid::bigint) >> 20) FROM pg_catalog.pg_inherits x WHERE x.inhparent = c.oid), 0) ELSE 0 END`
	stampWrite = `CASE WHEN c.relhastriggers THEN coalesce((SELECT ` + stampRow + ` FROM pg_catalog.pg_trigger x WHERE x.tgrelid = c.oid), 0) ELSE 0 END
+ coalesce((SELECT ` + stampRow + ` FROM pg_catalog.pg_attrdef x WHERE x.adrelid = c.oid), 0)
+ CASE WHEN c.relchecks > 0 THEN coalesce((SELECT ` + stampRow + ` FROM pg_catalog.pg_constraint x WHERE x.conrelid = c.oid AND x.contype = 'c'), 0) ELSE 0 END
+ CASE WHEN c.relhasindex THEN coalesce((SELECT pg_catalog.sum(pg_catalog.hashint8extended(x.xmin::text::bigint, x.indexrelid::bigint) >> 20) FROM pg_catalog.pg_index x
WHERE x.indrelid = c.oid AND (x.indexprs IS NOT NULL OR x.indpred IS NOT NULL)), 0) ELSE 0 END`
	stampOwn = `coalesce((SELECT ` + stampRow + ` FROM pg_catalog.pg_operator x WHERE x.oid >= 16384), 0)
+ coalesce((SELECT ` + stampRow + ` FROM pg_catalog.pg_cast x WHERE x.oid >= 16384), 0)
+ coalesce((SELECT ` + stampRow + ` FROM pg_catalog.pg_constraint x WHERE x.contypid >= 16384), 0)`

	sqlStamps = `SELECT c.oid, (` + stampRead + `)::bigint, (` + stampWrite + `)::bigint FROM pg_catalog.pg_class c
WHERE c.oid >= 16384 AND c.relkind IN ('r','p','v','m','f') AND c.relpersistence <> 't'`
	sqlFunctionStamps = `SELECT x.proname, (` + stampRow + `)::bigint FROM pg_catalog.pg_proc x GROUP BY x.proname`
	sqlOwnStamp       = `SELECT (` + stampOwn + `)::bigint`
)

// stamps are taken before everything else: what changes while the rest is read shows as a difference.
func (l *loader) stamps() {
	s := &stamps{relations: map[uint32]stamp{}, functions: map[string]int64{}}
	l.each(sqlStamps, 3, func(r []string) {
		s.relations[uint32(l.number(r[0], 32))] = stamp{l.signed(r[1]), l.signed(r[2])}
	})
	l.each(sqlFunctionStamps, 2, func(r []string) { s.functions[r[0]] = l.signed(r[1]) })
	l.each(sqlOwnStamp, 1, func(r []string) { s.own = l.signed(r[0]) })
	l.cat.stamps = s
}

// relied gathers what an analysis rests on.
type relied struct {
	path, role string // of the session: what is written in a function may be resolved otherwise
	names      []string
	means      []uint32
	functions  []string
	roots      []*relation
}

// meant notes what a name in the text meant.
func (a *analysis) meant(rv *pg.RangeVar, r *relation) {
	if r.schema == "pg_temp" || r.system() && (rv.GetSchemaname() != "" || len(a.path) > 0 && a.path[0] == "pg_catalog") {
		return // nobody else can change what that means
	}
	if !slices.Contains(a.relied.roots, r) {
		a.relied.roots = append(a.relied.roots, r)
	}
	if a.st.searchPath != a.relied.path || a.st.role != a.relied.role {
		return
	}
	name := quoted(rv.GetRelname())
	if s := rv.GetSchemaname(); s != "" {
		name = quoted(s) + "." + name
	}
	if !slices.Contains(a.relied.names, name) {
		a.relied.names, a.relied.means = append(a.relied.names, name), append(a.relied.means, r.oid)
	}
}

// looked notes that a function's name was looked up.
func (a *analysis) looked(name string) {
	if len(a.relied.functions) < maxRelied {
		a.relied.functions = appendNew(a.relied.functions, name)
	}
}

// reservedName refuses names of the room's own statements, which others must neither make nor do away with.
func (a *analysis) reservedName(name string) {
	if strings.HasPrefix(name, own) {
		a.refuse("postgres.reserved-name", "names of prepared statements that begin with "+own+" are the gate's own")
	}
}

// reliance is what the analysis rests on. statements are the texts of the message's statements.
func (a *analysis) reliance(statements []string) *reliance {
	if a.cat.stamps == nil {
		return nil
	}
	r := &reliance{names: a.relied.names, means: a.relied.means, functions: a.relied.functions, own: a.cat.stamps.own}
	for _, t := range a.order {
		r.writes = r.writes || t.kind == access.KindTable && t.effect != access.Read
	}
	for _, rel := range a.closure(r.writes) {
		s, ok := a.cat.stamps.relations[rel.oid]
		if !ok {
			continue
		}
		r.relations = append(r.relations, rel.oid)
		r.relation += s.read
		if r.writes {
			r.relation += s.write
		}
	}
	for _, f := range r.functions {
		r.function += a.cat.stamps.functions[f]
	}
	if len(r.relations)+len(r.names)+len(r.functions) == 0 {
		return nil
	}
	a.locked(r, statements)
	return r
}

// closure lists the relations that were reached, and those that they lead to.
func (a *analysis) closure(writes bool) []*relation {
	var all []*relation
	in := map[*relation]bool{}
	add := func(r *relation) {
		if r != nil && !in[r] && !r.system() && r.schema != "" && r.schema != "pg_temp" && len(all) < maxRelied {
			in[r] = true
			all = append(all, r)
		}
	}
	for _, r := range a.relied.roots {
		add(r)
	}
	reached := make([]*relation, 0, len(a.reached))
	for k := range a.reached {
		reached = append(reached, k.rel)
	}
	slices.SortFunc(reached, func(x, y *relation) int { return cmp.Compare(x.oid, y.oid) })
	for _, r := range reached {
		add(r)
	}
	for i := 0; i < len(all); i++ {
		r := all[i]
		for _, b := range r.bases {
			add(b.rel)
		}
		for _, next := range [][]*relation{r.parents, r.policyReads} {
			for _, o := range next {
				add(o)
			}
		}
		if !writes {
			continue
		}
		for _, next := range [][]*relation{r.ruleTouches, r.children} {
			for _, o := range next {
				add(o)
			}
		}
		for _, ref := range r.references {
			if ref.onDelete != 'a' && ref.onDelete != 'r' || ref.onUpdate != 'a' && ref.onUpdate != 'r' {
				add(ref.from)
			}
		}
	}
	return all
}

// locked says how what the command names is locked before the guard looks: by parsing, which is all that happens to these texts.
func (a *analysis) locked(r *reliance, statements []string) {
	if len(statements) != len(a.verbs) {
		return
	}
	for i, text := range statements {
		verb, _, _ := strings.Cut(a.verbs[i], " ")
		switch verb {
		case "SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "EXPLAIN", "DECLARE", "VALUES", "TABLE":
			if !a.plan.changesCatalogue && !a.plan.moves {
				r.locks = append(r.locks, text)
			}
		case "COPY", "EXECUTE":
			r.locks = append(r.locks, a.lockTexts(r.writes)...)
		case "FETCH", "MOVE", "PREPARE", "TRUNCATE", "LOCK":
		case "BEGIN", "SET": // what follows may say how the transaction is isolated, which must come before any question
			r.apart = r.apart || len(statements) > 1
		case "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "SHOW", "CLOSE", "DEALLOCATE":
		default:
			r.apart = true
		}
	}
	if r.apart {
		r.locks = nil
	}
}

// lockTexts are statements that name what the command names, and nothing more.
func (a *analysis) lockTexts(writes bool) (texts []string) {
	for _, r := range a.relied.roots {
		name := quoted(r.schema) + "." + quoted(r.name)
		if writes && (r.kind == 'r' || r.kind == 'p') {
			texts = append(texts, "INSERT INTO "+name+" DEFAULT VALUES")
			continue
		}
		texts = append(texts, "SELECT FROM ONLY "+name)
	}
	return texts
}
