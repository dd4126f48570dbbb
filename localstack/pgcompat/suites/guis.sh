# Graphical clients as they are, without their windows: pgAdmin 4's tree, sheets, dashboards and query tool, and all that pgweb's pages ask.
set -u -o pipefail
dir=$COMPAT/guis
here=$(cd "$(dirname "$0")/.." && pwd)/programs
case $1 in
install)
  set -e
  [ -x "$dir/venv/bin/python" ] || { mkdir -p "$dir" && python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install -q --no-cache-dir "pgadmin4==9.18"; }
  [ -x "$dir/pgweb" ] && exit 0
  mkdir -p "$dir/mod" && cd "$dir/mod" && printf 'module guis\n\ngo 1.26\n' >go.mod && go get github.com/sosedoff/pgweb@v0.17.0 2>/dev/null && go build -o "$dir/pgweb" github.com/sosedoff/pgweb
  ;;
prepare) psql -qX -d postgres -c 'create database shop' && PGOPTIONS='-c client_min_messages=error' psql -qX -v ON_ERROR_STOP=1 -d shop -o /dev/null -f "$here/shop.sql" ;;
run)
  timeout 500 "$dir/venv/bin/python" "$here/guis/pgadmin.py" 2>"$dir/pgadmin.log" || echo "fail pgadmin ends"
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  "$dir/pgweb" --bind 127.0.0.1 --listen "$port" --skip-open --url "postgres://$PGUSER:$PGPASSWORD@$PGHOST:$PGPORT/shop?sslmode=disable" >"$dir/pgweb.log" 2>&1 &
  pgweb=$!
  curl -s --retry 50 --retry-delay 1 --retry-connrefused -o /dev/null "http://127.0.0.1:$port/"
  ask() { # name, what curl takes
    local name=$1 out
    shift
    if out=$(curl -sS -w '\n%{http_code}' "$@" 2>&1) && [ "${out##*$'\n'}" = 200 ]; then echo "pass pgweb $name"; else echo "fail pgweb $name"; echo "    $out" | head -5; fi
  }
  api=http://127.0.0.1:$port/api
  for what in info databases connection server_settings activity schemas objects tables_stats history 'functions/app.f' \
    tables/app.people tables/app.people/rows tables/app.people/info tables/app.people/indexes tables/app.people/constraints \
    tables/app.rich tables/app.rich/rows tables/app.mat tables/app.parts tables/app.parts/rows tables/app.numbers; do ask "$what" "$api/$what"; done
  for sql in 'select * from app.orders' 'update app.people set name = name where id = 1' 'select 1; select 2'; do ask "query $sql" "$api/query" --data-urlencode "query=$sql"; done
  ask explain "$api/explain" --data-urlencode 'query=select * from app.rich'
  ask analyze "$api/analyze" --data-urlencode 'query=select * from app.rich'
  ask switchdb "$api/switchdb" --data-urlencode db=postgres
  kill "$pgweb"
  ;;
esac
exit 0
