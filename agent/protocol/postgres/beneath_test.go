package postgres

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/agent/protocol/postgres/pgtest"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/mask"
	"github.com/sallyport/sallyport/internal/secret"
)

// beneathSchema is made twice: in the schema of the true values, and in that of the same values as the masks of results show them.
const beneathSchema = `
create table %[1]s.customers (id integer primary key, name text not null, email text, card varchar(40), note text, born date, seen timestamptz,
  score integer, key uuid, doc jsonb, ok boolean, raw bytea);
create table %[1]s.orders (id integer primary key, customer_id integer, email text, amount numeric(10,2));
insert into %[1]s.orders values (1, 1, 'ada@example.com', 10), (2, 1, 'nobody', 20), (3, 2, 'bob@example.org', 30);
`

const beneathRows = `
insert into truth.customers values
 (1, 'Ada', 'ada@example.com', '4111 1111 1111 1111', 'a secret note', '1815-12-10', '2024-05-06 07:08:09+00', 7, '01234567-89ab-cdef-0123-456789abcdef', '{"a":1}', true, '\x01'),
 (2, 'Bob', 'bob@mail.example.org', '4111111111111111', 'x', '2001-02-03', '2024-05-31 23:59:59.5+00', -3, null, '[]', false, ''),
 (3, 'Cy', 'not an address', '12', 'ä ö ü ä ö ü', '2020-02-29', 'infinity', 0, null, null, null, null),
 (4, 'Di', null, null, null, null, null, null, null, null, null, null);
`

var beneathClasses = []access.Class{
	{Name: "email", Columns: []string{"truth.customers.email"}, Mask: "email"}, {Name: "card", Columns: []string{"truth.customers.card"}, Mask: "card"},
	{Name: "note", Columns: []string{"truth.customers.note"}, Mask: "partial:1-2"}, {Name: "born", Columns: []string{"truth.customers.born"}, Mask: "date:year"},
	{Name: "seen", Columns: []string{"truth.customers.seen"}, Mask: "date:month"}, {Name: "score", Columns: []string{"truth.customers.score"}, Mask: "full"},
	{Name: "key", Columns: []string{"truth.customers.key"}, Mask: "constant:x"}, {Name: "doc", Columns: []string{"truth.customers.doc"}, Mask: "full"},
	{Name: "ok", Columns: []string{"truth.customers.ok"}, Mask: "full"}, {Name: "raw", Columns: []string{"truth.customers.raw"}, Mask: "null"},
}

