#!/usr/bin/env bash
# Prepares build/local-aws: DynamoDB Local (Java) and MiniStack (Python), which `make test-aws` starts itself on loopback.
# Does nothing where both are there already. Nothing is started, and nothing is written outside build/.
set -eu -o pipefail
cd "$(dirname "$0")/../.."
into=build/local-aws
dynamodb=2.6.1
ministack=1.5.33
mkdir -p "$into"

need() { command -v "$1" >/dev/null || { echo "local-aws: $1 is missing: $2" >&2; exit 1; }; }

if [ "$(cat "$into/dynamodb/.version" 2>/dev/null)" != "$dynamodb" ]; then
  need java "install a Java runtime of version 17 or newer (Debian: apt-get install openjdk-17-jre-headless)"
  need mvn "install Maven, which fetches DynamoDB Local (Debian: apt-get install maven)"
  echo "local-aws: DynamoDB Local $dynamodb"
  rm -rf "$into/dynamodb"
  mvn -q -B -f localstack/localaws/dynamodb-pom.xml org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DoutputDirectory="$PWD/$into/dynamodb/lib" -DincludeScope=runtime
  echo "$dynamodb" >"$into/dynamodb/.version"
fi

if [ "$(cat "$into/ministack/.version" 2>/dev/null)" != "$ministack" ]; then
  need python3 "install Python 3.10 or newer (Debian: apt-get install python3 python3-venv)"
  echo "local-aws: MiniStack $ministack"
  rm -rf "$into/ministack"
  python3 -m venv "$into/ministack"
  "$into/ministack/bin/pip" install -q --disable-pip-version-check "ministack[full]==$ministack"
  echo "$ministack" >"$into/ministack/.version"
fi
