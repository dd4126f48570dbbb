# PostgreSQL's own programs: pgbench in its three modes, pg_dump and pg_restore there and back, psql's \-commands.
set -u -o pipefail
dir=$COMPAT/tools
check() { # name, command...
  local name=$1 out
  shift
  if out=$("$@" 2>&1) && ! grep -qE '^(psql:|ERROR|FATAL|pg_)' <<<"$out"; then echo "pass $name"; else echo "fail $name"; echo "$out" | sed 's/^/    /' | tail -20; fi
}
schema() {
  psql -qX -v ON_ERROR_STOP=1 -d "$1" <<'SQL'
create schema app;
create type app.mood as enum ('low', 'high');
create domain app.positive as int check (value > 0);
create table app.people (id int generated always as identity primary key, name text not null, mood app.mood default 'low', born date, tags text[], doc jsonb, raw bytea);
create table app.orders (id bigserial primary key, person int references app.people on delete cascade, amount numeric(10,2), n app.positive) ;
create table app.parts (k int, v text) partition by range (k);
create table app.parts1 partition of app.parts for values from (0) to (100);
create index on app.people using gin (doc);
create view app.rich as select p.name, sum(o.amount) total from app.people p join app.orders o on o.person = p.id group by 1;
create materialized view app.mat as select count(*) from app.people;
create function app.f(a int) returns int language sql as 'select a + 1';
create function app.t() returns trigger language plpgsql as $$ begin new.name = trim(new.name); return new; end $$;
create trigger t before insert on app.people for each row execute function app.t();
insert into app.people (name, tags, doc, raw) select 'p' || g, array['a', g::text], jsonb_build_object('g', g), decode(lpad(to_hex(g), 4, '0'), 'hex') from generate_series(1, 500) g;
insert into app.orders (person, amount, n) select id, id * 1.5, id from app.people;
insert into app.parts select g, 'v' from generate_series(0, 99) g;
comment on table app.people is 'people';
SQL
}
round() { # there and back: what is dumped of what was restored is what was dumped
  local format=$1 db=back_$1
  rm -rf "$dir/one.$format" "$dir/$format.1" "$dir/$format.2"
  psql -qX -p "$DIRECT_PORT" -d postgres -c "drop database if exists $db" -c "create database $db" &&
    pg_dump -F"$format" -d shop -f "$dir/one.$format" && pg_restore -d "$db" "$dir/one.$format" &&
    pg_dump --inserts -d shop -f "$dir/$format.1" && pg_dump --inserts -d "$db" -f "$dir/$format.2" && diff <(grep -v '^\\' "$dir/$format.1") <(grep -v '^\\' "$dir/$format.2")
}
case $1 in
install) mkdir -p "$dir" ;;
prepare)
  set -e
  psql -qX -d postgres -c 'create database shop' -c 'create database bench'
  schema shop
  pgbench -q -i -s 1 bench 2>/dev/null
  echo "$PGPORT" >"$dir/direct"
  ;;
run)
  DIRECT_PORT=$(cat "$dir/direct")
  for mode in simple extended prepared; do
    check "pgbench -S -M $mode" pgbench -n -S -M $mode -c 4 -j 2 -t 200 bench
    check "pgbench -M $mode" pgbench -n -M $mode -c 4 -j 2 -t 50 bench
  done
  check "pgbench -i" pgbench -q -i -s 1 bench
  check "pgbench -i -I dtGvp" pgbench -q -i -I dtGvp -s 1 bench
  cat >"$dir/pipeline.sql" <<'SQL'
\startpipeline
select 1;
select abalance from pgbench_accounts where aid = 7;
\endpipeline
SQL
  check "pgbench pipeline" pgbench -n -M extended -c 2 -t 50 -f "$dir/pipeline.sql" bench
  for format in c t; do check "pg_dump -F$format, pg_restore" round $format; done
  check "pg_dump -s" pg_dump -s -d shop
  check "pg_dump -a --column-inserts" pg_dump -a --column-inserts -d shop
  check "pg_dumpall -g" pg_dumpall -g
  for c in '\l' '\d' '\d app.*' '\d+ app.people' '\dt app.*' '\dt+ *.*' '\di app.*' '\dv app.*' '\dm app.*' '\ds app.*' '\df app.*' '\df+ app.*' '\sf app.f' '\sv app.rich' \
    '\dn' '\dn+' '\du' '\du+' '\dg' '\dx' '\dx+' '\dT app.*' '\dT+' '\dD app.*' '\dp app.*' '\ddp' '\db' '\dc' '\dC' '\dd' '\dE' '\des' '\deu' '\dew' '\dF' '\dFd' '\dFp' '\dFt' '\dl' '\dL' \
    '\do' '\dO' '\dP' '\dPi' '\drds' '\dRp' '\dRs' '\dy' '\dA' '\dAc' '\dconfig' '\z app.people' '\conninfo' '\encoding' '\ef app.f' '\gdesc' '\watch' '\timing' '\set' '\x'; do
    case $c in
    '\gdesc') check "psql $c" psql -X -d shop -f <(echo 'select 1 as a, now() as b \gdesc') ;;
    '\ef app.f' | '\watch') continue ;;
    *) check "psql $c" psql -X -d shop -c "$c" ;;
    esac
  done
  check 'psql \copy to' psql -X -d shop -c "\\copy app.people to '$dir/people.csv' csv header"
  check 'psql \copy from' psql -X -d shop -c "\\copy app.parts from program 'printf \"1\\tx\\n2\\ty\\n\"'"
  check 'psql \copy binary' psql -X -d shop -c "\\copy app.orders to '$dir/orders.bin' with (format binary)"
  check 'psql \gexec' psql -X -d shop -f <(echo "select 'select 1' \\gexec")
  check 'psql \gset' psql -X -d shop -f <(printf '%s\n' 'select 1 as a \gset' '\echo :a')
  check 'psql FETCH_COUNT' psql -X -d shop -v FETCH_COUNT=10 -c 'select * from app.people'
  check 'psql \crosstabview' psql -X -d shop -f <(echo "select 'a' as r, 'b' as c, 1 as v \\crosstabview")
  check 'psql -1 -f' psql -X -1 -d shop -f <(echo 'create table app.once (a int); drop table app.once;')
  check 'psql \lo_import' psql -X -d shop -c "\\lo_import '$dir/pipeline.sql'"
  check 'psql on_error_rollback' psql -X -d shop -v ON_ERROR_ROLLBACK=on -c 'begin' -c 'commit'
  check 'psql listen' psql -X -d shop -c 'listen x' -c "notify x, 'y'"
  check 'vacuumdb' vacuumdb -q -d shop
  check 'reindexdb' reindexdb -q -d shop
  check 'createdb, dropdb' bash -c 'createdb once && dropdb once'
  check 'pg_isready' pg_isready -q
  ;;
esac
