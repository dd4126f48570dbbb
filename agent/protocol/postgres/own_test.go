package postgres

import (
	"strings"
	"testing"
)

// What the room asks the target for itself is answered by the server's own operators and types, whatever a client has made and put before them:
// here, what would hide from the catalogue that a view shows a protected column.
func TestOwnQuestions(t *testing.T) {
	const not1 = `'begin return pg_catalog.chareq($1, $2) and not pg_catalog.chareq($2, ''1''); end'`
	for _, tt := range []struct {
		name string
		sql  []string
	}{
		{"an operator before the server's", []string{
			`create function evil.f("char", "char") returns bool language plpgsql as ` + not1,
			`create operator evil.= (leftarg = "char", rightarg = "char", function = evil.f)`,
			"set search_path = evil, pg_catalog, public",
		}},
		{"in a transaction", []string{
			`create function evil.f("char", "char") returns bool language plpgsql as ` + not1,
			`create operator evil.= (leftarg = "char", rightarg = "char", function = evil.f)`,
			"begin", "set local search_path = evil, pg_catalog, public",
		}},
		{"an operator that fits better", []string{
			"create function evil.g(name, name) returns bool language plpgsql as 'begin return false; end'",
			"create operator public.!~ (leftarg = name, rightarg = name, function = evil.g)",
		}},
		{"a temporary type", []string{
			"create type pg_temp.text as (v pg_catalog.text)",
			"create function evil.h(pg_node_tree) returns pg_temp.text language plpgsql as 'begin return null; end'",
			"create cast (pg_node_tree as pg_temp.text) with function evil.h(pg_node_tree)",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := openHouse(t, newScript(nil), nil)
			h.srv.Seed(t)
			h.srv.Exec(t, "create view seen as select id, email from customers; create schema evil")
			t.Cleanup(func() { h.srv.Exec(t, "drop view seen; drop schema evil cascade; drop table if exists bump") })
			c := h.connect("").PgConn()
			for _, sql := range append(tt.sql, "create table public.bump (a int)") {
				if _, err := c.Exec(t.Context(), sql).ReadAll(); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
			}
			r, err := c.Exec(t.Context(), "select email, pg_catalog.current_setting('search_path') from public.seen limit 1").ReadAll()
			if err != nil {
				t.Fatal(err)
			}
			if v := string(r[0].Rows[0][0]); !strings.Contains(v, "*") {
				t.Errorf("the client sees %s", v)
			}
			if path := string(r[0].Rows[0][1]); strings.Contains(strings.Join(tt.sql, ";"), "search_path") != (path == "evil, pg_catalog, public") {
				t.Errorf("the search path is %s", path)
			}
			if c.TxStatus() == statusBlock {
				r, err := c.Exec(t.Context(), "commit; show search_path").ReadAll()
				if err != nil || string(r[1].Rows[0][0]) != `"$user", public` {
					t.Errorf("after the transaction: %v", err)
				}
			}
		})
	}
}
