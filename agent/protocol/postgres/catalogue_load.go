package postgres

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/internal/access"
)

// maxCatalogueRows bounds each answer of a load: a database with more columns than this (100 times a large schema) is refused.
const maxCatalogueRows = 2_000_000

// The queries name every object with its schema, so no search path can lead them astray. Relations of other sessions'
// temporary schemas and TOAST tables are not loaded: what names them is unknown.
const (
	sqlSchemas = `SELECT CASE oid WHEN pg_catalog.pg_my_temp_schema() THEN 'pg_temp' ELSE nspname END,
pg_catalog.has_schema_privilege(oid, 'USAGE')::text FROM pg_catalog.pg_namespace
WHERE nspname !~ '^pg_(temp|toast)' OR oid = pg_catalog.pg_my_temp_schema()`
	sqlRelations = `SELECT c.oid, CASE n.oid WHEN pg_catalog.pg_my_temp_schema() THEN 'pg_temp' ELSE n.nspname END, c.relname, c.relkind, coalesce(s.srvname, '') FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_foreign_table f ON f.ftrelid = c.oid LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver
WHERE c.relkind IN ('r','p','v','m','f','S') AND (n.nspname !~ '^pg_(temp|toast)' OR n.oid = pg_catalog.pg_my_temp_schema())`
	// A type that did not come with the server is named with its schema, a domain as what it is of: a mask need not be one of its values.
	sqlColumns = `SELECT a.attrelid, a.attnum, a.attname, CASE WHEN t.typtype <> 'd' AND (t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace OR a.atttypmod >= 0)
THEN pg_catalog.format_type(a.atttypid, a.atttypmod) WHEN t.typtype <> 'd' THEN pg_catalog.format('%I.%I', n.nspname, t.typname)
WHEN b.typtype <> 'd' AND b.typnamespace = 'pg_catalog'::pg_catalog.regnamespace THEN pg_catalog.format_type(b.oid, t.typtypmod) ELSE '' END, t.typcategory, (a.attgenerated <> '')::text
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_catalog.pg_type b ON b.oid = t.typbasetype
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r','p','v','m','f','S') ORDER BY a.attrelid, a.attnum`
	// Any change of a definition writes a row anew, and so moves the sum or the count: by the transaction's number, within one by the command's, which weighs less than one of the former. Other sessions' temporary tables, which come and go all
	// the time, are not in the snapshot.
	sqlMark = `WITH others AS MATERIALIZED (SELECT oid FROM pg_catalog.pg_class WHERE relpersistence = 't' AND relnamespace <> pg_catalog.pg_my_temp_schema())
SELECT 'c', pg_catalog.count(*), coalesce(pg_catalog.sum(xmin::text::bigint * 1000003 + cmin::text::bigint), 0) FROM pg_catalog.pg_class WHERE oid NOT IN (SELECT oid FROM others)
UNION ALL SELECT 'a', pg_catalog.count(*), coalesce(pg_catalog.sum(xmin::text::bigint * 1000003 + cmin::text::bigint), 0) FROM pg_catalog.pg_attribute WHERE attrelid NOT IN (SELECT oid FROM others)
UNION ALL SELECT 'd', pg_catalog.count(*), coalesce(pg_catalog.sum(xmin::text::bigint * 1000003 + cmin::text::bigint), 0) FROM pg_catalog.pg_attrdef WHERE adrelid NOT IN (SELECT oid FROM others)
UNION ALL SELECT 'r', pg_catalog.count(*), coalesce(pg_catalog.sum(xmin::text::bigint * 1000003 + cmin::text::bigint), 0) FROM pg_catalog.pg_rewrite WHERE ev_class NOT IN (SELECT oid FROM others)
UNION ALL SELECT 'p', pg_catalog.count(*), coalesce(pg_catalog.sum(xmin::text::bigint * 1000003 + cmin::text::bigint), 0) FROM pg_catalog.pg_proc
UNION ALL SELECT 't', pg_catalog.count(*), coalesce(pg_catalog.sum(xmin::text::bigint * 1000003 + cmin::text::bigint), 0) FROM pg_catalog.pg_trigger WHERE tgrelid NOT IN (SELECT oid FROM others)
UNION ALL SELECT 'f', pg_catalog.count(*), coalesce(pg_catalog.sum(xmin::text::bigint * 1000003 + cmin::text::bigint), 0) FROM pg_catalog.pg_constraint WHERE conrelid NOT IN (SELECT oid FROM others)
UNION ALL SELECT 'i', pg_catalog.count(*), coalesce(pg_catalog.sum(xmin::text::bigint * 1000003 + cmin::text::bigint), 0) FROM pg_catalog.pg_inherits WHERE inhrelid NOT IN (SELECT oid FROM others)
UNION ALL SELECT 'o', pg_catalog.count(*), coalesce(pg_catalog.sum(xmin::text::bigint * 1000003 + cmin::text::bigint), 0) FROM pg_catalog.pg_operator
UNION ALL SELECT 'x', pg_catalog.count(*), coalesce(pg_catalog.sum(xmin::text::bigint * 1000003 + cmin::text::bigint), 0) FROM pg_catalog.pg_cast
UNION ALL SELECT 'n', pg_catalog.count(*), coalesce(pg_catalog.sum(xmin::text::bigint * 1000003 + cmin::text::bigint), 0) FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'
UNION ALL SELECT 'y', pg_catalog.count(*), coalesce(pg_catalog.sum(xmin::text::bigint * 1000003 + cmin::text::bigint), 0) FROM pg_catalog.pg_policy
UNION ALL SELECT 'e', pg_catalog.count(*), coalesce(pg_catalog.sum(xmin::text::bigint * 1000003 + cmin::text::bigint), 0) FROM pg_catalog.pg_event_trigger
UNION ALL SELECT 'q', pg_catalog.count(*), coalesce(pg_catalog.sum(xmin::text::bigint * 1000003 + cmin::text::bigint), 0) FROM pg_catalog.pg_statistic_ext
UNION ALL SELECT 'b', pg_catalog.count(*), coalesce(pg_catalog.sum(xmin::text::bigint * 1000003 + cmin::text::bigint), 0) FROM pg_catalog.pg_publication_rel
UNION ALL SELECT 's', 0, pg_catalog.pg_my_temp_schema()::bigint`
	sqlIndexes = `SELECT i.indrelid, CASE n.oid WHEN pg_catalog.pg_my_temp_schema() THEN 'pg_temp' ELSE n.nspname END, c.relname, i.indkey::text
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE i.indexrelid >= 16384 AND (n.nspname !~ '^pg_(temp|toast)' OR n.oid = pg_catalog.pg_my_temp_schema())
UNION ALL SELECT s.stxrelid, n.nspname, E'\x01' || s.stxname, '' FROM pg_catalog.pg_statistic_ext s JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace`
	// The columns behind unique indexes and exclusions, in expressions and conditions too.
	sqlUnique = `SELECT i.indrelid, k FROM pg_catalog.pg_index i, pg_catalog.unnest(i.indkey::smallint[]) k WHERE (i.indisunique OR i.indisexclusion) AND i.indrelid >= 16384 AND k > 0
UNION SELECT i.indrelid, d.refobjsubid FROM pg_catalog.pg_index i JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
AND d.objid = i.indexrelid AND d.refclassid = d.classid AND d.refobjid = i.indrelid AND d.refobjsubid > 0
WHERE (i.indisunique OR i.indisexclusion) AND i.indrelid >= 16384`
	// Values that rows written before a column was added have in it.
	sqlMissing  = `SELECT attrelid, attnum FROM pg_catalog.pg_attribute WHERE atthasmissing AND attnum > 0`
	sqlInherits = `SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits`
	// A column whose default names another of its own table is a generated one. Before version 15 the column itself depends on it.
	sqlGenerated = `SELECT a.adrelid, a.adnum, d.refobjsubid FROM pg_catalog.pg_attrdef a
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = a.oid
AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = a.adrelid
WHERE d.refobjsubid > 0 AND d.refobjsubid <> a.adnum
UNION SELECT objid, objsubid, refobjsubid FROM pg_catalog.pg_depend WHERE classid = 'pg_catalog.pg_class'::pg_catalog.regclass
AND refclassid = classid AND refobjid = objid AND objsubid > 0 AND refobjsubid > 0`
	// The text of a rule names every relation that its query reads, at any depth, as ":relid OID"; pg_depend leaves out those
	// that came with the server. A whole-row variable, which pg_depend does not tell from none, is attribute 0.
	sqlViewReads = `SELECT DISTINCT r.ev_class, m[1], (r.ev_action::text LIKE '%:varattno 0 %')::text
FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
LATERAL pg_catalog.regexp_matches(r.ev_action::text, ':relid ([0-9]+)', 'g') m
WHERE r.ev_type = '1' AND n.nspname NOT IN ('pg_catalog', 'information_schema')`
	sqlViewColumns = `SELECT DISTINCT r.ev_class, d.refobjid, d.refobjsubid FROM pg_catalog.pg_rewrite r
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid
AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
WHERE r.ev_type = '1' AND d.refobjsubid > 0 AND d.refobjid <> r.ev_class`
	sqlViewCalls = `SELECT DISTINCT r.ev_class, pn.nspname, p.proname FROM pg_catalog.pg_rewrite r
JOIN pg_catalog.pg_class c ON c.oid = r.ev_class JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
LATERAL pg_catalog.regexp_matches(r.ev_action::text, ':(funcid|opfuncid|aggfnoid|winfnoid) ([0-9]+)', 'g') m
JOIN pg_catalog.pg_proc p ON p.oid = m[2]::pg_catalog.oid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.pronamespace
WHERE r.ev_type = '1' AND n.nspname NOT IN ('pg_catalog', 'information_schema')`
	sqlRules = `SELECT DISTINCT r.ev_class, m[1] FROM pg_catalog.pg_rewrite r,
LATERAL pg_catalog.regexp_matches(r.ev_action::text || coalesce(r.ev_qual::text, ''), ':relid ([0-9]+)', 'g') m
WHERE r.ev_type <> '1' AND r.ev_enabled <> 'D' AND r.ev_class >= 16384
UNION SELECT ev_class, '0' FROM pg_catalog.pg_rewrite WHERE ev_type <> '1' AND ev_enabled <> 'D' AND ev_class >= 16384`
	sqlRuleCalls = `SELECT DISTINCT r.ev_class, pn.nspname, p.proname FROM pg_catalog.pg_rewrite r,
LATERAL pg_catalog.regexp_matches(r.ev_action::text || coalesce(r.ev_qual::text, ''), ':(funcid|opfuncid|aggfnoid|winfnoid) ([0-9]+)', 'g') m
JOIN pg_catalog.pg_proc p ON p.oid = m[2]::pg_catalog.oid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.pronamespace
WHERE r.ev_type <> '1' AND r.ev_enabled <> 'D' AND r.ev_class >= 16384`
	// The second part adds what a trigger's WHEN calls.
	sqlTriggers = `SELECT t.tgrelid, n.nspname, p.proname, t.tgtype FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'
UNION SELECT t.tgrelid, n.nspname, p.proname, t.tgtype FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass AND d.objid = t.oid
AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
JOIN pg_catalog.pg_proc p ON p.oid = d.refobjid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'`
	// What the server calls by itself: defaults, checks (of the columns' domains too), expressions of indexes when it writes; policies
	// whenever it looks at rows.
	sqlOwnCalls = `WITH w(classid, objid, relid, reads) AS (
SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, oid, adrelid, false FROM pg_catalog.pg_attrdef
UNION ALL SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, oid, conrelid, false FROM pg_catalog.pg_constraint WHERE contype = 'c' AND conrelid <> 0
UNION ALL SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, c.oid, a.attrelid, false FROM pg_catalog.pg_constraint c
JOIN pg_catalog.pg_attribute a ON a.atttypid = c.contypid WHERE c.contypid <> 0
UNION ALL SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, indexrelid, indrelid, false FROM pg_catalog.pg_index WHERE indrelid >= 16384
UNION ALL SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, partrelid, partrelid, false FROM pg_catalog.pg_partitioned_table
UNION ALL SELECT 'pg_catalog.pg_policy'::pg_catalog.regclass, oid, polrelid, true FROM pg_catalog.pg_policy)
SELECT DISTINCT w.relid, n.nspname, p.proname, w.reads::text FROM w
JOIN pg_catalog.pg_depend d ON d.classid = w.classid AND d.objid = w.objid AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
JOIN pg_catalog.pg_proc p ON p.oid = d.refobjid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace`
	sqlPolicyReads = `SELECT DISTINCT polrelid, m[1] FROM pg_catalog.pg_policy,
LATERAL pg_catalog.regexp_matches(coalesce(polqual::text, '') || coalesce(polwithcheck::text, ''), ':relid ([0-9]+)', 'g') m`
	sqlReferences = `SELECT confrelid, conrelid, confdeltype, confupdtype FROM pg_catalog.pg_constraint WHERE contype = 'f'`
	// Functions that did not come with the server. The body is read for what is written in SQL: its statements are resolved like the
	// client's. A search path that the function sets for itself begins with '='. The server locks what a body of its own (BEGIN ATOMIC) names
	// before it shows the body: where somebody else has locked that away, nobody waits for them, and the body stays unread, which is opaque.
	sqlFunctions = `SELECT CASE n.oid WHEN pg_catalog.pg_my_temp_schema() THEN 'pg_temp' ELSE n.nspname END, p.proname, l.lanname,
CASE WHEN l.lanname = 'sql' AND p.pronamespace <> 'information_schema'::pg_catalog.regnamespace
THEN CASE WHEN p.prosqlbody IS NULL THEN p.prosrc WHEN NOT x.away THEN pg_catalog.pg_get_function_sqlbody(p.oid) ELSE '' END ELSE '' END,
coalesce((SELECT '=' || pg_catalog.substr(c, 13) FROM pg_catalog.unnest(p.proconfig) c WHERE c LIKE 'search_path=%'), ''),
CASE WHEN p.prosecdef THEN pg_catalog.pg_get_userbyid(p.proowner)::text ELSE '' END, coalesce(x.away, false)::text
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace JOIN pg_catalog.pg_language l ON l.oid = p.prolang
LEFT JOIN LATERAL (SELECT EXISTS (SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_locks k ON k.relation = d.refobjid AND k.locktype = 'relation'
AND k.mode = 'AccessExclusiveLock' AND k.granted AND k.pid <> pg_catalog.pg_backend_pid() WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
AND d.objid = p.oid AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass) AS away WHERE p.prosqlbody IS NOT NULL) x ON true
WHERE p.oid >= 16384 OR n.nspname <> 'pg_catalog'`
	sqlBuiltin   = `SELECT DISTINCT proname FROM pg_catalog.pg_proc WHERE oid < 16384`
	sqlOperators = `SELECT o.oprname, n.nspname, pn.nspname, p.proname FROM pg_catalog.pg_operator o
JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
JOIN pg_catalog.pg_namespace pn ON pn.oid = p.pronamespace
WHERE o.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_operator'::pg_catalog.regclass
AND d.objid = o.oid AND d.deptype = 'e')`
	sqlCasts = `SELECT t.typname, pn.nspname, p.proname FROM pg_catalog.pg_cast c JOIN pg_catalog.pg_type t ON t.oid = c.casttarget
JOIN pg_catalog.pg_proc p ON p.oid = c.castfunc JOIN pg_catalog.pg_namespace pn ON pn.oid = p.pronamespace
WHERE c.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_cast'::pg_catalog.regclass
AND d.objid = c.oid AND d.deptype = 'e')
UNION SELECT t.typname, pn.nspname, p.proname FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_type t ON t.oid = c.contypid
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND d.objid = c.oid
AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
JOIN pg_catalog.pg_proc p ON p.oid = d.refobjid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.pronamespace`
	sqlPublications  = `SELECT p.pubname, r.prrelid FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid`
	sqlEventTriggers = `SELECT DISTINCT n.nspname, p.proname FROM pg_catalog.pg_event_trigger e JOIN pg_catalog.pg_proc p ON p.oid = e.evtfoid
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE e.evtenabled <> 'D'`
)

