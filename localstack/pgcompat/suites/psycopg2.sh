# psycopg2's own tests, out of its source distribution: a driver on libpq.
set -eu -o pipefail
version=2.9.11
dir=$COMPAT/psycopg2-$version
case $1 in
install)
  [ -f "$dir/ok" ] && exit 0
  rm -rf "$dir" && mkdir -p "$dir" && python3 -m venv "$dir/venv"
  "$dir/venv/bin/pip" install -q "psycopg2-binary==$version" pytest
  "$dir/venv/bin/pip" download -q --no-deps --no-binary psycopg2-binary -d "$dir" "psycopg2-binary==$version"
  tar -xzf "$dir"/psycopg2*.tar.gz -C "$dir" && mkdir "$dir/run" && mv "$dir"/psycopg2*-$version/tests "$dir/run/tests" && touch "$dir/ok"
  ;;
prepare) psql -qX -d postgres -c 'create database psycopg2_test' -c '\c psycopg2_test' -c 'create extension hstore' ;;
run | again)
  cd "$dir/run"
  export PSYCOPG2_TESTDB=psycopg2_test PSYCOPG2_TESTDB_HOST=$PGHOST PSYCOPG2_TESTDB_PORT=$PGPORT PSYCOPG2_TESTDB_USER=$PGUSER PSYCOPG2_TESTDB_PASSWORD=$PGPASSWORD
  tests=(tests)
  [ "$1" = again ] && mapfile -t tests <"$COMPAT_TESTS"
  "$dir/venv/bin/pytest" -v -rA --no-header --tb=short -p no:cacheprovider ${2:+-k "$2"} "${tests[@]}"
  ;;
esac
