package postgres

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/protocol/postgres/pgtest"
	"github.com/sallyport/sallyport/internal/access"
)

// Whoever may do everything but see protected data tries to learn it. The database holds other values the second time, which look the same
// behind their masks. What the client gets must then be the same, byte by byte: no value, and nothing that depends on one.

const vaultSchema = `
create schema evil;
create type mood as enum ('sad', 'ok', 'glad');
create domain address as text check (value like '%@%');
create table people (id integer primary key, name text not null, email text unique, card text, salary integer check (salary >= 0), born date, key uuid, doc jsonb, tags text[],
  state mood, contact address, pic bytea, rate numeric, seen timestamptz, domain text generated always as (split_part(email, '@', 2)) stored);
insert into people (id, name, email) values (0, 'x', 'x@y.zz');
alter table people add pin text default 'canary-pin';
alter table people alter pin set default 'none';
create index on people (email, id);
create index on people ((lower(email)));
create table kids (id integer primary key, email text references people (email), note text);
create table notes (id serial primary key, line text, n integer);
create sequence counter;
create view contacts as select id, name, email from people;
create view starts as select id from people where email > 'aj';
create view made as select id, upper(email) as e, length(card) as n from people;
create materialized view kept as select id, email, born from people;
create function peek(integer) returns text language sql as 'select email from people where id = $1';
create function mail_of(people) returns text language sql as 'select $1.email';
create function everybody() returns setof people language sql security definer as 'select * from people';
create function tell(integer) returns text language plpgsql as 'begin return (select email from people where id = $1); end';
create function shout(text) returns text language plpgsql as 'begin raise notice ''%'', $1; return ''''; end';
create function trip(text) returns text language plpgsql as 'begin raise exception ''%'', $1; end';
create function spy(pg_catalog.text) returns boolean language plpgsql as 'begin raise notice ''%'', $1; return true; end';
create function evil.octet_length(pg_catalog.text) returns integer language sql as 'select ascii($1)';
create function evil.is_like(pg_catalog.text, pg_catalog.text) returns boolean language sql as 'select $1 > ''aj''';
create operator evil.~ (leftarg = pg_catalog.text, rightarg = pg_catalog.text, function = evil.is_like);
create function step(text, text) returns text language sql immutable as 'select greatest($1, $2)';
create aggregate last_of(text) (sfunc = step, stype = text);
create function on_people() returns trigger language plpgsql as $$ begin
  raise notice '%', new.email; if new.name = 'trip' then raise exception 'no %', new.email using detail = new.card, hint = new.email; end if; return new; end $$;
create trigger tell before update on people for each row execute function on_people();
do $$ begin if exists (select from pg_available_extensions where name = 'pageinspect') then create extension pageinspect; end if; end $$;
`

// vaultValues are alike behind their masks, and differ in order, length, parity, type and whatever else could be asked for.
var vaultValues = [2]string{
	`(1, 'Ada', 'ada@alphacanary.example', '4111111111111111', 7, '1815-12-10', '01234567-89ab-cdef-0123-456789abcdef', '{"k":"alphacanary"}', '{alphacanary,b}', 'sad', 'ada@alphacanary.example', 'alphacanary', 1.5, '2024-01-01 00:00:00+00'),
	 (2, 'Bob', 'bob@x.example', '42', 1000, '2001-02-03', '11111111-89ab-cdef-0123-456789abcdef', '[1]', '{}', 'glad', 'bob@x.example', '\x00', -3, '1999-01-01 00:00:00+00'),
	 (3, 'Cyd', 'zz', 'x', 0, '2020-02-29', '21111111-89ab-cdef-0123-456789abcdef', '3', '{q}', 'ok', 'c@d', '\xff', 0, 'infinity')`,
	`(1, 'Ada', 'amy.q@omegacanary.example', '5500005555555559', 8, '1990-01-02', '91234567-89ab-cdef-0123-456789abcdef', '{"k":"omegacanary!"}', '{omegacanary}', 'glad', 'amy@omegacanary.example', 'omegacanary', 2.25, '2023-01-01 00:00:00+00'),
	 (2, 'Bob', 'b@yyyyyyyyyyyyyy.example', '4000000000000002', 999, '1999-12-31', '01111111-89ab-cdef-0123-456789abcdef', '[2,3]', '{a,b,c}', 'sad', 'b@y.example', '\x0102', 30, '2029-01-01 00:00:00+00'),
	 (3, 'Cyd', 'a', '7', 50, '1970-01-01', 'f1111111-89ab-cdef-0123-456789abcdef', '"s"', '{z}', 'sad', 'x@y', '\x00', 9, '-infinity')`,
}