// statisticsName goes before the name of extended statistics, which lie in the names of indexes with something that no index begins with.
const statisticsName = "\x01"

// loadCatalogue reads a snapshot over a connection that is logged in. run sends one simple query and returns its rows as text;
// no column here is ever null.
func loadCatalogue(run func(sql string) ([][]string, error), classes []access.Class) (*catalogue, error) {
	l := &loader{run: run, cat: &catalogue{
		byOID: map[uint32]*relation{}, byName: map[relName]*relation{}, indexes: map[relName]*relation{}, keys: map[relName][]string{}, published: map[string][]*relation{}, usable: map[string]bool{},
		functions: map[string][]string{}, routines: map[string][]*routine{}, builtin: map[string]struct{}{}, operators: map[string][]operator{},
		casts: map[string][]string{}, classes: map[string]access.Class{}, facts: newFactCache(),
	}}
	l.stamps()
	l.names()
	l.relations()
	l.views()
	l.actions()
	if l.err != nil {
		return nil, fmt.Errorf("load catalogue: %w", l.err)
	}
	l.cat.classify(classes)
	if l.lineage(classes); l.err != nil {
		return nil, fmt.Errorf("load catalogue: %w", l.err)
	}
	return l.cat, nil
}

// loader keeps the first error, so that the queries read as a list.
type loader struct {
	run func(sql string) ([][]string, error)
	cat *catalogue
	err error
}

