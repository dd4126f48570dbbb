package postgres

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/internal/access"
)

// TestOracleFound keeps what the oracle found: each statement's facts lacked what is wanted of them here.
func TestOracleFound(t *testing.T) {
	o := newOracle(t, "found")
	defer o.close()
	o.connect()
	if _, err := o.exec(generateSchema + "; create rule r3 as on update to ruled do also insert into ruled_log values (old.id, old.v)"); err != nil {
		t.Fatal(err)
	}
	if err := o.look(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		sql    string
		effect access.Effect
		table  string
		column string
	}{
		// What matches tells what is there, even where the condition names no column of the target, and nothing is done.
		{"merge into orders o using derived d on d.extra = 'x' when matched then delete", access.Read, "public.orders", ""},
		{"merge into guarded g using names_of(1) n on true when matched then do nothing", access.Read, "public.guarded", ""},
		// ONLY does not keep a new row in the partitioned table, which has none.
		{"merge into only events e using items i on i.id = e.id when not matched then insert (id, at) values (i.id, '2001-01-01')", access.Write, "public.events_old", ""},
		{"merge into only events e using items i on i.id = e.id when not matched then insert (id, at) values (i.id, '2021-01-01')", access.Write, "public.events_new_rest", ""},
		// A constraint that is named stands for its columns.
		{"insert into people (id, email) values (9, 'p1') on conflict on constraint people_email_key do nothing", access.Read, "public.people", "email"},
		{"insert into people (id) values (1) on conflict on constraint people_pkey do nothing", access.Read, "public.people", "id"},
		// A rule may put the row that is there anywhere.
		{"update ruled set id = 1 where id = 2", access.Read, "public.ruled", "v"},
		{"delete from ruled where id = 2", access.Read, "public.ruled", "v"},
		// Where a row lies is read as well.
		{"delete from items where ctid > '(0,1)'", access.Read, "public.items", ""},
		{"select ts_rewrite('a'::tsquery, 'a', email::tsquery) from people", access.Read, "public.people", "email"},
		// What depends on a column goes with it.
		{"alter table people drop column email cascade", access.Define, "public.adults", ""},
		{"alter table people drop column email cascade", access.Define, "public.nested", ""},
		{"alter table people drop column email cascade", access.Define, "public.guarded", ""},
		{"alter table people drop column email cascade", access.Define, "public.ruled", ""},
		{"drop table people cascade", access.Define, "public.ruled", ""},
	} {
		got, _ := analyse(c.sql, nil, o.st, o.cat, defaultLimits)
		if !got.Complete || !slices.ContainsFunc(got.Touches, func(t access.Touch) bool {
			return t.Effect == c.effect && t.Resource.Name == c.table && (c.column == "" || len(t.Resource.Columns) == 0 || slices.Contains(t.Resource.Columns, c.column))
		}) {
			t.Errorf("%s\n lacks %s %s %s: %s %s", c.sql, c.effect, c.table, c.column, say(got), got.Why)
		}
	}
	got, _ := analyse("insert into people (id) values (1) on conflict on constraint people_pkey do nothing", nil, o.st, o.cat, defaultLimits)
	if covers(got, o.cat.byName[relName{"public", "people"}], "email", access.Read) {
		t.Errorf("a constraint stands for columns that are not its own: %s", say(got))
	}
}

// TestMarkMovesWithinATransaction: a definition that a transaction changes for the second time bears the same transaction's number as after
// the first.
func TestMarkMovesWithinATransaction(t *testing.T) {
	o := newOracle(t, "marks")
	defer o.close()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	conn, err := pgconn.Connect(ctx, o.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	o.conn = conn
	last := ""
	for _, sql := range []string{
		"create table people (id int, email text, name text)", "begin", "create view v as select name as x from people", "create or replace view v as select email as x from people",
		"alter table people rename email to mail", "alter table people rename mail to post", "create function f() returns int language sql as 'select 1'",
		"create or replace function f() returns int language sql as 'select id from people'",
		"commit", "create view w as select name as x from people", "alter table w rename to w2", "alter view w2 rename to w3", "alter table people rename post to mail",
	} {
		if _, err := o.exec(sql); err != nil {
			t.Fatal(err)
		}
		rows, err := o.rows(sqlMark)
		if err != nil {
			t.Fatal(err)
		}
		if mark := fmt.Sprint(rows); mark == last && sql != "begin" && sql != "commit" {
			t.Errorf("after %q the mark is what it was", sql)
		} else {
			last = mark
		}
	}
	o.conn = nil
}
