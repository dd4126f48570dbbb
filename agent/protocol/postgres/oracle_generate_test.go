package postgres

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// writer writes statements by the grammar, over generateSchema: expressions of a type asked for, over whatever is in scope, in every place
// where the grammar takes one. Most of them are valid; the server says which.
type writer struct {
	r     *rand.Rand
	v17   bool // the server has MERGE … RETURNING and JSON_TABLE
	depth int
	n     int
	scope []column2
	ctes  []table2
	aggs  bool // an aggregate may stand here
	wins  bool // a window function may
}

type column2 struct{ name, typ string }

type table2 struct {
	name string
	cols []column2
	kind byte // r table, v view, w view that takes writes, s only one column may be written
}

func (g *writer) pick(s ...string) string { return s[g.r.IntN(len(s))] }

func (g *writer) in(n int) bool { return g.r.IntN(n) == 0 }

func (g *writer) name(p string) string { g.n++; return fmt.Sprintf("%s%d", p, g.n) }

// inner runs f in a scope of its own, one level deeper.
func (g *writer) inner(f func() string) string {
	scope, ctes, aggs, wins := g.scope, g.ctes, g.aggs, g.wins
	g.depth++
	defer func() { g.scope, g.ctes, g.aggs, g.wins = scope, ctes, aggs, wins; g.depth-- }()
	g.scope, g.ctes, g.aggs, g.wins = slices.Clone(scope), slices.Clone(ctes), false, false
	return f()
}

func (g *writer) column(typ string) string {
	var fit []string
	for _, c := range g.scope {
		if c.typ == typ {
			fit = append(fit, c.name)
		}
	}
	if len(fit) == 0 {
		return g.literal(typ)
	}
	return fit[g.r.IntN(len(fit))]
}

func (g *writer) literal(typ string) string {
	switch typ {
	case "int":
		return g.pick("1", "-2", "0x1f::int", "'7'::int", "cast('3' as integer)")
	case "text":
		return g.pick("'a'::text", "E'\\x62\\n'::text", "U&'\\0061'::text", "$q$d$q$::text", "'x''y'::text", "null::text")
	case "numeric":
		return g.pick("1.5", "1e3::numeric", "numeric '2'", "null::numeric")
	case "date":
		return g.pick("date '2021-02-03'", "'2001-01-01'::date", "current_date")
	case "jsonb":
		return g.pick(`'{"a":1}'::jsonb`, `jsonb '[1,2]'`, "null::jsonb")
	case "bool":
		return g.pick("true", "false", "null::bool")
	case "text[]":
		return g.pick("array['a','b']", "'{x,y}'::text[]", "array[]::text[]")
	}
	return g.pick("array[1,2]", "'{3}'::int[]")
}

// expr is an expression of a type.
func (g *writer) expr(typ string) string {
	if g.depth > 5 || g.in(3) {
		return g.column(typ)
	}
	g.depth++
	defer func() { g.depth-- }()
	if g.aggs && g.in(2) {
		return g.aggregate(typ)
	}
	if g.wins && g.in(3) {
		return g.window(typ)
	}
	switch g.r.IntN(9) {
	case 0:
		return "case when " + g.expr("bool") + " then " + g.expr(typ) + " else " + g.expr(typ) + " end"
	case 1:
		return "coalesce(" + g.expr(typ) + ", " + g.column(typ) + ")"
	case 2:
		if g.depth < 4 {
			return "(" + g.query([]string{typ}, 1) + ")"
		}
	case 3:
		return "(" + g.column(typ) + ")::" + typ
	}
	return g.typed(typ)
}