func (l *loader) each(sql string, columns int, row func(r []string)) {
	if l.err != nil {
		return
	}
	rows, err := l.run(sql)
	if err == nil && len(rows) > maxCatalogueRows {
		err = fmt.Errorf("%d rows, at most %d are read", len(rows), maxCatalogueRows)
	}
	if err != nil {
		l.err = err
		return
	}
	for _, r := range rows {
		if len(r) != columns {
			l.err = fmt.Errorf("row of %d columns, want %d", len(r), columns)
			return
		}
		row(r)
	}
}

// oid reads a number of the catalogue; n is the size of what it must fit.
func (l *loader) number(s string, bits int) uint64 {
	n, err := strconv.ParseUint(s, 10, bits)
	if err != nil && l.err == nil {
		l.err = fmt.Errorf("number %q: %w", s, err)
	}
	return n
}

func (l *loader) signed(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil && l.err == nil {
		l.err = fmt.Errorf("number %q: %w", s, err)
	}
	return n
}

func (l *loader) relation(s string) *relation { return l.cat.byOID[uint32(l.number(s, 32))] }

func (l *loader) names() {
	c := l.cat
	l.each(sqlSchemas, 2, func(r []string) { c.usable[r[0]] = r[1] == "true" })
	l.each(sqlFunctions, 7, func(r []string) {
		c.functions[r[1]] = appendNew(c.functions[r[1]], r[0])
		f := &routine{relName: relName{r[0], r[1]}, language: r[2], body: r[3], owner: r[5]}
		c.unread = c.unread || r[6] == "true"
		f.path, f.ownPath = strings.CutPrefix(r[4], "=")
		c.routines[f.display()] = append(c.routines[f.display()], f)
	})
	l.each(sqlBuiltin, 1, func(r []string) { c.builtin[r[0]] = struct{}{} })
	l.each(sqlOperators, 4, func(r []string) {
		c.operators[r[0]] = append(c.operators[r[0]], operator{r[1], relName{r[2], r[3]}.display()})
	})
	l.each(sqlCasts, 3, func(r []string) { c.casts[r[0]] = append(c.casts[r[0]], relName{r[1], r[2]}.display()) })
}

