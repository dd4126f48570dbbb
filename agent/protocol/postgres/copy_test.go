package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
)

func TestCopyIn(t *testing.T) {
	g := newScript(map[string]ruling{"COPY orders": {deny: denyAll}})
	h := openHouse(t, g, nil)
	h.srv.Seed(t)
	ctx := t.Context()
	c := h.connect("")
	count := func(where string) string {
		return string(h.srv.Exec(t, "select count(*) from accounts where "+where)[0].Rows[0][0])
	}
	rows := make([][]any, 20000)
	for i := range rows {
		rows[i] = []any{1000 + i, strings.Repeat("x", 50), i}
	}
	n, err := c.CopyFrom(ctx, pgx.Identifier{"accounts"}, []string{"id", "owner", "balance"}, pgx.CopyFromRows(rows))
	if err != nil || n != 20000 || count("id >= 1000") != "20000" {
		t.Fatalf("binary: %d %v", n, err)
	}
	if r := g.outcome(t, "copy \"accounts\""); r.Tag != "COPY 20000" || r.Status != access.StatusOK {
		t.Errorf("outcome %+v", r)
	}
	if _, err := c.CopyFrom(ctx, pgx.Identifier{"accounts"}, []string{"id", "owner", "balance"}, pgx.CopyFromRows([][]any{{1, "twice", 1}})); codeOf(err) != "23505" {
		t.Errorf("a row that is there: %v", err)
	}
	broken := errors.New("the source ends")
	if _, err := c.CopyFrom(ctx, pgx.Identifier{"accounts"}, []string{"id", "owner", "balance"}, pgx.CopyFromFunc(func() ([]any, error) { return nil, broken })); err == nil {
		t.Error("a source that fails: no error")
	}
	pg := c.PgConn()
	// An error midway, with data still coming.
	if _, err := pg.CopyFrom(ctx, strings.NewReader("1\tx\ty\n"+strings.Repeat("5\tx\t1\n", 100000)), "COPY accounts FROM STDIN"); codeOf(err) != "22P02" {
		t.Errorf("midway: %v", err)
	}
	mark := h.srv.LogSize(t)
	if _, err := pg.CopyFrom(ctx, strings.NewReader("1\tcanary\n"), "COPY orders FROM STDIN"); codeOf(err) != "42501" || h.srv.Logged(t, mark, "orders") {
		t.Errorf("denied: %v", err)
	}
	if _, err := pg.CopyFrom(ctx, strings.NewReader("x"), "COPY accounts FROM PROGRAM 'id'"); codeOf(err) == "" {
		t.Errorf("from a program: %v", err)
	}
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	tx, err := c.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pg.CopyFrom(ctx, strings.NewReader("900000\tx\t1\n"), "COPY accounts FROM STDIN"); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(ctx); err != nil || count("id = 900000") != "0" {
		t.Errorf("rolled back: %v", err)
	}
}

// libpq sends a Sync behind the Execute of a COPY, which the server takes no notice of, and another after the data.
func TestCopyInByTheExtendedProtocol(t *testing.T) {
	for _, early := range []bool{true, false} {
		t.Run(fmt.Sprintf("sync before the data %v", early), func(t *testing.T) {
			h := openHouse(t, newScript(nil), nil)
			h.srv.Seed(t)
			c := dialRaw(t, h)
			c.startup(t)
			msg := join(appendParse(nil, "", "COPY accounts FROM STDIN"), appendBind(nil, "", ""), appendExecute(nil, ""))
			if early {
				msg = appendBare(msg, 'S')
			} else {
				msg = appendBare(msg, 'H')
			}
			c.write(t, msg)
			c.until(t, 'G')
			c.write(t, join(copyData("77\tx\t1\n"), appendBare(nil, 'c'), appendBare(nil, 'S')))
			c.until(t, 'Z')
			c.write(t, appendQuery(nil, "select count(*) from accounts where id = 77"))
			if got := c.all(t, 'Z'); !bytes.Contains(got, []byte("\x00\x00\x00\x011C")) {
				t.Errorf("got %q", got)
			}
			// One that fails before it begins, and one midway.
			c.write(t, join(appendParse(nil, "", "COPY accounts (owner) FROM STDIN (format nonsense)"), appendBind(nil, "", ""), appendExecute(nil, ""), appendBare(nil, 'S')))
			c.until(t, 'Z')
			c.write(t, join(appendParse(nil, "", "COPY accounts FROM STDIN"), appendBind(nil, "", ""), appendExecute(nil, ""), appendBare(nil, 'S')))
			c.until(t, 'G')
			c.write(t, copyData("nonsense\n"))
			c.write(t, copyData("78\tx\t1\n"))
			c.until(t, 'E')
			c.write(t, join(copyData("79\tx\t1\n"), appendBare(nil, 'c'), appendBare(nil, 'S')))
			c.until(t, 'Z')
			c.write(t, join(appendQuery(nil, "select 1"), appendBare(nil, 'X')))
			c.until(t, 'Z')
		})
	}
}

