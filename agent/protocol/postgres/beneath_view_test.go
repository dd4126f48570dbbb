package postgres

import (
	"strings"
	"testing"
)

// clearViews do no more with protected columns than show them. Each is made in both schemas of the bench.
var clearViews = []string{
	"create view v_plain as select id, email, card as number from customers",
	"create view v_join (a, b, c) as select c.id, c.email, o.amount from customers c join orders o on o.customer_id = c.id where o.amount > 5",
	"create view v_using as select id, c.email, born from customers c left join orders o using (id)",
	"create view v_alias as select j.email, j.seen, j.amount from (customers c (id, name, email, k) cross join lateral (select o.amount from orders o where o.customer_id = c.id) o) j",
	"create view v_sub as select s.email, s.id from (select * from customers where id > 1 offset 0) s",
	"create view v_cte as with x as (select * from customers), y as materialized (select id, email as e from x) select e, id from y where id < 4",
	"create view v_union as select id, email from customers union all select id + 1, email from customers where id > 1 union all select 9, null",
	"create view v_nested as select e.b, upper(e.c::text) as c from v_join e where e.a > 0",
	"create view v_barrier with (security_barrier) as select id, email, score from customers where id <> 2",
	"create view v_invoker with (security_invoker) as select id, note from customers",
	"create view v_cast as select id, card::text as card, name || '!' as shout from customers",
	"create view v_none as select id, name from customers where name > 'A'",
	"create view v_nested_none as select n.* from v_none n join customers c using (id)",
	"create view v_group as select name, count(*) as n from customers group by name",
	"create view v_exists as select id, doc from customers c where exists (select from orders o where o.customer_id = c.id) order by id limit 3",
	"create view v_check as select id, email from customers where id > 0 with local check option",
	`create view v_names as select id as ":varno", email as "a b)", card as "}{", name as ":resno" from customers`,
	"create materialized view v_kept as select id, email, born from customers",
	"create view v_wide as select * from v_kept",
}

// Columns of views are of the classes of what they show: plain uses pass and are masked as they pass, all others beneath. What comes out is what
// would if the views' tables held nothing else.
func TestViewsShowClasses(t *testing.T) {
	b := beneathBench(t)
	for _, schema := range []string{"shown", "truth"} {
		b.must(t, "set search_path = "+schema)
		for _, sql := range clearViews {
			b.must(t, sql)
		}
	}
	b.reload(t)
	for _, sql := range []string{
		"select * from v_plain order by id", "select number from v_plain where id = 1", "select upper(email), number || '' from v_plain order by id", "select id from v_plain where email like 'a%' order by id",
		"select * from v_join order by 1, 3", "select b from v_join order by b, c", "select x.b || '' from v_join x order by 1", "select * from v_using order by id", "select id from v_using where born > '1900-01-01' order by 1",
		"select * from v_alias order by amount", "select email || '' from v_alias order by 1", "select seen from v_alias order by amount", "select * from v_sub order by id", "select max(email) from v_sub", "select * from v_cte order by id", "select e || id from v_cte order by id",
		"select count(*), max(email) from v_union", "select b from v_nested order by c", "select b || c from v_nested order by 1", "select * from v_barrier order by id", "select id from v_barrier where email like 'a%' and score = 0",
		"select * from v_invoker order by id", "select note || '' from v_invoker order by id", "select * from v_cast order by id", "select card || '', shout from v_cast order by id", "select * from v_none order by id", "select name || '' from v_nested_none order by 1",
		"select * from v_group order by name", "select n + 1 from v_group order by name", "select * from v_exists order by id", "select doc->>0 from v_exists order by id", "select * from v_check order by id", "select upper(email) from v_check order by id",
		`select ":varno", "a b)", "}{", ":resno" from v_names order by 1`, `select "a b)" || "}{" || ":resno" from v_names order by ":varno"`,
		"select * from v_kept order by id", "select born + 1, email || '' from v_kept order by id", "select email, born from v_wide order by id", "select p.id from v_plain p join v_kept k on k.email = p.email order by 1", "select row_to_json(v) from v_plain v order by v.id",
		"copy (select * from v_plain order by id) to stdout", "with v as (select * from v_barrier) select upper(email) from v order by id", "select upper(e) from v_plain as v (i, e) order by i",
	} {
		c, _ := b.facts(sql)
		if !passes(c) {
			t.Errorf("%s\n is refused: %s %s %+v", sql, say(c), c.Why, c.Classes)
			continue
		}
		run := sql
		if c.Masked != "" {
			run = c.Masked
		}
		got := b.told(t, run)
		b.must(t, "set search_path = shown")
		want := b.told(t, sql)
		b.must(t, "set search_path = truth")
		if got != want {
			t.Errorf("%s\n%s\n gives %s\n and over masked tables %s", sql, run, got, want)
		}
	}
	for _, sql := range []string{"select id, name from v_none", "select * from v_group", "select name from v_nested_none", "select shout from v_cast", "select id from v_plain", "select c from v_nested"} {
		if c, _ := b.facts(sql); len(c.Classes) != 0 {
			t.Errorf("%s touches no column of a class: %+v", sql, c.Classes)
		}
	}
}