func (l *loader) relations() {
	c := l.cat
	l.each(sqlRelations, 5, func(r []string) {
		rel := &relation{oid: uint32(l.number(r[0], 32)), relName: relName{r[1], r[2]}, server: r[4]}
		if len(r[3]) == 1 {
			rel.kind = r[3][0]
		}
		c.byOID[rel.oid], c.byName[rel.relName] = rel, rel
	})
	types := map[string]string{} // there are few: each is kept once
	l.each(sqlColumns, 6, func(r []string) {
		if _, ok := types[r[3]]; !ok {
			types[r[3]] = r[3]
		}
		if rel := l.relation(r[0]); rel != nil && len(r[4]) == 1 {
			rel.columns = append(rel.columns, column{num: uint16(l.number(r[1], 15)), name: r[2], typ: types[r[3]], category: r[4][0], computes: r[5] == "true"})
		}
	})
	l.each(sqlGenerated, 3, func(r []string) {
		if rel := l.relation(r[0]); rel != nil {
			rel.generated = append(rel.generated, generated{uint16(l.number(r[1], 15)), uint16(l.number(r[2], 15))})
		}
	})
	l.each(sqlUnique, 2, func(r []string) {
		if rel := l.relation(r[0]); rel != nil {
			if c := rel.columnNum(uint16(l.number(r[1], 15))); c != nil {
				c.unique = true
			}
		}
	})
	l.each(sqlMissing, 2, func(r []string) {
		if rel := l.relation(r[0]); rel != nil {
			if col := rel.columnNum(uint16(l.number(r[1], 15))); col != nil {
				col.missing = true
			}
		}
	})
	l.each(sqlIndexes, 4, func(r []string) {
		if rel := l.relation(r[0]); rel != nil {
			c.indexes[relName{r[1], r[2]}], c.keys[relName{r[1], r[2]}] = rel, strings.Fields(r[3])
		}
	})
	l.each(sqlInherits, 2, func(r []string) {
		child, parent := l.relation(r[0]), l.relation(r[1])
		if child != nil && parent != nil {
			child.parents, parent.children = append(child.parents, parent), append(parent.children, child)
		}
	})
}