// all reads up to and including the tag, and returns every byte.
func (c *raw) all(t testing.TB, end byte) []byte {
	t.Helper()
	var got []byte
	for {
		tag, body := c.read(t)
		out, at := frame(got, tag)
		got = seal(append(out, body...), at)
		if tag == end {
			return got
		}
	}
}

func copyData(s string) []byte {
	b, at := frame(nil, 'd')
	return seal(append(b, s...), at)
}

func TestCopyOut(t *testing.T) {
	g := newScript(map[string]ruling{"COPY orders": {rows: 2}})
	h := openHouse(t, g, nil)
	h.srv.Seed(t)
	ctx := t.Context()
	c := h.connect("")
	pg := c.PgConn()
	for sql, want := range map[string]string{
		"COPY accounts TO STDOUT":                                      "1\tada\t100.00\n2\tgrace\t250.00\n",
		"COPY (SELECT id, name FROM customers) TO STDOUT (FORMAT csv)": "1,Ada Lovelace\n2,Grace Hopper\n3,Edsger Dijkstra\n",
		"COPY accounts (id) TO STDOUT (FORMAT csv, HEADER)":            "id\n1\n2\n",
	} {
		var out bytes.Buffer
		if _, err := pg.CopyTo(ctx, &out, sql); err != nil || out.String() != want {
			t.Errorf("%s: %v %q", sql, err, out.String())
		}
	}
	for _, sql := range []string{"COPY customers TO STDOUT (DELIMITER ';') /* */; SELECT 1", "COPY BINARY customers TO STDOUT"} {
		var out bytes.Buffer
		if _, err := pg.CopyTo(ctx, &out, sql); codeOf(err) != "42501" || out.Len() > 0 {
			t.Errorf("%s: %v %q", sql, err, out.String())
		}
	}
	for sql, want := range map[string]string{
		"COPY customers TO STDOUT": "1\tAda Lovelace\ta***@***.com\t************1111\n",
		"copy public.customers (email, id) to stdout (format csv, header)": "email,id\na***@***.com,1\n",
		"COPY (SELECT upper(email), id FROM customers) TO STDOUT":          "A***@***.COM\t1\n",
		"COPY customers (id, email) TO STDOUT (FORMAT binary)":             "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x04\x00\x00\x00\x01\x00\x00\x00\x0ca***@***.com\x00\x02",
	} {
		var out bytes.Buffer
		if _, err := pg.CopyTo(ctx, &out, sql); err != nil || !strings.HasPrefix(out.String(), want) || strings.Contains(out.String(), "example") {
			t.Errorf("%s: %v %q", sql, err, out.String())
		}
		if r := g.outcome(t, sql); !r.Beneath || r.Tag != "COPY 3" {
			t.Errorf("%s: outcome %+v", sql, r)
		}
	}
	var out bytes.Buffer
	if _, err := pg.CopyTo(ctx, &out, "COPY orders TO STDOUT"); codeOf(err) != "42501" || strings.Count(out.String(), "\n") > 2 {
		t.Errorf("over the limit of rows: %v %q", err, out.String())
	}
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	n := &counting{}
	if tag, err := pg.CopyTo(ctx, n, "COPY (SELECT repeat('x', 30000000) FROM generate_series(1, 3)) TO STDOUT"); err != nil || tag.RowsAffected() != 3 || n.n != 3*30000001 {
		t.Errorf("long rows: %v %d", err, n.n)
	}
	if n.n = 0; true {
		if _, err := pg.CopyTo(ctx, n, "COPY (SELECT g FROM generate_series(1, 500000) g) TO STDOUT"); err != nil || n.n != 3388895 {
			t.Errorf("many rows: %v %d", err, n.n)
		}
	}
	if r := g.outcome(t, "500000"); r.Rows != 500000 || r.Tag != "COPY 500000" {
		t.Errorf("outcome %+v", r)
	}
}