// A view whose rows tell of protected values is refused whatever is selected of it, and so is one above it.
func TestViewsThatTell(t *testing.T) {
	b := beneathBench(t)
	for name, query := range map[string]string{
		"w_where": "select id from customers where email like 'a%'", "w_order": "select id, name from customers order by email limit 1", "w_distinct": "select distinct email from customers", "w_on": "select distinct on (email) id from customers",
		"w_group": "select email, count(*) from customers group by email", "w_having": "select name from customers group by name having max(email) > 'a'", "w_join": "select o.id from orders o join customers c on c.email = o.email", "w_using": "select o.id from orders o join customers c using (email)",
		"w_natural": "select name from customers natural join orders", "w_union": "select email from customers union select email from orders", "w_except": "select id from customers except select score from customers", "w_exists": "select id from orders o where exists (select from customers c where c.email = o.email)",
		"w_scalar": "select (select max(email) from customers) as m", "w_set": "select id, regexp_split_to_table(email, '@') as p from customers", "w_lateral": "select id, s from customers c, lateral string_to_table(c.email, '@') s", "w_values": "select v.x from customers c, lateral (values (c.email)) v(x)",
		"w_fails": "select id, 1 / (length(email) - 5) as f from customers", "w_cast": "select id, email::integer as i from customers where id = 0", "w_window": "select id, row_number() over (order by email) as n from customers", "w_rank": "select id, lag(email) over (order by id) as l from customers",
		"w_recursive": "with recursive r as (select id, email from customers union all select id + 1, email from r where id < 3) select * from r", "w_cte": "with x as (select id from customers where email > 'b') select * from x", "w_sub": "select s.id from (select id, email from customers) s where s.email is not null",
		"w_deep": "select id from (select id from (select * from customers) a where a.card like '4%') b", "w_limit": "select id from customers limit (select count(email) from customers)", "w_filter": "select count(*) filter (where email > 'b') as n from customers", "w_row": "select id, row(c.*) = row(c.*) as same from customers c",
		"w_case": "select id, case when email::integer = 1 then 1 end as x from customers", "w_array": "select id, array[email] as a from customers", "w_grouping": "select name, grouping(email) as g from customers group by rollup (name, email)",
		"w_json": "select id, j.x from customers, json_to_recordset(to_json(array[email])) as j(x text)", "w_xml": "select id, xmlelement(name e, email) as x from customers",
	} {
		b.must(t, "create view truth."+name+" as "+query+"; create view truth.over_"+name+" as select * from truth."+name+"; create materialized view truth.kept_"+name+" as select * from truth."+name+" with no data")
	}
	b.reload(t)
	for _, v := range b.cat.byOID {
		name := strings.TrimPrefix(strings.TrimPrefix(v.name, "over_"), "kept_")
		if v.schema != "truth" || !strings.HasPrefix(name, "w_") {
			continue
		}
		for _, sql := range []string{"select * from " + v.name, "select count(*) from " + v.name, "select 1 from " + v.name + " x limit 1"} {
			if c, _ := b.facts(sql); passes(c) || c.Masked != "" {
				t.Errorf("%s passes: %s %s", sql, say(c), c.Masked)
			}
		}
	}
}

// What is computed in a view from protected columns is hidden whole, as the server's own generated columns are.
func TestViewsThatCompute(t *testing.T) {
	b := beneathBench(t)
	b.must(t, "create view truth.c as select id, upper(email) as u, coalesce(card, '-') as c, length(note) as n, case when email is null then 'none' else 'some' end as k, count(email) over () is null as z from truth.customers")
	b.must(t, "drop view truth.c; create view truth.c as select id, upper(email) as u, coalesce(card, '-') as c, length(note) as n, case when email is null then 'none' else 'some' end as k from truth.customers;"+
		" create view truth.g as select name, max(email) as m, count(email) as n, string_agg(email, ',') as s from truth.customers group by name")
	b.reload(t)
	for sql, want := range map[string]string{
		"select * from c where id = 1":               `id="1" type 23/-1 u="****" type 25/-1 c="****" type 1043/-1 n="0" type 23/-1 k="****" type 25/-1 `,
		"select u || c, n + 1 from c where id = 1":   `?column?="********" type 25/-1 ?column?="1" type 23/-1 `,
		"select m, n, s from g where name = 'Ada'":   `m="****" type 25/-1 n="0" type 20/-1 s="****" type 25/-1 `,
		"select id from c where u like 'A%'":         "",
		"select name, m from g where m = 'x' or n>0": "",
	} {
		c, _ := b.facts(sql)
		run := sql
		if c.Masked != "" {
			run = c.Masked
		}
		if got := strings.TrimSuffix(b.told(t, run), "\n"); !passes(c) || got != want {
			t.Errorf("%s\n%s gives %s\n want %s", sql, run, got, want)
		}
	}
}

