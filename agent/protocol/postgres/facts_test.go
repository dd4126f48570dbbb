package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/agent/protocol/postgres/pgtest"
	"github.com/sallyport/sallyport/internal/access"
)

// factsSchema has one of everything that names can lead to.
const factsSchema = `
create table public.customers (id integer primary key, name text not null, email text not null, card_number text not null);
create table public.orders (id integer primary key, customer_id integer not null references public.customers, amount numeric(10,2) not null);
create table public.accounts (id integer primary key, owner text not null, balance numeric(12,2) not null);
create table public.notes (id integer primary key, body text, account_id integer references public.accounts on delete cascade on update set null);
create table public.events (id integer, at date not null, email text, kind text) partition by range (at);
create table public.events_2024 partition of public.events for values from ('2024-01-01') to ('2025-01-01');
create table public.events_2025 partition of public.events for values from ('2025-01-01') to ('2026-01-01');
create table public.person (id integer, name text, secret text);
create table public.employee (salary integer, email text) inherits (public.person);
create view public.contacts as select id, name, email from public.customers;
create view public.names as select id, name from public.customers;
create view public.rows_of as select id, c as whole from public.customers c;
create view public.contacts2 as select * from public.contacts;
create view public.stats as select tablename, attname, most_common_vals::text as vals from pg_catalog.pg_stats;
create view public.sleepy as select id, pg_sleep(0)::text as z from public.orders;
create materialized view public.emails as select email from public.customers;
create schema app;
create table app.customers (id integer primary key, region text, email text);
create table app.log (id serial primary key, line text);
create table app.watched (id integer primary key, v text);
create function app.on_watched() returns trigger language plpgsql as 'begin insert into app.log (line) values (new.v); return new; end';
create trigger w before insert or update on app.watched for each row execute function app.on_watched();
create table app.ruled (id integer, v text);
create rule r as on insert to app.ruled do also insert into app.log (line) values (new.v);
create function public.peek(integer) returns text language sql as 'select email from public.customers where id = $1';
create function public.all_customers() returns setof public.customers language sql as 'select * from public.customers';
create function public.sum(text) returns text language sql as 'select $1';
create procedure public.work() language sql as 'delete from public.orders where false';
create function public.evil_eq(text, integer) returns boolean language sql as 'select true';
create operator public.=== (leftarg = text, rightarg = integer, function = public.evil_eq);
create foreign data wrapper nowhere;
create server far foreign data wrapper nowhere;
create foreign table public.remote (id integer, email text) server far;
create sequence public.counter;
create type public.mood as enum ('delete', 'update');
create table public."Odd.Name" (id integer, "E Mail" text, "delete" text);
create schema gen;
create table gen.customers (id integer, email text, domain text generated always as (split_part(email, '@', 2)) stored,
  twice integer generated always as (id * 2) stored);
create function app.json_scalar(text) returns text language sql as 'select $1';
create function app.same(text, text) returns boolean language sql as 'select true';
create operator app.= (leftarg = text, rightarg = text, function = app.same);
create index by_owner on public.accounts (owner);
create table app.old (id integer, "system_user" text);
insert into public.customers values (1, 'Ada', 'ada@example.com', '4111111111111111');
insert into public.accounts values (1, 'ada', 1), (2, 'grace', 2);
`

var factsClasses = []access.Class{
	{Name: "email", Columns: []string{"*.customers.email", "public.events.email", "public.employee.email", "app.old.system_user"}, Mask: "email"},
	{Name: "card", Columns: []string{"*.customers.card_number"}, Mask: "card"},
	{Name: "secret", Columns: []string{"public.employee.secret"}, Mask: "full"},
}

// bench is the database of the facts tests, its catalogue, and a connection past every gate.
type bench struct {
	conn *pgconn.PgConn
	cat  *catalogue
	st   session
}

var (
	benchOnce sync.Once
	benchDSN  string
)

