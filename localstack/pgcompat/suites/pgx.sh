# pgx's own tests (github.com/jackc/pgx/v5), out of the module cache.
set -eu -o pipefail
version=v5.12.0
dir=$COMPAT/pgx-$version
case $1 in
install)
  if [ ! -d "$dir" ]; then
    mkdir -p "$COMPAT/mod" && cd "$COMPAT/mod" && printf 'module compat\n\ngo 1.26\n' >go.mod
    go mod download "github.com/jackc/pgx/v5@$version"
    cp -r "$(go env GOMODCACHE)/github.com/jackc/pgx/v5@$version" "$dir.part" && chmod -R u+w "$dir.part" && mv "$dir.part" "$dir"
  fi
  cd "$dir" && go test -vet=off -exec true ./... >/dev/null # builds them all, once
  ;;
prepare)
  psql -qX -d postgres -c 'create database pgx_test'
  psql -qX -d pgx_test -c 'create extension hstore' -c 'create extension ltree' -c 'create domain uint64 as numeric(20,0)' \
    -c "create user \" tricky, ' } \"\" \\ test user \" superuser password 'secret'"
  ;;
run | again)
  cd "$dir"
  export PGX_TEST_DATABASE="host=$PGHOST port=$PGPORT user=$PGUSER password=$PGPASSWORD dbname=pgx_test sslmode=disable"
  export PGX_TEST_TCP_CONN_STRING=$PGX_TEST_DATABASE
  unset PGHOST PGPORT PGUSER PGPASSWORD PGDATABASE PGSSLMODE
  only=${2:-}
  if [ "$1" = again ]; then # by the names of the tests that they are part of
    only="^($(sed 's|^[^.]*\.||; s|/.*||' "$COMPAT_TESTS" | sort -u | paste -sd'|'))\$"
  fi
  go test -vet=off -count=1 -p 1 -json -timeout 30m ${only:+-run "$only"} ./...
  ;;
esac
