package postgres

// generateSchema has what a statement may lead to: keys that cascade, partitions, inheritance, views of four kinds, rules, triggers, row
// security, functions that are looked into and one that is not, an operator and an aggregate of its own.
const generateSchema = `
create type mood as enum ('sad', 'ok');
create type pair as (a int, b text);
create domain short as text check (length(value) < 100);
create table people (id int primary key, email text unique, name text, born date, score numeric, doc jsonb, tags text[], marks int[], twice int generated always as (id * 2) stored);
create table orders (id int primary key, person_id int references people on delete cascade on update cascade, amount numeric, placed date, note text, doc jsonb);
create table items (id int primary key, order_id int references orders on delete set null, sku text, n int check (n > 0), tags text[]);
create table events (id int, at date, who text, what text, doc jsonb, primary key (id, at)) partition by range (at);
create table events_old partition of events for values from ('2000-01-01') to ('2020-01-01');
create table events_new partition of events for values from ('2020-01-01') to ('2040-01-01') partition by list (id);
create table events_new_1 partition of events_new for values in (1, 2, 3);
create table events_new_rest partition of events_new default;
create table base (id int, label text, secret text);
create table derived (extra text) inherits (base);
create table derived2 (more int) inherits (derived);
create view adults as select id, email, name, score from people where born < '2005-01-01';
create view totals as select p.name, sum(o.amount) as amount, count(*)::int as n from people p join orders o on o.person_id = p.id group by p.name;
create view checked with (security_barrier) as select id, name, doc from people where score > 0 with local check option;
create view nested as select a.id, a.email, t.amount from adults a left join totals t on t.name = a.name;
create materialized view stock as select sku, sum(n)::int as n from items group by sku;
create table ruled (id int, v text); create table ruled_log (id int, v text, w text);
create rule r1 as on insert to ruled do also insert into ruled_log values (new.id, new.v, (select max(email) from people));
create rule r2 as on delete to ruled do instead update ruled_log set w = old.v where id = old.id;
create table watched (id int, v text);
create function watch() returns trigger language plpgsql as 'begin insert into ruled_log values (new.id, new.v); return new; end';
create trigger w after insert or update on watched for each row execute function watch();
create table guarded (id int, owner text, body text); alter table guarded enable row level security; alter table guarded force row level security;
create policy p on guarded using (owner = current_user or exists (select from people where email = owner));
create function names_of(int) returns setof text language sql stable as 'select name from people where id = $1';
create function one(text) returns int language sql as 'select id from people where email = $1';
create function lines() returns table (id int, note text) language sql stable begin atomic select id, note from orders; end;
create function hidden(int) returns int language plpgsql as 'begin return (select count(*) from items); end';
create function same(text, text) returns bool language sql as 'select $1 = $2 and exists (select from base)';
create operator === (leftarg = text, rightarg = text, function = same);
create aggregate joined(text) (sfunc = textcat, stype = text, initcond = '');
create sequence counter; create schema other; create table other.people (id int, email text, extra numeric);
insert into people (id, email, name, born, score, doc, tags, marks) select i, 'p' || i, 'n' || i, date '1990-01-01' + i, i, jsonb_build_object('a', i, 'b', array[i]), array['x', 'y' || i], array[i, 2] from generate_series(1, 4) i;
insert into orders select i, i, i * 10, date '2023-01-01' + i, 'o', '{"k":[1,2]}' from generate_series(1, 4) i; insert into items select i, i, 's' || i, i, '{a}' from generate_series(1, 4) i;
insert into events select i, date '2019-12-30' + i, 'w', 'h', '{}' from generate_series(1, 4) i; insert into base values (1, 'l', 's'); insert into derived values (2, 'l', 's', 'e');
refresh materialized view stock; analyze`

var generateTables = []table2{
	{"people", []column2{{"id", "int"}, {"email", "text"}, {"name", "text"}, {"born", "date"}, {"score", "numeric"}, {"doc", "jsonb"}, {"tags", "text[]"}, {"marks", "int[]"}}, 'r'},
	{"orders", []column2{{"id", "int"}, {"person_id", "int"}, {"amount", "numeric"}, {"placed", "date"}, {"note", "text"}, {"doc", "jsonb"}}, 'r'},
	{"items", []column2{{"id", "int"}, {"order_id", "int"}, {"sku", "text"}, {"n", "int"}, {"tags", "text[]"}}, 'r'},
	{"events", []column2{{"id", "int"}, {"at", "date"}, {"who", "text"}, {"what", "text"}, {"doc", "jsonb"}}, 'r'},
	{"events_new", []column2{{"id", "int"}, {"at", "date"}, {"who", "text"}, {"what", "text"}, {"doc", "jsonb"}}, 'r'},
	{"base", []column2{{"id", "int"}, {"label", "text"}, {"secret", "text"}}, 'r'},
	{"derived", []column2{{"id", "int"}, {"label", "text"}, {"secret", "text"}, {"extra", "text"}}, 'r'},
	{"adults", []column2{{"id", "int"}, {"email", "text"}, {"name", "text"}, {"score", "numeric"}}, 'r'},
	{"totals", []column2{{"name", "text"}, {"amount", "numeric"}, {"n", "int"}}, 'v'},
	{"checked", []column2{{"id", "int"}, {"name", "text"}, {"doc", "jsonb"}}, 'r'},
	{"nested", []column2{{"id", "int"}, {"email", "text"}, {"amount", "numeric"}}, 'v'},
	{"stock", []column2{{"sku", "text"}, {"n", "int"}}, 'v'},
	{"ruled", []column2{{"id", "int"}, {"v", "text"}}, 'r'},
	{"watched", []column2{{"id", "int"}, {"v", "text"}}, 'r'},
	{"guarded", []column2{{"id", "int"}, {"owner", "text"}, {"body", "text"}}, 'r'},
	{"other.people", []column2{{"id", "int"}, {"email", "text"}, {"extra", "numeric"}}, 'r'},
}

var generateTypes = []string{"int", "text", "numeric", "date", "jsonb", "bool", "text[]", "int[]"}
