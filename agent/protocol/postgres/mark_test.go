package postgres

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/agent/protocol/postgres/pgtest"
)

// The mark of the catalogue moves with what the snapshot holds, and stays where another session makes temporary tables.
func TestMark(t *testing.T) {
	srv := pgtest.Start(t)
	connect := func() *pgconn.PgConn {
		c, err := pgconn.Connect(t.Context(), srv.DSN())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close(t.Context()) })
		return c
	}
	mine, other := connect(), connect()
	mark := func() string {
		r, err := mine.Exec(t.Context(), sqlMark).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(r[0].Rows)
	}
	last := mark()
	for _, tt := range []struct {
		by    *pgconn.PgConn
		sql   string
		moves bool
	}{
		{other, "create temp table passing (id serial primary key, a text not null default 'x' check (a <> '')); create temp view shown as select * from passing", false},
		{other, "drop table passing cascade", false},
		{other, "create table mark_lasting (a int)", true},
		{other, "alter table mark_lasting add b int", true},
		{other, "create view mark_shown as select a from mark_lasting", true},
		{other, "create or replace view mark_shown as select b as a from mark_lasting", true},
		{other, "create schema mark_place", true},
		{mine, "create temp table mark_lasting (a int)", true},
		{mine, "alter table pg_temp.mark_lasting add b int", true},
		{other, "drop view mark_shown; drop table mark_lasting; drop schema mark_place", true},
	} {
		if _, err := tt.by.Exec(t.Context(), tt.sql).ReadAll(); err != nil {
			t.Fatalf("%s: %v", tt.sql, err)
		}
		now := mark()
		if (now != last) != tt.moves {
			t.Errorf("%s: the mark moves: %v", tt.sql, now != last)
		}
		last = now
	}
}
