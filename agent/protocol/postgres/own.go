package postgres

import (
	"context"
	"fmt"
	"time"
)

// state asks the target for what gives bytes their meaning.
func (f *front) state(ctx context.Context) (database, role, searchPath string, err error) {
	rows, err := f.run(ctx, "select pg_catalog.current_database(), current_user, pg_catalog.current_setting('search_path'), pg_catalog.current_setting('transaction_isolation')")
	if err != nil {
		return "", "", "", fmt.Errorf("read session state: %w", err)
	}
	if len(rows) != 1 || len(rows[0]) != 4 {
		return "", "", "", fmt.Errorf("read session state: %w", errMalformed)
	}
	f.isolated(rows[0][3])
	return rows[0][0], rows[0][1], rows[0][2], nil
}

// reload takes a new snapshot of the catalogue.
func (f *front) reload(ctx context.Context) error {
	// The mark is taken first: what changes while the snapshot is taken shows at the next question.
	f.defined = f.definitions.Load()
	mark, err := f.ask(ctx, sqlMark+sqlSince+" UNION ALL SELECT 'm', pg_catalog.pg_my_temp_schema()::bigint, 0")
	if err != nil {
		return fmt.Errorf("load catalogue: %w", err)
	}
	f.since = ""
	f.temporary = true
	if n := len(mark); n > 0 && len(mark[n-1]) == 3 && mark[n-1][0] == "m" {
		f.temporary = mark[n-1][1] != "0"
		mark = f.sinceOf(mark[:n-1])
	}
	f.mark, f.checked = fmt.Sprint(mark), time.Now()
	cat, err := f.snapshot(ctx, f.mark)
	if err != nil {
		return fmt.Errorf("load catalogue: %w", err)
	}
	f.cat, f.stale = cat, false
	return nil
}

// refresh takes a new snapshot where somebody else has changed a definition since the last one: a view that came to read a protected
// column, a table that took another's name.
func (f *front) refresh(ctx context.Context) error {
	f.defined = f.definitions.Load()
	since := f.since
	rows, err := f.ask(ctx, sqlMark+sqlSince)
	if err != nil {
		return fmt.Errorf("look at the catalogue: %w", err)
	}
	f.checked = time.Now()
	if mark := f.sinceOf(rows); fmt.Sprint(mark) != f.mark {
		f.since, f.stale = since, true
	}
	return nil
}

// sqlSince adds to the mark the server's snapshot that it was taken in. A standby's does not tell which transactions it sees.
const sqlSince = ` UNION ALL SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN '' ELSE pg_catalog.pg_current_snapshot()::text END, 0, 0`

// sinceOf takes that off the mark. In a transaction that sees all through its first statement's eyes it says nothing about what is so now.
func (f *front) sinceOf(mark [][]string) [][]string {
	n := len(mark)
	if n == 0 || len(mark[n-1]) != 3 {
		return mark
	}
	f.since = mark[n-1][0]
	return mark[:n-1]
}

// own is the name of the room's own statements and portals. Clients may not use names that begin like it.
const own = "sallyport"

// ownPath is where the room's own questions find operators and types, none of which SQL lets them name in full everywhere: not among those that
// a client made.
const ownPath = "pg_catalog, pg_temp"

// ask runs one of the room's own questions, while nothing of the client is on its way, under a search path of its own: until the Sync, or in
// a transaction until the path that was there is back.
func (f *front) ask(ctx context.Context, sql string) ([][]string, error) {
	set := func(path string) string {
		return "select pg_catalog.set_config('search_path', " + literal(path) + ", true)"
	}
	questions := []string{set(ownPath), sql}
	_, _, status, err := f.q.state()
	if err != nil {
		return nil, err
	}
	if status != statusIdle {
		is, err := f.run(ctx, "select pg_catalog.current_setting('search_path')")
		if err != nil {
			return nil, err
		}
		if len(is) != 1 || len(is[0]) != 1 {
			return nil, errMalformed
		}
		questions = append(questions, set(is[0][0]))
	}
	rows, err := f.run(ctx, questions...)
	if err != nil {
		return nil, err
	}
	if len(rows) < len(questions)-1 {
		return nil, errMalformed
	}
	return rows[1 : len(rows)-len(questions)+2], nil
}

// run sends queries and gathers their rows. They go through the extended protocol, so that neither the client's unnamed statement nor its
// transaction is touched. Under the client's search path, a query may hold no operator, and types and functions by their full names alone.
func (f *front) run(ctx context.Context, queries ...string) ([][]string, error) {
	e := &expect{kind: kindInternal, rows: &internal{}}
	if err := f.q.push(e); err != nil {
		return nil, err
	}
	var msg []byte
	for _, sql := range queries {
		msg = appendParse(msg, own, sql)
		msg = appendBind(msg, own, own)
		msg = appendExecute(msg, own)
		msg = appendClose(msg, 'P', own) // inside a transaction it would outlive the Sync
		msg = appendClose(msg, 'S', own)
	}
	msg = appendBare(msg, 'S')
	if _, err := f.w.Write(msg); err != nil {
		return nil, f.lost(err)
	}
	if err := f.flush(); err != nil {
		return nil, err
	}
	if _, err := f.q.settled(ctx, f.in, goneGrace); err != nil {
		return nil, err
	}
	return e.rows.rows, e.rows.err
}
