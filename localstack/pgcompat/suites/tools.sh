# PostgreSQL's own programs: pgbench in its three modes, pg_dump and pg_restore there and back, psql's \-commands.
set -u -o pipefail
dir=$COMPAT/tools
here=$(cd "$(dirname "$0")/.." && pwd)/programs
check() { # name, command...
  local name=$1 out
  shift
  if out=$("$@" 2>&1) && ! grep -qE '^(psql:|ERROR|FATAL|pg_)' <<<"$out"; then echo "pass $name"; else echo "fail $name"; echo "$out" | sed 's/^/    /' | tail -20; fi
}
dump() { pg_dump "$@" | grep -vE '^\\(un)?restrict '; } # their keys are random
direct() { PGPORT=$(cat "$dir/direct") "$@"; }
round() { # out through the gate, into an empty database through the gate: what is there then is what was there before
  local db=back_$1
  rm -rf "$dir/one.$1"
  psql -qX -d postgres -c "drop database if exists $db" -c "create database $db" && pg_dump -F"$1" "${@:2}" -d shop -f "$dir/one.$1" && pg_restore "${@:2}" --exit-on-error -d "$db" "$dir/one.$1" &&
    diff <(direct dump -d shop) <(direct dump -d "$db")
}
plain() { # in plain SQL, by psql
  psql -qX -d postgres -c 'drop database if exists back_p' -c 'create database back_p' && pg_dump -d shop -f "$dir/one.sql" && psql -qX -v ON_ERROR_STOP=1 -o /dev/null -d back_p -f "$dir/one.sql" &&
    diff <(direct dump -d shop) <(direct dump -d back_p)
}
alike() { diff <(direct dump "$@") <(dump "$@") && [ "$(dump "$@" | wc -l)" -gt 50 ]; }
case $1 in
install) mkdir -p "$dir" ;;
prepare)
  set -e
  psql -qX -d postgres -c 'create database shop' -c 'create database bench'
  PGOPTIONS='-c client_min_messages=error' psql -qX -v ON_ERROR_STOP=1 -d shop -o /dev/null -f "$here/shop.sql"
  pgbench -q -i -s 1 bench 2>/dev/null
  echo "$PGPORT" >"$dir/direct"
  ;;
run)
  for mode in simple extended prepared; do
    check "pgbench -S -M $mode" pgbench -n -S -M $mode -c 4 -j 2 -t 200 bench
    check "pgbench -M $mode" pgbench -n -M $mode -c 4 -j 2 -t 50 bench
  done
  for mode in simple extended prepared; do check "pgbench -C -M $mode" pgbench -n -C -S -M $mode -c 2 -t 20 bench; done
  check "pgbench -N, several scripts" pgbench -n -b simple-update@2 -b select-only@8 -c 2 -t 50 bench
  for steps in dtgvp dtGvpf; do check "pgbench -i -I $steps" pgbench -q -i -I $steps -s 1 bench; done
  check "pgbench -i --partitions" pgbench -q -i -s 1 --partitions=3 --partition-method=hash --unlogged-tables bench
  cat >"$dir/pipeline.sql" <<'SQL'
\startpipeline
select 1;
select abalance from pgbench_accounts where aid = 7;
\endpipeline
SQL
  for mode in extended prepared; do for more in '' -C; do check "pgbench pipeline -M $mode $more" pgbench -n $more -M $mode -c 2 -t 25 -f "$dir/pipeline.sql" bench; done; done
  for format in c t d; do check "pg_dump -F$format, pg_restore" round $format; done
  check "pg_dump -Fd -j 2, pg_restore -j 2" round d -j 2
  check "pg_dump, psql" plain
  check "pg_dump as if direct" alike -d shop
  check "pg_dump -s as if direct" alike -s -d shop
  check "pg_dump --inserts as if direct" alike --rows-per-insert=7 -d shop
  check "pg_dump -a --column-inserts as if direct" alike -a --column-inserts -d shop
  check "pg_dump -n as if direct" alike -n app --no-owner --no-acl -d shop
  check "pg_dump --clean --create as if direct" alike --clean --if-exists --create -d shop
  check "pg_dumpall -g as if direct" bash -c "diff <(PGPORT=$(cat "$dir/direct") pg_dumpall -g | grep -v restrict) <(pg_dumpall -g | grep -v restrict)"
  for c in '\l' '\l+' '\d' '\dS' '\d app.*' '\d+ app.*' '\d+ app.people' '\dt app.*' '\dtS' '\dt+ *.*' '\di app.*' '\di+ app.*' '\dv app.*' '\dv+ app.*' '\dm app.*' '\dm+ app.*' '\ds app.*' '\ds+ app.*' \
    '\df app.*' '\df+ app.*' '\dfa' '\dfn' '\dfp' '\dft' '\dfw' '\dfS' '\da' '\daS' '\sf app.f' '\sf+ app.names' '\sv app.rich' '\sv+ app.rich' '\dn' '\dn+' '\dnS' '\du' '\du+' '\dg' '\dg+' '\drds' '\dx' '\dx+' \
    '\dT app.*' '\dT+' '\dTS' '\dD app.*' '\dD+ app.*' '\dp app.*' '\z app.people' '\ddp' '\db' '\db+' '\dc' '\dc+' '\dcS' '\dC' '\dC+' '\dd' '\ddS' '\dE' '\dE+ app.*' '\des' '\des+' '\det app.*' '\det+ app.*' '\deu' '\deu+' \
    '\dew' '\dew+' '\dF' '\dF+ app.*' '\dFd' '\dFd+' '\dFp' '\dFp+' '\dFt' '\dFt+' '\dl' '\dl+' '\lo_list' '\dL' '\dL+' '\do' '\do+ app.*' '\doS' '\dO' '\dO+' '\dOS' '\dP' '\dP+' '\dPi' '\dPt' '\dPn app.*' \
    '\dRp' '\dRp+' '\dRs' '\dRs+' '\dX' '\dX+ app.*' '\dy' '\dy+' '\dA' '\dA+' '\dAc' '\dAc+' '\dAf' '\dAf+' '\dAo' '\dAo+' '\dAp' '\dAp+' '\dconfig' '\dconfig+ *work_mem*' \
    '\conninfo' '\encoding' '\timing' '\set' '\x' '\pset' '\h select' '\errverbose' '\c bench'; do
    check "psql $c" psql -X -d shop -c "$c"
  done
  check 'psql \gdesc' psql -X -d shop -f <(echo 'select 1 as a, now() as b \gdesc')
  check 'psql \gx' psql -X -d shop -f <(echo 'select * from app.rich limit 3 \gx')
  check 'psql \ef' env PSQL_EDITOR=true psql -X -d shop -f <(printf '%s\n' '\ef app.f' ';')
  check 'psql \ev' env PSQL_EDITOR=true psql -X -d shop -f <(printf '%s\n' '\ev app.rich' ';')
  check 'psql \copy to' psql -X -d shop -c "\\copy app.people to '$dir/people.csv' csv header"
  check 'psql \copy from' psql -X -d shop -c "\\copy app.parts from program 'printf \"300\\tx\\n301\\ty\\n\"'"
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
