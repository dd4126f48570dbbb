package postgres

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// What somebody else changes between the decision about a command and its first byte is not run on the old decision.
func TestPG56_ChangedWhileDecided(t *testing.T) {
	g := newScript(nil)
	h := openHouse(t, g, nil)
	h.room = New(Config{Fresh: time.Nanosecond})
	h.srv.Exec(t, "drop view if exists waited; create view waited as select id from orders")
	changed := false
	g.onAsk = func(c access.Command) {
		if !changed && strings.Contains(c.Text, "from waited") {
			changed = true
			h.srv.Exec(t, "create or replace view waited as select id, (select max(email) from customers) as m from orders")
		}
	}
	for _, mode := range []string{"simple_protocol", "exec"} {
		c := h.connect("default_query_exec_mode=" + mode)
		h.srv.Exec(t, "drop view waited; create view waited as select id from orders")
		changed = false
		_, err := c.Exec(t.Context(), "select count(*) from waited")
		if codeOf(err) == "" || !strings.Contains(err.Error(), "no decision") && !strings.Contains(err.Error(), "postgres.definitions-changed") {
			t.Errorf("%s: %v", mode, err)
		}
		if !changed {
			t.Errorf("%s: nothing was changed", mode)
		}
		if _, err := c.Exec(t.Context(), "select 1"); err != nil {
			t.Errorf("%s: the session does not go on: %v", mode, err)
		}
	}
}

// PREPARE and EXECUTE, cursors, SET search_path and temporary tables, as the server has them.
func TestNamesOfTheSession(t *testing.T) {
	g := newScript(nil)
	h := openHouse(t, g, nil)
	h.srv.Exec(t, "drop schema if exists aside cascade; create schema aside; create table aside.orders (id integer, note text); insert into aside.orders values (7, 'aside')")
	c := h.connect("default_query_exec_mode=simple_protocol")
	run := func(sql string) access.Command {
		t.Helper()
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		all := g.commands()
		return all[len(all)-1]
	}
	touches := func(c access.Command, table string) bool { return covers(c, &relation{relName: splitName(table)}, "") }
	run("prepare p (int) as select id from orders where id > $1")
	if got := run("execute p(0)"); !got.Complete || !touches(got, "public.orders") || !strings.Contains(got.State.Prepared, "prepare p (int)") {
		t.Errorf("execute: %s, %q", say(got), got.State.Prepared)
	}
	run("set search_path = aside, public")
	if got := run("select note from orders"); !got.Complete || !touches(got, "aside.orders") || got.State.SearchPath != "aside, public" {
		t.Errorf("after SET search_path: %s", say(got))
	}
	if got := run("execute p(0)"); !touches(got, "aside.orders") {
		t.Errorf("execute under another path: %s", say(got))
	}
	run("begin")
	run("set local search_path = public")
	if got := run("select 1 from orders"); !touches(got, "public.orders") {
		t.Errorf("under SET LOCAL: %s", say(got))
	}
	run("rollback")
	if got := run("select 1 from orders"); !touches(got, "aside.orders") {
		t.Errorf("after its end: %s", say(got))
	}
	run("select pg_catalog.set_config('search_path', 'public', false)")
	if got := run("select 1 from orders"); !got.Complete || !touches(got, "public.orders") || got.State.SearchPath != "public" {
		t.Errorf("after set_config: %s", say(got))
	}
	run("begin")
	run("select set_config('search_path', 'aside', true)")
	if got := run("select 1 from orders"); !touches(got, "aside.orders") {
		t.Errorf("under set_config for the transaction: %s", say(got))
	}
	run("rollback")
	if got := run("select 1 from orders"); !touches(got, "public.orders") {
		t.Errorf("after its end: %s", say(got))
	}
	run("create temp table orders (only_here integer)")
	if got := run("select only_here from orders"); !got.Complete || !touches(got, "pg_temp.orders") {
		t.Errorf("a temporary table: %s %s", say(got), got.Why)
	}
	run("begin")
	run("declare c cursor for select id from public.orders")
	if got := run("fetch 1 from c"); !got.Complete || !touches(got, "public.orders") {
		t.Errorf("fetch: %s %s", say(got), got.Why)
	}
	run("commit")
	run("discard all")
	if got := run("select 1 from orders"); !touches(got, "public.orders") {
		t.Errorf("after DISCARD ALL: %s", say(got))
	}
}

func splitName(s string) relName {
	schema, name, _ := strings.Cut(s, ".")
	return relName{schema, name}
}
