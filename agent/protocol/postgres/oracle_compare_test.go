package postgres

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/internal/access"
)

func (o *oracle) unsoundRow(sql, what string, c access.Command) {
	defer func() { o.t.Log("unsound: " + o.unsound[len(o.unsound)-1]) }()
	o.unsound = append(o.unsound, fmt.Sprintf("%s: %s\n    %s\n    facts: %s", o.file, what, strings.Join(strings.Fields(sql), " "), say(c)))
}

func (o *oracle) compare(sql string, c access.Command, opaque bool, t *trees, refs [][]string, before, after touchedByServer) {
	if len(refs) > 0 || len(t.demands) > 0 || len(after) > len(before) {
		o.touched++
	}
	for _, ref := range refs {
		o.compareRef(sql, c, t, ref[0], number(ref[1]))
	}
	for k, n := range after {
		if before[k] >= n && (k[0] != "lock" || has(before, k)) {
			continue
		}
		oid, _ := strconv.ParseUint(k[1], 10, 32)
		switch k[0] {
		case "call":
			f := o.functionName(uint32(oid))
			if f == "" || harmless(strings.TrimPrefix(f, "pg_catalog.")) || strings.HasPrefix(f, "information_schema.") || slices.Contains(c.Facts.Functions, f) {
				continue
			}
			if opaque {
				o.forgive("inside a function that the facts call opaque")
				continue
			}
			o.unsoundRow(sql, "the server calls "+f, c)
		case "write":
			r := o.cat.byOID[uint32(oid)]
			if r == nil || covers(c, r, "", access.Write, access.Define) || strings.HasPrefix(c.Verb, "ROLLBACK") {
				continue
			}
			if opaque {
				o.forgive("inside a function that the facts call opaque")
				continue
			}
			o.unsoundRow(sql, "the server writes rows of "+r.display(), c)
		case "lock":
			r := o.cat.byOID[uint32(oid)]
			if r == nil || r.kind == 'S' || r.system() && !bodyLike(c) {
				continue // made by the statement itself, an index, a TOAST table
			}
			o.compareLock(sql, c, t, r, k[2], opaque)
		}
	}
}

// compareRef compares what pg_depend says the statement names. What the server then asks no permission for is neither read nor written: a
// constant that names a relation or is a row of its type, a column of EXCLUDED, which is of the row that was to be inserted.
func (o *oracle) compareRef(sql string, c access.Command, t *trees, ref string, column int) {
	oid := uint32(number(ref))
	r := o.cat.byOID[oid]
	name := ""
	if r != nil {
		if col := r.columnNum(uint16(column)); column > 0 && col != nil {
			name = col.name
		}
	}
	switch {
	case r == nil && oid < 16384, r != nil && covers(c, r, name):
	case t.printed > 0 && !t.demanded(oid, column):
		o.forgive("named in a constant, a type or EXCLUDED: the server asks no permission")
	case r == nil:
		o.unsoundRow(sql, "the server resolves oid "+ref+", which the catalogue lacks", c)
	default:
		o.unsoundRow(sql, fmt.Sprintf("the server resolves %s %s", r.display(), name), c)
	}
}

func (o *oracle) compareLock(sql string, c access.Command, t *trees, r *relation, mode string, opaque bool) {
	write := covers(c, r, "", access.Write, access.Define, access.Grant)
	if mode == "SIReadLock" { // what a serializable transaction notes of its reads
		mode = "AccessShareLock"
	}
	switch {
	case write, mode == "AccessShareLock" && covers(c, r, ""):
	case mode == "RowShareLock" && covers(c, r, "") && c.Facts.Locks:
	case mode == "RowExclusiveLock" && covers(c, r, "") && !r.system() && (c.Verb == "EXPLAIN" || c.Verb == "CREATE FUNCTION"):
		o.forgive("only planned")
	case mode == "RowExclusiveLock" && covers(c, r, "") && t.printed > 0 && !t.writes(r):
		o.forgive("locked for a write that the statement does not have: MERGE … DO NOTHING")
	case (mode == "AccessShareLock" || mode == "RowShareLock") && o.checked(c, r):
		o.forgive("the check of a foreign key")
	case r.schema == "pg_catalog" && strings.HasPrefix(r.name, "pg_largeobject") && slices.ContainsFunc(c.Facts.Functions, func(f string) bool { return strings.HasPrefix(f, "pg_catalog.lo") }):
		o.forgive("large objects, by a function that the facts name")
	case opaque:
		o.forgive("inside a function that the facts call opaque")
	case mode == "AccessShareLock" && t.printed > 0 && !t.touchesFamily(r) && (describes(sql, c) || ties(c)):
		o.forgive("locked while a definition is shown or changed: the server asks no permission to read it")
	case mode == "AccessShareLock" && r.system() && (readableSystem(r.relName) || readsSystemView(c)):
		o.forgive("behind one of the server's own views")
	default:
		o.unsoundRow(sql, "the server locks "+r.display()+" ("+mode+")", c)
	}
}

// ties says that a statement changes a definition and holds no query: what it locks to read is what the definition is tied to.
func ties(c access.Command) bool { return c.Verb == "ALTER TABLE" }

// describes says that a statement shows definitions: by the server's own tables and views, or by functions that put them in words.
func describes(sql string, c access.Command) bool {
	if readsSystemView(c) {
		return true
	}
	l := strings.ToLower(sql)
	return strings.Contains(l, "pg_get_") || strings.Contains(l, "satisfies_hash_partition") || strings.Contains(l, "pg_partition_")
}

func readsSystemView(c access.Command) bool {
	return slices.ContainsFunc(c.Touches, func(t access.Touch) bool {
		return strings.HasPrefix(t.Resource.Name, "information_schema.") || strings.HasPrefix(t.Resource.Name, "pg_catalog.")
	})
}

// checked says that r is at the other end of a foreign key of a table that is written or changed, or part of what is: the server looks for the key there, and
// shows nothing of the row.
func (o *oracle) checked(c access.Command, r *relation) bool {
	for _, t := range c.Touches {
		if t.Effect != access.Write && t.Effect != access.Define {
			continue
		}
		for _, w := range o.cat.byName {
			if w.display() != t.Resource.Name {
				continue
			}
			up, down := w.family(true)
			for _, m := range append(append(up, down...), w) {
				if m == r && len(m.references)+len(m.refersTo) > 0 || slices.ContainsFunc(m.refersTo, func(to *relation) bool { return sameFamily(to, r) }) ||
					slices.ContainsFunc(m.references, func(ref reference) bool { return sameFamily(ref.from, r) }) {
					return true
				}
			}
		}
	}
	return false
}

func sameFamily(to, r *relation) bool {
	_, below := to.family(true)
	return to == r || slices.Contains(below, r)
}

func has(m touchedByServer, k [3]string) bool { _, ok := m[k]; return ok }

func (o *oracle) functionName(oid uint32) string {
	if name, ok := o.names[oid]; ok {
		return name
	}
	rows, err := o.rows(fmt.Sprintf("select case n.oid when pg_catalog.pg_my_temp_schema() then 'pg_temp' else n.nspname end, p.proname from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = pronamespace where p.oid = %d", oid))
	if err != nil || len(rows) != 1 {
		return ""
	}
	name := relName{rows[0][0], rows[0][1]}.display()
	if oid < 16384 { // nobody renames the server's own
		o.names[oid] = name
	}
	return name
}
