#!/usr/bin/env bash
# Prepares build/local-aws/localstack: LocalStack 4.14 with an executor that runs functions as processes, so that no container engine is
# needed. Does nothing where it is there. Exits 3, and says why, where a prerequisite cannot be had. With --python it only says whether there is
# a Python that it can run on.
set -eu -o pipefail
cd "$(dirname "$0")/../.."
here=localstack/local-aws
into=build/local-aws/localstack
lacks() { echo "localstack: $1 is missing: $2" >&2; exit 3; }
python=""
for p in python3.13 "$HOME"/.pyenv/versions/3.13.*/bin/python3; do
  if "$p" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null; then python=$p && break; fi
done
[ -n "$python" ] || lacks "Python 3.13 with venv" "LocalStack 4.14 does not run on 3.12, and its pinned packages are for 3.13"
[ "${1:-}" != --python ] || exit 0
mkdir -p build
if command -v flock >/dev/null; then exec 9>build/.localstack.lock && flock 9; fi # another make may be at it

version=$(cat localstack/scripts/localstack.sh "$here"/localstack-4.14.txt "$here"/localstack_main.py "$here"/seed.py "$here"/executor/*/*.py | sha256sum | cut -c1-16)
[ "$(cat "$into/.version" 2>/dev/null)" = "$version" ] && exit 0

command -v java >/dev/null || lacks "a Java runtime of version 17 or newer" "it runs DynamoDB Local (Debian: apt-get install openjdk-17-jre-headless)"
command -v mvn >/dev/null || lacks Maven "it fetches DynamoDB Local (Debian: apt-get install maven)"
command -v npm >/dev/null || lacks npm "DynamoDB streams need kinesis-local (Debian: apt-get install nodejs npm)"
localstack/scripts/local-aws.sh

echo "localstack: LocalStack 4.14 (about three minutes)"
rm -rf "$into"
mkdir -p "$into"
"$python" -m venv "$into/venv"
"$into/venv/bin/pip" install -q --disable-pip-version-check -r "$here/localstack-4.14.txt"
"$into/venv/bin/pip" install -q --disable-pip-version-check "$here/executor"
rm -rf "$here"/executor/build "$here"/executor/*.egg-info
mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy -Dartifact=net.bytebuddy:byte-buddy-agent:1.15.10 -DoutputDirectory="$PWD/$into"
java=$(java -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java.home = //p')
"$into/venv/bin/python" "$here/seed.py" "$into/root" build/local-aws/dynamodb/lib "$java" "$into/byte-buddy-agent-1.15.10.jar"
npm install --silent --no-fund --no-audit --prefix "$into/root/var/lib/localstack/lib/kinesis-local/0.5.2" kinesis-local@0.5.2

echo "$version" >"$into/.version"