func newBench(t testing.TB) *bench {
	t.Helper()
	s := pgtest.Start(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	benchOnce.Do(func() {
		s.Exec(t, "create database facts")
		benchDSN = fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s dbname=facts sslmode=disable", s.Port, s.User, s.Password)
		c, err := pgconn.Connect(ctx, benchDSN)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(ctx)
		if _, err := c.Exec(ctx, factsSchema).ReadAll(); err != nil {
			t.Fatal(err)
		}
	})
	c, err := pgconn.Connect(ctx, benchDSN)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	b := &bench{conn: c, st: session{database: "facts", role: s.User, searchPath: `"$user", public`}}
	b.cat, err = loadCatalogue(b.rows(t), factsClasses)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rows runs a query as the room does: by the extended protocol, values as text.
func (b *bench) rows(t testing.TB) func(string) ([][]string, error) {
	return func(sql string) ([][]string, error) {
		r := b.conn.ExecParams(context.Background(), sql, nil, nil, nil, nil).Read()
		if r.Err != nil {
			return nil, r.Err
		}
		out := make([][]string, len(r.Rows))
		for i, row := range r.Rows {
			for _, v := range row {
				if v == nil {
					t.Errorf("a null in the answer to %q", sql)
				}
				out[i] = append(out[i], string(v))
			}
		}
		return out, nil
	}
}

func (b *bench) facts(sql string) (access.Command, plan) {
	return analyse(sql, nil, b.st, b.cat, defaultLimits)
}

// say writes a command's facts on few lines, for tables of cases.
func say(c access.Command) string {
	var s []string
	for _, t := range c.Touches {
		cols := ""
		if len(t.Resource.Columns) > 0 {
			cols = "(" + strings.Join(t.Resource.Columns, ",") + ")"
		}
		s = append(s, string(t.Effect)+" "+t.Resource.Name+cols)
	}
	for _, u := range c.Classes {
		if !c.Complete && u.How == "in what was not understood" {
			continue // every class has one
		}
		d := "plain"
		if u.Derived {
			d = "derived"
		}
		s = append(s, d+" "+u.Class+"@"+u.On)
	}
	slices.Sort(s)
	if !c.Complete {
		s = append(s, "incomplete")
	}
	if c.Refused != nil {
		s = append(s, "refused "+c.Refused.Rule)
	}
	return strings.Join(s, "; ")
}

// Where no class of data is known, what the server's own relations show beyond definitions is policy's to give, under a name of its own.
func TestBeyondDefinitions(t *testing.T) {
	b := newBench(t)
	var err error
	if b.cat, err = loadCatalogue(b.rows(t), nil); err != nil {
		t.Fatal(err)
	}
	for sql, want := range map[string]string{
		"select query from pg_stat_activity":             "read pg_catalog.pg_stat_activity(query); transfer sessions",
		"select pid from pg_stat_get_activity(null)":     "execute pg_catalog.pg_stat_get_activity; transfer sessions",
		"select 1 from pg_stats":                         "read pg_catalog.pg_stats; transfer statistics",
		"select vals from stats":                         "read pg_catalog.pg_stats; read public.stats(vals); transfer statistics",
		"select * from pg_authid":                        "read pg_catalog.pg_authid; transfer credentials",
		"select rolname from pg_authid":                  "read pg_catalog.pg_authid(rolname)",
		"select * from pg_user_mappings":                 "read pg_catalog.pg_user_mappings; transfer credentials",
		"select 1 from information_schema.user_mappings": "read information_schema.user_mappings; transfer credentials",
		"select * from pg_cursors":                       "read pg_catalog.pg_cursors",
		"select data from pg_largeobject":                "read pg_catalog.pg_largeobject(data); transfer large-objects",
		"set client_min_messages = debug5":               "read client_min_messages",
		"select 1 from pg_file_settings":                 "read pg_catalog.pg_file_settings; transfer files",
	} {
		if c, _ := b.facts(sql); say(c) != want {
			t.Errorf("%s: %s, want %s", sql, say(c), want)
		}
	}
}
