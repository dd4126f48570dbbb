#!/usr/bin/env bash
# Prepares build/local-aws: DynamoDB Local (Java) and MiniStack (Python), which `make test-aws` starts itself on loopback.
# Does nothing where both are there already. Nothing is started, and nothing is written outside build/. Where there is no Java or no Maven it
# says so loudly, and the tests' tables are MiniStack's.
set -eu -o pipefail
cd "$(dirname "$0")/../.."
into=build/local-aws
dynamodb=2.6.1
ministack=1.5.33
cbor2=5.8.0 # what CloudWatch speaks; MiniStack needs it and does not ask for it
mkdir -p "$into"
if command -v flock >/dev/null; then exec 9>build/.local-aws.lock && flock 9; fi # another make may be at it

need() { command -v "$1" >/dev/null || { echo "local-aws: $1 is missing: $2" >&2; exit 1; }; }

why=""
java=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -1) || true
if [ "${java:-0}" -lt 17 ]; then why="a Java runtime of version 17 or newer is missing (Debian: apt-get install default-jre-headless)"
elif [ ! -e "$into/dynamodb/.version" ] && ! command -v mvn >/dev/null; then why="Maven is missing (Debian: apt-get install maven)"
fi
if [ -n "$why" ]; then
  printf '%s\n' "****************************************************************************************************" \
    "WARNING: DynamoDB Local cannot be had here: $why." \
    "WARNING: the stores are tested on MiniStack's tables ALONE, which are another program's idea of DynamoDB." \
    "****************************************************************************************************" >&2
  echo "$why" >"$into/no-dynamodb"
else
  rm -f "$into/no-dynamodb"
fi

if [ -z "$why" ] && [ "$(cat "$into/dynamodb/.version" 2>/dev/null)" != "$dynamodb" ]; then
  echo "local-aws: DynamoDB Local $dynamodb"
  rm -rf "$into/dynamodb"
  mvn -q -B -f localstack/localaws/dynamodb-pom.xml org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DoutputDirectory="$PWD/$into/dynamodb/lib" -DincludeScope=runtime
  echo "$dynamodb" >"$into/dynamodb/.version"
fi

if [ "$(cat "$into/ministack/.version" 2>/dev/null)" != "$ministack $cbor2" ]; then
  need python3 "install Python 3.10 or newer (Debian: apt-get install python3 python3-venv)"
  echo "local-aws: MiniStack $ministack"
  rm -rf "$into/ministack"
  python3 -m venv "$into/ministack"
  "$into/ministack/bin/pip" install -q --disable-pip-version-check "ministack[full]==$ministack" "cbor2==$cbor2"
  echo "$ministack $cbor2" >"$into/ministack/.version"
fi
