#!/usr/bin/env bash
# Installs what is missing for `make demo` (a C compiler, PostgreSQL, psql) or `make test` (Chromium, an SSH server and clients as well), or `make bench` (PgBouncer).
# By apt as root or through sudo; elsewhere it says exactly what to install and fails. With `aws`: what a local AWS needs (Java, Maven,
# Python, npm, iproute2), as far as it can be had; what cannot is said by the scripts that miss it, and nothing fails here.
set -eu -o pipefail
cd "$(dirname "$0")/../.."
what=${1:-demo}

have_server() { ls -d /usr/lib/postgresql/*/bin/initdb /opt/homebrew/opt/postgresql@*/bin/initdb /usr/local/opt/postgresql@*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null; }
have_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome || [ -d "/Applications/Google Chrome.app" ] || [ -d /Applications/Chromium.app ]; }

deb=() brew=() words=()
command -v cc >/dev/null || command -v gcc >/dev/null || { deb+=(gcc libc6-dev); brew+=(); words+=("a C compiler (macOS: xcode-select --install)"); }
have_server || { deb+=(postgresql); brew+=(postgresql@17); words+=("a PostgreSQL server, version 14 or newer"); }
command -v psql >/dev/null || { deb+=(postgresql-client); brew+=(libpq); words+=("psql"); }
if [ "$what" = test ]; then
  python3 -c 'import venv, ensurepip' 2>/dev/null || { deb+=(python3 python3-venv); brew+=(python@3.13); words+=("Python 3 with venv, for the AWS tools"); }
  have_browser >/dev/null || { deb+=(chromium); brew+=("--cask chromium"); words+=("Chromium"); }
  [ -x /usr/sbin/sshd ] || { deb+=(openssh-server); brew+=(); words+=("an OpenSSH server (macOS has one)"); }
  command -v ssh >/dev/null || { deb+=(openssh-client); brew+=(); words+=("the OpenSSH client"); }
  command -v rsync >/dev/null || { deb+=(rsync); brew+=(rsync); words+=("rsync"); }
  command -v npm >/dev/null || { deb+=(npm); brew+=(node); words+=("npm, for PostgreSQL servers of several versions"); }
  command -v git >/dev/null || { deb+=(git); brew+=(git); words+=("git"); }
fi
if [ "$what" = bench ]; then # what PostgreSQL's tables compare with; they do without, and say so
  [ -x /usr/sbin/pgbouncer ] || command -v pgbouncer >/dev/null || { deb+=(pgbouncer); brew+=(pgbouncer); words+=("PgBouncer"); }
fi
if [ "$what" = aws ]; then
  deb=() brew=() words=()
  command -v java >/dev/null || { deb+=(default-jre-headless); brew+=(openjdk); words+=("a Java runtime of version 17 or newer"); }
  command -v mvn >/dev/null || { deb+=(maven); brew+=(maven); words+=("Maven"); }
  command -v npm >/dev/null || { deb+=(npm); brew+=(node); words+=("npm"); }
  command -v ip >/dev/null || { deb+=(iproute2); brew+=(); words+=("ip, for a network namespace of the tests' own"); }
  python3 -c 'import venv, ensurepip' 2>/dev/null || { deb+=(python3 python3-venv); brew+=(python@3.13); words+=("Python 3 with venv"); }
  # LocalStack is for 3.13 alone: Debian 13 has it, Debian 12 has not.
  localstack/scripts/localstack.sh --python >/dev/null 2>&1 || { deb+=(python3.13 python3.13-venv); brew+=(python@3.13); words+=("Python 3.13, for LocalStack"); }
fi
[ ${#words[@]} -eq 0 ] && exit 0

as_root=""
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then as_root="sudo"; else as_root="none"; fi
fi
if command -v apt-get >/dev/null && [ "$as_root" != none ]; then
  echo "installing: ${deb[*]}"
  # The packages' own servers stay off: only throw-away ones are started, on loopback.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null && $as_root chmod 755 $policy
    trap '$as_root rm -f $policy' EXIT
  fi
  $as_root apt-get update -qq || [ "$what" = aws ]
  if [ "$what" = aws ]; then # one by one: what this release has not must not keep the others away
    for p in "${deb[@]}"; do DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends "$p" >/dev/null 2>&1 || echo "WARNING: apt cannot install $p here" >&2; done
    exit 0
  fi
  DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends "${deb[@]}" >/dev/null
  exit 0
fi
echo "missing: $(IFS=';'; echo "${words[*]}")" >&2
if command -v brew >/dev/null; then
  echo "install with: brew install ${brew[*]}" >&2
else
  echo "on Debian or Ubuntu, as root: apt-get install ${deb[*]}" >&2
fi
[ "$what" = aws ] || exit 1
