package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/agent/protocol/postgres/pgtest"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/sqltext"
	"github.com/sallyport/sallyport/localstack/pgserver"
)

// oracle runs statements on a server, each in the state that those before it left, and compares what the server touched with the facts.
// What it touched is: what it resolves in a function whose body the statement is (columns), what it locks while it runs, which rows it
// counts as written, and which functions that did not come with it it counts as called.
type oracle struct {
	t     testing.TB
	dsn   string
	conn  *pgconn.PgConn
	cat   *catalogue
	raw   map[string][][]string // answers of the catalogue's queries, while the mark stays
	mark  string
	quiet string // where the log stood before the last statement: the catalogue is as it was while nothing is written
	st    session
	file  string

	statements, accepted, complete, refused, touched int
	treed, demands, unlooked                         int // statements whose tree the server printed, and what it asked for; those before which it did not answer
	whys, forgiven                                   map[string]int
	distinct                                         map[string]struct{}
	names                                            map[uint32]string // of the server's own functions
	misses                                           []string
	unsound                                          []string
	trees                                            *trees                // while a statement runs
	tamper                                           func(*access.Command) // makes the facts untrue
	args                                             [][]byte              // values bound to what is judged
}

// newOracle makes a database on the binary's server, or on one of the version that ORACLE_SERVER names.
func newOracle(t testing.TB, database string) *oracle {
	o := &oracle{t: t, whys: map[string]int{}, forgiven: map[string]int{}, distinct: map[string]struct{}{}, names: map[uint32]string{}}
	if v := os.Getenv("ORACLE_SERVER"); v != "" {
		s, err := pgserver.Start(context.Background(), pgserver.Config{Version: number(v), Parameters: map[string]string{
			"log_statement": "none", "fsync": "off", "max_prepared_transactions": "10"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Stop() })
		o.dsn = strings.Replace(s.DSN(), "dbname="+s.Database, "dbname="+database, 1)
		if _, err := s.Exec(context.Background(), "create database "+database+" template template0"); err != nil {
			t.Fatal(err)
		}
		return o
	}
	s := pgtest.Start(t)
	s.Exec(t, "drop database if exists "+database+" with (force)")
	s.Exec(t, "create database "+database+" template template0")
	o.dsn = fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s dbname=%s sslmode=disable", s.Port, s.User, s.Password, database)
	return o
}

func (o *oracle) connect() {
	o.t.Helper()
	o.close()
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	cfg, err := pgconn.ParseConfig(o.dsn)
	if err != nil {
		o.t.Fatal(err)
	}
	// The server's trees come as notices of level LOG; its own log need not hold them.
	cfg.RuntimeParams["options"] = "-c client_min_messages=log -c log_min_messages=fatal -c debug_print_rewritten=on -c debug_pretty_print=off"
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if o.trees != nil {
			o.trees.notice(n)
		}
	}
	c, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		o.t.Fatal(err)
	}
	o.conn, o.mark, o.cat, o.raw = c, "", nil, nil
	from := func(view string) func(string) (string, bool) {
		return func(name string) (string, bool) {
			rows, err := o.rows("select statement from pg_catalog." + view + " where name = " + literal(name))
			if err != nil || len(rows) != 1 {
				return "", false
			}
			return rows[0][0], true
		}
	}
	o.st = session{prepared: from("pg_prepared_statements"), cursor: from("pg_cursors")}
	for _, sql := range []string{"set track_functions = 'all'", "set jit = off", "set statement_timeout = '20s'", "set lock_timeout = '2s'", "set datestyle = 'Postgres, MDY'", "set intervalstyle = postgres_verbose", "set timezone = 'PST8PDT'"} {
		_, _ = o.exec(sql)
	}
	o.quiet = ""
}

func (o *oracle) close() {
	if o.conn != nil {
		_ = o.conn.Close(context.Background())
		o.conn = nil
	}
}

func (o *oracle) exec(sql string) ([]*pgconn.Result, error) {
	ctx, stop := context.WithTimeout(context.Background(), 30*time.Second)
	defer stop()
	if copiesIn(sql) {
		_, err := o.conn.CopyFrom(ctx, strings.NewReader(""), sql)
		return nil, err
	}
	return o.conn.Exec(ctx, sql).ReadAll()
}

