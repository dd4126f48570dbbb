package postgres

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
)

// PG-16: a portal stays what it was bound to, in the decision, in the record and at the target.
func TestPG16_PortalStaysBound(t *testing.T) {
	g := newScript(nil)
	h := openHouse(t, g, nil)
	c := dialRaw(t, h)
	c.startup(t)
	c.write(t, join(appendParse(nil, "", "select 'A'"), appendBind(nil, "p", ""), appendParse(nil, "", "select 'B'"), appendExecute(nil, "p"), appendBare(nil, 'S')))
	var row []byte
	for {
		tag, body := c.read(t)
		if tag == 'D' {
			row = body
		}
		if tag == 'Z' {
			break
		}
	}
	if string(row[len(row)-1:]) != "A" {
		t.Errorf("row %q", row)
	}
	var ran []string
	for _, cmd := range g.commands() {
		if !cmd.Prepare {
			ran = append(ran, cmd.Text)
		}
	}
	if len(ran) != 1 || ran[0] != "select 'A'" {
		t.Errorf("decided %q", ran)
	}
}

// PG-16 in a transaction: an Execute after the next Sync is a command of its own, on the text that the portal was bound to.
func TestPG16_LaterExecuteIsDecidedAnew(t *testing.T) {
	g := newScript(nil)
	h := openHouse(t, g, nil)
	c := dialRaw(t, h)
	c.startup(t)
	c.write(t, appendQuery(nil, "begin"))
	c.until(t, 'Z')
	c.write(t, join(appendParse(nil, "s", "select generate_series(1, 3)"), appendBind(nil, "p", "s"), appendBare(nil, 'S')))
	c.until(t, 'Z')
	c.write(t, join(appendClose(nil, 'S', "s"), appendParse(nil, "s", "select 'other'"), executeSome("p", 1), appendBare(nil, 'S')))
	if tags := c.until(t, 'Z'); tags != "31DsZ" {
		t.Errorf("got %q", tags)
	}
	c.write(t, join(executeSome("p", 1), executeSome("p", 0), appendBare(nil, 'S')))
	if tags := c.until(t, 'Z'); tags != "DsDCZ" {
		t.Errorf("got %q", tags)
	}
	n := 0
	for _, cmd := range g.commands() {
		if cmd.Text == "select generate_series(1, 3)" && !cmd.Prepare {
			n++
		}
	}
	if n != 4 {
		t.Errorf("decided %d times, want 4: one Bind and three Executes after its segment", n)
	}
}

func executeSome(portal string, most uint32) []byte {
	b, at := frame(nil, 'E')
	return seal(binary.BigEndian.AppendUint32(appendText(b, portal), most), at)
}

// PG-53: rows of a portal that was suspended are masked like those before.
func TestPG53_SuspendedPortalStaysMasked(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	h.srv.Seed(t)
	c := dialRaw(t, h)
	c.startup(t)
	c.write(t, join(appendParse(nil, "", "select email from customers order by id"), appendBind(nil, "", ""), executeSome("", 1), executeSome("", 1), executeSome("", 0), appendBare(nil, 'S')))
	seen := ""
	for {
		tag, body := c.read(t)
		seen += string(tag)
		if tag == 'D' && !strings.Contains(string(body), "***@***.") {
			t.Errorf("row %q", body)
		}
		if tag == 'Z' {
			break
		}
	}
	if seen != "12DsDsDCZ" {
		t.Errorf("got %q", seen)
	}
}

// PG-52: a masked column in binary.
func TestPG52_Binary(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	h.srv.Seed(t)
	c := h.connect("")
	r := c.PgConn().ExecParams(t.Context(), "select email, id, card_number from customers where id = $1", [][]byte{be32(1)}, []uint32{pgtype.Int4OID}, []int16{1}, []int16{1}).Read()
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	if string(r.Rows[0][0]) != "a***@***.com" || string(r.Rows[0][2]) != "************1111" || binary.BigEndian.Uint32(r.Rows[0][1]) != 1 {
		t.Errorf("got %q", r.Rows[0])
	}
}

