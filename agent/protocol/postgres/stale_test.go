package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/internal/access"
)

// change is what somebody else does between the decision and the run.
type change struct {
	name          string
	before, after string // SQL past the gate
	run           string
}

const staleReset = `drop schema if exists stale cascade; create schema stale; drop operator if exists public.<<<(text, text);
create table stale.t (id int, name text, secret text); insert into stale.t values (1, 'ada', 'canary');
create table stale.other (id int, secret text); insert into stale.other values (1, 'canary');
create table stale.log (id int, at text);
create view stale.v as select id, name from stale.t;
create view stale.vv as select id, name from stale.v;
create function stale.f() returns text language sql as 'select name from stale.t';
create function stale.noisy() returns trigger language plpgsql as 'begin return new; end';
create table stale.parent (id int, name text); create table stale.child (id int, name text);
create table stale.referenced (id int primary key); insert into stale.referenced values (1);
create table stale.guarded (id int, name text); alter table stale.guarded enable row level security;
create schema stale2_; drop schema stale2_; drop schema if exists first cascade; create schema first`

var overtakers = []change{
	{name: "view", after: "create or replace view stale.v as select id, secret as name from stale.t", run: "select id, name from stale.v"},
	{name: "view behind a view", after: "create or replace view stale.v as select id, secret as name from stale.t", run: "select id, name from stale.vv"},
	{name: "view anew", after: "drop view stale.v cascade; create view stale.v as select id, secret as name from stale.t", run: "select id, name from stale.v"},
	{name: "function", after: "create or replace function stale.f() returns text language sql as 'select secret from stale.t'", run: "select stale.f()"},
	{name: "function of a view", before: "create view stale.fv as select stale.f() as x",
		after: "create or replace function stale.f() returns text language sql as 'select secret from stale.t'", run: "select x from stale.fv"},
	{name: "another function of the name", after: "create function first.lower(text) returns text language sql as 'select secret from stale.t'", run: "select lower(name) from stale.t"},
	{name: "rule", after: "create rule r as on insert to stale.t do also insert into stale.log values (new.id, new.secret)", run: "insert into stale.t values (2, 'b', 'canary')"},
	{name: "second rule", before: "create rule q as on insert to stale.t do also insert into stale.log values (new.id, '')",
		after: "create rule r as on insert to stale.t do also insert into stale.log values (new.id, new.secret)", run: "insert into stale.t values (2, 'b', 'canary')"},
	{name: "trigger", after: "create trigger g before insert on stale.t for each row execute function stale.noisy()", run: "insert into stale.t values (2, 'b', 'canary')"},
	{name: "trigger switched on", before: "create trigger g before insert on stale.t for each row execute function stale.noisy(); alter table stale.t disable trigger g",
		after: "alter table stale.t enable trigger g", run: "insert into stale.t values (2, 'b', 'canary')"},
	{name: "function of a trigger", before: "create trigger g before insert on stale.t for each row execute function stale.noisy()",
		after: "create or replace function stale.noisy() returns trigger language plpgsql as 'begin insert into stale.log values (1); return new; end'", run: "insert into stale.t values (2, 'b', 'canary')"},
	{name: "name found first", after: "create table first.t (id int, name text); insert into first.t values (1, 'canary')", run: "select id, name from t"},
	{name: "schema renamed", after: "alter schema stale rename to stale3; create schema stale; create table stale.t (id int, name text); alter schema stale3 rename to stale4", run: "select id, name from stale.t"},
	{name: "columns change names", after: "alter table stale.t rename name to n2; alter table stale.t rename secret to name", run: "select id, name from stale.t"},
	{name: "type of a column", after: "alter table stale.parent alter id type bigint", run: "select id from stale.parent"},
	{name: "column more", after: "alter table stale.t add extra text", run: "select * from stale.t"},
	{name: "inheritance", after: "alter table stale.child inherit stale.parent", run: "select name from stale.parent"},
	{name: "default", after: "alter table stale.t alter secret set default stale.f()", run: "insert into stale.t (id) values (3)"},
	{name: "check", after: "alter table stale.t add check (stale.f() is not null)", run: "insert into stale.t (id) values (3)"},
	{name: "row security", after: "create policy p on stale.guarded using (exists (select from stale.other where secret is not null))", run: "select name from stale.guarded"},
	{name: "row security switched on", before: "alter table stale.guarded disable row level security; create policy p on stale.guarded using (exists (select from stale.other))",
		after: "alter table stale.guarded enable row level security", run: "select name from stale.guarded"},
	{name: "foreign key", after: "create table stale.referring (id int references stale.referenced on delete cascade)", run: "delete from stale.referenced where id = 7"},
	{name: "operator", after: "create operator public.<<< (leftarg = text, rightarg = text, function = pg_catalog.texteq)", run: "select name from stale.t where name = 'ada'"},
	{name: "domain", before: "create domain stale.d as text", after: "alter domain stale.d add check (stale.f() is not null)", run: "select name::stale.d from stale.t"},
	{name: "COPY of a table", after: "alter table stale.t rename name to n2; alter table stale.t rename secret to name", run: "copy stale.t (id, name) to stdout"},
	{name: "EXPLAIN", after: "create or replace view stale.v as select id, secret as name from stale.t", run: "explain select id, name from stale.v"},
	{name: "several", after: "create or replace view stale.v as select id, secret as name from stale.t", run: "select 1; select id, name from stale.v"},
	{name: "a table made of it", after: "create or replace view stale.v as select id, secret as name from stale.t", run: "create table stale.made as select id, name from stale.v"},
	{name: "truncate", after: "create trigger g before truncate on stale.t for each statement execute function stale.noisy()", run: "truncate stale.t"},
}

