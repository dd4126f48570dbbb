package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
)

// The oracle is the server itself: what it resolves in the statement, by pg_depend of a function whose body the statement is, and
// what it locks when it runs. Nothing of either may be missing from the facts of a complete command.

// depends asks the server what sql names, without running it. ok is false where the server does not accept it there.
func (b *bench) depends(t *testing.T, sql string) (refs [][2]string, ok bool) {
	t.Helper()
	b.must(t, "begin")
	defer b.must(t, "rollback")
	if _, err := b.conn.Exec(context.Background(), "create function pg_temp.o() returns void language sql begin atomic "+sql+"; end").ReadAll(); err != nil {
		return nil, false
	}
	rows, err := b.rows(t)(`select refobjid, refobjsubid from pg_catalog.pg_depend d join pg_catalog.pg_class c on c.oid = refobjid
where classid = 'pg_proc'::regclass and objid = 'pg_temp.o()'::regprocedure and refclassid = 'pg_class'::regclass`)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		refs = append(refs, [2]string{r[0], r[1]})
	}
	return refs, true
}

// locks runs sql and tells which relations it locked and how. ok is false where it failed.
func (b *bench) locks(t *testing.T, sql string) (modes [][2]string, ok bool) {
	t.Helper()
	b.must(t, "begin")
	defer b.must(t, "rollback")
	if _, err := b.conn.Exec(context.Background(), "set local statement_timeout = '2s'; "+sql).ReadAll(); err != nil {
		return nil, false
	}
	rows, err := b.rows(t)(`select relation, mode from pg_catalog.pg_locks l join pg_catalog.pg_class c on c.oid = relation
where pid = pg_backend_pid() and locktype = 'relation' and c.relkind in ('r','p','v','m','f') and c.oid >= 16384`)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		modes = append(modes, [2]string{r[0], r[1]})
	}
	return modes, true
}

func (b *bench) must(t *testing.T, sql string) {
	t.Helper()
	if _, err := b.conn.Exec(context.Background(), sql).ReadAll(); err != nil {
		t.Fatal(err)
	}
}

// covers says whether some touch has the relation and column.
func covers(c access.Command, r *relation, column string, effects ...access.Effect) bool {
	return slices.ContainsFunc(c.Touches, func(t access.Touch) bool {
		return t.Resource.Kind == access.KindTable && t.Resource.Name == r.display() &&
			(len(effects) == 0 || slices.Contains(effects, t.Effect)) &&
			(column == "" || len(t.Resource.Columns) == 0 || slices.Contains(t.Resource.Columns, column))
	})
}

// agree compares the facts of one statement with what the server says, and reports whether the server had anything to say and
// whether the facts were complete.
func (b *bench) agree(t *testing.T, sql string) (accepted, complete bool) {
	t.Helper()
	c, _ := b.facts(sql)
	refs, parsed := b.depends(t, sql)
	modes, ran := b.locks(t, sql)
	if !parsed && !ran {
		return false, c.Complete
	}
	if !c.Complete {
		t.Logf("incomplete: %s: %s", sql, c.Why)
		return true, false
	}
	for _, ref := range refs {
		oid, _ := strconv.ParseUint(ref[0], 10, 32)
		num, _ := strconv.ParseInt(ref[1], 10, 32)
		r := b.cat.byOID[uint32(oid)]
		if r == nil {
			t.Errorf("%s\n the server resolves oid %s, which the catalogue lacks", sql, ref[0])
			continue
		}
		if opaque(c) || strings.Contains(sql, "regclass") || strings.Contains(sql, "null::customers") {
			continue // a mention, or what a function that was declared as one gives
		}
		name := ""
		if col := r.columnNum(uint16(num)); num > 0 && col != nil {
			name = col.name
		}
		if !covers(c, r, name) {
			t.Errorf("%s\n the server resolves %s %s; facts: %s", sql, r.display(), name, say(c))
		}
		if col := r.column(name); col != nil && len(col.classes) > 0 && !mentions(c, r, name) {
			t.Errorf("%s\n %s.%s is of a class; facts: %s", sql, r.display(), name, say(c))
		}
	}
	for _, m := range modes {
		oid, _ := strconv.ParseUint(m[0], 10, 32)
		r := b.cat.byOID[uint32(oid)]
		switch {
		case r == nil, m[1] == "RowShareLock" && !covers(c, r, ""): // the check of a foreign key
		case m[1] == "RowExclusiveLock" && !covers(c, r, "", access.Write):
			if !opaque(c) {
				t.Errorf("%s\n the server writes %s; facts: %s", sql, r.display(), say(c))
			}
		case !covers(c, r, ""):
			if !opaque(c) {
				t.Errorf("%s\n the server locks %s (%s); facts: %s", sql, r.display(), m[1], say(c))
			}
		}
	}
	return true, true
}