func (g *writer) typed(typ string) string {
	e := g.expr
	switch typ {
	case "int":
		return g.pick2(
			func() string { return "(" + e("int") + g.pick(" + ", " - ", " * ") + e("int") + ")" },
			func() string { return "length(" + e("text") + ")" },
			func() string { return "(" + e("int[]") + ")[" + g.pick("1", "2", g.column("int")) + "]" },
			func() string { return "extract(year from " + e("date") + ")::int" },
			func() string { return "one(" + e("text") + ")" },
			func() string { return "hidden(" + g.column("int") + ")" },
			func() string { return "(row(" + e("int") + ", " + e("text") + ")::pair).a" },
			func() string { return "cardinality(" + e("text[]") + ")" },
			func() string { return "position(" + e("text") + " in " + e("text") + ")" },
			func() string { return "nextval('counter')::int" },
			func() string { return "(" + e("jsonb") + "->>'a')::int" },
			func() string {
				return g.sqljson("json_value("+e("jsonb")+", '$.a' returning int"+g.pick("", " default 1 on error", " null on empty")+")", "jsonb_array_length('[1]')")
			},
		)
	case "text":
		return g.pick2(
			func() string { return "(" + e("text") + " || " + e("text") + ")" },
			func() string { return g.pick("lower", "upper", "md5", "reverse", "trim") + "(" + e("text") + ")" },
			func() string { return "(" + e(g.pick("int", "date", "jsonb", "numeric", "text[]")) + ")::text" },
			func() string { return "substring(" + e("text") + g.pick(" from 1 for 2", " from 'a.'", ", 2") + ")" },
			func() string { return "(" + e("jsonb") + g.pick("->>'a'", "#>>'{b,0}'", "->0->>'c'") + ")" },
			func() string { return "(" + e("text[]") + ")[1]" },
			func() string { return "overlay(" + e("text") + " placing " + e("text") + " from 1)" },
			func() string { return "format('%s-%s', " + e("text") + ", " + e("int") + ")" },
			func() string { return g.column("text") + ` collate "C"` },
			func() string { return "array_to_string(" + e("text[]") + ", ',')" },
			func() string { return "(" + e("text") + ")::short" },
			func() string {
				return g.sqljson("json_serialize("+g.pick("'[]'", "json_array("+e("text")+")")+")", "to_char("+e("date")+", 'YYYY')")
			},
		)
	case "numeric":
		return g.pick2(
			func() string { return "(" + e("numeric") + g.pick(" + ", " - ", " * ") + e("numeric") + ")" },
			func() string { return "round(" + e("numeric") + ", 1)" },
			func() string { return "(" + e("int") + ")::numeric" },
			func() string { return "greatest(" + e("numeric") + ", " + e("numeric") + ")" },
			func() string { return "nullif(" + e("numeric") + ", " + e("numeric") + ")" },
		)
	case "date":
		return g.pick2(
			func() string { return "(" + e("date") + " + " + g.column("int") + ")" },
			func() string { return "date_trunc('month', " + e("date") + ")::date" },
			func() string { return "least(" + e("date") + ", " + e("date") + ")" },
			func() string { return "(" + e("date") + " at time zone 'utc')::date" },
		)
	case "jsonb":
		return g.pick2(
			func() string { return "jsonb_build_object('k', " + e(g.pick("int", "text", "date", "jsonb")) + ")" },
			func() string { return "(" + e("jsonb") + g.pick("->'a'", "#>'{b}'", "-'a'", "['a']") + ")" },
			func() string { return "to_jsonb(" + e(g.pick("text[]", "int", "numeric")) + ")" },
			func() string { return "jsonb_set(" + e("jsonb") + ", '{a}', to_jsonb(" + e("text") + "))" },
			func() string { return "(" + e("jsonb") + " || " + e("jsonb") + ")" },
			func() string {
				return g.sqljson("json_object('k' : "+e("text")+g.pick("", " absent on null")+" returning jsonb)", "to_jsonb(row("+e("int")+"))")
			},
			func() string { return g.sqljson("json_query("+e("jsonb")+", '$.b' with wrapper)", "'{}'::jsonb") },
			func() string {
				return g.sqljson("json_array("+e("int")+", "+e("text")+" returning jsonb)", "'[]'::jsonb")
			},
		)
	case "text[]":
		return g.pick2(
			func() string { return "array[" + e("text") + ", " + e("text") + "]" },
			func() string { return "(" + e("text[]") + " || " + e("text") + ")" },
			func() string { return "(" + e("text[]") + ")[1:2]" },
			func() string { return "string_to_array(" + e("text") + ", ',')" },
			func() string { return "array(" + g.query([]string{"text"}, 0) + ")" },
		)
	case "int[]":
		return g.pick2(
			func() string { return "array[" + e("int") + ", " + e("int") + "]" },
			func() string { return "array_append(" + e("int[]") + ", " + e("int") + ")" },
			func() string { return "array(" + g.query([]string{"int"}, 0) + ")" },
		)
	}
	return g.condition()
}