// beneathBench has the two schemas in one database. It connects with the true one in the search path, as clients do.
func beneathBench(t *testing.T) *bench {
	t.Helper()
	s, ctx := pgtest.Start(t), context.Background()
	s.Exec(t, "drop database if exists beneath")
	s.Exec(t, "create database beneath")
	c, err := pgconn.Connect(ctx, fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s dbname=beneath sslmode=disable", s.Port, s.User, s.Password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(ctx) })
	b := &bench{conn: c, st: session{database: "beneath", role: s.User, searchPath: "truth"}}
	b.must(t, "create schema truth; create schema shown; set timezone = 'UTC';"+fmt.Sprintf(beneathSchema, "truth")+fmt.Sprintf(beneathSchema, "shown")+beneathRows)
	b.reload(t)
	b.shadow(t)
	b.must(t, "set search_path = truth")
	return b
}

// shadow writes what the masks of results make of truth.customers into shown.customers.
func (b *bench) shadow(t *testing.T) {
	t.Helper()
	r := b.conn.ExecParams(context.Background(), "select * from truth.customers", nil, nil, nil, nil).Read()
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	for _, values := range r.Rows {
		b.frame(t, r.FieldDescriptions, values)
		marks := make([]string, len(values))
		for i := range marks {
			marks[i] = fmt.Sprintf("$%d", i+1)
		}
		if r := b.conn.ExecParams(context.Background(), "insert into shown.customers values ("+strings.Join(marks, ", ")+")", values, nil, nil, nil).Read(); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

// frame masks a row as the frames of a result are.
func (b *bench) frame(t *testing.T, fields []pgconn.FieldDescription, row [][]byte) {
	t.Helper()
	for i, v := range row {
		f := field{origin: origin{fields[i].TableOID, fields[i].TableAttributeNumber}, typ: fields[i].DataTypeOID}
		class, name, known := b.cat.class(f.origin)
		if f.origin.table != 0 && !known {
			t.Fatal("a column of an unknown table")
		}
		if class == "" || v == nil {
			continue
		}
		m, err := mask.New(name, secret.Secret{})
		if err != nil {
			t.Fatal(err)
		}
		out, null := m.AppendAs(nil, v, maskShape(f), false)
		if row[i] = out; null {
			row[i] = nil
		}
	}
}

// reload takes the catalogue anew.
func (b *bench) reload(t *testing.T) {
	t.Helper()
	var err error
	if b.cat, err = loadCatalogue(b.rows(t), beneathClasses); err != nil {
		t.Fatal(err)
	}
}

// told is what a statement gives once the frames of its result are masked, or its error.
func (b *bench) told(t *testing.T, sql string) string {
	var s strings.Builder
	if strings.HasPrefix(strings.ToLower(sql), "copy") {
		if _, err := b.conn.CopyTo(context.Background(), &s, sql); err != nil {
			return "error: " + err.Error()
		}
		return s.String()
	}
	results, err := b.conn.Exec(context.Background(), sql).ReadAll()
	if err != nil {
		return "error: " + err.Error()
	}
	for _, r := range results {
		for i, row := range r.Rows {
			b.frame(t, r.FieldDescriptions, row)
			for k, v := range row {
				fmt.Fprintf(&s, "%s=%q ", r.FieldDescriptions[k].Name, v)
				if v == nil {
					s.WriteString("(null) ")
				}
				if i == 0 {
					fmt.Fprintf(&s, "type %d/%d ", r.FieldDescriptions[k].DataTypeOID, r.FieldDescriptions[k].TypeModifier)
				}
			}
			s.WriteByte('\n')
		}
	}
	return s.String()
}

// What is computed from masked values is what would be computed if the tables held nothing else.
func TestBeneath(t *testing.T) {
	b := beneathBench(t)
	for _, sql := range []string{
		"select id from customers where email like 'a%' order by id",
		"select id, email from customers where email = 'a***@***.com'",
		"select upper(email), length(card), note || '!', born + 1, date_trunc('day', seen), score + 1, key::text, doc->>0, not ok, raw from customers order by id",
		"select c.email from customers c where c.card ~ '4111' order by c.id",
		"select count(*), count(email), count(distinct card), max(born), min(seen), sum(score) from customers",
		"select email, count(*) from customers group by email order by 1 nulls first",
		"select distinct email from customers order by email nulls last",
		"select name from customers order by email, id desc",
		"select c.name, o.amount from customers c join orders o on o.email = c.email order by 2",
		"select * from customers c join orders o on o.customer_id = c.id where c.email like '%' order by o.id",
		"select name, o.amount from customers join orders o using (email) order by 2",
		"with x as (select id, email from customers) select x.id, x.email || '' from x order by 1",
		"select id from orders o where exists (select from customers c where c.email = o.email) order by 1",
		"select o.id, (select max(c.email) from customers c where c.id = o.customer_id) from orders o order by 1",
		"select row_number() over (order by email, id), id from customers order by 2",
		"select case when email is null then 'none' else email end from customers order by id",
		"select array_agg(email order by id), json_agg(card order by id), string_agg(note, ',' order by id) from customers",
		"select email from customers union select email from orders order by 1",
		"select to_json(s) from (select id, email from customers order by id) s",
		"select * from (select * from customers) x where x.email ilike 'A%'",
		`select "customers".email || 'x' from "customers" order by "customers".id`,
		"select a.id, b.id from customers a, customers b where a.email = b.email and a.id <> b.id order by 1, 2",
		"select l.x from customers c, lateral (select c.email || c.card as x) l order by c.id",
		"select coalesce(email, 'none') as e from CUSTOMERS  as c order by c.id",
		"select id from truth.customers where email like 'a%' order by id",
		"select id from customers where born < '1900-01-01' or seen > '2024-05-15' order by id",
		"select email::varchar(3), card::char(5) from customers order by id",
		"select max(length(email)) over (partition by ok order by id) from customers order by id limit 3 offset 1",
		"values ((select max(email) from customers))",
		"select encode(raw, 'hex') from customers order by id",
		"select email || '' from customers order by id for update",
		"select upper(c.email) from customers c join orders o on o.customer_id = c.id order by o.id for share of c skip locked",
		"select row_to_json(c), to_jsonb(c), c::text, (c).email, (c).*, c.to_json, count(c) over () from customers c order by c.id",
		"select id from customers c where c is not null order by c",
		"select json_agg(customers order by id) from customers",
		"select ctid, upper(email) from customers order by id", "select tableoid::regclass::text, upper(email) from customers order by ctid",
		"select c.xmin is not null from customers c where c.email like 'a%'",
		"select truth.customers.id from truth.customers where truth.customers.email like 'a%'", "select truth.customers.*, email || '' from truth.customers order by truth.customers.id",
		"select beneath.truth.customers.id from beneath.truth.customers where beneath.truth.customers.email like 'a%'",
		"select upper(email) from only customers order by id", "select upper(c.email) from ONLY\n customers as c order by c.id", "select upper(email) from customers * order by id", "select upper(email) from customers/*all*/* c order by id",
		"select upper(e), i from customers c (i, n, e) order by 2", "select * from customers c (i, n, e) where e like 'a%' order by 1",
		"select upper(email) from customers; select 1", "begin; select upper(email) from customers order by id; select email from customers order by id; commit",
		"select upper(email) from customers /* a /* nested */ comment */ order by id -- another", "select upper(c.email) from customers--\n c order by c.id", `select upper("c".email) from customers "c" order by id`,
		"select count(*) filter (where email like 'a%'), array_agg(distinct email order by email) from customers",
		"select email, count(*), grouping(email) from customers group by rollup (email) having max(card) > '' order by 1, 2",
		"select first_value(email) over w, lag(email) over w from customers window w as (partition by ok order by email, id) order by id",
		"select distinct on (email) email, id from customers order by email, id", "select email from customers except select email from orders order by 1", "table customers union all TABLE only \"customers\" order by 1, 3", "(table truth.customers) order by email, id", "select * from (table customers) x where email like 'a%'",
		"with recursive t as (select id, email from customers where id = 1 union all select c.id, t.email || c.email from t join customers c on c.id = t.id + 1) select * from t order by id",
		"with x as materialized (select * from customers) select upper(email) from x order by id", "select * from customers natural join orders order by id",
		"select id from customers where (email, id) > ('a', 1) order by id", "select id from customers where email = any (array(select email from orders)) order by id",
		"select x.* from customers c cross join lateral (values (c.email), (c.card)) x order by 1", "select email from customers order by length(email), id offset 1 fetch first 2 rows with ties",
		"select s from customers, string_to_table(email, '*') s order by id, s", "select xmlelement(name x, email) from customers order by id", "select json_build_object('e', email) from customers order by id",
		"select pg_typeof(email), pg_typeof(card), pg_typeof(born), pg_typeof(score), pg_typeof(key) from customers limit 1",
		"copy (select id, email, card, born, score, key, doc, ok from customers order by id) to stdout", "copy customers to stdout", "copy truth.customers (id, email) to stdout with (format csv, header, force_quote (email))",
		`COPY "customers" ( id , "card" ) TO STDOUT (FORMAT binary)`, "copy (select name from customers where email like 'a%') to stdout csv", "copy\n customers(id,note)to stdout",
	} {
		c, _ := b.facts(sql)
		if !c.Complete || c.Masked == "" {
			t.Errorf("%s\n has no second text: %s %s", sql, say(c), c.Why)
			continue
		}
		for _, u := range c.Classes {
			if u.Derived != u.Beneath {
				t.Errorf("%s\n %+v", sql, u)
			}
		}
		got := b.told(t, c.Masked)
		b.must(t, "set search_path = shown")
		want := b.told(t, strings.ReplaceAll(strings.ReplaceAll(sql, "beneath.", ""), "truth.", ""))
		b.must(t, "set search_path = truth")
		if got != want {
			t.Errorf("%s\n%s\n gives %s\n and over masked tables %s", sql, c.Masked, got, want)
		}
	}
}

// Where a query cannot stand for a table without changing what the statement means, there is no second text, and the use stays derived.
func TestNotBeneath(t *testing.T) {
	b := beneathBench(t)
	b.must(t, "create view truth.mails as select id, email from customers order by email; create table truth.part (id integer, email text); create table truth.child () inherits (truth.customers);"+
		" create function truth.tell() returns text language plpgsql as 'begin return (select email from truth.customers limit 1); end'; create view truth.told as select truth.tell() as t;"+
		" create function truth.ok(integer) returns boolean language sql as 'select truth.tell() is not null or $1 > 0';"+
		" create table truth.checked (id integer check (truth.ok(id)));"+
		" create function truth.odd(text) returns text language sql as 'set local work_mem = ''1MB''; select $1'")
	var err error
	if b.cat, err = loadCatalogue(b.rows(t), append([]access.Class{{Name: "keyed", Columns: []string{"truth.part.email"}, Mask: mask.Hash}}, beneathClasses...)); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"select *, ctid from customers where email like 'a'", "select xmin, c from customers c", "select upper(e), ctid from customers c (i, n, e)",
		"select truth . customers.id from truth.customers where email like 'a%'", "select truth.customers.id from truth.customers, shown.customers where truth.customers.email like 'a%'",
		"select upper(email) from only (customers)", "select upper(email) from only/**/customers", "table/**/customers union table customers",
		"select upper(email) from customers tablesample system (10)",
		"copy customers to '/tmp/x'", "copy customers to program 'cat'", "copy customers/**/to stdout; select 1", "copy binary customers to stdout", "copy part to stdout", "copy (select * from part) to stdout",
		"copy (delete from customers returning email) to stdout", "copy /**/ customers to stdout", "explain analyze select upper(email) from customers", "explain (costs off) select upper(email) from customers",
		"merge into orders o using customers c on c.email = o.email when matched then delete", "create view v as select email from customers", "create materialized view v as select email from customers",
		"create temp table t as select upper(email) from customers", "insert into customers (id, name) values (9, 'x') on conflict (email) do nothing", "update customers set name = email", "update customers set name = 'x' where email like 'a%'",
		"select upper(email) from customers; update orders set amount = 1", "select upper(email) from customers; explain select upper(email) from customers",
		"select tell()", "select id from orders where tell() like 'a%'", "select * from told", "select * from tell()", "select ok(1)",
		"insert into checked values (1) returning ok(2)", "select odd('x')",
		"select upper(email) from mails", "select m.id, upper(c.email) from mails m join customers c on c.id = m.id where m.email like 'x'", "copy mails to stdout",
		"select upper(email) from part", "select p.id from part p join customers c on c.email = p.email",
		"update orders o set amount = 1 from customers c where c.email = o.email", "delete from orders where email in (select email from customers)",
		"insert into orders select id, id, email, 1 from customers", "create table t as select upper(email) from customers", "select upper(email) into t from customers",
		"with d as (delete from orders returning *) select upper(email) from customers", "explain select id from customers where email like 'a%'",
		`select upper(email) from U&"customers"`,
	} {
		c, _ := b.facts(sql)
		if c.Masked != "" {
			t.Errorf("%s\n has a second text: %s", sql, c.Masked)
		}
		held := !c.Complete || c.Refused != nil
		for _, u := range c.Classes {
			held = held || u.Derived && !u.Beneath
		}
		if !held {
			t.Errorf("%s\n passes: %s", sql, say(c))
		}
	}
}

// A use that needs no second text has none: the frames of its result are masked as they pass.
func TestPlainUsesStay(t *testing.T) {
	b := beneathBench(t)
	for _, sql := range []string{"select * from customers", "select email from customers where id = 1", "select c.email, o.* from customers c join orders o on o.customer_id = c.id", "select name from customers where id > 1"} {
		if c, _ := b.facts(sql); c.Masked != "" || !passes(c) {
			t.Errorf("%s: %q, %s", sql, c.Masked, say(c))
		}
	}
}
