#!/usr/bin/env bash
# Prepares build/aws-tools: the AWS CLI, SAM and cfn-lint of pinned versions, for `make check-infra` and `make deploy`.
# Does nothing where they are there already. Nothing is written outside build/.
set -eu -o pipefail
cd "$(dirname "$0")/../.."
into=build/aws-tools
pins=(aws-sam-cli==1.170.0 awscli==1.46.3 cfn-lint==1.58.0)

mkdir -p build
if command -v flock >/dev/null; then exec 9>build/.aws-tools.lock && flock 9; fi # another make may be at it
[ "$(cat "$into/.version" 2>/dev/null)" = "${pins[*]}" ] && exit 0
python=""
for p in python3.11 python3.12 python3.13 python3; do
  if command -v "$p" >/dev/null && "$p" -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then python=$p && break; fi
done
[ -n "$python" ] || { echo "aws-tools: Python 3.10 to 3.13 with venv is missing (Debian: apt-get install python3 python3-venv)" >&2; exit 1; }
echo "aws-tools: ${pins[*]} (about two minutes)"
rm -rf "$into"
"$python" -m venv "$into"
"$into/bin/pip" install -q --disable-pip-version-check "${pins[@]}"
echo "${pins[*]}" >"$into/.version"