// PG-52, types that are not text: a constant that drivers can parse, and NULL where there is none.
func TestPG52_BinaryOfOtherTypes(t *testing.T) {
	g := newScript(nil)
	h := openHouse(t, g, func(s *protocol.Session) {
		s.Classes = []access.Class{{Name: "card", Columns: []string{"public.typed.*"}, Mask: "card"}}
	})
	h.srv.Exec(t, "create table if not exists typed (n int8 default 42, j json default '{\"a\": 42}', d date default now(), b bool default true, u uuid default '00000000-0000-0000-0000-000000000042', a int[] default '{42}', x bytea default 'x')")
	h.srv.Exec(t, "insert into typed default values")
	c := h.connect("")
	for _, format := range []int16{0, 1} {
		r := c.PgConn().ExecParams(t.Context(), "select n, j, d, b, u, a, x from typed", nil, nil, nil, []int16{format}).Read()
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		want := []string{"0", `"****"`, "1970-01-01", "f", "00000000-0000-0000-0000-000000000000", "", `\x`}
		if format == 1 {
			want = []string{strings.Repeat("\x00", 8), `"****"`, "\xff\xff\xd53", "\x00", strings.Repeat("\x00", 16), "", ""}
		}
		for i, v := range r.Rows[0] {
			if string(v) != want[i] {
				t.Errorf("format %d, column %d: %q, want %q", format, i, v, want[i])
			}
		}
	}
}

// PG-19: the fast path is refused by name, on the record, and the session lives, in and out of transactions.
func TestPG19_FunctionCall(t *testing.T) {
	g := newScript(nil)
	h := openHouse(t, g, nil)
	c := dialRaw(t, h)
	c.startup(t)
	call := rawMessage('F', 4+4+2+2+2, "\x00\x00\x03\xbc\x00\x00\x00\x00\x00\x00")
	c.write(t, call)
	if tags := c.until(t, 'Z'); tags != "EZ" {
		t.Errorf("got %q", tags)
	}
	c.write(t, join(appendQuery(nil, "begin"), call, appendQuery(nil, "rollback")))
	if tags := c.until(t, 'Z') + c.until(t, 'Z') + c.until(t, 'Z'); tags != "CZEZCZ" {
		t.Errorf("got %q", tags)
	}
	if cmd := g.commands()[0]; cmd.Refused == nil || cmd.Refused.Rule != "postgres.function-call" {
		t.Errorf("recorded %+v", cmd)
	}
}

// PG-29: a newer minor version and protocol options are negotiated down.
func TestPG29_Negotiated(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	c := dialRaw(t, h)
	c.write(t, startupPacket(version3|9999, "user", "alice", "_pq_.test_protocol_negotiation", "", "_pq_.command_tag", "x"))
	tag, body := c.read(t)
	cur := cursor{b: body}
	if tag != 'v' || cur.uint32() != version3|newestMinor || cur.uint32() != 2 || string(cur.text()) != "_pq_.test_protocol_negotiation" || string(cur.text()) != "_pq_.command_tag" || cur.end() != nil {
		t.Fatalf("%c %q", tag, body)
	}
	c.until(t, 'Z')
	if conn := h.connect("max_protocol_version=3.2"); conn.Ping(t.Context()) != nil {
		t.Error("pgx with 3.2 does not work")
	}
}

// PG-25: a request for GSS is declined, and the client goes on with TLS, or in the clear of its endpoint.
func TestPG25_Encryption(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	for _, secured := range []bool{true, false} {
		c := dialRaw(t, h)
		c.write(t, append(be32(8), be32(codeGSS)...))
		var n [1]byte
		if _, err := c.conn.Read(n[:]); err != nil || n[0] != 'N' {
			t.Fatalf("%q %v", n, err)
		}
		if secured {
			c.secure(t)
		}
		c.startup(t)
	}
}

// secure asks for TLS and begins it.
func (c *raw) secure(t testing.TB) {
	t.Helper()
	c.write(t, append(be32(8), be32(codeSSL)...))
	var n [1]byte
	if _, err := c.conn.Read(n[:]); err != nil || n[0] != 'S' {
		t.Fatalf("%q %v", n, err)
	}
	c.conn = tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test's own server
}