// stale is a house in which the first command with a marker is overtaken by a change, and denied if it is decided again.
type stale struct {
	*house
	g         *script
	onRun     func() // past the gate, at the decision
	overtaken bool
	denies    bool
}

func openStale(t *testing.T) *stale {
	g := newScript(map[string]ruling{})
	s := &stale{house: openHouseOf(t, g, Config{Fresh: time.Hour}, nil), g: g, denies: true}
	g.onAsk = func(c access.Command) {
		if c.Prepare || !strings.Contains(c.Text, "/*marked*/") {
			return
		}
		if s.overtaken && s.denies {
			g.rules["/*marked*/"] = ruling{deny: denyAll}
		}
		if s.overtaken = true; s.onRun != nil {
			run := s.onRun
			s.onRun = nil
			run()
		}
	}
	t.Cleanup(func() {
		s.srv.Exec(t, "drop schema if exists stale cascade; drop schema if exists first cascade; drop schema if exists stale4 cascade; drop operator if exists public.<<<(text, text)")
	})
	return s
}

func (s *stale) reset(t *testing.T, c change) {
	t.Helper()
	s.g.mu.Lock()
	delete(s.g.rules, "/*marked*/")
	s.g.mu.Unlock()
	s.srv.Exec(t, "drop schema if exists stale4 cascade;"+staleReset+";"+c.before)
	s.overtaken, s.onRun = false, func() { s.srv.Exec(t, "set lock_timeout = '2s';"+c.after) }
	s.room.definitions.Add(1) // sessions that are open look at the catalogue
}

// What was decided is what runs: whatever somebody else changes between the decision and the run, the new meaning is decided anew, or
// refused, and never runs by the old decision. The server's log says what ran.
func TestChangedBetweenDecisionAndRun(t *testing.T) {
	s := openStale(t)
	for _, mode := range []string{"simple_protocol", "exec", "cache_statement"} {
		conn := s.connect("default_query_exec_mode=" + mode + " search_path=first,stale,public")
		for i, c := range overtakers {
			if mode != "simple_protocol" && (strings.Contains(c.run, ";") || strings.HasPrefix(c.run, "copy")) {
				continue
			}
			for _, begin := range []string{"", "begin", "begin isolation level repeatable read", "begin; set transaction isolation level serializable"} {
				// A statement that was prepared in a transaction has locked what it names already.
				if begin != "" && mode == "cache_statement" || i > 0 && strings.Contains(begin, "serializable") || begin != "" && mode == "exec" && i > 3 || i%4 != 0 && strings.Contains(begin, "repeatable") {
					continue
				}
				t.Run(c.name+"/"+mode+"/"+begin, func(t *testing.T) {
					s.reset(t, c)
					for _, b := range strings.Split(begin, ";") {
						if _, err := conn.Exec(t.Context(), b, pgx.QueryExecModeSimpleProtocol); b != "" && err != nil {
							t.Fatal(err)
						}
					}
					if begin != "" { // the transaction's eyes open here
						if _, err := conn.Exec(t.Context(), "select 1"); err != nil {
							t.Fatal(err)
						}
					}
					s.overtake(t, conn, mode, c.run, begin != "")
				})
			}
		}
	}
}