// run runs what is judged: by the extended protocol where values were bound.
func (o *oracle) run(sql string) error {
	if o.args == nil {
		_, err := o.exec(sql)
		return err
	}
	ctx, stop := context.WithTimeout(context.Background(), 30*time.Second)
	defer stop()
	return o.conn.ExecParams(ctx, sql, o.args, nil, nil, nil).Read().Err
}

// uncommented takes comments off the front.
func uncommented(sql string) string {
	s := sqltext.NewScanner(sql)
	for {
		r, ok := s.Next()
		if !ok || r.Kind != sqltext.Space && r.Kind != sqltext.Comment {
			return sql[min(r.Start, len(sql)):]
		}
	}
}

func copiesIn(sql string) bool {
	l := strings.ToLower(strings.Join(strings.Fields(uncommented(sql)), " "))
	return strings.HasPrefix(l, "copy ") && (strings.Contains(l, " from stdin") || strings.Contains(l, " from stdout"))
}

func (o *oracle) rows(sql string) ([][]string, error) {
	ctx, stop := context.WithTimeout(context.Background(), 60*time.Second)
	defer stop()
	r := o.conn.ExecParams(ctx, sql, nil, nil, nil, nil).Read()
	if r.Err != nil {
		return nil, r.Err
	}
	out := make([][]string, len(r.Rows))
	for i, row := range r.Rows {
		for _, v := range row {
			out[i] = append(out[i], string(v))
		}
	}
	return out, nil
}

// look brings state and catalogue up to date, as the room does.
func (o *oracle) look() error {
	st, err := o.rows("select current_database(), current_user, current_setting('search_path'), current_setting('client_min_messages'), pg_catalog.pg_current_wal_insert_lsn()")
	if err != nil {
		return err
	}
	if st[0][3] != "log" {
		_, _ = o.exec("set client_min_messages = log")
	}
	o.st.database, o.st.role, o.st.searchPath = st[0][0], st[0][1], st[0][2]
	o.st.inTxn = o.conn.TxStatus() != 'I'
	was := o.quiet
	o.quiet = st[0][4]
	if o.cat != nil && was == st[0][4] && strings.HasSuffix(o.mark, o.st.role) {
		return nil // nothing was written since before the last statement
	}
	m, err := o.rows(sqlMark)
	if err != nil {
		return err
	}
	mark := fmt.Sprint(m, o.st.role)
	if mark == o.mark && o.cat != nil {
		return nil
	}
	cat, err := loadCatalogue(func(sql string) ([][]string, error) { return o.known(sql, m) }, factsClasses)
	if err != nil {
		return err
	}
	o.cat, o.mark = cat, mark
	return nil
}

// known answers a query of the catalogue from memory while none of what it reads has changed.
func (o *oracle) known(sql string, marks [][]string) ([][]string, error) {
	key := sql + o.st.role
	for i, table := range strings.Fields("class attribute attrdef rewrite proc trigger constraint inherits operator cast namespace policy event_trigger statistic_ext publication_rel") {
		if strings.Contains(sql, "pg_catalog.pg_"+table) {
			key += fmt.Sprint(marks[i])
		}
	}
	if rows, ok := o.raw[key]; ok {
		return rows, nil
	}
	if o.raw == nil || len(o.raw) > 60 {
		o.raw = map[string][][]string{}
	}
	rows, err := o.rows(sql)
	if err == nil {
		o.raw[key] = rows
	}
	return rows, err
}

// sqlTouched asks for what a transaction locked, called and wrote so far. The views of statistics would go over all of the catalogue.
const sqlTouched = `select 'at' k, pg_catalog.pg_current_wal_insert_lsn()::text a, '' b, 0::bigint n
union all select 'lock', relation::text, mode, 0 from pg_catalog.pg_locks where pid = pg_catalog.pg_backend_pid() and locktype = 'relation' and granted
union all select 'call', oid::text, '', pg_catalog.pg_stat_get_xact_function_calls(oid) from pg_catalog.pg_proc where oid >= 16384 and pg_catalog.pg_stat_get_xact_function_calls(oid) > 0
union all select * from (select 'write', oid::text, '', pg_catalog.pg_stat_get_xact_tuples_inserted(oid) + pg_catalog.pg_stat_get_xact_tuples_updated(oid) + pg_catalog.pg_stat_get_xact_tuples_deleted(oid) n
  from pg_catalog.pg_class where oid >= 16384 and relkind in ('r', 'm', 'f', 't')) w where n > 0`

type touchedByServer map[[3]string]int64