// PG-28: a cancel request that comes after an SSLRequest, as new libpq sends it, reaches its session; so does a plain one.
func TestPG28_CancelAfterSSLRequest(t *testing.T) {
	g := newScript(map[string]ruling{"update accounts": {hold: true}})
	h := openHouse(t, g, nil)
	c := h.connect("")
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(context.Background(), "update accounts set balance = 3")
		done <- err
	}()
	<-g.holding
	o := dialRaw(t, h)
	o.secure(t)
	o.write(t, join(be32(16), be32(codeCancel), be32(c.PgConn().PID()), c.PgConn().SecretKey()))
	if err := <-done; codeOf(err) != "57014" {
		t.Fatalf("got %v", err)
	}
}

// leaky makes functions and a table whose errors and notices carry a protected value.
const leaky = `
create or replace function raise_notice() returns int language plpgsql as $$ declare v text; begin
 select email into v from customers where id = 1; raise notice 'here: %', v using detail = v, hint = v; return 1; end $$;
create or replace function raise_error() returns int language plpgsql as $$ declare v text; begin
 select email into v from customers where id = 1; raise exception 'here: %', v using detail = v, hint = v, errcode = '42P01', column = v, table = v, constraint = v; end $$;
create or replace function cast_error() returns int language sql as $$ select email::int from customers where id = 1 $$;
create or replace function exec_error() returns int language plpgsql as $$ declare v text; begin
 select email into v from customers where id = 1; execute 'select ' || v; return 1; end $$;
create unique index if not exists customers_email on customers (email);`

// PG-44, PG-46: what the target says beside its rows does not carry a protected value while one is masked.
func TestPG44_PG46_SideChannels(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	h.srv.Seed(t)
	h.srv.Exec(t, leaky)
	t.Cleanup(func() { h.srv.Seed(t) })
	for _, sql := range []string{"select raise_notice()", "select raise_error()", "select cast_error()", "select exec_error()",
		"insert into customers values (9, 'x', 'ada@example.com', '1')", "select 'ada@example.com'::int", "select 1/0"} {
		c := dialRaw(t, h)
		c.startup(t)
		c.write(t, appendQuery(nil, sql))
		for {
			tag, body := c.read(t)
			if strings.Contains(string(body), "ada@example") {
				t.Errorf("%s: %c %q", sql, tag, body)
			}
			if f := fieldsOf(body); (tag == 'E' || tag == 'N') && (f['D'] != nil || f['W'] != nil || f['q'] != nil || len(f['M']) == 0 || len(f['C']) != 5) {
				t.Errorf("%s: %c %q", sql, tag, body)
			}
			if tag == 'Z' {
				break
			}
		}
	}
	c := h.connect("")
	_, err := c.Exec(t.Context(), "insert into customers values (9, 'x', 'ada@example.com', '1')")
	e := (*pgconn.PgError)(nil)
	if !errors.As(err, &e) || e.Code != "23505" || e.ConstraintName != "customers_email" || !strings.Contains(e.Message, "customers_email") {
		t.Errorf("what is not a value is gone too: %+v", e)
	}
	if _, err := c.Exec(t.Context(), "select nope from customers"); codeOf(err) == "" || !strings.Contains(err.Error(), "nope") {
		t.Errorf("a name is gone: %v", err)
	}
}

// A session without classes of data hears its target in full.
func TestErrorsPassWithoutClasses(t *testing.T) {
	h := openHouse(t, newScript(nil), func(s *protocol.Session) { s.Classes = nil })
	h.srv.Seed(t)
	_, err := h.connect("").Exec(t.Context(), "insert into accounts values (1, 'x', 1)")
	e := (*pgconn.PgError)(nil)
	if !errors.As(err, &e) || !strings.Contains(e.Detail, "(id)=(1)") {
		t.Errorf("%+v", e)
	}
}

