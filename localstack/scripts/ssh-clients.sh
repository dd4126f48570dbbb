#!/usr/bin/env bash
# Installs SSH clients of other languages, pinned, into build/ssh-clients: ansible, paramiko and asyncssh in a Python environment, ssh2 for Node.
# usage: ssh-clients.sh. Needs python3 (3.11 or newer, with venv) and npm.
set -eu -o pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$root/build/ssh-clients
pinned="ansible-core==2.19.4 paramiko==5.1.0 asyncssh==2.24.1 ssh2@1.17.0"
[ "$(cat "$dir/versions" 2>/dev/null)" = "$pinned" ] && exit 0
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "Python 3.11 or newer is missing: on Debian or Ubuntu, as root: apt-get install python3 python3-venv" >&2; exit 1; }
command -v npm >/dev/null || { echo "npm is missing: on Debian or Ubuntu, as root: apt-get install npm; on macOS: brew install node" >&2; exit 1; }
rm -rf "$dir" && mkdir -p "$dir"
python3 -m venv "$dir/venv"
# shellcheck disable=SC2086 # words of one list
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check ${pinned% ssh2*}
echo '{"private":true}' >"$dir/package.json"
(cd "$dir" && npm install --no-audit --no-fund --loglevel=error --ignore-scripts "ssh2@${pinned##*@}" >/dev/null)
"$dir/venv/bin/ansible" --version | head -n 1
echo "$pinned" >"$dir/versions"