// touchedNow asks, after running what else is to be run in the same message.
func (o *oracle) touchedNow(first string) touchedByServer {
	res, err := o.exec(first + sqlTouched)
	if err != nil {
		return nil
	}
	out := touchedByServer{}
	for _, row := range res[len(res)-1].Rows {
		if string(row[0]) == "at" {
			o.quiet = string(row[1])
			continue
		}
		out[[3]string{string(row[0]), string(row[1]), string(row[2])}] = int64(number(string(row[3])))
	}
	return out
}

// depends asks the server what sql names, without running it.
func (o *oracle) depends(sql string) (refs [][]string, ok bool) {
	begin, end := "savepoint sallyport_oracle", "rollback to sallyport_oracle; release sallyport_oracle"
	if o.conn.TxStatus() == 'I' {
		begin, end = "begin", "rollback"
	}
	res, err := o.exec(begin + "; set local debug_print_rewritten = off; create function pg_temp.o() returns void language sql begin atomic " + sql + "\n; end; " + sqlDepends)
	if err == nil {
		last := res[len(res)-1]
		for _, row := range last.Rows {
			refs = append(refs, []string{string(row[0]), string(row[1])})
		}
	}
	if res, e := o.exec(end + "; select pg_catalog.pg_current_wal_insert_lsn()"); e == nil {
		o.quiet = string(res[len(res)-1].Rows[0][0])
	}
	return refs, err == nil
}

const sqlDepends = `select refobjid, refobjsubid from pg_catalog.pg_depend d join pg_catalog.pg_class c on c.oid = refobjid
where classid = 'pg_catalog.pg_proc'::regclass and objid = 'pg_temp.o()'::regprocedure and refclassid = 'pg_catalog.pg_class'::regclass and c.relkind in ('r','p','v','m','f')`

func bodyLike(c access.Command) bool {
	switch c.Verb {
	case "SELECT", "INSERT", "UPDATE", "DELETE", "MERGE":
		return true
	}
	return false
}

// judge runs one statement and compares.
func (o *oracle) judge(sql string) {
	o.statements++
	began := time.Now()
	defer func() {
		if d := time.Since(began); d > 2*time.Second {
			o.t.Logf("%s: %s took %s", o.file, short(sql), d)
		}
	}()
	status := o.conn.TxStatus()
	if status == 'E' {
		_ = o.run(sql)
		return
	}
	if err := o.look(); err != nil {
		o.t.Logf("%s: look: %v", o.file, err)
		o.unlooked++
		if o.conn.IsClosed() {
			o.connect()
		}
		_ = o.run(sql)
		return
	}
	c, p := analyse(sql, nil, o.st, o.cat, defaultLimits)
	if o.tamper != nil {
		o.tamper(&c)
	}
	var refs [][]string
	resolved := false
	if bodyLike(c) && !strings.Contains(sql, "pg_temp.o") {
		refs, resolved = o.depends(sql)
	}
	own := status == 'I' && !alone(c.Verb, sql)
	begin := ""
	if own {
		begin = "begin; "
	}
	before := o.touchedNow(begin)
	at := o.quiet
	o.trees = &trees{}
	err := o.run(sql)
	t := o.trees
	o.trees = nil
	var after touchedByServer
	if err == nil && o.conn.TxStatus() != 'I' {
		if after = o.touchedNow(""); after == nil {
			o.unlooked++
		}
	}
	o.quiet = at
	if own && o.conn.TxStatus() != 'I' {
		if _, e := o.exec("commit"); e != nil && err == nil {
			err = e
		}
	}
	if o.conn.IsClosed() {
		o.t.Logf("%s: the connection is gone after %s: %v", o.file, short(sql), err)
		o.connect()
		return
	}
	if err != nil {
		if e := (*pgconn.PgError)(nil); !errors.As(err, &e) {
			o.t.Logf("%s: %s: %v", o.file, short(sql), err)
		}
		if !resolved && (t.printed == 0 || len(t.demands) == 0) {
			return
		}
	}
	o.accepted++
	o.distinct[strings.Join(strings.Fields(uncommented(sql)), " ")] = struct{}{}
	switch {
	case !c.Complete:
		why := c.Why
		if i := strings.IndexByte(why, '"'); i >= 0 {
			why = why[:i] + "…"
		}
		o.whys[c.Verb+": "+why]++
		o.misses = append(o.misses, o.file+": "+c.Verb+": "+c.Why+": "+short(sql))
		return
	case c.Refused != nil:
		o.refused++
		o.whys["refused "+c.Refused.Rule+" "+c.Verb]++
		o.complete++
		return
	}
	o.complete++
	if t.printed > 0 {
		o.treed++
		o.demands += len(t.demands)
	}
	o.permissions(sql, c, p.opaque, t)
	o.compare(sql, c, p.opaque, t, refs, before, after)
}