func TestRevealedClassPasses(t *testing.T) {
	h := openHouse(t, newScript(map[string]ruling{"reveal": {bare: []string{"email"}}}), nil)
	h.srv.Seed(t)
	for _, mode := range modes() {
		var email, card string
		if err := h.connect(mode).QueryRow(t.Context(), "select email, card_number from customers where id = 1 -- reveal").Scan(&email, &card); err != nil {
			t.Fatal(err)
		}
		if email != "ada@example.com" || card != "************1111" {
			t.Errorf("mode %q: %s %s", mode, email, card)
		}
	}
}

func TestRowLimit(t *testing.T) {
	g := newScript(map[string]ruling{"series": {rows: 5}})
	h := openHouse(t, g, nil)
	for _, sql := range []string{"select generate_series(1, 6)", "select generate_series(1, 3000000)"} {
		for _, mode := range modes() {
			c := h.connect(mode)
			rows, err := c.Query(t.Context(), sql)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for rows.Next() {
				n++
			}
			if codeOf(rows.Err()) != "42501" || !strings.Contains(rows.Err().Error(), "row-limit") || n > 5 {
				t.Errorf("mode %q: %d rows, then %v", mode, n, rows.Err())
			}
			if r := g.outcome(t, sql); r.Rows != 5 || r.Status != access.StatusError || r.Error != "42501" {
				t.Errorf("outcome %+v", r)
			}
			if err := c.Ping(t.Context()); err != nil {
				t.Errorf("mode %q: %v", mode, err)
			}
		}
	}
	c := h.connect("")
	rows, err := c.Query(t.Context(), "select generate_series(1, 5)")
	if err != nil {
		t.Fatal(err)
	}
	if rows.Close(); rows.Err() != nil {
		t.Errorf("at the limit: %v", rows.Err())
	}
}

