#!/usr/bin/env bash
# Builds the committed source twice, in two directories of different names, and fails where a single byte of what is shipped differs.
# usage: reproducible.sh [--cold]    --cold gives each its own build cache, so that the C library is compiled twice as well (minutes)
set -eu -o pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
commit=$(git rev-parse HEAD) # once: it may move on meanwhile
version=$(git describe --tags --always "$commit")
for copy in one another-directory; do
  mkdir "$dir/$copy"
  git archive "$commit" | tar -x -C "$dir/$copy"
  [ "${1:-}" != --cold ] || export GOCACHE="$dir/cache-$copy"
  (cd "$dir/$copy" && make --no-print-directory VERSION="$version" build build-lambda >"$dir/$copy.log" 2>&1) || { cat "$dir/$copy.log"; exit 1; }
  (cd "$dir/$copy" && find bin dist -type f ! -name demo | sort | xargs sha256sum) >"$dir/$copy.sums"
done
[ -s "$dir/one.sums" ]
diff "$dir/one.sums" "$dir/another-directory.sums" || { echo "reproducible: not the same twice" >&2; exit 1; }
echo "reproducible: $(wc -l <"$dir/one.sums") programs are the same twice"