// A tree that is cut short, or holds what is not known, protects nothing less.
func TestTreesThatAreNotUnderstood(t *testing.T) {
	b := beneathBench(t)
	b.must(t, "create view truth.v as select id, email from truth.customers")
	tree := b.told(t, "select ev_action::text from pg_rewrite where ev_class = 'truth.v'::regclass")
	for i := 0; i < len(tree); i += 37 {
		_, _ = readTree(tree[:i])
	}
	for _, text := range []string{"", "(", "({QUERY", "({QUERY :a", "({QUERY :a 1", "({QUERY :a 1})x", ")", "{QUERY a 1}", strings.Repeat("(", 500), strings.Repeat("x", maxViewTree+1)} {
		if v, err := readTree(text); err == nil {
			t.Errorf("%.40q is understood: %+v", text, v)
		}
	}
	r, cat := &relation{relName: relName{"truth", "v"}, kind: 'v', columns: []column{{num: 1, name: "email"}}}, &catalogue{byOID: map[uint32]*relation{7: {columns: []column{{num: 1, name: "email", classes: []string{"email"}}}}}}
	r.bases = []viewBase{{rel: cat.byOID[7], whole: true}}
	for _, tree := range []string{"", "({QUERY :commandType 2})", "({QUERY :commandType 1 :rtable ({RTE :rtekind 0 :relid 7}) :targetList ({TARGETENTRY :expr {VAR :varno 2 :varattno 1 :varlevelsup 0} :ressortgroupref 0 :resjunk false})})",
		"({QUERY :commandType 1 :rtable ({RTE :rtekind 0 :relid 8}) :targetList ({TARGETENTRY :expr {VAR :varno 1 :varattno 1 :varlevelsup 0} :ressortgroupref 0 :resjunk false})})",
		"({QUERY :commandType 1 :rtable ({RTE :rtekind 0 :relid 7}) :targetList ({TARGETENTRY :expr {NEW :arg {VAR :varno 1 :varattno 1 :varlevelsup 0}} :ressortgroupref 0 :resjunk false})})",
		"({QUERY :commandType 1 :rtable ({RTE :rtekind 0 :relid 7}) :targetList ({TARGETENTRY :expr {VAR :varno 1 :varattno 1} :ressortgroupref 0 :resjunk false})})",
		"({QUERY :commandType 1 :rtable ({RTE :rtekind 0 :relid 7}) :targetList ({TARGETENTRY :expr {VAR :varno 1 :varattno 1 :varlevelsup 0} :resjunk false})})",
	} {
		r.clear = false
		cat.trace(r, map[*relation]string{r: tree}, map[*relation]bool{})
		if r.clear || len(r.columns[0].classes) > 0 {
			t.Errorf("%s\n is understood", tree)
		}
	}
}

func FuzzReadTree(f *testing.F) {
	f.Add("({QUERY :commandType 1 :rtable ({RTE :rtekind 0 :relid 7 :alias {ALIAS :aliasname a\\ b :colnames (\"x\\)\")}}) :jointree <> :targetList ({TARGETENTRY :expr {VAR :varno 1 :varattno 1 :varlevelsup 0} :ressortgroupref 0 :resjunk false})})")
	f.Add("({QUERY :commandType 1 :cteList ({COMMONTABLEEXPR :ctename x :ctequery {QUERY :commandType 1} :cterecursive true}) :rtable ({RTE :rtekind 6 :ctename x :ctelevelsup 0}) :setOperations {SETOPERATIONSTMT :op 1 :all true :larg {RANGETBLREF :rtindex 1} :rarg {RANGETBLREF :rtindex 1}}})")
	cat := &catalogue{byOID: map[uint32]*relation{7: {columns: []column{{num: 1, name: "email", classes: []string{"email"}}}}}}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := readTree(text)
		if err != nil || len(v.list) != 1 || v.list[0].node == nil {
			return
		}
		w := &tracer{cat: cat}
		if cols := w.query(v.list[0].node, nil, true); !w.lost {
			for _, c := range cols {
				if len(c.classes) > 0 && !strings.Contains(text, "VAR") {
					t.Fatal("a class from nowhere")
				}
			}
		}
	})
}