func (l *loader) views() {
	at := map[[2]uint32]*viewBase{}
	order := map[uint32][]*viewBase{}
	l.each(sqlViewReads, 3, func(r []string) {
		v, base := l.relation(r[0]), l.relation(r[1])
		if v == nil || base == v || r[1] == "0" {
			return
		}
		if base == nil { // a TOAST or temporary table, or one made since: reads of the view are not understood
			base = &relation{relName: relName{"", "oid " + r[1]}}
		}
		b := &viewBase{rel: base, whole: r[2] == "true"}
		at[[2]uint32{v.oid, base.oid}] = b
		order[v.oid] = append(order[v.oid], b)
	})
	l.each(sqlViewColumns, 3, func(r []string) {
		v, base := l.relation(r[0]), l.relation(r[1])
		if v == nil || base == nil {
			return
		}
		if b := at[[2]uint32{v.oid, base.oid}]; b != nil && !b.whole {
			b.columns = append(b.columns, uint16(l.number(r[2], 15)))
		}
	})
	for oid, bases := range order {
		for _, b := range bases {
			b.whole = b.whole || b.rel.system() // the server's own tables are not in pg_depend
			slices.Sort(b.columns)
			l.cat.byOID[oid].bases = append(l.cat.byOID[oid].bases, *b)
		}
	}
	l.each(sqlViewCalls, 3, func(r []string) {
		if v := l.relation(r[0]); v != nil && !(r[1] == "pg_catalog" && harmless(r[2])) {
			v.viewCalls = append(v.viewCalls, relName{r[1], r[2]}.display())
		}
	})
}