func (g *writer) pick2(fs ...func() string) string { return fs[g.r.IntN(len(fs))]() }

func (g *writer) sqljson(s, older string) string {
	if g.v17 {
		return s
	}
	return older
}

func (g *writer) condition() string {
	e := g.expr
	typ := g.pick("int", "text", "numeric", "date")
	return g.pick2(
		func() string { return e(typ) + g.pick(" = ", " <> ", " < ", " >= ") + e(typ) },
		func() string { return "(" + e("bool") + g.pick(" and ", " or ") + e("bool") + ")" },
		func() string { return "not " + g.column("bool") },
		func() string { return g.column(typ) + " is " + g.pick("", "not ") + "null" },
		func() string {
			return g.column(typ) + " between " + g.pick("", "symmetric ") + e(typ) + " and " + e(typ)
		},
		func() string { return e(typ) + " is " + g.pick("", "not ") + "distinct from " + e(typ) },
		func() string { return e("text") + g.pick(" like ", " ilike ", " similar to ", " ~ ") + "'a%'" },
		func() string { return "exists (" + g.query([]string{typ}, 0) + ")" },
		func() string {
			return g.column(typ) + g.pick(" in ", " not in ") + "(" + g.query([]string{typ}, 0) + ")"
		},
		func() string { return g.column(typ) + " in (" + e(typ) + ", " + e(typ) + ")" },
		func() string { return g.column(typ) + " = any (" + g.query([]string{typ}, 0) + ")" },
		func() string { return e("text") + " = any (" + e("text[]") + ")" },
		func() string { return "(" + e("int") + ", " + e("text") + ") = (" + e("int") + ", " + e("text") + ")" },
		func() string {
			return "(" + g.column("int") + ", " + g.column("text") + ") in (" + g.query([]string{"int", "text"}, 0) + ")"
		},
		func() string { return e("jsonb") + g.pick(" @> ", " <@ ") + e("jsonb") },
		func() string { return e("jsonb") + g.pick(" ? 'a'", " @? '$.a'", " @@ '$.a == 1'") },
		func() string { return g.column("text") + " === " + g.column("text") },
		func() string {
			return "(" + e("date") + ", " + e("date") + ") overlaps (" + e("date") + ", " + e("date") + ")"
		},
		func() string { return g.sqljson("json_exists("+e("jsonb")+", '$.a')", e("bool")) },
		func() string { return g.sqljson(e("text")+" is json", e("text")+" is null") },
	)
}

func (g *writer) aggregate(typ string) string {
	aggs := g.aggs
	g.aggs = false
	defer func() { g.aggs = aggs }()
	filter := ""
	if g.in(4) {
		filter = " filter (where " + g.expr("bool") + ")"
	}
	switch typ {
	case "int":
		return g.pick("count(*)::int", "max("+g.expr("int")+")", "count(distinct "+g.expr("text")+")"+filter+"::int", "(array_agg("+g.column("int")+"))[1]")
	case "numeric":
		return g.pick("sum(", "avg(", "max(") + g.expr("numeric") + ")" + filter
	case "text":
		return g.pick("string_agg("+g.expr("text")+", ',' order by "+g.expr("int")+")"+filter, "min("+g.expr("text")+")"+filter, "joined("+g.column("text")+")", "mode() within group (order by "+g.column("text")+")")
	case "jsonb":
		return g.pick("jsonb_agg("+g.expr("text")+")"+filter, "jsonb_object_agg("+g.column("text")+", 1)", g.sqljson("json_arrayagg("+g.column("text")+" order by "+g.column("int")+" returning jsonb)", "jsonb_agg(1)"))
	case "text[]":
		return "array_agg(" + g.expr("text") + ")"
	case "int[]":
		return "array_agg(" + g.expr("int") + " order by " + g.column("text") + ")"
	case "bool":
		return g.pick("bool_or(", "every(") + g.expr("bool") + ")" + filter
	}
	return "max(" + g.expr(typ) + ")"
}

