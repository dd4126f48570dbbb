#!/usr/bin/env bash
# PgBouncer in session mode, as a proxy for pgcorpus: PROXY_PORT before PGHOST:PGPORT. It guards nothing: what it stops, it stops by accident.
set -eu -o pipefail
command -v pgbouncer >/dev/null || { echo "pgbouncer is not installed: apt-get install pgbouncer" >&2; exit 1; }
dir=$(mktemp -d); chmod 755 "$dir"
trap 'rm -rf "$dir"' EXIT
printf '"%s" "%s"\n' "$PGUSER" "$PGPASSWORD" >"$dir/users.txt"
cat >"$dir/pgbouncer.ini" <<INI
[databases]
* = host=$PGHOST port=$PGPORT
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $PROXY_PORT
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $dir/users.txt
pool_mode = session
ignore_startup_parameters = extra_float_digits
logfile = $dir/log
INI
as=()
if [ "$(id -u)" -eq 0 ]; then chown -R postgres "$dir"; as=(runuser -u postgres --); fi
"${as[@]}" pgbouncer -q "$dir/pgbouncer.ini" 2>/dev/null
