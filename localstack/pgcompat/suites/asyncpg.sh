# asyncpg's own tests, out of its source distribution.
set -eu -o pipefail
version=0.31.0
dir=$COMPAT/asyncpg-$version
case $1 in
install)
  [ -f "$dir/ok" ] && exit 0
  rm -rf "$dir" && mkdir -p "$dir" && python3 -m venv "$dir/venv"
  "$dir/venv/bin/pip" install -q "asyncpg==$version" pytest distro
  "$dir/venv/bin/pip" download -q --no-deps --no-binary asyncpg -d "$dir" "asyncpg==$version"
  tar -xzf "$dir/asyncpg-$version.tar.gz" -C "$dir"
  # The tests are run against the installed package, not against the sources beside them.
  mkdir "$dir/run" && mv "$dir/asyncpg-$version/tests" "$dir/run/tests" && touch "$dir/ok"
  ;;
prepare) ;;
run | again)
  cd "$dir/run"
  tests=(tests)
  [ "$1" = again ] && mapfile -t tests <"$COMPAT_TESTS"
  "$dir/venv/bin/pytest" -v -rA --no-header --tb=short -p no:cacheprovider ${2:+-k "$2"} "${tests[@]}"
  ;;
esac