func (g *writer) window(typ string) string {
	wins := g.wins
	g.wins = false
	defer func() { g.wins = wins }()
	over := " over (" + g.pick("", "partition by "+g.expr("text")+" ") + "order by " + g.expr("int") + g.pick("", " rows between 1 preceding and current row", " range unbounded preceding", " groups between unbounded preceding and 1 following exclude ties") + ")"
	if typ == "int" && g.in(2) {
		return g.pick("row_number()", "rank()", "ntile(2)") + over + "::int"
	}
	return g.pick("lag(", "first_value(", "last_value(") + g.expr(typ) + ")" + over
}

// from is a FROM item; its columns come into scope.
func (g *writer) from() string {
	a := g.name("t")
	use := func(cols []column2) {
		for _, c := range cols {
			g.scope = append(g.scope, column2{a + "." + c.name, c.typ})
		}
	}
	switch {
	case len(g.ctes) > 0 && g.in(3):
		t := g.ctes[g.r.IntN(len(g.ctes))]
		use(t.cols)
		return t.name + " " + a
	case g.depth < 3 && g.in(5):
		types := g.types()
		s := g.pick("", "lateral ")
		if s == "" { // it sees nothing of what stands beside it
			outer := g.scope
			g.scope = nil
			s = "(" + g.query(types, 0) + ") "
			g.scope = outer
		} else {
			s += "(" + g.query(types, 0) + ") "
		}
		var cols []column2
		var names []string
		for i, t := range types {
			cols = append(cols, column2{fmt.Sprintf("c%d", i), t})
			names = append(names, fmt.Sprintf("c%d", i))
		}
		use(cols)
		return s + a + "(" + strings.Join(names, ", ") + ")"
	case g.in(8):
		return g.function(a, use)
	}
	t := generateTables[g.r.IntN(len(generateTables))]
	use(t.cols)
	s := t.name
	if t.name == "base" || t.name == "events" {
		s = g.pick("", "only ") + s
	}
	s += " " + g.pick("", "as ") + a
	if t.kind == 'r' && g.in(15) && (t.name == "people" || t.name == "orders") {
		s += " tablesample system (50)"
	}
	return s
}

func (g *writer) function(a string, use func([]column2)) string {
	return g.pick2(
		func() string {
			s := g.column("int")
			use([]column2{{"x", "int"}})
			return "generate_series(1, " + s + ") " + a + "(x)"
		},
		func() string {
			s := g.column("text[]")
			use([]column2{{"x", "text"}, {"o", "text"}})
			return "unnest(" + s + ", " + s + ") " + a + "(x, o)"
		},
		func() string { use([]column2{{"x", "text"}}); return "names_of(1) " + a + "(x)" },
		func() string { use([]column2{{"id", "int"}, {"note", "text"}}); return "lines() " + a },
		func() string {
			s := g.column("jsonb")
			use([]column2{{"key", "text"}, {"value", "jsonb"}})
			return "jsonb_each(" + s + ") " + a
		},
		func() string {
			s := g.column("jsonb")
			use([]column2{{"a", "int"}, {"b", "text"}})
			return "jsonb_to_record(" + s + ") " + a + "(a int, b text)"
		},
		func() string {
			s := g.column("int")
			use([]column2{{"x", "int"}, {"y", "text"}})
			return "rows from (generate_series(1, " + s + "), names_of(2)) with ordinality " + a + "(x, y, z)"
		},
		func() string {
			use([]column2{{"v", "int"}, {"w", "text"}})
			return "(values (1, 'a'), (2, " + g.literal("text") + ")) " + a + "(v, w)"
		},
		func() string {
			if !g.v17 {
				use([]column2{{"x", "int"}})
				return "generate_series(1, 2) " + a + "(x)"
			}
			s := g.column("jsonb")
			use([]column2{{"n", "text"}, {"m", "int"}})
			return "json_table(" + s + ", '$' passing 1 as p columns (n text path '$.a', nested path '$.b[*]' columns (m int path '$'))) " + a
		},
	)
}

