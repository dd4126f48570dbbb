# lib/pq's own tests (github.com/lib/pq), out of the module cache.
set -eu -o pipefail
version=v1.12.3
dir=$COMPAT/pq-$version
case $1 in
install)
  [ -d "$dir" ] && exit 0
  mkdir -p "$COMPAT/mod" && cd "$COMPAT/mod" && printf 'module compat\n\ngo 1.26\n' >go.mod
  go mod download "github.com/lib/pq@$version"
  cp -r "$(go env GOMODCACHE)/github.com/lib/pq@$version" "$dir.part" && chmod -R u+w "$dir.part" && mv "$dir.part" "$dir"
  ;;
prepare)
  psql -qX -d postgres -c "create role pqgo superuser login password '$PGPASSWORD'" -c 'create database pqgo owner pqgo'
  ;;
run)
  cd "$dir"
  export PGUSER=pqgo PGDATABASE=pqgo
  unset PGSSLMODE
  go test -count=1 -p 1 -json -timeout 5m ${2:+-run "$2"} ./...
  ;;
esac