// alone says that a statement cannot run in a transaction block of ours, or would end it.
func alone(verb, sql string) bool {
	switch verb {
	case "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "ROLLBACK TO", "PREPARE TRANSACTION", "COMMIT PREPARED", "ROLLBACK PREPARED", "VACUUM", "CLUSTER", "REINDEX", "MULTI",
		"CALL", "DO", "EMPTY", "SET", "SET TRANSACTION", "RESET", "RESET ALL", "DISCARD", "ALTER SYSTEM", "CREATEDB", "DROPDB",
		"CREATE TABLE SPACE", "DROP TABLE SPACE", "CREATE SUBSCRIPTION", "DROP SUBSCRIPTION", "ALTER SUBSCRIPTION", "DECLARE CURSOR":
		return true
	}
	return strings.Contains(strings.ToLower(sql), "concurrently")
}

func short(s string) string {
	s = strings.Join(strings.Fields(uncommented(s)), " ")
	return s[:min(len(s), 300)]
}

func (o *oracle) report() {
	o.t.Logf("%d statements, %d accepted by the server, %d of them complete (%.2f %%), %d of those refused by name, %d with something to compare, %d unsound",
		o.statements, o.accepted, o.complete, 100*float64(o.complete)/float64(max(o.accepted, 1)), o.refused, o.touched, len(o.unsound))
	o.t.Logf("%d distinct statements among those accepted, %d with a tree, %d permissions asked for; %d that were run unseen", len(o.distinct), o.treed, o.demands, o.unlooked)
	for _, w := range slices.Sorted(maps.Keys(o.forgiven)) {
		o.t.Logf("forgiven %6d %s", o.forgiven[w], w)
	}
	type n struct {
		why string
		n   int
	}
	var list []n
	for w, k := range o.whys {
		list = append(list, n{w, k})
	}
	slices.SortFunc(list, func(a, b n) int { return b.n - a.n })
	for _, l := range list[:min(len(list), 70)] {
		o.t.Logf("%5d %s", l.n, l.why)
	}
	if p := os.Getenv("ORACLE_OUT"); p != "" {
		_ = os.WriteFile(p+"."+o.file, []byte(strings.Join(o.misses, "\n")+"\n\n"+strings.Join(o.unsound, "\n")), 0o600)
	}
}

// verdict fails the test over anything unsound, and over what is not understood where it is too much.
func (o *oracle) verdict(atLeast int) {
	o.t.Helper()
	o.report()
	for _, u := range o.unsound {
		o.t.Error(u)
	}
	if 1000*o.complete < atLeast*o.accepted {
		o.t.Errorf("%d of %d accepted statements are complete: want %d of 1000", o.complete, o.accepted, atLeast)
	}
	if 1000*o.unlooked > o.statements {
		o.t.Errorf("%d of %d statements ran unseen", o.unlooked, o.statements)
	}
}

// oracleSubset is what every run of the tests takes of the server's suite: 2,000 statements of its files about names, writes and state.
var oracleSubset = strings.Fields(`test_setup boolean insert insert_conflict select subselect union join update delete namespace prepare portals
temp returning with`)

// TestOracleRegress judges the server's own regression suite, statement by statement: the subset, or with ORACLE=all everything, or the
// files that ORACLE names.
func TestOracleRegress(t *testing.T) {
	only := oracleSubset
	if v := os.Getenv("ORACLE"); v != "" {
		only = strings.Fields(v)
		t.Parallel()
	}
	o := newOracle(t, "regress")
	defer o.close()
	limit := 2000
	for _, f := range regressFiles(t) {
		if !slices.Contains(only, f.name) && !slices.Contains(only, "all") {
			continue
		}
		o.file = f.name
		o.connect()
		start, n := time.Now(), o.statements
		for _, sql := range f.statements {
			if sql == `\c` {
				o.connect()
				continue
			}
			if o.statements >= limit && os.Getenv("ORACLE") == "" {
				break
			}
			o.judge(sql)
		}
		t.Logf("%s: %d statements in %s", f.name, o.statements-n, time.Since(start).Round(time.Millisecond))
	}
	o.verdict(995)
}