// opaque says that the command declares the call of a function that is not looked into, which may touch what it likes.
func opaque(c access.Command) bool {
	return slices.ContainsFunc(c.Touches, func(t access.Touch) bool { return t.Effect == access.Execute })
}

// mentions says whether the facts report the class of a column, or only write the table.
func mentions(c access.Command, r *relation, column string) bool {
	on := r.display() + "." + column
	if slices.ContainsFunc(c.Classes, func(u access.ClassUse) bool { return u.On == on }) {
		return true
	}
	return !covers(c, r, column, access.Read)
}

func TestOracle(t *testing.T) {
	b := newBench(t)
	accepted, complete := 0, 0
	for _, sql := range oracleStatements {
		a, c := b.agree(t, sql)
		if !a {
			t.Errorf("the server takes this neither as a body nor by itself: %s", sql)
			continue
		}
		accepted++
		if c {
			complete++
		}
	}
	if complete*100 < accepted*97 {
		t.Errorf("%d of %d statements are complete", complete, accepted)
	}
	t.Logf("hand-written: %d accepted, %d complete", accepted, complete)
}

func TestOracleGenerated(t *testing.T) {
	b := newBench(t)
	g := &generator{r: rand.New(rand.NewPCG(1, 2)), cat: b.cat}
	accepted, complete := 0, 0
	for range 700 {
		g.depth, g.ctes, g.tables = 0, nil, nil
		a, c := b.agree(t, g.statement())
		if a {
			accepted++
			if c {
				complete++
			}
		}
	}
	t.Logf("generated: %d accepted, %d complete", accepted, complete)
	if accepted < 300 || complete*100 < accepted*97 {
		t.Errorf("%d of 700 generated statements are accepted, %d of them complete", accepted, complete)
	}
}

// generator writes statements over the tables of the bench: most are valid.
type generator struct {
	r      *rand.Rand
	cat    *catalogue
	depth  int
	n      int
	ctes   []string
	tables []alias
}

type alias struct {
	name string
	cols []string
}

var generatorTables = []string{
	"customers", "orders", "accounts", "app.customers", "app.log", "contacts", "contacts2", "names", "rows_of", "events", "events_2024",
	"person", "employee", "public.customers", "only person", "emails", "notes",
}

func (g *generator) pick(s ...string) string { return s[g.r.IntN(len(s))] }

func (g *generator) chance(n int) bool { return g.r.IntN(n) == 0 }

func (g *generator) relation() (ref string, cols []string) {
	ref = generatorTables[g.r.IntN(len(generatorTables))]
	name := strings.TrimPrefix(ref, "only ")
	schema := "public"
	if s, n, ok := strings.Cut(name, "."); ok {
		schema, name = s, n
	}
	for _, c := range g.cat.byName[relName{schema, name}].columns {
		cols = append(cols, c.name)
	}
	return ref, cols
}

// from makes a FROM item and puts its alias in view.
func (g *generator) from() string {
	g.n++
	a := alias{name: fmt.Sprintf("t%d", g.n)}
	switch {
	case len(g.ctes) > 0 && g.chance(3):
		a.cols = []string{"x"}
		g.tables = append(g.tables, a)
		return g.pick(g.ctes...) + " " + a.name + "(x)"
	case g.depth < 3 && g.chance(4):
		sub := "(" + g.sub(1) + ") "
		a.cols = []string{"x"}
		g.tables = append(g.tables, a)
		return sub + a.name + "(x)"
	case g.chance(12):
		a.cols = []string{"g"}
		g.tables = append(g.tables, a)
		return "generate_series(1,2) " + a.name + "(g)"
	}
	ref, cols := g.relation()
	a.cols = cols
	g.tables = append(g.tables, a)
	return ref + " " + a.name
}

func (g *generator) column() string {
	if len(g.tables) == 0 {
		return "'x'"
	}
	t := g.tables[g.r.IntN(len(g.tables))]
	c := t.cols[g.r.IntN(len(t.cols))]
	if g.chance(8) {
		return c // may be ambiguous: then the server says so
	}
	return t.name + "." + c
}