func (l *loader) actions() {
	l.each(sqlRules, 2, func(r []string) {
		rel, other := l.relation(r[0]), l.relation(r[1])
		if rel == nil {
			return
		}
		rel.rules = true
		if other != nil && other != rel {
			rel.ruleTouches = append(rel.ruleTouches, other)
		}
	})
	l.each(sqlRuleCalls, 3, func(r []string) {
		if rel := l.relation(r[0]); rel != nil && !(r[1] == "pg_catalog" && harmless(r[2])) {
			rel.ruleCalls = append(rel.ruleCalls, relName{r[1], r[2]}.display())
		}
	})
	l.each(sqlOwnCalls, 4, func(r []string) {
		if rel := l.relation(r[0]); rel != nil && r[3] == "true" {
			rel.policyCalls = append(rel.policyCalls, relName{r[1], r[2]}.display())
		} else if rel != nil {
			rel.writeCalls = append(rel.writeCalls, relName{r[1], r[2]}.display())
		}
	})
	l.each(sqlPublications, 2, func(r []string) {
		if rel := l.relation(r[1]); rel != nil {
			l.cat.published[r[0]] = append(l.cat.published[r[0]], rel)
		}
	})
	l.each(sqlEventTriggers, 2, func(r []string) { l.cat.onDefine = append(l.cat.onDefine, relName{r[0], r[1]}.display()) })
	l.each(sqlPolicyReads, 2, func(r []string) {
		rel, other := l.relation(r[0]), l.relation(r[1])
		if rel != nil && other != nil && other != rel {
			rel.policyReads = append(rel.policyReads, other)
		}
	})
	l.each(sqlTriggers, 4, func(r []string) {
		if rel := l.relation(r[0]); rel != nil {
			rel.triggers = append(rel.triggers, trigger{relName{r[1], r[2]}.display(), int(l.number(r[3], 15))})
		}
	})
	l.each(sqlReferences, 4, func(r []string) {
		to, from := l.relation(r[0]), l.relation(r[1])
		if to != nil && from != nil && len(r[2]) == 1 && len(r[3]) == 1 {
			to.references = append(to.references, reference{from, r[2][0], r[3][0]})
			from.refersTo = append(from.refersTo, to)
		}
	})
}