var vaultClasses = []access.Class{
	{Name: "email", Columns: []string{"public.people.email", "public.people.contact", "public.kids.email"}, Mask: "email"},
	{Name: "card", Columns: []string{"public.people.card", "public.people.salary", "public.people.born", "public.people.key", "public.people.doc", "public.people.tags", "public.people.state",
		"public.people.pic", "public.people.rate", "public.people.seen", "public.people.pin"}, Mask: "full"},
}

// channels are ways by which a value could come out. Statements of one string, divided by ";;", run one after the other in a transaction that is
// rolled back.
var channels = map[string][]string{
	"plain": {"select * from people order by id", "table people", "select email, card, salary, born, key, doc, tags, state, contact, pic, rate, seen, domain, pin from people order by id", "select p.email as name, name as email from people p order by id"},
	"messages": {"select email::integer from people", "select salary / (length(email) - 23) from people", "select 1 / (ascii(email) - 97) from people where id = 1", "select cast(email as date) from people", "select card::numeric(3) from people", "select card::smallint from people", "select (email || '}')::json from people",
		"select to_number(email, '9') from people", "select substr(email, 1, -length(email)) from people", "select regexp_match(email, '(' || email) from people", "select chr(-ascii(email)) from people", "select email::regclass from people", "select email::regrole from people", "select to_regclass(email) from people",
		"select ('{' || email)::text[] from people", "select array[email]::integer[] from people", "select email::mood from people", "select (10 ^ salary) * 1e307 from people", "select repeat('x', ascii(email) * 20000000) from people", "select email::address from people", "select json_populate_record(null::kids, to_json(p)) from people p",
		"select convert_to(email, 'LATIN1') from people", "select to_tsquery(email) from people", "select email::xml from people", "select (select email from people) from kids", "select (select id from people where email > 'aj')", "select lpad('x', salary - 8) from people", "select make_date(salary, 1, 1) from people", "select doc::integer from people", "select tags[salary] from people"},
	"constraints": {"update people set name = null where id = 1", "update people set salary = -1 where id = 1", "update people set id = 2 where id = 1", "delete from people where id = 1", "insert into people (id, name, salary) values (1, 'x', 1)", "update people set contact = 'none' where id = 1", "insert into people (id, name) select id, email from people",
		"insert into kids values (9, 'nobody@none.test', 'x')", "update kids set id = 1 where id = 2", "insert into people select * from people", "update people set name = (select email from people where id = 1)", "truncate people", "alter table people add constraint c check (email like 'a%')", "alter table kids add constraint c foreign key (note) references people (email)",
		"alter table people add constraint c exclude (salary with =)", "create unique index on people (left(email, 1))", "create index on people ((email::integer))", "alter table people alter email type integer using email::integer", "alter table people alter salary type smallint", "alter table people alter email set not null", "alter table notes add check (exists (select from people where email > 'aj'))"},
	"predicates": {"select id from people where email > 'aj'", "select count(*) from people where card like '4%'", "select id from people where salary between 5 and 7", "select id from people where email in (select email from kids)", "select k.id from kids k join people p using (email)", "select k.id from kids k natural join people", "select id from people where born < '1900-01-01'",
		"select id from people where state > 'ok'", "select id from people where doc ? 'k'", "select id from people where 'b' = any(tags)", "select id from people p where p > row(1, 'Ada', 'aj')", "select id from people where (email, id) > ('aj', 0)", "select id from people where email is distinct from 'x'", "select id from people where email similar to 'a(d|m)%'", "select id from people where pic < '\\x01'",
		"select id from people limit (select salary from people where id = 1)", "select id from people offset (select count(*) from people where email > 'aj')", "select name from people group by name having max(email) > 'b'", "select id from people where case when email > 'aj' then true end", "select 1 where exists (select from people where rate > 1)", "select id from people where domain > 'b'", "select id from people where lower(email) > 'aj'",
		"select id from people where email = 'x' or (email > 'aj' and 1 / (id - 1) > 0)", "select id from people tablesample bernoulli (100) where email > 'aj'", "select id from only people where email > 'aj'", "select ctid from people where email > 'aj'", "select id from people where email > 'aj' for update", "select id from people where tableoid > 0 and email > 'aj'", "select public.people.id from public.people where public.people.email > 'aj'",
		"select i from people p (i, n, e) where e > 'aj'", "with p as (select * from people) select id from p where email > 'aj'", "with recursive r as (select id, email from people where id = 1 union select p.id, p.email from people p join r on p.email > r.email) select count(*) from r", "select a.id, b.id from people a join people b on a.email < b.email order by 1, 2", "select id from people where email ~ '^ad'", "select id from people where email collate \"C\" > 'aj'",
		"select s.x from people p, lateral (select p.email as x) s where s.x > 'aj'", "values ((select count(*) from people where email > 'aj'))", "select id from people where peek(id) > 'aj'", "select id from everybody() where email > 'aj'", "select id from people where starts_with(email, 'ad')", "select id from people where key < '5'", "select id from people where seen > now()"},
	"orders": {"select id from people order by email", "select id from people order by salary desc", "select array_agg(id order by email) from people", "select row_number() over (order by card), id from people order by id", "select distinct on (left(email, 1)) id from people", "select distinct salary % 2 from people", "select email, count(*) from people group by email order by 1", "select min(email), max(card), sum(salary), avg(rate) from people",
		"select percentile_disc(0.5) within group (order by salary) from people", "select rank('aj') within group (order by email) from people", "select mode() within group (order by state) from people", "select id from people order by email using <", "select name from people union select email from people order by 1", "select id from people except select salary from people", "select lag(id) over (order by email), id from people order by id", "select count(distinct left(email, 2)) from people",
		"select corr(id, salary) from people", "select id from people order by 1, email fetch first 2 rows with ties", "select greatest(email, 'aj') from people order by id", "select width_bucket(salary, 0, 10, 5) from people", "select grouping(email), count(*) from people group by rollup (email) order by 1, 2", "select bool_or(email > 'aj') from people", "select string_agg(name, ',' order by born) from people", "select last_of(email) from people",
		"cluster people using people_email_key;;select id from people", "set enable_seqscan = off;;select id from people order by id", "set enable_seqscan = off;;select id from people where id > 0 and email like 'a%'"},
	"plans": {"explain select id from people where email > 'aj'", "explain analyze select id from people where email > 'aj'", "explain (verbose, format json) select id from people order by email", "explain (costs off) select id from people where salary = 7", "explain select distinct email from people", "explain select email from people", "explain select p.id from people p join kids k using (email)", "explain select * from starts",
		"explain update people set name = 'x' where email > 'aj'", "prepare q as select id from people where email > 'aj';;explain execute q", "explain select peek(1)", "explain select upper(email) from contacts", "explain (generic_plan) select id from people where email > $1", "explain insert into notes (line) select email from people"},
	"statistics": {"select most_common_vals, histogram_bounds, n_distinct from pg_stats where tablename = 'people'", "select * from pg_statistic", "select * from pg_stats_ext", "select stxdmcv from pg_statistic_ext_data", "select attmissingval from pg_attribute where attrelid = 'people'::regclass order by attnum", "select a::text from pg_attribute a where attrelid = 'people'::regclass", "select * from pg_attribute where attname = 'pin'",
		"select query from pg_stat_activity", "select * from pg_stat_get_activity(null)", "select * from pg_cursors", "select * from pg_prepared_statements", "select pg_column_size(email), octet_length(card) from people", "select pg_size_pretty(length(email)::bigint) from people", "create statistics st (mcv) on email, card from people;;analyze people;;select * from pg_statistic_ext_data", "analyze verbose people", "select pg_get_expr(adbin, adrelid) from pg_attrdef"},
	"texts in functions": {"select query_to_xml('select email from people', true, false, '')", "select table_to_xml('people', true, false, '')", "select schema_to_xml('public', true, false, '')", "select database_to_xml(true, false, '')", "select * from ts_stat('select to_tsvector(email) from people')", "declare c cursor for select email from people;;select cursor_to_xml('c', 10, true, false, '')",
		"select dblink('dbname=vault', 'select email from people')", "do $$ begin raise notice '%', (select email from people where id = 1); end $$", "do $$ begin raise exception '%', (select email from people where id = 1); end $$", "do $$ begin perform 1 / (length(email) - 23) from people; end $$", "select ts_rewrite('a', 'select to_tsquery(name), to_tsquery(email) from people')", "select query_to_xml_and_xmlschema('select email from people', true, false, '')"},
	"functions": {"select peek(1)", "select tell(1)", "select shout(email) from people", "select trip(email) from people where id = 1", "select * from everybody()", "select mail_of(p) from people p", "select p.mail_of from people p", "select (p).mail_of from people p", "select email(p) from people p", "select name from people where spy(email)", "select everybody()", "select (everybody()).email", "select * from rows from (everybody(), generate_series(1, 3))",
		"create function f() returns text language sql as 'select email from people limit 1';;select f()", "create function f(text) returns boolean language plpgsql as 'begin raise notice ''%'', $1; return true; end';;select id from people where f(email)", "create aggregate agg(text) (sfunc = step, stype = text);;select agg(email) from people", "create operator === (leftarg = text, rightarg = text, function = texteq);;select id from people where email === 'x'",
		"create cast (text as mood) with inout as implicit;;select email::mood from people", "create domain d as text check (spy(value));;select email::d from people", "alter table notes add foreign key (line) references people (email)", "create table copy_of (like people including all)", "create function b() returns text begin atomic select email from people limit 1; end;;select b()"},
	"other places": {"select pg_notify('c', email) from people", "listen c;;select pg_notify('c', email) from people where id = 1;;commit", "select set_config('application_name', email, false) from people where id = 1;;show application_name", "select nextval('counter') from people where email > 'aj';;select currval('counter')", "select setval('counter', ascii(substr(email, 2))) from people where id = 1;;select last_value from counter",
		"select pg_advisory_lock(ascii(substr(email, 2))) from people where id = 1;;select objid from pg_locks where locktype = 'advisory'", "select pg_try_advisory_lock(salary) from people", "select pg_advisory_unlock(salary) from people", "select lo_from_bytea(98765, convert_to(email, 'UTF8')) from people where id = 1;;select lo_get(98765)", "select pg_sleep(case when email > 'aj' then 0.001 end) is null from people",
		"select pg_read_binary_file(pg_relation_filepath('people'))", "select pg_read_file('postgresql.auto.conf'), pg_read_binary_file('base/1/PG_VERSION')", "select get_raw_page('people', 0)", "select t_data from heap_page_items(get_raw_page('people', 0))", "select data from bt_page_items('people_email_key', 1)", "select * from pg_logical_slot_get_changes('s', null, null)",
		"insert into notes (line) select email from people;;select line from notes", "insert into notes (n) select count(*) from people where email > 'aj';;select n from notes", "update notes set line = email from people", "create table leak as select email from people;;select * from leak", "create temp table leak as select email as e from people;;select e from leak", "select email into leak from people;;select * from leak", "create view leak as select email as e from people;;select e from leak",
		"create view leak as select id from people where email > 'aj';;select * from leak", "create materialized view leak as select email as e from people;;select e from leak", "refresh materialized view kept;;select * from kept", "create rule r as on update to notes do also select email from people;;update notes set n = 1", "create table heir () inherits (people);;select email from only heir", "alter table people rename email to e;;select e from people", "alter table people rename to q;;select email from q",
		"alter table people set schema evil;;select email from evil.people", "alter table people alter domain drop expression;;select domain from people", "create policy p on people using (email > 'aj');;select id from people", "merge into notes n using people p on n.line = p.email when not matched then insert (line) values (p.email)", "delete from notes where line in (select email from people)", "alter view contacts rename email to e;;select e from contacts",
		"create or replace view contacts as select id, name, email from people where email > 'aj';;select id from contacts", "create trigger t after update on people for each row execute function suppress_redundant_updates_trigger()", "comment on column people.email is 'x';;select col_description('people'::regclass, 3)", "prepare transaction 'x'", "grant select on people to public", "create publication p for table people", "select pg_export_snapshot() is null"},
	"writes": {"update people set name = name where id = 1", "update people set name = 'trip' where id = 1", "update people set name = 'n' where id = 1 returning email, card", "update people set name = 'n' where id = 1 returning *", "update people set name = 'n' returning upper(email)", "update people set name = 'n' where email > 'aj'", "update people set salary = salary + 1", "update people set card = email", "delete from people where email > 'aj'",
		"delete from kids returning email", "insert into people (id, name, email) values (7, 'g', 'g@h.test') returning email, domain, pin", "with u as (update people set name = 'n' where id = 1 returning email) select * from u", "with u as (update people set name = 'n' returning id, email) select id from u where email > 'aj'", "update people p set name = 'n' from kids k where k.email = p.email", "insert into people (id, name) values (1, 'n') on conflict (id) do update set name = people.email returning name",
		"insert into people (id, name) values (1, 'n') on conflict (id) do update set name = 'm' where people.email > 'aj' returning id", "insert into people (id, name, email) values (8, 'n', 'ada@alphacanary.example') on conflict do nothing", "insert into people (id, name, email) values (8, 'n', 'ada@alphacanary.example') on conflict (email) do nothing", "insert into people (id, name, email) values (8, 'n', 'ada@alphacanary.example') on conflict on constraint people_email_key do nothing returning id",
		"insert into people (id, name) values (1, 'n') on conflict (id) do update set name = excluded.name, email = people.email || 'x' returning email", "merge into people p using kids k on p.email = k.email when matched then update set name = 'n'", "declare c cursor for select id from people where email > 'aj' for update;;update people set name = 'n' where current of c", "update contacts set name = 'n' where id = 1 returning email", "update contacts set name = email", "lock table people"},
	"rows as values": {"select p from people p order by id", "select row_to_json(p) from people p order by id", "select to_jsonb(p) -> 'email' from people p order by id", "select jsonb_path_query(to_jsonb(p), '$.email') from people p order by id", "select e.value from people p, json_each_text(row_to_json(p)) e order by p.id, e.key", "select json_agg(people) from people", "select p::text from people p order by id", "select (p).email from people p order by id", "select (p).* from people p order by id",
		"select array_agg(p order by id)::text from people p", "select xmlelement(name e, email) from people order by id", "select x.e from people p, xmltable('/r' passing xmlelement(name r, p.email) columns e text path '.') x order by p.id", "select row(p.*)::text from people p order by id", "select array[email, card] from people order by id", "select string_agg(email, ',' order by id) from people", "select reverse(email), md5(card), encode(pic, 'hex'), email::bytea from people order by id",
		"select unnest(tags) from people order by id", "select doc -> 'k', doc ->> 0, jsonb_typeof(doc) from people order by id", "select enum_range(state, null) from people order by id", "select date_part('year', born), age(born, '2000-01-01'), extract(epoch from seen) from people order by id", "select format('%s', email), quote_literal(card), email || '', coalesce(card, 'x') from people order by id", "select hashtext(email), ascii(email), length(email) from people order by id", "select json_build_object(email, card) from people order by id",
		"select salary & 1, salary::bit(8), -salary, abs(rate), key::text from people order by id", "select pg_typeof(email), num_nulls(email, card, doc) from people order by id", "select count(p), count(p.*), p is not null from people p group by p order by 3", "select p.to_json from people p order by id", "select j.email from (people p join kids k on true) j"},
	"views":  {"select * from contacts order by id", "select upper(email) from contacts order by id", "select id from contacts where email > 'aj'", "select * from starts", "select count(*) from starts", "select * from made order by id", "select id from made where e > 'B'", "select n + 1 from made order by id", "select * from kept order by id", "select id from kept where email > 'aj'", "select c.id from contacts c join kids k using (email)", "select c from contacts c order by id", "copy (select * from contacts order by id) to stdout"},
	"copies": {"copy people to stdout", "copy people (email, card) to stdout (format csv)", "copy people to stdout (format binary)", "copy (select upper(email), salary from people order by id) to stdout", "copy (select id from people where email > 'aj') to stdout", "copy (update people set name = 'n' returning email) to stdout", "copy people to program 'cat'", "copy people to '/dev/null'", "copy kids to stdout", "copy people (domain) to stdout", "copy notes (line) from program 'echo x'"},
	"names": {"declare c cursor for select email, upper(card), salary from people order by id;;fetch all c", "declare c binary cursor for select email, salary + 1, key, born from people order by id;;fetch 2 c", "declare c cursor for select id from people where email > 'aj';;fetch all c;;move backward all in c", "prepare q as select upper(email), card from people order by id;;execute q", "prepare q (text) as select id from people where email > $1;;execute q('aj')", "prepare q as insert into notes (line) select email from people;;execute q",
		"prepare q as update people set name = 'n' where id = 1 returning email;;execute q", "declare c cursor for select * from starts;;fetch all c", "prepare q as select email from people;;create temp table leak as execute q", "declare c cursor with hold for select lower(email) from people order by id;;fetch all c"},
	"other meanings": {"create domain evil.text as pg_catalog.text check (spy(value));;set search_path = evil, pg_catalog, public;;select upper(email) from public.people order by id", "set search_path = evil, pg_catalog, public;;select upper(email) from people order by id", "set search_path = evil, public, pg_catalog;;select id from people where email > 'aj'", "set search_path = evil, pg_catalog, public;;select lower(email), born + 1 from people order by id", "create temp table people (id integer, email text);;select upper(email) from public.people order by id",
		"set standard_conforming_strings = off;;select upper(email) from people order by id", "set extra_float_digits = 0;;set datestyle = german;;select born, seen, upper(email) from people order by id", "set bytea_output = 'escape';;select pic, pic || '' from people order by id", "set timezone = 'Asia/Tokyo';;select seen, seen::text, born::timestamptz from people order by id", "set role pg_read_all_data;;select upper(email) from people order by id", "set client_encoding = 'LATIN1';;select email from people order by id"},
}

