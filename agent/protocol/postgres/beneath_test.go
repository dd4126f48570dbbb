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
	if b.cat, err = loadCatalogue(b.rows(t), beneathClasses); err != nil {
		t.Fatal(err)
	}
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

// told is what a statement gives once the frames of its result are masked, or its error.
func (b *bench) told(t *testing.T, sql string) string {
	results, err := b.conn.Exec(context.Background(), sql).ReadAll()
	if err != nil {
		return "error: " + err.Error()
	}
	var s strings.Builder
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
		want := b.told(t, strings.ReplaceAll(sql, "truth.", ""))
		b.must(t, "set search_path = truth")
		if got != want {
			t.Errorf("%s\n%s\n gives %s\n and over masked tables %s", sql, c.Masked, got, want)
		}
	}
}

// Where a query cannot stand for a table without changing what the statement means, there is no second text, and the use stays derived.
func TestNotBeneath(t *testing.T) {
	b := beneathBench(t)
	b.must(t, "create view truth.mails as select id, email from customers; create table truth.part (id integer, email text); create table truth.child () inherits (truth.customers);"+
		" create function truth.tell() returns text language plpgsql as 'begin return (select email from truth.customers limit 1); end'; create view truth.told as select truth.tell() as t;"+
		" create function truth.ok(integer) returns boolean language sql as 'select truth.tell() is not null or $1 > 0';"+
		" create table truth.checked (id integer check (truth.ok(id)));"+
		" create function truth.odd(text) returns text language sql as 'set local work_mem = ''1MB''; select $1'")
	var err error
	if b.cat, err = loadCatalogue(b.rows(t), append([]access.Class{{Name: "keyed", Columns: []string{"truth.part.email"}, Mask: mask.Hash}}, beneathClasses...)); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"select email || '' from customers for update", "select c from customers c", "select id from customers c where c is not null",
		"select ctid, upper(email) from customers", "select tableoid::regclass, upper(email) from customers", "select c.xmin from customers c where c.email like 'a'",
		"select truth.customers.id from truth.customers where truth.customers.email like 'a%'", "select truth.customers.*, email || '' from truth.customers",
		"select upper(email) from only customers", "select upper(email) from customers *", "select upper(e) from customers c (i, n, e)",
		"select upper(email) from customers tablesample system (10)", "select upper(email) from beneath.truth.customers",
		"select tell()", "select id from orders where tell() like 'a%'", "select * from told", "select * from tell()", "select ok(1)",
		"insert into checked values (1) returning ok(2)", "select odd('x')",
		"select upper(email) from mails", "select m.id, upper(c.email) from mails m join customers c on c.id = m.id where m.email like 'x'",
		"select upper(email) from part", "select p.id from part p join customers c on c.email = p.email",
		"update orders o set amount = 1 from customers c where c.email = o.email", "delete from orders where email in (select email from customers)",
		"insert into orders select id, id, email, 1 from customers", "create table t as select upper(email) from customers", "select upper(email) into t from customers",
		"with d as (delete from orders returning *) select upper(email) from customers", "explain select id from customers where email like 'a%'",
		"select upper(email) from customers; select 1", "copy (select upper(email) from customers) to stdout", "prepare p as select upper(email) from customers",
		`select upper(email) from U&"customers"`, "select upper(email) from customers /**/ c",
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
