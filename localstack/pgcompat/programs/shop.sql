-- A shop's database with one of everything that pg_dump writes and a GUI shows. Version 15 and newer.
create role shop_reader nologin;
create schema app;
comment on schema app is 'the shop';
create schema extra authorization shop_reader;
create extension hstore schema extra;
create collation app.plain from "C";
create type app.mood as enum ('low', 'high');
create domain app.positive as int check (value > 0);
create domain app.mail as text check (value ~ '^[^@]+@[^@]+$') not null;
create type app.address as (street text, city text, zip text);
create type app.span as range (subtype = float8, subtype_diff = float8mi);
create sequence app.numbers start 100 increment 5 cache 10;

create table app.people (
  id int generated always as identity primary key, name text not null, mood app.mood default 'low', born date, tags text[], doc jsonb, raw bytea,
  home app.address, initials text generated always as (left(name, 2)) stored, more extra.hstore);
comment on table app.people is 'people';
comment on column app.people.born is 'where it is known; quotes '' and \backslashes';
create table app.orders (
  id bigserial primary key, person int references app.people on delete cascade on update set null deferrable initially deferred,
  amount numeric(10,2) check (amount >= 0), n app.positive, number int default nextval('app.numbers'), at timestamptz default '2024-01-01 00:00+00',
  constraint amount_fits check (amount < 1000000) no inherit, unique nulls not distinct (person, number));
create table app.bookings (room int, during tstzrange, exclude using gist (during with &&));
create table app.parts (k int not null, v text collate app.plain, primary key (k)) partition by range (k);
create table app.parts1 partition of app.parts for values from (0) to (100);
create table app.parts2 partition of app.parts for values from (100) to (maxvalue) partition by hash (k);
create table app.parts2a partition of app.parts2 for values with (modulus 2, remainder 0);
create table app.parts2b partition of app.parts2 for values with (modulus 2, remainder 1);
create table app.base (id int, note varchar(20) default 'none');
create table app.derived (extra char(3)) inherits (app.base) with (fillfactor = 70);
create unlogged table app.scratch (a int, b "char", c xml, d interval, e inet, f money, g bit(3), h point, i tsvector, j uuid, k int4range, l app.span, m numeric[]);
create table app."Odd ""Name""" ("select" int, "Mixed Case" text);

create index on app.people using gin (doc);
create unique index people_by_name on app.people (lower(name) text_pattern_ops desc nulls last, born) include (mood) where born is not null;
create statistics app.orders_together (ndistinct, dependencies) on person, amount from app.orders;
alter table app.people cluster on people_pkey;
alter table app.orders replica identity full;
alter table only app.people alter column doc set storage external, alter column name set statistics 500;

create function app.f(a int) returns int language sql immutable as 'select a + 1';
create function app.body(a int, out b int, out c text) language sql begin atomic select a as b, 'x'::text as c; end;
create function app.names(prefix text, variadic list text[] default array['a''b']) returns setof text language plpgsql stable security definer
  set search_path = pg_catalog as $f$ begin return query select prefix || l from unnest(list) l; end $f$;
comment on function app.f(int) is 'adds one';
create procedure app.close_all(inout n int) language plpgsql as $$ begin delete from app.orders where false; n := 0; end $$;
create aggregate app.total (numeric) (sfunc = numeric_add, stype = numeric, initcond = '0');
create operator app.=== (leftarg = int, rightarg = int, function = int4eq, commutator = operator(app.===));
create cast (app.mood as int) with inout;
create text search configuration app.simple (copy = simple);
create text search dictionary app.short (template = simple, accept = false);
create function app.t() returns trigger language plpgsql as $$ begin new.name = trim(new.name); return new; end $$;
create trigger t before insert or update of name on app.people for each row when (new.name is not null) execute function app.t('an argument');
alter table app.people disable trigger t;
create function app.e() returns event_trigger language plpgsql as $$ begin null; end $$;
create event trigger watch on ddl_command_end when tag in ('CREATE SERVER') execute function app.e();

create view app.rich with (security_barrier) as select p.name, sum(o.amount) total from app.people p join app.orders o on o.person = p.id group by 1;
create view app.poor as select id, name from app.people where mood = 'low' with local check option;
create recursive view app.counting (n) as values (1) union all select n + 1 from counting where n < 10;
create materialized view app.mat as select mood, count(*) from app.people group by mood;
create unique index on app.mat (mood);
create rule keep as on delete to app.base do instead nothing;
create rule through as on insert to app.poor do instead insert into app.people (name) values (new.name);
comment on view app.rich is 'who spends';
comment on constraint amount_fits on app.orders is 'checked';

alter table app.orders enable row level security;
create policy own on app.orders for select to shop_reader using (person > 0);
create policy all_of on app.orders as restrictive using (true) with check (amount < 5000);
grant usage on schema app to shop_reader;
grant select (id, name), update (name) on app.people to shop_reader with grant option;
grant select on all tables in schema extra to public;
revoke all on function app.f(int) from public;
grant execute on function app.f(int) to shop_reader;
alter default privileges in schema app grant select on tables to shop_reader;
create foreign data wrapper nowhere;
create server far foreign data wrapper nowhere options (host 'localhost');
create user mapping for shop_reader server far options (password 'not shown');
create foreign table app.remote (id int options (column_name 'ID'), v text) server far options (a 'b');
create publication several for table app.people (id, name) where (id > 10);
create publication whole for tables in schema extra;

insert into app.people (name, tags, doc, raw, born, home, more)
  select 'p' || g, array['a', g::text, null, 'q"\'], jsonb_build_object('g', g), decode(lpad(to_hex(g), 4, '0'), 'hex'), date '2000-01-01' + g, row('a b', 'c"d', g)::app.address, extra.hstore('k', g::text)
  from generate_series(1, 500) g;
insert into app.orders (person, amount, n) select id, id * 1.5, id from app.people;
insert into app.parts select g, E'v\t\n\\' || g from generate_series(0, 199) g;
insert into app.derived values (1, 'one', 'abc');
insert into app.base values (2);
insert into app.bookings values (1, '[2024-01-01,2024-01-02)');
insert into app.scratch values (1, 'x', '<a>b</a>', '1 day', '::1', 5, b'101', '(1,2)', 'a:1 b', '00000000-0000-0000-0000-000000000001', '[1,5)', '[1.5,2)', '{1.10,NaN}');
insert into app."Odd ""Name""" values (1, 'x');
select lo_from_bytea(424242, 'a large object');
comment on large object 424242 is 'kept beside the tables';
refresh materialized view app.mat;
