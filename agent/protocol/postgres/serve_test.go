package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/protocol/postgres/pgtest"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

func (h *house) psql(args ...string) (string, error) {
	h.t.Helper()
	cmd := exec.Command("psql", append([]string{"-X", "-q", "-A", "-t", "-d", h.dsn("")}, args...)...)
	cmd.Env = append(os.Environ(), "PGPASSWORD=endpoint")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestPsqlMasksAndDenies(t *testing.T) {
	g := newScript(map[string]ruling{"DROP": {deny: denyAll}})
	h := openHouse(t, g, func(s *protocol.Session) { s.Verifier = verifier(t, "endpoint") })
	h.srv.Seed(t)
	mark := h.srv.LogSize(t)
	out, err := h.psql("-c", "select * from customers order by id", "-c", "DROP TABLE customers", "-c", "select name from customers where id = 1")
	if err != nil {
		t.Fatalf("psql: %v\n%s", err, out)
	}
	for _, want := range []string{"1|Ada Lovelace|a***@***.com|************1111", `denied by rule "no-destructive"`, "HINT:  ask for an approval",
		`"code":"denied"`, "Ada Lovelace\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "ada@example.com") || strings.Contains(out, "4111111111111111") {
		t.Errorf("a protected value came through:\n%s", out)
	}
	if h.srv.Logged(t, mark, "DROP TABLE") {
		t.Error("the denied text reached the target")
	}
	r := g.outcome(t, "select * from customers")
	if r.Status != access.StatusOK || r.Rows != 3 || r.Masked["email"] != 3 || r.Masked["card"] != 3 || r.Tag != "SELECT 3" {
		t.Errorf("outcome %+v", r)
	}
}

func TestPsqlWrongPassword(t *testing.T) {
	h := openHouse(t, newScript(nil), func(s *protocol.Session) { s.Verifier = verifier(t, "another") })
	out, err := h.psql("-c", "select 1")
	if err == nil || !strings.Contains(out, "password authentication failed") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func modes() []string {
	return []string{"", "default_query_exec_mode=simple_protocol", "default_query_exec_mode=exec", "default_query_exec_mode=describe_exec"}
}

func TestPgx(t *testing.T) {
	for _, mode := range modes() {
		t.Run("mode "+mode, func(t *testing.T) {
			g := newScript(map[string]ruling{"delete": {deny: denyAll}})
			h := openHouse(t, g, nil)
			h.srv.Seed(t)
			c := h.connect(mode)
			ctx := t.Context()
			for range 3 {
				var id int
				var email, card string
				if err := c.QueryRow(ctx, "select id, email, card_number from customers where id = $1", 2).Scan(&id, &email, &card); err != nil {
					t.Fatal(err)
				}
				if id != 2 || email != "g***@***.org" || card != "************5559" {
					t.Fatalf("got %d %s %s", id, email, card)
				}
			}
			if _, err := c.Exec(ctx, "delete from orders where id = $1", 1); codeOf(err) != "42501" {
				t.Fatalf("delete: %v", err)
			}
			if err := c.Ping(ctx); err != nil {
				t.Fatalf("after a denial: %v", err)
			}
			if tag, err := c.Exec(ctx, "update orders set amount = $1 where id = $2", 5, 1); err != nil || tag.RowsAffected() != 1 {
				t.Fatalf("update: %v %v", tag, err)
			}
			if r := g.outcome(t, "update orders"); r.Tag != "UPDATE 1" || r.Status != access.StatusOK {
				t.Errorf("outcome %+v", r)
			}
			if _, err := c.Exec(ctx, "select 1/0"); codeOf(err) != "22012" {
				t.Fatalf("division: %v", err)
			}
			if r := g.outcome(t, "1/0"); r.Status != access.StatusError || r.Error != "22012" {
				t.Errorf("outcome %+v", r)
			}
		})
	}
}

func codeOf(err error) string {
	e := (*pgconn.PgError)(nil)
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func TestDenialCarriesDetail(t *testing.T) {
	d := &access.Denied{Code: access.CodeNotMaskable, Rule: "not-maskable:email", Approval: "AP9", Hint: "leave the column out"}
	h := openHouse(t, newScript(map[string]ruling{"forbidden": {deny: d}}), nil)
	_, err := h.connect("").Exec(t.Context(), "select 'forbidden'")
	e := (*pgconn.PgError)(nil)
	if !errors.As(err, &e) || e.Code != "42501" || e.Hint != "leave the column out" || !strings.Contains(e.Message, "not-maskable:email") {
		t.Fatalf("%#v", err)
	}
	var detail struct {
		Code, Rule string
		Approval   string `json:"approval_id"`
	}
	if err := json.Unmarshal([]byte(e.Detail), &detail); err != nil || detail.Code != "not_maskable" || detail.Approval != "AP9" {
		t.Fatalf("%v %+v in %s", err, detail, e.Detail)
	}
}

// A denial inside a transaction fails the transaction on both sides, and nothing of the denied text arrives.
func TestDenialInTransaction(t *testing.T) {
	for _, mode := range modes() {
		t.Run("mode "+mode, func(t *testing.T) {
			h := openHouse(t, newScript(map[string]ruling{"canary": {deny: denyAll}}), nil)
			h.srv.Seed(t)
			mark := h.srv.LogSize(t)
			c := h.connect(mode)
			ctx := t.Context()
			tx, err := c.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(ctx, "insert into accounts values (9, 'x', 1)"); err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(ctx, "select 'canary'"); codeOf(err) != "42501" {
				t.Fatalf("denied: %v", err)
			}
			if s := c.PgConn().TxStatus(); s != 'E' {
				t.Errorf("client believes status %c", s)
			}
			if _, err := tx.Exec(ctx, "select 1"); codeOf(err) != "25P02" {
				t.Errorf("in the failed transaction: %v", err)
			}
			if _, err := tx.Exec(ctx, "select 'canary'"); codeOf(err) != "42501" {
				t.Errorf("denied in the failed transaction: %v", err)
			}
			if err := tx.Rollback(ctx); err != nil {
				t.Fatal(err)
			}
			if err := c.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			if h.srv.Logged(t, mark, "canary") {
				t.Error("the denied text reached the target")
			}
			if n := h.srv.Exec(t, "select count(*) from accounts where id = 9"); string(n[0].Rows[0][0]) != "0" {
				t.Error("the insert survived")
			}
		})
	}
}

// PG-17: an allowed insert, then a denied statement, before one Sync.
func TestPG17_DenialInPipelineRollsBack(t *testing.T) {
	h := openHouse(t, newScript(map[string]ruling{"canary": {deny: denyAll}}), nil)
	h.srv.Seed(t)
	mark := h.srv.LogSize(t)
	c := h.connect("default_query_exec_mode=exec")
	b := &pgx.Batch{}
	b.Queue("insert into accounts values (7, 'x', 1)")
	b.Queue("select 'canary'")
	b.Queue("insert into accounts values (8, 'x', 1)")
	br := c.SendBatch(t.Context(), b)
	if _, err := br.Exec(); err != nil {
		t.Fatalf("first: %v", err)
	}
	if _, err := br.Exec(); codeOf(err) != "42501" {
		t.Fatalf("second: %v", err)
	}
	if err := br.Close(); codeOf(err) != "42501" {
		t.Fatalf("close: %v", err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := h.srv.Exec(t, "select count(*) from accounts where id in (7, 8)"); string(n[0].Rows[0][0]) != "0" {
		t.Error("the pipeline was not rolled back")
	}
	if h.srv.Logged(t, mark, "canary") {
		t.Error("the denied text reached the target")
	}
}

func TestPipelineIsOneQuestion(t *testing.T) {
	g := newScript(nil)
	h := openHouse(t, g, nil)
	h.srv.Seed(t)
	c := h.connect("default_query_exec_mode=exec")
	b := &pgx.Batch{}
	for i := range 10 {
		b.Queue(fmt.Sprintf("insert into accounts values (%d, 'x', 1)", 100+i))
	}
	if err := c.SendBatch(t.Context(), b).Close(); err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if most := g.batches[len(g.batches)-1]; most != 20 { // ten Parse, ten Bind
		t.Errorf("questions of %v commands", g.batches)
	}
}

func TestHold(t *testing.T) {
	for _, mode := range modes() {
		t.Run("mode "+mode, func(t *testing.T) {
			g := newScript(map[string]ruling{"update accounts": {hold: true}})
			h := openHouse(t, g, nil)
			h.srv.Seed(t)
			cfg, err := pgx.ParseConfig(h.dsn(mode))
			if err != nil {
				t.Fatal(err)
			}
			notices := make(chan *pgconn.Notice, 1)
			cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices <- n }
			c, err := pgx.ConnectConfig(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(context.Background())
			done := make(chan error, 1)
			go func() {
				tag, err := c.Exec(t.Context(), "update accounts set balance = $1 where id = 1", 3)
				if err == nil && tag.RowsAffected() != 1 {
					err = fmt.Errorf("tag %s", tag)
				}
				done <- err
			}()
			n := <-notices
			if !strings.Contains(n.Hint, "https://console/approve/AP") || !strings.Contains(n.Message, "prod-write") {
				t.Errorf("notice %+v", n)
			}
			if b := h.srv.Exec(t, "select balance from accounts where id = 1"); string(b[0].Rows[0][0]) != "100.00" {
				t.Error("ran while held")
			}
			close(g.release)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestCancelWhileHeld(t *testing.T) {
	g := newScript(map[string]ruling{"update accounts": {hold: true}})
	h := openHouse(t, g, nil)
	h.srv.Seed(t)
	c := h.connect("")
	done := make(chan error, 1)
	go func() {
		_, err := c.PgConn().Exec(t.Context(), "update accounts set balance = 3").ReadAll()
		done <- err
	}()
	<-g.holding
	if err := c.PgConn().CancelRequest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; codeOf(err) != "57014" {
		t.Fatalf("got %v", err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestGoneWhileHeld(t *testing.T) {
	for _, how := range []string{"terminate", "close"} {
		t.Run(how, func(t *testing.T) {
			g := newScript(map[string]ruling{"update accounts": {hold: true}})
			h := openHouse(t, g, nil)
			c := dialRaw(t, h)
			c.startup(t)
			c.write(t, appendQuery(nil, "update accounts set balance = 3"))
			<-g.holding
			if how == "terminate" {
				c.write(t, append(appendQuery(nil, "select 1"), appendBare(nil, 'X')...))
			} else {
				_ = c.conn.Close()
			}
			if err := <-h.errs; err != nil {
				t.Fatal(err)
			}
			eventually(t, "the hold is given up", func() bool {
				g.mu.Lock()
				defer g.mu.Unlock()
				return g.aborted == 1
			})
		})
	}
}

func TestCancelInFlight(t *testing.T) {
	for _, sql := range []string{"select pg_sleep(60)", "select count(*) from generate_series(1, 100000000000)"} {
		g := newScript(nil)
		h := openHouse(t, g, nil)
		c := h.connect("")
		done := make(chan error, 1)
		go func() {
			_, err := c.Exec(context.Background(), sql)
			done <- err
		}()
		eventually(t, "query runs", func() bool {
			r := h.srv.Exec(t, "select count(*) from pg_stat_activity where state = 'active' and query like '"+sql+"%'")
			return string(r[0].Rows[0][0]) == "1"
		})
		if err := c.PgConn().CancelRequest(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; codeOf(err) != "57014" {
			t.Fatalf("got %v", err)
		}
		if r := g.outcome(t, sql); r.Status != access.StatusCancelled {
			t.Errorf("outcome %+v", r)
		}
		if err := c.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// A client that goes away while its command runs ends the command too.
func TestGoneInFlight(t *testing.T) {
	g := newScript(nil)
	h := openHouse(t, g, nil)
	c := dialRaw(t, h)
	c.startup(t)
	c.write(t, appendQuery(nil, "select pg_sleep(61)"))
	running := func() string {
		return string(h.srv.Exec(t, "select count(*) from pg_stat_activity where query = 'select pg_sleep(61)' and state = 'active'")[0].Rows[0][0])
	}
	eventually(t, "query runs", func() bool { return running() == "1" })
	_ = c.conn.Close()
	if err := <-h.errs; err != nil {
		t.Error(err)
	}
	eventually(t, "query ends", func() bool { return running() == "0" })
	if r := g.outcome(t, "pg_sleep"); r.Status != access.StatusLost && r.Status != access.StatusCancelled {
		t.Errorf("outcome %+v", r)
	}
}

// What was sent before the client closed is run, as the server itself would.
func TestSendAndClose(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	h.srv.Seed(t)
	c := dialRaw(t, h)
	c.startup(t)
	c.write(t, join(appendQuery(nil, "insert into accounts values (21, 'x', 1)"), appendQuery(nil, "insert into accounts values (22, 'x', 1)"), appendBare(nil, 'X')))
	if err := <-h.errs; err != nil {
		t.Error(err)
	}
	if n := h.srv.Exec(t, "select count(*) from accounts where id in (21, 22)"); string(n[0].Rows[0][0]) != "2" {
		t.Errorf("%s rows", n[0].Rows[0][0])
	}
}

func BenchmarkSelect1(b *testing.B) {
	direct := pgtest.Start(b)
	for _, mode := range []string{"default_query_exec_mode=simple_protocol", "default_query_exec_mode=cache_statement"} {
		dsns := map[string]string{"direct": direct.DSN(), "room": ""}
		for name, dsn := range dsns {
			b.Run(name+" "+mode, func(b *testing.B) {
				if dsn == "" {
					dsn = openHouse(b, newScript(nil), nil).dsn("")
				}
				cfg, err := pgx.ParseConfig(dsn)
				if err != nil {
					b.Fatal(err)
				}
				cfg.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
				if strings.Contains(mode, "simple") {
					cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
				}
				c, err := pgx.ConnectConfig(b.Context(), cfg)
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close(context.Background())
				var n int
				for b.Loop() {
					if err := c.QueryRow(b.Context(), "select 1").Scan(&n); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// PG-28: a cancel with a guessed key, or another endpoint's, does nothing.
func TestPG28_CancelOfAnother(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	c := h.connect("")
	pid := c.PgConn().PID()
	key := append([]byte(nil), c.PgConn().SecretKey()...)
	l := h.room.find(h.owner, append(be32(pid), key...))
	if l == nil {
		t.Fatal("own key not found")
	}
	l.wg.Done()
	for name, try := range map[string]func() *link{
		"guessed": func() *link { return h.room.find(h.owner, append(be32(pid), 1, 2, 3, 4)) },
		"other": func() *link {
			return h.room.find(protocol.Owner{Endpoint: "e2", Thumbprint: "k1"}, append(be32(pid), key...))
		},
		"thief": func() *link {
			return h.room.find(protocol.Owner{Endpoint: "e1", Thumbprint: "k2"}, append(be32(pid), key...))
		},
		"short": func() *link { return h.room.find(h.owner, be32(pid)) },
	} {
		if try() != nil {
			t.Errorf("%s: found", name)
		}
	}
}

func TestRevoked(t *testing.T) {
	for _, sql := range []string{"", "select pg_sleep(60)"} {
		t.Run("while "+sql, func(t *testing.T) {
			h := openHouse(t, newScript(nil), nil)
			c := dialRaw(t, h)
			c.startup(t)
			if sql != "" {
				c.write(t, appendQuery(nil, sql))
				eventually(t, "query runs", func() bool {
					r := h.srv.Exec(t, "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep(60)%'")
					return string(r[0].Rows[0][0]) == "1"
				})
			}
			begun := time.Now()
			h.cancel(&access.Denied{Code: access.CodeRevoked, Rule: "revoked", Hint: "log in again"})
			tag, body := c.read(t)
			f := fieldsOf(body)
			if tag != 'E' || string(f['S']) != "FATAL" || string(f['C']) != "57P01" || string(f['H']) != "log in again" {
				t.Fatalf("%c %q", tag, body)
			}
			c.eof(t)
			if d := (*access.Denied)(nil); !errors.As(<-h.errs, &d) || time.Since(begun) > 2*time.Second {
				t.Errorf("ended with %v after %s", d, time.Since(begun))
			}
			eventually(t, "target's session ends", func() bool {
				r := h.srv.Exec(t, "select count(*) from pg_stat_activity where query like 'select pg_sleep(60)%' and pid <> pg_backend_pid()")
				return string(r[0].Rows[0][0]) == "0"
			})
		})
	}
}

// broken is a gate that answers one text wrongly.
type broken struct {
	protocol.Gate
	err   error
	short bool
}

func (b broken) Check(ctx context.Context, cmds []access.Command, held func(access.HeldCommand)) ([]*gate.Permit, error) {
	if !slices.ContainsFunc(cmds, func(c access.Command) bool { return strings.Contains(c.Text, "canary") }) {
		return b.Gate.Check(ctx, cmds, held)
	}
	if b.short {
		permits, err := b.Gate.Check(ctx, cmds, held)
		return permits[:len(permits)-1], err
	}
	return nil, b.err
}

func TestGateErrorsDeny(t *testing.T) {
	for name, b := range map[string]broken{
		"error":       {err: errors.New("connection refused")},
		"short":       {short: true},
		"nothing":     {},
		"no decision": {err: &access.Denied{Code: access.CodeNoDecision, Rule: "unreachable", Index: 0}},
		"index":       {err: &access.Denied{Code: access.CodeNoDecision, Rule: "unreachable", Index: 7}},
	} {
		t.Run(name, func(t *testing.T) {
			h := openHouse(t, newScript(nil), func(s *protocol.Session) {
				b.Gate = s.Gate
				s.Gate = b
			})
			mark := h.srv.LogSize(t)
			for _, mode := range modes() {
				c := h.connect(mode)
				_, err := c.Exec(t.Context(), "select 'canary'")
				if codeOf(err) != "42501" || !strings.Contains(err.Error(), "no decision: the gate is closed") {
					t.Fatalf("got %v", err)
				}
				if err := c.Ping(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if h.srv.Logged(t, mark, "canary") {
				t.Error("the text reached the target")
			}
		})
	}
}

// A permit that became late is asked for again, once.
func TestLatePermit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newScript(nil)
		defer g.batcher.Close()
		here, _ := net.Pipe()
		l := &link{s: &protocol.Session{Gate: g.of(t, "S1"), Log: slog.New(slog.DiscardHandler)}, in: newInbox(), out: newOut(here), conn: here, q: newQueue('I')}
		f := newFront(l, newRation(memory))
		cmd := access.Command{Verb: "SELECT", Text: "select 1"}
		permits, denied, err := f.check(t.Context(), []access.Command{cmd})
		if denied != nil || err != nil {
			t.Fatal(denied, err)
		}
		time.Sleep(api.PermitLife + time.Second)
		p, denied, err := f.use(t.Context(), permits[0], cmd)
		if denied != nil || err != nil || p == permits[0] || len(g.commands()) != 2 {
			t.Fatalf("%v %v %v after %d questions", p, denied, err, len(g.commands()))
		}
		if err := p.Use(); err == nil {
			t.Error("the new permit was not spent")
		}
	})
}
