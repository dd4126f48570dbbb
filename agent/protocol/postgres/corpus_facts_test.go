package postgres

import (
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
)

// verdict is what a command is worth to a policy that permits every read, masks every class and permits nothing else: the least that
// a row of the corpus must meet.
func verdict(c access.Command) string {
	switch {
	case c.Refused != nil:
		return "refused"
	case !c.Complete:
		return "unknown"
	}
	out := "read"
	for _, t := range c.Touches {
		if t.Effect != access.Read {
			out = string(t.Effect)
			break
		}
	}
	if slices.ContainsFunc(c.Classes, func(u access.ClassUse) bool { return u.Derived }) {
		return out + " not maskable"
	}
	if len(c.Classes) > 0 {
		return out + " masked"
	}
	return out
}

func TestCorpus(t *testing.T) {
	b := newBench(t)
	for _, row := range []struct {
		id   string
		want string // of each statement; "!x" is anything but x
		sql  []string
	}{
		{"PG-01", "!read", []string{"select 1; drop table orders", "select 1;;drop table orders", "drop table orders; select 1", "select 1;\ndelete from orders"}},
		{"PG-02", "write", []string{`select E'O\'B'; delete from customers`, `select e'\\'; delete from orders --'`,
			"select E'a'\n'b\\'c'; delete from orders", `select $a$ $b$ $a$; delete from orders; select $$ $$`}},
		{"PG-04", "!read", []string{
			"with x as (delete from orders returning *) select * from x",
			"with x as (with y as (delete from orders returning id) select * from y) select * from x",
			"select 1 union (with x as (update orders set amount = 0 returning 1) select * from x)",
			"select exists (with x as (insert into app.log (line) values ('a') returning 1) select * from x)",
			"insert into app.log (line) with d as (delete from accounts returning owner) select owner from d",
			"select * from (with d as (delete from orders returning id) select id from d) s"}},
		{"PG-05", "read", []string{"/* /* */ DELETE */ SELECT 1", "select 1 /* ; drop table x */", "-- delete\nselect 1", "select 'delete from orders; drop table x'", "select $$; delete from orders$$"}},
		{"PG-07", "write", []string{"copy (delete from orders returning *) to stdout", "copy (with d as (delete from orders returning *) select * from d) to stdout"}},
		{"PG-08", "read not maskable", []string{"copy customers to stdout", "copy customers (email) to stdout (format csv)", "copy (select email from customers) to stdout with binary", "copy contacts2 to stdout", "copy events_2024 to stdout"}},
		{"PG-10", "read", []string{"explain delete from orders where id = 1", "explain (verbose, costs off) insert into app.log (line) values ('x')", "explain (analyze false) update orders set amount = 1"}},
		{"PG-10", "write", []string{"explain analyze delete from orders where id = 1", "explain (analyze) delete from orders", "explain (analyze on, verbose) update orders set amount = 1", "explain (analyze 1) delete from orders", "explain (ANALYZE 'yes') delete from orders",
			"explain analyze verbose with d as (delete from orders returning 1) select * from d"}},
		{"PG-10", "!read", []string{"explain analyze create table scratch as select 1", "explain analyze execute p"}},
		{"PG-11", "read not maskable", []string{"explain select 1 from customers where email = 'x'", "explain (format json) select id from contacts where email > 'a'", "explain analyze select count(*) from customers where card_number like '4%'"}},
		{"PG-13", "!read", []string{"call work()", "execute p", "do $$ begin delete from orders; end $$", "do language plpgsql 'begin end'"}},
		{"PG-14", "write", []string{"prepare p as delete from orders", "prepare p (int) as with d as (delete from orders returning 1) select * from d"}},
		{"PG-14", "unknown", []string{"execute p(1)", "explain execute p", "fetch c", "fetch all from c", "move 3 in c"}},
		{"PG-31", "refused", []string{"set client_encoding = 'SJIS'", "set names 'GBK'", "select '\xff'", "set client_encoding to default", "reset client_encoding"}},
		{"PG-31", "read", []string{"set client_encoding = 'UTF8'", "set names 'utf8'"}},
		{"PG-32", "refused", []string{"set backslash_quote = on"}},
		{"PG-32", "read", []string{"set standard_conforming_strings = off", "set local standard_conforming_strings to 0", "reset standard_conforming_strings"}},
		{"PG-32", "unknown", []string{"set standard_conforming_strings = off; select 1"}},
		{"PG-34", "read", []string{"set search_path = evil", "set local search_path to app", "set schema 'app'", "reset search_path"}},
		{"PG-34", "read", []string{"select set_config('search_path', 'app', false)", "select pg_catalog.set_config('search_path', $1, true), 1"}},
		{"PG-34", "refused", []string{"select set_config('search_path', 'app', false), count(*) from customers", "select set_config('search_path', lower('APP'), false)",
			"select set_config('search_path', 'app', false), to_regclass('customers')", "select set_config('search' || '_path', 'app', false)",
			"with c as (select set_config('search_path', 'app', false)) select 1 from c", "select set_config('search_path', 'app', false) union select 'x'",
			"select set_config('search_path', 'app', false) order by (select 1)", "declare c cursor for select set_config('search_path', 'app', false)",
			"insert into orders select 1, 1, 1 where set_config('search_path', 'app', false) = ''"}},
		{"PG-34", "unknown", []string{"select set_config('search_path', 'app', false); select * from customers"}},
		{"PG-35", "refused", []string{"select set_config('role', 'postgres', false)", "select set_config('session_authorization', 'postgres', false)"}},
		{"PG-31", "refused", []string{"select set_config('client_encoding', 'SJIS', false)", "select set_config('Standard_Conforming_Strings', 'off', false)"}},
		{"PG-34", "define", []string{"create temp table customers (id int)", "create table pg_temp.customers (id int)", "select 1 into temp x", "create temp view orders as select 1"}},
		{"PG-34", "unknown", []string{"select * from pg_temp.customers", "set search_path = app; select * from customers"}},
		{"PG-34", "execute", []string{"select sum(name) from customers"}},
		{"PG-35", "grant", []string{"set role postgres", "set local role none", "reset role"}},
		{"PG-35", "refused", []string{"set session authorization postgres", "reset session authorization", "set session_authorization = 'x'"}},
		{"PG-37", "execute", []string{"select pg_terminate_backend(1)", "select lo_unlink(1)", "select nextval('counter')", "select pg_sleep(10)", "select pg_catalog.pg_cancel_backend(1)", "select 1 where pg_advisory_lock(1) is null",
			"select (1).pg_sleep", "select pg_notify('a', 'b')", "select * from lo_get(1)", "select setval('counter', 1)", "select c.x from (select 1 as x) c order by pg_sleep(1)", "select txid_current(), pg_reload_conf()"}},
		{"PG-37", "execute", []string{"select f.pg_sleep from unnest(array[5.0::float8]) f", "select f.nextval from unnest(array['counter'::regclass]) f",
			"select f.pg_advisory_lock from generate_series(1, 2) f", "select f.peek from generate_series(1, 2) f"}},
		{"PG-37", "!read", []string{"select pg_read_file('/etc/passwd')", "select pg_ls_dir('/')", "select * from dblink('a', 'b') as t(x int)", "select lo_import('/etc/passwd')", "select pg_read_binary_file('x')"}},
		{"PG-38", "unknown", []string{"select query_to_xml('select email from customers', true, true, '')", "select database_to_xml(true, true, '')", "select table_to_xml('customers', true, true, '')",
			"select * from ts_stat('select to_tsvector(email) from customers')", "select schema_to_xml('public', true, true, '')", "select cursor_to_xml('c', 1, true, true, '')"}},
		{"PG-40", "read not maskable", []string{"select whole from rows_of", "select upper(email) from contacts", "select id from contacts2 where email like 'a%'", "select id from emails, orders where email > ''"}},
		{"PG-40", "read masked", []string{"select email from contacts", "select * from contacts2", "select email from emails", "select email from events_2025", "select email from events", "select secret from person"}},
		{"PG-40", "forward", []string{"select email from remote"}},
		{"PG-41", "!read", []string{"commit; drop table orders", "rollback; delete from orders", "end; truncate orders", "set transaction read write; delete from orders"}},
		{"PG-47", "read not maskable", []string{"select id from customers where email like '1%'", "select 1/(ascii(substr(email,1,1))-49) from customers", "select id from customers order by email", "select 1 from customers group by email",
			"select id from customers c where c.* = row(1)", "select id from customers join orders on email = 'x'", "select row_number() over (order by card_number) from customers", "select count(*) filter (where email = 'x') from customers",
			"select id from customers limit (select length(email) from customers limit 1)"}},
		{"PG-49", "read not maskable", []string{"select substr(email, 1, 3) from customers", "select reverse(email) from customers", "select encode(email::bytea, 'base64') from customers", "select md5(email) from customers", "select email || 'x' from customers",
			"select email::bytea from customers", "select row_to_json(c) from customers c", "select c from customers c", "select (c).email from customers c", "select array[email] from customers", "select email collate \"C\" from customers", "select (email) || '' from customers",
			"select min(email) from customers", "select case when true then email end from customers", "select email as x from customers union all select ''", "values ((select email from customers limit 1))"}},
		{"PG-50", "!read", []string{"insert into app.log (line) select email from customers", "create table scratch as select email from customers", "select email into scratch from customers", "create materialized view m as select * from customers", "create view v as select email from customers",
			"update app.log set line = (select email from customers limit 1) where id = 1", "alter table customers rename email to x", "alter table customers rename to c2", "alter table customers set schema app", "create table c2 (like customers)", "create table c2 () inherits (customers)"}},
		{"PG-55", "refused", []string{"select most_common_vals from pg_stats", "select * from pg_catalog.pg_statistic", "select query from pg_stat_activity", "select * from pg_authid", "select passwd from pg_shadow", "select * from pg_user_mapping", "select * from pg_user_mappings",
			"select vals from stats", "select * from information_schema.user_mapping_options", "select * from pg_largeobject", "select * from pg_toast.pg_toast_1255", "select * from pg_stats_ext", "select * from pg_stat_get_activity(null)", "select * from pg_prepared_statements", "select * from pg_cursors", "select * from pg_hba_file_rules"}},
		{"PG-58", "!read", []string{"alter system set work_mem = 1", "load 'x'", "create extension dblink", "grant select on customers to public", "alter default privileges grant all on tables to public", "create role x superuser", "alter role postgres password 'x'", "drop role x", "create database x",
			"revoke all on customers from public", "reassign owned by a to b", "create function f() returns int language sql as 'select 1'", "create rule r as on select to orders do instead select 1", "vacuum", "lock table orders", "checkpoint", "create server s foreign data wrapper f"}},
		{"PG-59", "read", []string{"select has_table_privilege('customers', 'delete') as delete", "select 1 as delete, 2 as update, 3 as drop", "select 'delete'::mood", `select "delete" from "Odd.Name"`}},
	} {
		t.Run(row.id, func(t *testing.T) {
			for _, sql := range row.sql {
				c, _ := b.facts(sql)
				got := verdict(c)
				ok := got == row.want
				if not, found := strings.CutPrefix(row.want, "!"); found {
					ok = !strings.HasPrefix(got, not)
				} else if row.want == "write" || row.want == "define" || row.want == "grant" || row.want == "execute" || row.want == "forward" {
					ok = strings.HasPrefix(got, row.want)
				}
				if !ok {
					t.Errorf("%s\n got %s, want %s: %s; %s", sql, got, row.want, say(c), c.Why)
				}
			}
		})
	}
	t.Run("AU-05", func(t *testing.T) {
		for _, sql := range []string{"alter user bob password 'hunter2'", "create role r login password 'hunter2'", "alter user bob password hunter2", "select 'hunter2' from \"a\x1b[2J\nb\"",
			"copy x to program 'hunter2'", "select E'\\'hunter2'", "select $x$hunter2$x$", "select 'it's hunter2'", "set x.password = hunter2", "select 'a' /* hunter2 */ -- hunter2\n, 1"} {
			c, _ := b.facts(sql)
			if strings.Contains(c.Normalised, "hunter2") || strings.ContainsAny(c.Normalised, "\x1b\n") || c.Text != sql {
				t.Errorf("%q is normalised to %q", sql, c.Normalised)
			}
		}
	})
}