// classify resolves the classes' patterns to columns, then gives each column the classes of its namesakes in the tables that
// it inherits from or is inherited by, until nothing changes: a partition is as protected as its parent, and the other way round.
func (c *catalogue) classify(classes []access.Class) {
	for _, cl := range classes {
		c.classes[cl.Name] = cl
	}
	for _, r := range c.byOID {
		if r.system() {
			continue
		}
		prefix := r.display() + "."
		for i := range r.columns {
			for _, cl := range classes {
				name := prefix + plainPart(r.columns[i].name)
				if slices.ContainsFunc(cl.Columns, func(p string) bool { return access.Match(p, name) }) {
					r.columns[i].classes = appendNew(r.columns[i].classes, cl.Name)
				}
			}
		}
	}
	for changed := true; changed; {
		changed = false
		for _, r := range c.byOID {
			for _, p := range r.parents {
				changed = share(r, p) || changed
				changed = share(p, r) || changed
			}
			changed = r.inherit() || changed
		}
	}
}

// guard lists what has columns of a class, and sorts the classes of each.
func (c *catalogue) guard(classes []access.Class) {
	for _, r := range c.byOID {
		if r.protected() {
			c.guarded = append(c.guarded, r)
		}
	}
	order := func(a, b string) int { return classIndex(classes, a) - classIndex(classes, b) }
	for _, r := range c.byOID {
		for i := range r.columns {
			slices.SortFunc(r.columns[i].classes, order)
			for _, cl := range r.columns[i].classes {
				c.everywhere(access.ClassUse{Class: cl, On: r.display() + "." + plainPart(r.columns[i].name), Derived: true, How: "in what was not understood"})
			}
		}
	}
	slices.SortFunc(c.atLarge, func(x, y access.ClassUse) int { return cmp.Compare(x.Class, y.Class) })
}

// inherit gives generated columns the classes of what they are computed from.
func (r *relation) inherit() (changed bool) {
	for _, g := range r.generated {
		from, to := r.columnNum(g.base), r.columnNum(g.num)
		if from == nil || to == nil {
			continue
		}
		for _, cl := range from.classes {
			if !slices.Contains(to.classes, cl) {
				to.computed = to.computed || len(to.classes) == 0
				to.classes, changed = append(to.classes, cl), true
			}
		}
	}
	return changed
}

// everywhere keeps one use of each class, the same at every load.
func (c *catalogue) everywhere(u access.ClassUse) {
	i := slices.IndexFunc(c.atLarge, func(o access.ClassUse) bool { return o.Class == u.Class })
	switch {
	case i < 0:
		c.atLarge = append(c.atLarge, u)
	case u.On < c.atLarge[i].On:
		c.atLarge[i] = u
	}
}

func classIndex(classes []access.Class, name string) int {
	return slices.IndexFunc(classes, func(c access.Class) bool { return c.Name == name })
}

// share gives to's columns the classes of their namesakes in from.
func share(from, to *relation) (changed bool) {
	for _, f := range from.columns {
		if len(f.classes) == 0 {
			continue
		}
		t := to.column(f.name)
		if t == nil {
			continue
		}
		for _, cl := range f.classes {
			if !slices.Contains(t.classes, cl) {
				t.computed = t.computed || f.computed && len(t.classes) == 0
				t.classes, changed = append(t.classes, cl), true
			}
		}
	}
	return changed
}

func appendNew(s []string, v string) []string {
	if slices.Contains(s, v) {
		return s
	}
	return append(s, v)
}
