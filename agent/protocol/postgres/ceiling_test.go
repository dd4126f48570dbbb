package postgres

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
)

// A change of more rows than the permit's is taken back, and the refusal says how many it would have been.
func TestRowCeilingOfChanges(t *testing.T) {
	g := newScript(map[string]ruling{"bounded": {rows: 2}})
	h := openHouse(t, g, nil)
	reset := func() {
		h.srv.Exec(t, "drop table if exists bounded; create table bounded (id integer primary key, v integer); insert into bounded select g, 0 from generate_series(1, 5) g")
	}
	for _, mode := range []string{"simple_protocol", "exec", "cache_statement"} {
		reset()
		c := h.connect("default_query_exec_mode=" + mode)
		changed := func() (n int) {
			if err := c.QueryRow(t.Context(), "select count(*) from bounded b where v = 1 limit 1").Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		if _, err := c.Exec(t.Context(), "update bounded set v = 1 where id > 0"); codeOf(err) != stateDenied || !strings.Contains(err.Error(), "row-limit") {
			t.Errorf("%s: five rows: %v", mode, err)
		}
		if n := changed(); n != 0 {
			t.Errorf("%s: %d rows were changed all the same", mode, n)
		}
		if tag, err := c.Exec(t.Context(), "update bounded set v = 1 where id < 3"); err != nil || tag.RowsAffected() != 2 {
			t.Errorf("%s: two rows: %v %v", mode, tag, err)
		}
		if n := changed(); n != 2 {
			t.Errorf("%s: %d rows are changed, want 2", mode, n)
		}
		for sql, ok := range map[string]bool{
			"delete from bounded": false, "delete from bounded where id = 5": true, "insert into bounded select g, 0 from generate_series(10, 20) g": false,
			"insert into bounded values (30, 0)": true, "with d as (delete from bounded returning id) select * from d": false, "truncate bounded": false,
			"update bounded set v = 2 where id = 1 returning id, v": true, "update bounded set v = 2 returning id": false,
			"explain analyze delete from bounded": false, "merge into bounded b using bounded s on s.id = b.id when matched then delete": false,
		} {
			if _, err := c.Exec(t.Context(), sql); (err == nil) != ok {
				t.Errorf("%s: %s: %v", mode, sql, err)
			}
		}
		// In a transaction block the whole of it fails, as after any error.
		tx, err := c.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "update bounded set v = 7 where id = 1"); err != nil {
			t.Errorf("%s: one row in a transaction: %v", mode, err)
		}
		if _, err := tx.Exec(t.Context(), "update bounded set v = 7"); codeOf(err) != stateDenied {
			t.Errorf("%s: all rows in a transaction: %v", mode, err)
		}
		if _, err := tx.Exec(t.Context(), "select 1"); codeOf(err) != "25P02" {
			t.Errorf("%s: after it: %v", mode, err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
		var n int
		if err := c.QueryRow(t.Context(), "select count(*) from bounded where v = 7 limit 1").Scan(&n); err != nil || n != 0 {
			t.Errorf("%s: %d rows after the rollback: %v", mode, n, err)
		}
	}
}

// A command that was taken back is recorded as an error, with the target's own tag.
func TestRowCeilingIsRecorded(t *testing.T) {
	g := newScript(map[string]ruling{"update orders": {rows: 1}})
	h := openHouse(t, g, nil)
	c := h.connect("default_query_exec_mode=exec")
	if _, err := c.Exec(t.Context(), "update orders set amount = amount"); codeOf(err) != stateDenied {
		t.Fatal(err)
	}
	cmds := g.commands()
	last := cmds[len(cmds)-1]
	g.mu.Lock()
	defer g.mu.Unlock()
	if r := g.results[last.ID]; r.Status != access.StatusError || !strings.HasPrefix(r.Tag, "UPDATE ") || r.Error != stateDenied {
		t.Errorf("%+v", r)
	}
}