// PG-56: what the session itself creates is known at its next command; what somebody else created meanwhile fails closed.
func TestPG56_NewTables(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	h.srv.Exec(t, "drop table if exists late.customers; drop schema if exists late; create schema late")
	t.Cleanup(func() { h.srv.Exec(t, "drop schema late cascade") })
	c := h.connect("default_query_exec_mode=exec")
	if _, err := c.Exec(t.Context(), "create table late.customers (email text)"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "insert into late.customers values ('eve@example.com')"); err != nil {
		t.Fatal(err)
	}
	var email string
	if err := c.QueryRow(t.Context(), "select email from late.customers").Scan(&email); err != nil || email != "e***@***.com" {
		t.Fatalf("%q %v", email, err)
	}
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "alter table late.customers rename column email to plain"); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "alter table late.customers add column email text default 'late@example.com'"); err != nil {
		t.Fatal(err)
	}
	if err := tx.QueryRow(t.Context(), "select email from late.customers").Scan(&email); err != nil || email != "l***@***.com" {
		t.Fatalf("%q %v", email, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.QueryRow(t.Context(), "select email from late.customers").Scan(&email); err != nil || email != "e***@***.com" {
		t.Fatalf("after the rollback: %q %v", email, err)
	}
}

// PG-35: a function that moves the role or the search path ends the session before the next command.
func TestPG34_PG35_Drift(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	h.srv.Exec(t, "create or replace function drift() returns text language plpgsql as $$ begin return set_config('search_path', 'pg_temp', false); end $$")
	c := h.connect("default_query_exec_mode=exec")
	if _, err := c.Exec(t.Context(), "select drift()"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "select 1"); codeOf(err) != "42501" || !strings.Contains(err.Error(), "postgres.drift") {
		t.Fatalf("got %v", err)
	}
	if !c.IsClosed() {
		t.Error("the session goes on")
	}
}

// COPY is denied; the data that a driver has sent already does not disturb the session.
func TestCopyRefused(t *testing.T) {
	no := ruling{deny: &access.Denied{Code: access.CodeDenied, Rule: "postgres.copy"}}
	h := openHouse(t, newScript(map[string]ruling{"copy": no, "COPY": no}), nil)
	h.srv.Seed(t)
	c := h.connect("")
	_, err := c.CopyFrom(t.Context(), pgx.Identifier{"accounts"}, []string{"id", "owner", "balance"}, pgx.CopyFromRows([][]any{{11, "x", 1}}))
	if codeOf(err) != "42501" || !strings.Contains(err.Error(), "postgres.copy") {
		t.Fatalf("got %v", err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.PgConn().CopyTo(t.Context(), nil, "copy accounts to stdout"); codeOf(err) != "42501" {
		t.Fatalf("got %v", err)
	}
	out, _ := h.psql("-c", "\\copy accounts from /etc/hostname", "-c", "select 'alive'")
	if !strings.Contains(out, "postgres.copy") || !strings.Contains(out, "alive") {
		t.Errorf("psql: %s", out)
	}
}

func TestNames(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	c := dialRaw(t, h)
	c.startup(t)
	for _, tt := range []struct {
		what string
		msg  []byte
		tags string
		code string
	}{
		{"reserved statement", appendParse(nil, own+" denied", "select 1"), "EZ", "42501"},
		{"reserved portal", join(appendParse(nil, "", "select 1"), appendBind(nil, own, "")), "1EZ", "42501"},
		{"unknown statement", appendBind(nil, "", "nowhere"), "EZ", "26000"},
		{"unknown portal", appendDescribePortal(nil, "nowhere"), "EZ", "34000"},
		{"same name twice", join(appendParse(nil, "a", "select 1"), appendParse(nil, "a", "select 2")), "1EZ", "42P05"},
		{"the first one stays", join(appendBind(nil, "", "a"), appendExecute(nil, "")), "2DCZ", ""},
		{"closed in the same segment", join(appendClose(nil, 'S', "a"), appendBind(nil, "", "a")), "3EZ", "26000"},
		{"so it is gone", appendBind(nil, "", "a"), "EZ", "26000"},
		{"syntax error", appendParse(nil, "b", "selec 1"), "EZ", ""},
		{"leaves nothing", appendBind(nil, "", "b"), "EZ", "26000"},
		{"only bound", join(appendParse(nil, "", "select 1"), appendBind(nil, "", "")), "12Z", ""},
		{"empty", join(appendParse(nil, "", ""), appendBind(nil, "", ""), appendDescribePortal(nil, ""), appendExecute(nil, "")), "12nIZ", ""},
		{"nothing", nil, "Z", ""},
		{"a cursor", join(appendParse(nil, "", "declare kept cursor with hold for select 1"), appendBind(nil, "", ""), appendExecute(nil, "")), "12CZ", ""},
		{"its columns", appendDescribePortal(nil, "kept"), "TZ", ""},
		{"its rows, but by FETCH", join(appendDescribePortal(nil, "kept"), appendExecute(nil, "kept")), "TEZ", "34000"},
		{"closed", join(appendClose(nil, 'P', "kept"), appendDescribePortal(nil, "kept")), "3EZ", "34000"},
		{"not the room's own", appendDescribePortal(nil, own), "EZ", "34000"},
	} {
		c.write(t, append(append([]byte(nil), tt.msg...), appendBare(nil, 'S')...))
		tags, code := "", ""
		for !strings.HasSuffix(tags, "Z") {
			tag, body := c.read(t)
			tags += string(tag)
			if tag == 'E' {
				code = sqlstateOf(body)
			}
		}
		if tags != tt.tags || tt.code != "" && code != tt.code {
			t.Errorf("%s: %s %s, want %s %s", tt.what, tags, code, tt.tags, tt.code)
		}
	}
}

func TestRefuse(t *testing.T) {
	for code, want := range map[string]string{access.CodeDenied: "42501", access.CodeRevoked: "42501", access.CodeBusy: "53300", access.CodeNoDecision: "42501"} {
		here, there := net.Pipe()
		done := make(chan error, 1)
		go func() {
			done <- New(Config{}).Refuse(t.Context(), there, &access.Denied{Code: code, Rule: "connect", Hint: "ask for access"})
		}()
		c := &raw{here}
		c.secure(t)
		c.write(t, startupPacket(version3, "user", "alice"))
		tag, body := c.read(t)
		if f := fieldsOf(body); tag != 'E' || string(f['S']) != "FATAL" || string(f['C']) != want || string(f['H']) != "ask for access" {
			t.Errorf("%c %q", tag, body)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// PG-34, PG-56 in a pipeline: what follows a call or a definition that may change what names mean, before the same Sync, is resolved by the
// target afterwards; the room cannot know how, and says so.
func TestPG34_PG56_PipelineAfterChange(t *testing.T) {
	g := newScript(nil)
	h := openHouse(t, g, nil)
	h.srv.Exec(t, "drop table if exists scratch_p; drop function if exists harmless_f(); create function harmless_f() returns integer language plpgsql as 'begin return 1; end'")
	c := dialRaw(t, h)
	c.startup(t)
	run := func(sql string) []byte {
		return join(appendParse(nil, "", sql), appendBind(nil, "", ""), appendExecute(nil, ""))
	}
	for _, tt := range []struct {
		first string
		want  bool // what follows is understood
	}{{"select harmless_f()", false}, {"create table scratch_p (id integer)", false}, {"drop table scratch_p", false}, {"select 1", true}} {
		follow := "select 'after " + tt.first + "'"
		follow = strings.ReplaceAll(follow, "(", "")
		c.write(t, join(run(tt.first), run(follow), appendBare(nil, 'S')))
		c.until(t, 'Z')
		found := false
		for _, cmd := range g.commands() {
			if cmd.Text != follow {
				continue
			}
			found = true
			if cmd.Complete != tt.want {
				t.Errorf("after %q: complete is %t (prepare %t)", tt.first, cmd.Complete, cmd.Prepare)
			}
		}
		if !found {
			t.Errorf("after %q: nothing was asked", tt.first)
		}
		c.write(t, join(run(follow+" "), appendBare(nil, 'S')))
		c.until(t, 'Z')
		if cmds := g.commands(); !cmds[len(cmds)-1].Complete {
			t.Errorf("after %q and a Sync: %s", tt.first, cmds[len(cmds)-1].Why)
		}
	}
}

// Pools and drivers clean sessions with these; a prepared statement that is gone is gone for the room too, and the pins hold.
func TestSessionsAreTidied(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	c := dialRaw(t, h)
	c.startup(t)
	for _, tt := range []struct {
		what string
		msg  []byte
		tags string
	}{
		{"prepare two", join(appendParse(nil, "a", "select 1"), appendParse(nil, "b", "select 2"), appendBare(nil, 'S')), "11Z"},
		{"one goes", appendQuery(nil, "deallocate a"), "CZ"},
		{"it is gone", join(appendBind(nil, "", "a"), appendBare(nil, 'S')), "EZ"},
		{"the other is there", join(appendBind(nil, "", "b"), appendExecute(nil, ""), appendBare(nil, 'S')), "2DCZ"},
		{"its name is free", join(appendParse(nil, "a", "select 'again'"), appendBind(nil, "", "a"), appendExecute(nil, ""), appendBare(nil, 'S')), "12DCZ"},
		{"all go, by the extended protocol", join(appendParse(nil, "", "deallocate all"), appendBind(nil, "", ""), appendExecute(nil, ""), appendBare(nil, 'S')), "12CZ"},
		{"none is there", join(appendBind(nil, "", "b"), appendBare(nil, 'S')), "EZ"},
		{"discard all", appendQuery(nil, "discard all"), "CZ"},
		{"what asyncpg resets with", appendQuery(nil, "select pg_advisory_unlock_all(); close all; unlisten *; reset all;"), "TDCCCCZ"},
		{"the session goes on", appendQuery(nil, "select 1"), "TDCZ"},
	} {
		c.write(t, tt.msg)
		tags := c.until(t, 'Z')
		if strings.ReplaceAll(tags, "S", "") != strings.ReplaceAll(tt.tags, "S", "") {
			t.Errorf("%s: %s, want %s", tt.what, tags, tt.tags)
		}
	}
}

// A Query before the Sync ends the segment, as at the target: what was sent before it is decided and answered first, a denial fails it
// all, and after a failure it is skipped with the rest.
func TestQueryBeforeSync(t *testing.T) {
	g := newScript(map[string]ruling{"canary": {deny: denyAll}})
	h := openHouse(t, g, nil)
	h.srv.Seed(t)
	mark := h.srv.LogSize(t)
	run := func(sql string) []byte {
		return join(appendParse(nil, "", sql), appendBind(nil, "", ""), appendExecute(nil, ""))
	}
	sync, flush := appendBare(nil, 'S'), appendBare(nil, 'H')
	c := dialRaw(t, h)
	c.startup(t)
	for _, tt := range []struct {
		what string
		msg  []byte
		tags string
		ends byte
	}{
		{"JDBC's savepoints", join(run("begin"), appendQuery(nil, "savepoint a")), "12CCZ", 'T'},
		{"and what follows", join(run("insert into accounts values (41, 'x', 1)"), sync), "12CZ", 'T'},
		{"back", appendQuery(nil, "rollback"), "CZ", 'I'},
		{"libpq's Sync, Flush, Query", join(run("select 1"), sync, flush), "12DCZ", 'I'},
		{"Query", appendQuery(nil, "select 2"), "TDCZ", 'I'},
		{"without a transaction", join(run("insert into accounts values (42, 'x', 1)"), appendQuery(nil, "select 3")), "12CTDCZ", 'I'},
		{"it stays", appendQuery(nil, "delete from accounts where id = 42"), "CZ", 'I'},
		{"a denied Query takes along what no Sync has ended", join(run("insert into accounts values (43, 'x', 1)"), appendQuery(nil, "select 'canary'")), "12CEZ", 'I'},
		{"a denied Query fails the transaction", join(run("begin"), appendQuery(nil, "select 'canary'")), "12CEZ", 'E'},
		{"back again", appendQuery(nil, "rollback"), "CZ", 'I'},
		{"after a denial it is skipped", join(run("select 'canary'"), appendQuery(nil, "select 4"), sync), "EZ", 'I'},
		{"after a denial behind something it is skipped", join(run("select 5"), run("select 'canary'"), appendQuery(nil, "select 4"), sync), "12DCEZ", 'I'},
		{"after an error it is skipped", join(run("select 1/0"), run("select 6"), appendQuery(nil, "select 7"), run("select 8"), sync), "1EZ", 'I'},
		{"and the session is in step", join(run("select 9"), sync), "12DCZ", 'I'},
	} {
		c.write(t, tt.msg)
		tags, ends := "", byte(0)
		for !strings.HasSuffix(tags, "Z") {
			tag, body := c.read(t)
			tags += string(tag)
			if tag == 'Z' {
				ends = body[0]
			}
		}
		if tags != tt.tags || ends != tt.ends {
			t.Errorf("%s: %s %c, want %s %c", tt.what, tags, ends, tt.tags, tt.ends)
		}
	}
	if n := h.srv.Exec(t, "select count(*) from accounts where id in (41, 42, 43)"); string(n[0].Rows[0][0]) != "0" {
		t.Error("a row stayed that must not")
	}
	if h.srv.Logged(t, mark, "canary") {
		t.Error("the denied text reached the target")
	}
}

// PG-56: what somebody else changes under an open session is seen at the next command, once the snapshot is no longer fresh.
func TestPG56_DefinitionsOfOthers(t *testing.T) {
	g := newScript(nil)
	h := openHouse(t, g, nil)
	h.room = New(Config{Fresh: time.Nanosecond})
	h.srv.Seed(t)
	h.srv.Exec(t, "drop view if exists swapped; create view swapped as select id, name from customers")
	t.Cleanup(func() { h.srv.Exec(t, "drop view swapped") })
	c := h.connect("default_query_exec_mode=exec")
	protected := func() bool {
		if _, err := c.Exec(t.Context(), "select name from swapped where id = 1"); err != nil {
			t.Fatal(err)
		}
		cmds := g.commands()
		return len(cmds[len(cmds)-1].Classes) > 0
	}
	if protected() {
		t.Fatal("a view without protected columns has some")
	}
	h.srv.Exec(t, "create or replace view swapped as select id, email as name from customers")
	if !protected() {
		t.Error("the view's new query was not seen")
	}
}