func (g *generator) expr() string {
	switch g.r.IntN(12) {
	case 0:
		return "lower(" + g.column() + "::text)"
	case 1:
		return g.column() + "::text || 'x'"
	case 2:
		return "case when " + g.cond() + " then " + g.column() + "::text else 'n' end"
	case 3:
		return "coalesce(" + g.column() + "::text, 'z')"
	case 4:
		if len(g.tables) > 0 {
			return "to_json(" + g.tables[g.r.IntN(len(g.tables))].name + ")::text"
		}
	case 5:
		if g.depth < 3 {
			return "(" + g.sub(1) + " limit 1)"
		}
	case 6:
		return "array[" + g.column() + "::text]::text"
	}
	return g.column() + "::text"
}

func (g *generator) cond() string {
	switch g.r.IntN(6) {
	case 0:
		return g.column() + " is not null"
	case 1:
		if g.depth < 3 {
			return "exists (" + g.sub(1) + ")"
		}
	case 2:
		if g.depth < 3 {
			return g.column() + "::text in (" + g.sub(1) + ")"
		}
	case 3:
		return "(" + g.column() + "::text = 'a' or not " + g.column() + "::text like 'b%')"
	}
	return g.column() + "::text <> 'q'"
}

// sub makes a query of n text columns that sees the tables around it.
func (g *generator) sub(n int) string {
	g.depth++
	outer := g.tables
	defer func() { g.depth--; g.tables = outer }()
	g.tables = slices.Clone(outer)
	q := " from " + g.from()
	for g.chance(2) {
		if g.chance(2) {
			q += g.pick(" cross join ", ", lateral ") + "(" + g.sub2() + ") l" + strconv.Itoa(g.n) + "(x)"
			g.tables = append(g.tables, alias{"l" + strconv.Itoa(g.n), []string{"x"}})
		} else {
			f := g.from()
			q += g.pick(" join ", " left join ") + f + " on " + g.cond()
		}
	}
	if !g.chance(3) {
		q += " where " + g.cond()
	}
	items := make([]string, n)
	for i := range items {
		items[i] = g.expr()
	}
	s := "select " + g.pick("", "", "", "distinct ") + strings.Join(items, ", ") + q
	if g.chance(6) {
		s = "(" + s + ") union all (" + "select " + strings.Repeat("'u', ", n-1) + "'u')"
	}
	if g.chance(6) {
		return "select * from (" + s + ") w" + strconv.Itoa(g.n)
	}
	return s
}

func (g *generator) sub2() string {
	if g.depth >= 3 {
		return "select 'x'"
	}
	return g.sub(1)
}

func (g *generator) with() string {
	if !g.chance(2) {
		return ""
	}
	name := g.pick("w1", "customers", "orders") // some shadow tables
	body := g.sub(1)
	if g.chance(3) {
		body = g.pick("delete from notes where id = 7 returning body", "update accounts set owner = 'x' where id < 0 returning owner",
			"insert into app.log (line) select name from public.customers returning line")
	}
	g.ctes = append(g.ctes, name)
	return "with " + name + "(x) as (" + body + ") "
}

func (g *generator) statement() string {
	w := g.with()
	switch g.r.IntN(8) {
	case 0:
		return w + "insert into app.log (line) " + g.sub(1) + g.pick("", " returning id", " on conflict (id) do update set line = excluded.line where log.id > 3")
	case 1:
		g.tables = append(g.tables, alias{"u", []string{"id", "owner", "balance"}})
		s := w + "update accounts u set owner = " + g.expr()
		if g.chance(2) {
			s += " from " + g.from()
		}
		return s + " where " + g.cond() + g.pick("", " returning u.*", " returning owner")
	case 2:
		g.tables = append(g.tables, alias{"d", []string{"id", "body"}})
		s := w + "delete from notes d"
		if g.chance(2) {
			s += " using " + g.from()
		}
		return s + " where " + g.cond()
	case 3:
		g.tables = append(g.tables, alias{"m", []string{"id", "customer_id"}})
		s := w + "merge into orders m using " + g.from() + " on " + g.cond()
		return s + " when matched and " + g.cond() + " then " + g.pick("delete", "update set amount = 1") + " when not matched then do nothing"
	}
	return w + g.sub(1+g.r.IntN(3)) + g.pick("", "", " order by 1", " limit 3")
}