type counting struct{ n int }

func (c *counting) Write(b []byte) (int, error) { c.n += len(b); return len(b), nil }

// A field of 300 MB arrives, and the room does not keep it; a message of the server's that is too long to keep loses its end and not the session.
func TestLongMessages(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	c := h.connect("default_query_exec_mode=exec")
	ctx := t.Context()
	size := 0
	if err := c.QueryRow(ctx, "select repeat('x', 300000000)").Scan(sized{&size}); err != nil || size != 300000000 {
		t.Errorf("%d %v", size, err)
	}
	_, err := c.Exec(ctx, "do $$ begin raise exception '%', repeat('canary', 1000000); end $$")
	if codeOf(err) != "P0001" || strings.Contains(err.Error(), "canary") {
		t.Errorf("a long error: %.200v", err)
	}
	bare := openHouse(t, newScript(nil), func(s *protocol.Session) { s.Classes = nil })
	c = bare.connect("default_query_exec_mode=exec")
	if _, err := c.Exec(ctx, "do $$ begin raise exception '%', repeat('canary', 1000000); end $$"); codeOf(err) != "P0001" || !strings.Contains(err.Error(), "canarycanary") {
		t.Errorf("a long error: %.200v", err)
	}
	if _, err := c.Exec(ctx, "do $$ begin raise notice '%', repeat('canary', 1000000); end $$"); err != nil {
		t.Errorf("a long notice: %.200v", err)
	}
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
}

type sized struct{ n *int }

func (s sized) ScanText(v pgtype.Text) error { *s.n = len(v.String); return nil }

func TestFunctionCalls(t *testing.T) {
	call := func(oid uint32) []byte {
		b, at := frame(nil, 'F')
		b = append(b, byte(oid>>24), byte(oid>>16), byte(oid>>8), byte(oid))
		return seal(append(b, 0, 0, 0, 1, 0, 0, 0, 2, '-', '7', 0, 0), at)
	}
	for _, on := range []bool{false, true} {
		g := newScript(nil)
		h := openHouseOf(t, g, Config{Targets: map[access.TargetName]Settings{"app": {FunctionCalls: on}}}, func(s *protocol.Session) { s.Classes = nil })
		c := dialRaw(t, h)
		c.startup(t)
		c.write(t, call(1397)) // abs(int4)
		got := c.all(t, 'Z')
		if on != bytes.Contains(got, []byte("V\x00\x00\x00\x09\x00\x00\x00\x017")) || on == bytes.Contains(got, []byte("postgres.function-call")) {
			t.Errorf("calls %v: %q", on, got)
		}
		c.write(t, call(4000000000))
		if got := c.all(t, 'Z'); !bytes.Contains(got, []byte("postgres.function-call")) {
			t.Errorf("no such function: %q", got)
		}
		c.write(t, appendBare(nil, 'X'))
		if on {
			cmd := g.commands()[0]
			if cmd.Text != "SELECT pg_catalog.abs($1)" || cmd.Verb != "FUNCTION CALL" || string(cmd.Params[0].Value) != "-7" {
				t.Errorf("asked about %+v", cmd)
			}
		}
	}
}

// Notifications pass where the session may listen; what they say does not where some column is masked.
func TestNotifications(t *testing.T) {
	for _, guarded := range []bool{true, false} {
		h := openHouse(t, newScript(map[string]ruling{"forbidden": {deny: denyAll}}), func(s *protocol.Session) {
			if !guarded {
				s.Classes = nil
			}
		})
		c := h.connect("")
		if _, err := c.Exec(t.Context(), "listen forbidden"); codeOf(err) != "42501" {
			t.Fatalf("denied: %v", err)
		}
		if _, err := c.Exec(t.Context(), "listen news"); err != nil {
			t.Fatal(err)
		}
		h.srv.Exec(t, "notify news, 'canary'")
		n, err := c.WaitForNotification(t.Context())
		if err != nil || n.Channel != "news" || (n.Payload == "canary") == guarded || n.PID == 0 {
			t.Errorf("%+v %v", n, err)
		}
	}
}