// knownToTell is what tells all the same, as docs/policy.md says: who writes learns by the server's answer whether a value is there, and an index may
// be what rows are read by.
var knownToTell = map[string][]string{
	"": {"insert into people (id, name, email) values (8, 'n', 'ada@alphacanary.example')", "insert into kids values (8, 'ada@alphacanary.example')", "set enable_seqscan = off;;select id from people"},
}

// vault is a house whose database holds one of the two sets of values.
func vault(t *testing.T, which int, bare ...string) *house {
	t.Helper()
	g := newScript(map[string]ruling{"": {bare: bare}})
	g.strict = len(bare) == 0
	h := openHouse(t, g, func(s *protocol.Session) { s.Classes, s.Login.Database = vaultClasses, "vault" })
	fill(t, h.srv, which)
	return h
}

func fill(t *testing.T, s *pgtest.Server, which int) {
	t.Helper()
	c, err := pgconn.Connect(context.Background(), fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s dbname=vault sslmode=disable", s.Port, s.User, s.Password))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	sql := "truncate people, kids, notes restart identity; select setval('counter', 1, false); insert into people (id, name, email, card, salary, born, key, doc, tags, state, contact, pic, rate, seen) values " + vaultValues[which] +
		"; insert into kids select id, email, name from people; insert into notes (line, n) values ('a', 1); refresh materialized view kept; vacuum analyze people; vacuum analyze kids"
	for _, sql := range strings.Split(sql, "; ") {
		if _, err := c.Exec(context.Background(), sql).ReadAll(); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

var commandID = regexp.MustCompile(`"command_id":"[0-9A-Z]+"`)

// answers are all bytes that a client gets for each string of channels: by the simple protocol, and by the extended one in binary.
func answers(t *testing.T, h *house, channels map[string][]string, modes ...bool) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	var c *raw
	say := func(msg []byte) (got []byte) {
		c.write(t, msg)
		for {
			tag, body, err := c.tryRead()
			if err != nil { // the session is over: that too is an answer
				c = nil
				return append(got, "end"...)
			}
			if tag == 'A' {
				body = body[4:] // of which process
			}
			got = append(append(got, tag), body...)
			if tag == 'Z' {
				return got
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(channels)) {
		for _, text := range channels[name] {
			for _, extended := range modes {
				key := fmt.Sprintf("%v %s", extended, text)
				for i, sql := range append(append([]string{"begin"}, strings.Split(text, ";;")...), "rollback", "deallocate all") {
					if c == nil {
						if i > 0 {
							break
						}
						c = dialRaw(t, h)
						c.write(t, startupPacket(version3, "user", "alice", "database", "vault"))
						c.until(t, 'Z')
					}
					msg := appendQuery(nil, sql)
					if extended && i > 0 && sql != "rollback" && sql != "deallocate all" {
						msg, _ = appendParse(nil, "", sql), 0
						b, at := frame(nil, 'B')
						b = append(b, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1)
						msg = appendBare(appendExecute(appendDescribePortal(append(appendDescribe(msg), seal(b, at)...), ""), ""), 'S')
					}
					out[key] = append(out[key], commandID.ReplaceAll(say(msg), nil)...)
				}
			}
		}
	}
	if c != nil {
		c.write(t, appendBare(nil, 'X'))
	}
	return out
}

func appendDescribe(dst []byte) []byte {
	dst, at := frame(dst, 'D')
	return seal(append(dst, 'S', 0), at)
}

func makeVault(t *testing.T) {
	t.Helper()
	s := pgtest.Start(t)
	s.Exec(t, "drop database if exists vault")
	s.Exec(t, "create database vault")
	c, err := pgconn.Connect(context.Background(), fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s dbname=vault sslmode=disable", s.Port, s.User, s.Password))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	if _, err := c.Exec(context.Background(), vaultSchema).ReadAll(); err != nil {
		t.Fatal(err)
	}
}

func TestNothingTellsTheTruth(t *testing.T) {
	makeVault(t)
	var got [2]map[string][]byte
	for i := range got {
		h := vault(t, i)
		got[i] = answers(t, h, channels, false, true)
	}
	worked, canaries := 0, [][]byte{}
	for _, w := range []string{"alphacanary", "omegacanary", "ALPHACANARY", "OMEGACANARY", "yranacahpla", "canary-pin", "4111111111111111", "5500005555555559", "1815-12-10", "10.12.1815", "01234567-89ab", "\x01\x23\x45\x67\x89\xab"} {
		canaries = append(canaries, []byte(w), []byte(hex.EncodeToString([]byte(w))), []byte(base64.StdEncoding.EncodeToString([]byte(w))))
	}
	for key, one := range got[0] {
		if two := got[1][key]; !bytes.Equal(one, two) {
			at := 0
			for at < min(len(one), len(two)) && one[at] == two[at] {
				at++
			}
			t.Errorf("%s\n one: …%.300q\n two: …%.300q", key, one[max(0, at-60):], two[max(0, at-60):])
		}
		for _, w := range canaries {
			if bytes.Contains(one, w) || bytes.Contains(got[1][key], w) {
				t.Errorf("%s\n tells %q: %.600q", key, w, one)
			}
		}
		if !bytes.Contains(one, []byte("ERROR")) {
			worked++
		}
	}
	if worked*5 < len(got[0])*2 {
		t.Errorf("%d of %d statements work: the rest proves nothing", worked, len(got[0]))
	}
	t.Logf("%d of %d statements work", worked, len(got[0]))
}

// Who may see the data learns it in most of these ways: the statements are right, and the comparison sees the difference.
func TestTheTruthWouldTell(t *testing.T) {
	makeVault(t)
	var got [2]map[string][]byte
	for i := range got {
		got[i] = answers(t, vault(t, i, "email", "card"), channels, false)
	}
	differ := 0
	for key, one := range got[0] {
		if !bytes.Equal(one, got[1][key]) {
			differ++
		}
	}
	t.Logf("%d of %d statements tell", differ, len(got[0]))
	if differ*2 < len(got[0]) {
		t.Errorf("%d of %d statements tell: the comparison is blind", differ, len(got[0]))
	}
}

// What is known to tell does: where it does not any more, the documentation says too little.
func TestLimitsOfMasks(t *testing.T) {
	makeVault(t)
	var got [2]map[string][]byte
	for i := range got {
		got[i] = answers(t, vault(t, i), knownToTell, false)
	}
	for key, one := range got[0] {
		if bytes.Equal(one, got[1][key]) || bytes.Contains(one, []byte("alphacanary")) {
			t.Errorf("%s: %.300q", key, one)
		}
	}
}
