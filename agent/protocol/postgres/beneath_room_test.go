package postgres

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/internal/access"
)

// The text that runs is the second one, in the simple protocol and in the extended one, where it is prepared once.
func TestBeneathRuns(t *testing.T) {
	g := newScript(nil)
	h := openHouse(t, g, nil)
	h.srv.Seed(t)
	c := h.connect("")
	ctx := context.Background()
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeCacheStatement} {
		var upper string
		var n int
		if err := c.QueryRow(ctx, "select upper(email) from customers where email like $1 order by id limit 1", mode, "a%").Scan(&upper); err != nil || !strings.HasPrefix(upper, "A***@***.") {
			t.Errorf("mode %v: %q, %v", mode, upper, err)
		}
		if err := c.QueryRow(ctx, "select count(*) from customers where email like $1", mode, "%example%").Scan(&n); err != nil || n != 0 {
			t.Errorf("mode %v: %d rows tell their domain, %v", mode, n, err)
		}
	}
	if r := g.outcome(t, "select upper"); !r.Beneath {
		t.Errorf("the outcome does not tell which text ran: %+v", r)
	}
	for _, cmd := range g.commands() {
		if strings.HasPrefix(cmd.Text, "select upper") && (cmd.Masked == "" || !strings.Contains(cmd.Masked, "***@***")) {
			t.Errorf("the question for %q has no second text: %q", cmd.Text, cmd.Masked)
		}
	}
}

// Who may see the data runs the text as it is; where that changes between Parse and Bind, the statement must be prepared again.
func TestBeneathFollowsTheDecision(t *testing.T) {
	g := newScript(map[string]ruling{"revealed": {bare: []string{"email", "card"}}})
	h := openHouse(t, g, nil)
	h.srv.Seed(t)
	c := h.connect("")
	ctx := context.Background()
	var upper string
	if err := c.QueryRow(ctx, "select upper(email) as revealed from customers order by id limit 1").Scan(&upper); err != nil || strings.Contains(upper, "*") {
		t.Errorf("who may see it gets %q, %v", upper, err)
	}
	if r := g.outcome(t, "revealed"); r.Beneath {
		t.Errorf("the outcome tells the wrong text: %+v", r)
	}
	for _, first := range []bool{false, true} {
		text := "select lower(email) as changing from customers order by id limit 1"
		name := map[bool]string{false: "hidden", true: "shown"}[first]
		rule := func(bare ...string) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.rules = map[string]ruling{"changing": {bare: bare}}
		}
		if rule(); first {
			rule("email", "card")
		}
		if _, err := c.PgConn().Prepare(ctx, name, text, nil); err != nil {
			t.Fatal(err)
		}
		if rule("email", "card"); first {
			rule()
		}
		r := c.PgConn().ExecPrepared(ctx, name, nil, nil, nil).Read()
		pgErr := (*pgconn.PgError)(nil)
		if !errors.As(r.Err, &pgErr) || pgErr.Code != stateDenied || !strings.Contains(pgErr.Message+pgErr.Hint, "prepare it again") {
			t.Errorf("revealed at first: %v: %v, %q", first, r.Err, r.Rows)
		}
	}
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
}

// One of two classes may be seen: no text shows just that.
func TestBeneathAllOrNone(t *testing.T) {
	g := newScript(map[string]ruling{"lower": {bare: []string{"card"}}})
	h := openHouse(t, g, nil)
	h.srv.Seed(t)
	c := h.connect("")
	var v string
	err := c.QueryRow(context.Background(), "select lower(email || card_number) from customers").Scan(&v)
	pgErr := (*pgconn.PgError)(nil)
	if !errors.As(err, &pgErr) || pgErr.Code != stateDenied || !strings.Contains(pgErr.Hint+pgErr.Message, "one after the other") {
		t.Errorf("%q, %v", v, err)
	}
}

// An error tells no place in a text that the client did not write.
func TestBeneathErrorsHaveNoPlace(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	h.srv.Seed(t)
	c := h.connect("")
	for _, sql := range []string{"select email + 1 from customers", "select id, email::integer from customers"} {
		_, err := c.Exec(context.Background(), sql, pgx.QueryExecModeSimpleProtocol)
		pgErr := (*pgconn.PgError)(nil)
		if !errors.As(err, &pgErr) || pgErr.Position != 0 {
			t.Errorf("%s: %v, position %d", sql, err, pgErr.Position)
		}
	}
}

// A column that came to be of a class after Parse is in another second text than the target has.
func TestBeneathOfAnotherCatalogue(t *testing.T) {
	st := &statement{name: "s", text: "select upper(x)", masked: "select one"}
	it := &item{tag: 'B', portal: &portal{statement: st}}
	r := newRunning(&gate.Permit{}, nil)
	r.beneath = true
	if d := it.exchange(r, access.Command{Masked: "select one"}); d != nil {
		t.Errorf("the same text: %v", d)
	}
	if d := it.exchange(r, access.Command{Masked: "select two"}); d == nil || d.Code != access.CodeNotMaskable {
		t.Errorf("another text passes: %v", d)
	}
}
