package postgres

import (
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
)

// TestOracleNotices takes something out of the facts that are true: a resource, a column, a function, or that it is written. The oracle
// has to notice each time.
func TestOracleNotices(t *testing.T) {
	o := newOracle(t, "mutant")
	defer o.close()
	o.file = "mutant"
	o.connect()
	if _, err := o.exec(generateSchema); err != nil {
		t.Fatal(err)
	}
	judge := func(sql string, tamper func(*access.Command)) []string {
		o.unsound, o.tamper = nil, tamper
		if _, err := o.exec("begin"); err != nil {
			t.Fatal(err)
		}
		o.judge(sql)
		if _, err := o.exec("rollback"); err != nil {
			t.Fatal(err)
		}
		return o.unsound
	}
	mutants := 0
	for _, x := range [][2]string{ // and what the facts claim though it does not come to pass, so that nobody could notice
		{"select p.name, o.amount from people p join orders o on o.person_id = p.id where p.email = 'p1'", ""},
		{"select n from totals", ""}, {"select a.email from nested a", ""}, {"select count(*) from stock", "public.items count"}, {"select p from people p", ""},
		{"insert into items (id, order_id, sku, n) select id + 100, id, note, 1 from orders", ""},
		{"insert into people (id, name) values (1, 'x') on conflict (id) do update set name = excluded.name || people.email", "public.orders"},
		{"insert into people (id) values (1) on conflict on constraint people_email_key do nothing", ""},
		{"update items set sku = sku || 'x' where id = 1 returning n", ""}, {"update items i set n = 2 from orders o where o.id = i.order_id and o.note = 'o'", ""},
		{"delete from items using orders where orders.id = order_id and amount > 1", ""}, {"delete from people where id = 2", ""},
		{"merge into items i using orders o on o.id = i.order_id when matched then update set sku = o.note when not matched then insert (id, n) values (o.id, 1)", ""},
		{"with d as (delete from watched where v = 'x' returning id) insert into ruled_log (id) select id from d", ""},
		{"insert into events values (9, '2021-01-01')", "public.events_old public.events_new_1"}, {"select one('p1')", ""}, {"select hidden(1)", ""}, {"select name === email from people", ""}, {"select joined(name) from people", ""},
		{"copy (select email from people) to stdout", ""}, {"copy orders (note) to stdout", ""}, {"select x from people, lateral (select note from orders where person_id = people.id) l(x) for update of people", ""},
		{"delete from ruled where v = 'x'", "public.people public.orders public.items"}, {"truncate items", ""}, {"lock table people", ""}, {"create table made as select name from people", "public.made"}, {"select body from guarded", "public.people"},
		{"create index on orders (note)", ""}, {"alter table orders alter note set default 'x'", ""},
	} {
		sql, claimed := x[0], strings.Fields(x[1])
		if u := judge(sql, nil); len(u) > 0 {
			t.Errorf("untouched facts: %s", u)
		}
		var c access.Command
		judge(sql, func(got *access.Command) { c = *got })
		noticed := func(what string, f func(*access.Command)) {
			mutants++
			if u := judge(sql, f); len(u) == 0 {
				t.Errorf("%s\n the oracle does not notice that %s is missing; facts: %s", sql, what, say(c))
			}
		}
		for i, touch := range c.Touches {
			what := string(touch.Effect) + " " + touch.Resource.Name
			if touch.Resource.Kind != access.KindTable || slices.Contains(claimed, touch.Resource.Name) {
				continue
			}
			noticed(what, func(c *access.Command) { c.Touches = slices.Delete(slices.Clone(c.Touches), i, i+1) })
			if touch.Effect == access.Write {
				noticed("the write of "+touch.Resource.Name, func(c *access.Command) {
					c.Touches = slices.Clone(c.Touches)
					c.Touches[i].Effect = access.Read
				})
			}
			for j, col := range touch.Resource.Columns {
				if len(touch.Resource.Columns) == 1 {
					break // none would be all
				}
				noticed(what+" "+col, func(c *access.Command) {
					c.Touches = slices.Clone(c.Touches)
					c.Touches[i].Resource.Columns = slices.Delete(slices.Clone(touch.Resource.Columns), j, j+1)
				})
			}
		}
		for i, f := range c.Facts.Functions {
			if slices.Contains(claimed, f) {
				continue
			}
			noticed(f, func(c *access.Command) { c.Facts.Functions = slices.Delete(slices.Clone(c.Facts.Functions), i, i+1) })
		}
	}
	o.tamper = nil
	t.Logf("%d mutants", mutants)
}