func (g *writer) types() []string {
	out := make([]string, 1+g.r.IntN(3))
	for i := range out {
		out[i] = generateTypes[g.r.IntN(len(generateTypes))]
	}
	return out
}

// query is a query of columns of those types; limit of one row where asked.
func (g *writer) query(types []string, limit int) string {
	return g.inner(func() string {
		w := ""
		if g.depth < 4 && g.in(4) {
			w = g.with(false)
		}
		s := g.simple(types)
		if g.in(6) && g.depth < 4 {
			s = "(" + s + ") " + g.pick("union", "union all", "intersect", "except", "except all") + " (" + g.inner(func() string { return g.simple(types) }) + ")"
		}
		switch {
		case limit > 0:
			s += fmt.Sprintf(" limit %d", limit)
		case g.in(6):
			s += g.pick(" order by 1", " order by 1 desc nulls last", " limit 2", " offset 1", " fetch first 2 rows only")
		}
		return w + s
	})
}

func (g *writer) simple(types []string) string {
	if g.in(12) {
		row := func() string {
			var v []string
			for _, t := range types {
				v = append(v, g.expr(t))
			}
			return "(" + strings.Join(v, ", ") + ")"
		}
		return "values " + row() + ", " + row()
	}
	return g.inner(func() string {
		from := " from " + g.from()
		for g.in(2) && g.depth < 4 {
			switch g.r.IntN(4) {
			case 0:
				from += ", " + g.from()
			case 1:
				from += " cross join " + g.from()
			default:
				f := g.from()
				from += g.pick(" join ", " left join ", " join ") + f + " on " + g.expr("bool")
			}
		}
		if !g.in(3) {
			from += " where " + g.expr("bool")
		}
		grouped := g.in(4)
		var items []string
		g.aggs, g.wins = grouped, !grouped
		for _, t := range types {
			if grouped {
				items = append(items, g.aggregate(t))
			} else {
				items = append(items, g.expr(t))
			}
		}
		g.aggs, g.wins = false, false
		if grouped {
			a, b := g.column("text"), g.column("int")
			from += g.pick("", " group by "+a, " group by rollup ("+a+", "+b+")", " group by grouping sets (("+a+"), ("+b+"), ())", " group by cube ("+a+")", " group by "+a+" having "+g.aggregate("bool"))
		}
		return "select " + g.pick("", "", "", "all ", "distinct ") + strings.Join(items, ", ") + from
	})
}

// with is a WITH clause; its queries come into scope. changing: one may write.
func (g *writer) with(changing bool) string {
	t := table2{name: g.name("w")}
	if g.in(6) {
		t.name = g.pick("people", "orders") // it hides the table
	}
	types := g.types()
	var names []string
	for i, typ := range types {
		t.cols = append(t.cols, column2{fmt.Sprintf("c%d", i), typ})
		names = append(names, fmt.Sprintf("c%d", i))
	}
	body := g.query(types, 0)
	rec := ""
	switch {
	case changing && g.in(2):
		body = g.inner(func() string { return g.changing(types) })
	case g.in(6):
		rec = "recursive "
		body = "(" + body + ") union all (select " + strings.Join(names, ", ") + " from " + t.name + " where false)"
	}
	out := "with " + rec + t.name + "(" + strings.Join(names, ", ") + ") as " + g.pick("", "materialized ", "not materialized ") + "(" + body + ") "
	g.ctes = append(g.ctes, t)
	return out
}