func (s *stale) overtake(t *testing.T, conn *pgx.Conn, mode, run string, inTxn bool) {
	t.Helper()
	at := s.srv.LogSize(t)
	text := "/*marked*/ " + run
	var err error
	var got string
	if strings.HasPrefix(run, "copy") {
		var out strings.Builder
		_, err = conn.PgConn().CopyTo(t.Context(), &out, text)
		got = out.String()
	} else {
		var rows pgx.Rows
		if rows, err = conn.Query(t.Context(), text); err == nil {
			for rows.Next() {
				got += fmt.Sprint(rows.RawValues())
			}
			err = rows.Err()
		}
	}
	if inTxn {
		if _, err := conn.Exec(t.Context(), "rollback", pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"no-destructive"}
	switch {
	case inTxn:
		want = []string{"postgres.definitions-changed"}
	case mode != "simple_protocol":
		// Not asked again where the target was half way: what it had prepared has another result now (0A000), or it makes a table of one.
		want = append(want, "postgres.definitions-changed", "0A000")
	}
	if !slices.ContainsFunc(want, func(w string) bool { return strings.Contains(codeOf(err)+" "+detailOf(err), w) }) || codeOf(err) == "" {
		t.Errorf("%v, %s; want %s", err, detailOf(err), want)
	}
	if got != "" {
		t.Errorf("rows: %q", got)
	}
	if s.onRun != nil {
		t.Error("nothing was changed")
	}
	if n := s.logged(t, at, ": /*marked*/"); n != s.logged(t, at, "STATEMENT: /*marked*/") {
		t.Errorf("it ran %d times", n)
	}
	if _, err := conn.Exec(t.Context(), "select 1"); err != nil {
		t.Errorf("the session does not go on: %v", err)
	}
}

// A definition that is being changed when the command comes keeps it waiting, and is another one when the wait is over.
func TestChangedWhileItWaits(t *testing.T) {
	s := openStale(t)
	for _, mode := range []string{"simple_protocol", "exec"} {
		for _, begin := range []string{"", "begin", "begin isolation level repeatable read"} {
			t.Run(mode+"/"+begin, func(t *testing.T) {
				s.reset(t, change{})
				conn := s.connect("default_query_exec_mode=" + mode)
				if begin != "" {
					if _, err := conn.Exec(t.Context(), begin+"; select 1", pgx.QueryExecModeSimpleProtocol); err != nil {
						t.Fatal(err)
					}
				}
				other, err := pgx.Connect(t.Context(), s.srv.DSN())
				if err != nil {
					t.Fatal(err)
				}
				defer other.Close(context.Background())
				committed := make(chan error, 1)
				s.onRun = func() {
					if _, err := other.Exec(t.Context(), "begin; create or replace view stale.v as select id, secret as name from stale.t", pgx.QueryExecModeSimpleProtocol); err != nil {
						t.Error(err)
					}
					go func() {
						for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
							r := s.srv.Exec(t, "select count(*) from pg_locks where not granted and relation = 'stale.v'::regclass")
							if string(r[0].Rows[0][0]) == "1" {
								break
							}
						}
						_, err := other.Exec(context.Background(), "commit")
						committed <- err
					}()
				}
				s.overtake(t, conn, mode, "select id, name from stale.v", begin != "")
				if err := <-committed; err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// Where the new meaning is permitted too, nobody notices: it is decided anew and runs, once.
func TestChangedAndPermitted(t *testing.T) {
	s := openStale(t)
	s.denies = false
	for _, mode := range []string{"simple_protocol", "exec", "cache_statement", "cache_describe"} {
		t.Run(mode, func(t *testing.T) {
			conn := s.connect("default_query_exec_mode=" + mode)
			for i := range 3 {
				s.reset(t, change{after: "alter table stale.t add extra" + itoa(i) + " text"})
				asked := len(s.g.commands())
				at := s.srv.LogSize(t)
				var name string
				if err := conn.QueryRow(t.Context(), "/*marked*/ select name from stale.t where id = 1").Scan(&name); err != nil || name != "ada" {
					t.Fatalf("%q %v", name, err)
				}
				if runs := s.logged(t, at, ": /*marked*/"); runs != 1 {
					t.Errorf("it ran %d times", runs)
				}
				n := 0
				for _, c := range s.g.commands()[asked:] {
					if !c.Prepare && strings.Contains(c.Text, "/*marked*/") {
						n++
					}
				}
				if n != 2 {
					t.Errorf("decided %d times", n)
				}
			}
		})
	}
}

func (s *stale) logged(t *testing.T, at int64, text string) int {
	t.Helper()
	b, err := os.ReadFile(s.srv.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b[at:]), text)
}

// detailOf is what an error says to programs.
func detailOf(err error) string {
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) {
		return e.Detail
	}
	return ""
}

// The target skips the room's question where something before it fails: then it is given again with the next command.
func TestQuestionThatWasSkipped(t *testing.T) {
	s := openStale(t)
	for _, mode := range []string{"simple_protocol", "exec", "cache_statement"} {
		for _, first := range []string{"select name from stale.t where id = 'x'", "select nothing from stale.t", "select 1/0 from stale.t"} {
			t.Run(mode+"/"+first, func(t *testing.T) {
				s.reset(t, change{})
				s.onRun = nil
				conn := s.connect("default_query_exec_mode=" + mode)
				for range 2 {
					if _, err := conn.Exec(t.Context(), first); err == nil {
						t.Fatal("it does not fail")
					}
					var name string
					if err := conn.QueryRow(t.Context(), "select name from stale.t where id = 1").Scan(&name); err != nil || name != "ada" {
						t.Fatalf("%q, %v", name, err)
					}
				}
			})
		}
	}
}
