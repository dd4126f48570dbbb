package postgres

import (
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

func (g *writer) target() table2 {
	for {
		if t := generateTables[g.r.IntN(len(generateTables))]; t.kind == 'r' {
			return t
		}
	}
}

// changing is a statement that writes, with RETURNING of the types where some are asked for.
func (g *writer) changing(types []string) string {
	t := g.target()
	a := g.name("u")
	own := make([]column2, 0, len(t.cols))
	for _, c := range t.cols {
		own = append(own, column2{a + "." + c.name, c.typ})
	}
	returning := func() string {
		if types == nil {
			return g.pick("", "", " returning *", " returning "+a+".*", " returning "+g.expr("text"))
		}
		var v []string
		for _, typ := range types {
			v = append(v, g.expr(typ))
		}
		return " returning " + strings.Join(v, ", ")
	}
	c := t.cols[g.r.IntN(len(t.cols))]
	switch g.r.IntN(4) {
	case 0:
		return g.insert(t, a, own, returning)
	case 1:
		g.scope = append(g.scope, own...)
		s := "update " + t.name + " " + a + " set "
		switch g.r.IntN(4) {
		case 0:
			d := t.cols[0]
			if d.name != c.name {
				s += "(" + c.name + ", " + d.name + ") = (" + g.query([]string{c.typ, d.typ}, 1) + ")"
				break
			}
			fallthrough
		case 1:
			s += c.name + " = default"
		default:
			from := ""
			if g.in(2) {
				from = " from " + g.from()
			}
			return s + c.name + " = " + g.expr(c.typ) + from + " where " + g.expr("bool") + returning()
		}
		return s + " where " + g.expr("bool") + returning()
	case 2:
		g.scope = append(g.scope, own...)
		s := "delete from " + t.name + " " + a
		if g.in(2) {
			s += " using " + g.from()
		}
		return s + " where " + g.expr("bool") + returning()
	}
	return g.merge(t, a, own, c)
}

func (g *writer) insert(t table2, a string, own []column2, returning func() string) string {
	var names, typs []string
	for _, c := range t.cols {
		names, typs = append(names, c.name), append(typs, c.typ)
	}
	s := "insert into " + t.name + " as " + a + " (" + strings.Join(names, ", ") + ") "
	if g.in(3) {
		var v []string
		for _, typ := range typs {
			v = append(v, g.pick(g.expr(typ), "default"))
		}
		s += "values (" + strings.Join(v, ", ") + ")"
	} else {
		s += g.query(typs, 0)
	}
	g.scope = append(g.scope, own...)
	if t.name == "people" || t.name == "orders" || t.name == "items" {
		scope := g.scope
		for _, c := range t.cols {
			g.scope = append(g.scope, column2{"excluded." + c.name, c.typ})
		}
		c := t.cols[1+g.r.IntN(len(t.cols)-1)]
		s += g.pick("", " on conflict do nothing", " on conflict (id) do update set "+c.name+" = "+g.expr(c.typ)+" where "+g.expr("bool"), " on conflict on constraint "+t.name+"_pkey do update set "+c.name+" = excluded."+c.name)
		g.scope = scope
	}
	return s + returning()
}

func (g *writer) merge(t table2, a string, own []column2, c column2) string {
	s := "merge into " + g.pick("", "only ") + t.name + " " + a + " using " + g.from()
	source := slices.Clone(g.scope)
	g.scope = append(g.scope, own...)
	s += " on " + g.expr("bool")
	s += " when matched and " + g.expr("bool") + " then " + g.pick("delete", "do nothing", "update set "+c.name+" = "+g.expr(c.typ))
	g.scope = source
	s += " when not matched then " + g.pick("do nothing", "insert ("+t.cols[0].name+", "+t.cols[1].name+") values ("+g.expr(t.cols[0].typ)+", "+g.expr(t.cols[1].typ)+")")
	if g.v17 && g.in(3) {
		g.scope = own
		s += " when not matched by source and " + g.expr("bool") + " then " + g.pick("delete", "update set "+c.name+" = "+g.expr(c.typ))
	}
	g.scope = append(slices.Clone(source), own...)
	if g.v17 && g.in(2) {
		s += " returning merge_action(), " + g.expr("text")
	}
	return s
}

// statement is one of any kind.
func (g *writer) statement() string {
	g.scope, g.ctes, g.depth, g.n = nil, nil, 0, 0
	return g.inner(func() string {
		w := ""
		if g.in(3) {
			w = g.with(true)
		}
		q := func() string { return w + g.query(g.types(), 0) }
		switch k := g.r.IntN(24); {
		case k < 8:
			return q()
		case k < 16:
			return w + g.changing(nil)
		}
		t := g.target()
		return g.pick2(
			func() string { return "copy (" + q() + ") to stdout" + g.pick("", " (format csv)", " with binary") },
			func() string { return "copy " + t.name + " (" + t.cols[0].name + ") to stdout" },
			func() string {
				return "explain " + g.pick("", "analyze ", "(verbose, costs off) ") + g.pick(q(), w+g.changing(nil))
			},
			func() string {
				return "create " + g.pick("", "temp ") + "table made as " + w + g.simple([]string{"int"}) + g.pick("", " with no data")
			},
			func() string {
				return w + g.simple([]string{"int"}) + g.pick(" for update", " for no key update", " for share skip locked", " for key share nowait")
			},
			func() string { return "declare c " + g.pick("", "scroll ") + "cursor for " + q() },
			func() string { return "prepare p as " + w + g.changing(nil) },
			func() string { return "create view made as " + w + g.query([]string{"int"}, 0) },
			func() string { return "create index on " + t.name + " (" + t.cols[0].name + ")" },
			func() string { return g.pick("truncate ", "truncate only ") + t.name + g.pick("", " cascade") },
			func() string { return "lock table " + t.name + g.pick("", " in share mode", " in access share mode") },
			func() string { return "select * from " + t.name + " x natural join people y" },
			func() string { return "select x.*, y from " + t.name + " x join other.people y using (id)" },
			func() string { return "table " + t.name },
			func() string { return "select into made " + g.expr("text") + " from " + g.from() },
			func() string {
				return "alter table " + t.name + " " + g.pick("add column added int default 1", "drop column "+t.cols[1].name+" cascade", "alter column "+t.cols[0].name+" set default 3")
			},
		)
	})
}

// TestOracleWritten judges statements written by the grammar: with ORACLE set, 12,000 of them.
func TestOracleWritten(t *testing.T) {
	n := 500
	if os.Getenv("ORACLE") != "" {
		n = 12_000
		t.Parallel()
	}
	o := newOracle(t, "written")
	defer o.close()
	o.file = "written"
	o.connect()
	if _, err := o.exec(generateSchema); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"set statement_timeout = '5s'", "set search_path = public"} {
		if _, err := o.exec(sql); err != nil {
			t.Fatal(err)
		}
	}
	version, err := o.rows("show server_version_num")
	if err != nil {
		t.Fatal(err)
	}
	g := &writer{r: rand.New(rand.NewPCG(3, 4)), v17: number(version[0][0]) >= 170000}
	for range n {
		if _, err := o.exec("begin"); err != nil {
			t.Fatal(err)
		}
		o.judge(g.statement())
		if _, err := o.exec("rollback"); err != nil {
			t.Fatal(err)
		}
	}
	o.verdict(995)
	if o.accepted*100 < n*70 {
		t.Errorf("the server accepts %d of %d", o.accepted, n)
	}
}
