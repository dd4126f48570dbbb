package postgres

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/agent/protocol/postgres/pgtest"
)

// What psql sends behind its commands about definitions must pass as reads of pg_catalog.
func TestPsqlCommands(t *testing.T) {
	b := newBench(t)
	s := pgtest.Start(t)
	cmd := exec.Command("psql", "-E", "-X", "-h", "127.0.0.1", "-p", itoa(s.Port), "-U", s.User, "-d", "facts")
	cmd.Env = append(os.Environ(), "PGPASSWORD="+s.Password)
	cmd.Stdin = strings.NewReader(`\d
\dt
\dt+
\d customers
\d+ customers
\d orders
\d events
\d+ contacts
\d emails
\d counter
\d+ person
\dv
\di
\ds
\dm
\dn
\dn+
\df
\df+ peek
\du
\l
\dT+
\dD
\do public.*
\dx
\dy
\dp
\ddp
\des
\det
\dew
\dF
\dconfig work_mem
\dO
\dc
\dC
\dL
\dA
\dRp
\db
\dP
\sf peek
\sv contacts
`)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	queries := 0
	for _, part := range strings.Split(string(out), "********* QUERY **********\n")[1:] {
		sql, _, _ := strings.Cut(part, "\n**************************")
		queries++
		c, _ := b.facts(sql)
		if got := verdict(c); got != "read" || c.Touches[0].Resource.Name == "facts" && strings.Contains(sql, "FROM") {
			t.Errorf("%s\n is %s: %s; %s", sql, got, say(c), c.Why)
		}
	}
	if queries < 50 {
		t.Errorf("psql sent %d queries", queries)
	}
}

// What drivers and tools send when they connect.
func TestDriverQueries(t *testing.T) {
	b := newBench(t)
	for _, sql := range []string{
		"select 1", ";", "-- ping", "SELECT version()", "select current_schema()", "show transaction_read_only", "SHOW standard_conforming_strings", "select current_database(), current_user",
		"select pg_catalog.version()", "select typname, oid from pg_type", "select t.oid, t.typname, t.typelem, t.typrelid, t.typbasetype, a.attname from pg_type t left join pg_attribute a on a.attrelid = t.typrelid where t.typname = $1",
		"SELECT t.typname, t.oid, hs.oid FROM pg_type t JOIN pg_type hs ON hs.typarray = t.oid WHERE t.typname IN ('hstore', 'json')",
		"select count(*) from information_schema.columns where table_schema not in ('pg_catalog')", "select n.nspname = any(current_schemas(true)), n.nspname, t.typname from pg_catalog.pg_type t join pg_catalog.pg_namespace n on t.typnamespace = n.oid where t.oid = $1",
		"select setting from pg_catalog.pg_settings where name = 'max_index_keys'", "select relname, relkind, relpages from pg_class where relnamespace = 'public'::regnamespace order by pg_relation_size(oid)",
		"select a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid), a.attnotnull from pg_attribute a left join pg_attrdef d on a.attrelid = d.adrelid and a.attnum = d.adnum where a.attrelid = '\"customers\"'::regclass and a.attnum > 0 and not a.attisdropped order by a.attnum",
		"begin", "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", "start transaction read only", "commit", "rollback", "savepoint a", "rollback to a", "release a",
		"select conname, pg_get_constraintdef(c.oid) from pg_constraint c", "select tc.constraint_name from information_schema.table_constraints tc join information_schema.key_column_usage k using (constraint_name, table_schema)",
		"set application_name to 'x'", "SET extra_float_digits = 3", "set statement_timeout = 0", "set time zone 'UTC'", "SET DateStyle TO 'ISO'", "set client_encoding to 'UTF8'", "set session characteristics as transaction read only", "set local lock_timeout = '1s'",
		"DEALLOCATE ALL", "DISCARD ALL", "RESET ALL", "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;",
		"SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new",
	} {
		if c, _ := b.facts(sql); verdict(c) != "read" {
			t.Errorf("%s is %s: %s; %s", sql, verdict(c), say(c), c.Why)
		}
	}
}
