#!/usr/bin/env bash
# Prepares build/duckdb: DuckDB of a pinned version for Python, which reads the copies of the evidence in `make test-copies`.
# Does nothing where it is there already. Nothing is written outside build/.
set -eu -o pipefail
cd "$(dirname "$0")/../.."
into=build/duckdb
pins=(duckdb==1.5.6 pytz==2026.6)

mkdir -p build
if command -v flock >/dev/null; then exec 9>build/.duckdb.lock && flock 9; fi # another make may be at it
[ "$(cat "$into/.version" 2>/dev/null)" = "${pins[*]}" ] && exit 0
python=""
for p in python3 python3.11 python3.12 python3.13; do
  if command -v "$p" >/dev/null && "$p" -c 'import sys, venv; sys.exit(sys.version_info[:2] < (3, 10))' 2>/dev/null; then python=$p && break; fi
done
[ -n "$python" ] || { echo "duckdb: Python 3.10 or newer with venv is missing (Debian: apt-get install python3 python3-venv)" >&2; exit 1; }
rm -rf "$into"
"$python" -m venv "$into"
"$into/bin/pip" install -q --disable-pip-version-check "${pins[@]}"
echo "${pins[*]}" >"$into/.version"
