# pg8000's own tests, out of its source distribution: a driver in Python alone, with wire code of its own.
set -eu -o pipefail
version=1.31.6
dir=$COMPAT/pg8000-$version
case $1 in
install)
  [ -f "$dir/ok" ] && exit 0
  rm -rf "$dir" && mkdir -p "$dir" && python3 -m venv "$dir/venv"
  "$dir/venv/bin/pip" install -q "pg8000==$version" pytz pytest pytest-mock pytest-benchmark
  "$dir/venv/bin/pip" download -q --no-deps --no-binary pg8000 -d "$dir" "pg8000==$version"
  tar -xzf "$dir/pg8000-$version.tar.gz" -C "$dir" && touch "$dir/ok"
  ;;
prepare) psql -qX -d postgres -c 'create extension hstore' ;;
run | again)
  cd "$dir/pg8000-$version"
  tests=(test/dbapi test/legacy test/native)
  [ "$1" = again ] && mapfile -t tests <"$COMPAT_TESTS"
  "$dir/venv/bin/pytest" -v -rA --no-header --tb=short -p no:cacheprovider -o addopts= ${2:+-k "$2"} "${tests[@]}"
  ;;
esac
