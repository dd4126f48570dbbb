package postgres

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/agent/protocol"
)

// A client that pauses before its Sync: the target has what came so far, and its own timeouts run as they would without the room.
func TestPause(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	c := dialRaw(t, h)
	c.startup(t)
	mark := h.srv.LogSize(t)
	c.write(t, appendExecute(appendBind(appendParse(nil, "", "select 'before the sync'"), "", ""), ""))
	eventually(t, "the statement runs before its Sync", func() bool { return h.srv.Logged(t, mark, "before the sync") })
	c.write(t, appendBare(nil, 'S'))
	if tags := c.until(t, 'Z'); tags != "12DCZ" {
		t.Errorf("answered %s", tags)
	}
}

// With standard_conforming_strings off, what has a backslash is not understood, and nothing else changes: for the rest of the session, since
// the end of a transaction may bring it back.
func TestStrings(t *testing.T) {
	g := newScript(nil)
	h := openHouse(t, g, nil)
	h.srv.Seed(t)
	h.srv.Exec(t, `create function back() returns text language sql as 'select ''x\y'''`)
	c := h.connect("").PgConn()
	run := func(sql string) error {
		_, err := c.Exec(t.Context(), sql).ReadAll()
		return err
	}
	for _, sql := range []string{"select back()", "set standard_conforming_strings = on", `select 'a\b'`} {
		if err := run(sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if last := g.commands()[len(g.commands())-1]; !last.Complete || len(last.Classes) > 0 {
			t.Errorf("%s: %s %v", sql, last.Why, last.Classes)
		}
	}
	if err := run("begin; set standard_conforming_strings = off"); err != nil || c.ParameterStatus("standard_conforming_strings") != "off" {
		t.Fatalf("%v, it is %q", err, c.ParameterStatus("standard_conforming_strings"))
	}
	if err := run(`select '\'; drop table customers; --'`); codeOf(err) != "42501" || !strings.Contains(err.Error(), "postgres.set-strings") {
		t.Errorf("a backslash: %v", err)
	}
	if err := run("rollback"); err != nil || c.ParameterStatus("standard_conforming_strings") != "on" {
		t.Fatalf("%v, it is %q", err, c.ParameterStatus("standard_conforming_strings"))
	}
	if _, err := c.Prepare(t.Context(), "s", `select '\'''`, nil); codeOf(err) != "42501" {
		t.Errorf("a backslash in Parse: %v", err)
	}
	if err := run("select 'it''s plain'"); err != nil {
		t.Errorf("no backslash: %v", err)
	}
	if err := run("select back()"); err != nil {
		t.Error(err)
	}
	if last := g.commands()[len(g.commands())-1]; len(last.Classes) == 0 {
		t.Error("a function whose text has a backslash was looked into")
	}
	if got := literal(`o'\`); got != `E'o''\\'` {
		t.Errorf("literal %s", got)
	}
}

// SQL_ASCII converts nothing: where the database is in UTF8, the client's bytes are what they were. Elsewhere it is refused.
func TestASCII(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	for _, more := range []string{"", "client_encoding=SQL_ASCII", "options='-c client_encoding=sql_ascii'"} {
		c := h.connect(more).PgConn()
		r, err := c.Exec(t.Context(), "set client_encoding to 'SQL_ASCII'; select 'é', current_setting('client_encoding')").ReadAll()
		if err != nil || string(r[1].Rows[0][0]) != "é" || string(r[1].Rows[0][1]) != "SQL_ASCII" {
			t.Errorf("%q: %v", more, err)
		}
		if _, err := c.Exec(t.Context(), "set client_encoding to 'SJIS'").ReadAll(); codeOf(err) != "42501" {
			t.Errorf("SJIS: %v", err)
		}
	}
	c := h.connect("client_encoding=UTF8 options='-c client_encoding=SQL_ASCII -c search_path=a' search_path=b")
	var encoding, path string
	if err := c.QueryRow(t.Context(), "select current_setting('client_encoding'), current_setting('search_path')", pgx.QueryExecModeExec).Scan(&encoding, &path); err != nil ||
		encoding != "UTF8" || path != "b" {
		t.Errorf("what is named by itself counts: %q, %q, %v", encoding, path, err)
	}

	h.srv.Exec(t, "create database latin encoding 'LATIN1' template template0 lc_collate 'C' lc_ctype 'C'")
	h.setup = func(s *protocol.Session) { s.Login.Database = "latin" }
	dsn := strings.ReplaceAll(h.dsn(""), "dbname="+h.srv.Database, "dbname=latin")
	latin, err := pgconn.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer latin.Close(t.Context())
	if _, err := latin.Exec(t.Context(), "set client_encoding to 'SQL_ASCII'").ReadAll(); codeOf(err) != "42501" {
		t.Errorf("in a database in LATIN1: %v", err)
	}
	if _, err := pgconn.Connect(t.Context(), dsn+" client_encoding=SQL_ASCII"); err == nil {
		t.Error("connected in SQL_ASCII to a database in LATIN1")
	}
}
