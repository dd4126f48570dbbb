# lib/pq's own tests (github.com/lib/pq), out of the module cache.
set -eu -o pipefail
version=v1.12.3
dir=$COMPAT/pq-$version
case $1 in
install)
  if [ ! -d "$dir" ]; then
    mkdir -p "$COMPAT/mod" && cd "$COMPAT/mod" && printf 'module compat\n\ngo 1.26\n' >go.mod
    go mod download "github.com/lib/pq@$version"
    cp -r "$(go env GOMODCACHE)/github.com/lib/pq@$version" "$dir.part" && chmod -R u+w "$dir.part" && mv "$dir.part" "$dir"
  fi
  cd "$dir" && go test -vet=off -exec true ./... >/dev/null # builds them all, once
  ;;
prepare)
  psql -qX -d postgres -c "create role pqgo superuser login password '$PGPASSWORD'" -c 'create database pqgo owner pqgo'
  ;;
run | again)
  cd "$dir"
  export PGUSER=pqgo PGDATABASE=pqgo
  unset PGSSLMODE
  only=${2:-} # one test at a time: some want an answer within 100 ms, others are busy with TLS
  if [ "$1" = again ]; then # by the names of the tests that they are part of
    only="^($(sed 's|^[^.]*\.||; s|/.*||' "$COMPAT_TESTS" | sort -u | paste -sd'|'))\$"
  fi
  go test -vet=off -count=1 -p 1 -parallel 1 -json -timeout 30m ${only:+-run "$only"} ./...
  ;;
esac
