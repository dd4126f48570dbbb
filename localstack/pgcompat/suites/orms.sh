# Object mappers and drivers that have no suite to run against a server of one's own: their migrations and everyday calls.
set -u -o pipefail
dir=$COMPAT/orms
here=$(cd "$(dirname "$0")/.." && pwd)/programs
case $1 in
install)
  set -e
  [ -f "$dir/ok" ] && exit 0
  rm -rf "$dir" && mkdir -p "$dir" && python3 -m venv "$dir/venv"
  "$dir/venv/bin/pip" install -q "psycopg[binary]==3.3.2" "sqlalchemy==2.0.45" "alembic==1.17.2" "django==5.2.9" "peewee==3.18.3"
  echo '{"private":true}' >"$dir/package.json"
  (cd "$dir" && npm install --no-audit --no-fund --loglevel=error --ignore-scripts pg@8.16.3 pg-cursor@2.15.3 pg-copy-streams@7.0.0 postgres@3.4.7 knex@3.1.0 sequelize@6.37.7 typeorm@0.3.28 reflect-metadata@0.2.2 >/dev/null)
  mkdir -p "$dir/jdbc" && mvn -q -B dependency:copy -Dartifact=org.postgresql:postgresql:42.7.8 -DoutputDirectory="$dir/jdbc" || echo "no JDBC driver here" >&2
  mkdir -p "$dir/gorm" && cp "$here/gorm.go.txt" "$dir/gorm/main.go" && cd "$dir/gorm" && printf 'module gormtest\n\ngo 1.26\n' >go.mod &&
    go get -x=false gorm.io/gorm@v1.31.1 gorm.io/driver/postgres@v1.6.0 2>/dev/null && go build -o "$dir/gormtest" .
  touch "$dir/ok"
  ;;
prepare) psql -qX -d postgres -c 'create database orms' ;;
run)
  export PGDATABASE=orms
  for p in "$here"/*.py; do timeout 300 "$dir/venv/bin/python" "$p" || echo "fail $(basename "$p") ends"; done
  for p in "$here"/*.cjs; do NODE_PATH=$dir/node_modules timeout 300 node "$p" || echo "fail $(basename "$p") ends"; done
  [ -x "$dir/gormtest" ] && { timeout 300 "$dir/gormtest" || echo "fail gorm ends"; }
  jar=$(ls "$dir"/jdbc/*.jar 2>/dev/null | head -1)
  [ -n "$jar" ] && { timeout 300 java -cp "$jar" "$here/Jdbc.java" || echo "fail jdbc ends"; }
  ;;
esac
exit 0
