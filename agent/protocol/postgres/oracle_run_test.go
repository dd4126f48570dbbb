package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/agent/protocol/postgres/pgtest"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/sqltext"
)

// oracle runs statements on a server, each in the state that those before it left, and compares what the server touched with the facts.
// What it touched is: what it resolves in a function whose body the statement is (columns), what it locks while it runs, which rows it
// counts as written, and which functions that did not come with it it counts as called.
type oracle struct {
	t    testing.TB
	dsn  string
	conn *pgconn.PgConn
	cat  *catalogue
	raw  map[string][][]string // answers of the catalogue's queries, while the mark stays
	mark string
	st   session
	file string

	statements, accepted, complete, refused, touched int
	whys                                             map[string]int
	misses                                           []string
	unsound                                          []string
}

func newOracle(t testing.TB, database string) *oracle {
	s := pgtest.Start(t)
	s.Exec(t, "drop database if exists "+database+" with (force)")
	s.Exec(t, "create database "+database+" template template0")
	return &oracle{t: t, whys: map[string]int{}, dsn: fmt.Sprintf(
		"host=127.0.0.1 port=%d user=%s password=%s dbname=%s sslmode=disable", s.Port, s.User, s.Password, database)}
}

func (o *oracle) connect() {
	o.t.Helper()
	o.close()
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	c, err := pgconn.Connect(ctx, o.dsn)
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
	st, err := o.rows("select current_database(), current_user, current_setting('search_path')")
	if err != nil {
		return err
	}
	o.st.database, o.st.role, o.st.searchPath = st[0][0], st[0][1], st[0][2]
	o.st.inTxn = o.conn.TxStatus() != 'I'
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

const sqlTouched = `select 'lock' k, relation::text a, mode b, 0::bigint n from pg_catalog.pg_locks where pid = pg_catalog.pg_backend_pid() and locktype = 'relation' and granted
union all select 'call', funcid::text, '', calls from pg_catalog.pg_stat_xact_user_functions where calls > 0
union all select 'write', relid::text, '', n_tup_ins + n_tup_upd + n_tup_del from pg_catalog.pg_stat_xact_user_tables where n_tup_ins + n_tup_upd + n_tup_del > 0`

type touchedByServer map[[3]string]int64

func (o *oracle) touchedNow() touchedByServer {
	rows, err := o.rows(sqlTouched)
	if err != nil {
		return nil
	}
	out := touchedByServer{}
	for _, r := range rows {
		n, _ := strconv.ParseInt(r[3], 10, 64)
		out[[3]string{r[0], r[1], r[2]}] = n
	}
	return out
}

// depends asks the server what sql names, without running it.
func (o *oracle) depends(sql string) (refs [][]string, ok bool) {
	begin, end := "savepoint sallyport_oracle", "rollback to sallyport_oracle; release sallyport_oracle"
	if o.conn.TxStatus() == 'I' {
		begin, end = "begin", "rollback"
	}
	if _, err := o.exec(begin); err != nil {
		return nil, false
	}
	defer func() { _, _ = o.exec(end) }()
	if _, err := o.exec("create function pg_temp.o() returns void language sql begin atomic " + sql + "\n; end"); err != nil {
		return nil, false
	}
	refs, err := o.rows(`select refobjid, refobjsubid from pg_catalog.pg_depend d join pg_catalog.pg_class c on c.oid = refobjid
where classid = 'pg_catalog.pg_proc'::regclass and objid = 'pg_temp.o()'::regprocedure and refclassid = 'pg_catalog.pg_class'::regclass and c.relkind in ('r','p','v','m','f')`)
	return refs, err == nil
}

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
		_, _ = o.exec(sql)
		return
	}
	if err := o.look(); err != nil {
		o.t.Logf("%s: look: %v", o.file, err)
		if o.conn.IsClosed() {
			o.connect()
		}
		_, _ = o.exec(sql)
		return
	}
	c, p := analyse(sql, nil, o.st, o.cat, defaultLimits)
	var refs [][]string
	resolved := false
	if bodyLike(c) && !strings.Contains(sql, "pg_temp.o") {
		refs, resolved = o.depends(sql)
	}
	own := status == 'I' && !alone(c.Verb, sql)
	if own {
		if _, err := o.exec("begin"); err != nil {
			o.t.Fatal(err)
		}
	}
	before := o.touchedNow()
	_, err := o.exec(sql)
	var after touchedByServer
	if err == nil && o.conn.TxStatus() != 'I' {
		after = o.touchedNow()
	}
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
		if !resolved {
			return
		}
	}
	o.accepted++
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
	o.compare(sql, c, p.opaque, refs, before, after)
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

func (o *oracle) unsoundRow(sql, what string, c access.Command) {
	o.unsound = append(o.unsound, fmt.Sprintf("%s: %s\n    %s\n    facts: %s", o.file, what, short(sql), say(c)))
}

func (o *oracle) compare(sql string, c access.Command, opaque bool, refs [][]string, before, after touchedByServer) {
	if len(refs) > 0 || len(after) > len(before) {
		o.touched++
	}
	for _, ref := range refs {
		oid, _ := strconv.ParseUint(ref[0], 10, 32)
		num, _ := strconv.ParseInt(ref[1], 10, 32)
		r := o.cat.byOID[uint32(oid)]
		if r == nil {
			if oid >= 16384 {
				o.unsoundRow(sql, "the server resolves oid "+ref[0]+", which the catalogue lacks", c)
			}
			continue
		}
		if after != nil && !lockedIn(after, ref[0]) {
			continue // a type of that name, or a constant
		}
		if excludes(sql) { // what EXCLUDED could name: every column of the table
			if covers(c, r, "", access.Write) {
				continue
			}
		}
		if opaque && num == 0 || mentionsConstant(sql) {
			continue // a constant of type regclass, or what an opaque function returns
		}
		name := ""
		if col := r.columnNum(uint16(num)); num > 0 && col != nil {
			name = col.name
		}
		if !covers(c, r, name) && !opaque {
			o.unsoundRow(sql, fmt.Sprintf("the server resolves %s %s", r.display(), name), c)
		}
	}
	for k, n := range after {
		if before[k] >= n && (k[0] != "lock" || has(before, k)) {
			continue
		}
		oid, _ := strconv.ParseUint(k[1], 10, 32)
		switch k[0] {
		case "call":
			f := o.functionName(k[1])
			if f != "" && !opaque && !harmless(strings.TrimPrefix(f, "pg_catalog.")) && !strings.HasPrefix(f, "information_schema.") && !slices.Contains(c.Facts.Functions, f) {
				o.unsoundRow(sql, "the server calls "+f, c)
			}
		case "write":
			r := o.cat.byOID[uint32(oid)]
			if r == nil || opaque || covers(c, r, "", access.Write, access.Define) || strings.HasPrefix(c.Verb, "ROLLBACK") {
				continue
			}
			o.unsoundRow(sql, "the server writes rows of "+r.display(), c)
		case "lock":
			r := o.cat.byOID[uint32(oid)]
			if r == nil || r.kind == 'S' || r.system() && !bodyLike(c) {
				continue // made by the statement itself, an index, a TOAST table
			}
			o.compareLock(sql, c, r, k[2], opaque, slices.ContainsFunc(refs, func(ref []string) bool { return ref[0] == k[1] }))
		}
	}
}

func (o *oracle) compareLock(sql string, c access.Command, r *relation, mode string, opaque, named bool) {
	switch {
	case opaque, covers(c, r, "") && mode != "RowExclusiveLock":
	case mode == "AccessShareLock" && !named && (readsSystemView(c) || r.system() && readableSystem(r.relName)): // it shows definitions
	case mode == "AccessShareLock" && !named && o.checked(c, r): // by a foreign key
	case r.system() && readsSystemView(c): // what the server's own views stand for is not opened: they show definitions
	case mode == "AccessShareLock" && (strings.Contains(strings.ToLower(sql), "pg_get_") || strings.Contains(strings.ToLower(sql), "satisfies_hash_partition") || strings.Contains(strings.ToLower(sql), "pg_partition_")): // it locks what it describes, and reads no row
	case mode == "RowShareLock" && !covers(c, r, ""): // the check of a foreign key
	case covers(c, r, "", access.Write, access.Define, access.Grant):
	case covers(c, r, "") && mode == "RowExclusiveLock" && !r.system() && (c.Verb == "EXPLAIN" || c.Verb == "CREATE FUNCTION"):
	default:
		o.unsoundRow(sql, "the server locks "+r.display()+" ("+mode+")", c)
	}
}

func readsSystemView(c access.Command) bool {
	return slices.ContainsFunc(c.Touches, func(t access.Touch) bool {
		return strings.HasPrefix(t.Resource.Name, "information_schema.") || strings.HasPrefix(t.Resource.Name, "pg_catalog.")
	})
}

// checked says that r is what a foreign key of a written table points at, or part of it.
func (o *oracle) checked(c access.Command, r *relation) bool {
	for _, t := range c.Touches {
		for _, w := range o.cat.byName {
			if t.Effect != access.Write || w.display() != t.Resource.Name {
				continue
			}
			up, _ := w.family(false)
			for _, m := range append(up, w) {
				for _, to := range m.refersTo {
					if _, below := to.family(true); to == r || slices.Contains(below, r) {
						return true
					}
				}
			}
		}
	}
	return false
}

func excludes(sql string) bool { return strings.Contains(strings.ToLower(sql), "on conflict") }

func lockedIn(m touchedByServer, oid string) bool {
	for k := range m {
		if k[0] == "lock" && k[1] == oid {
			return true
		}
	}
	return false
}

func has(m touchedByServer, k [3]string) bool { _, ok := m[k]; return ok }

func mentionsConstant(sql string) bool {
	l := strings.ToLower(sql)
	return strings.Contains(l, "regclass") || strings.Contains(l, "null::") || strings.Contains(l, "pg_partition_")
}

func (o *oracle) functionName(oid string) string {
	rows, err := o.rows("select n.nspname, p.proname from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = pronamespace where p.oid = " + oid)
	if err != nil || len(rows) != 1 {
		return ""
	}
	return relName{rows[0][0], rows[0][1]}.display()
}

func (o *oracle) report() {
	o.t.Logf("%d statements, %d accepted by the server, %d of them complete (%.2f %%), %d of those refused by name, %d with something to compare, %d unsound",
		o.statements, o.accepted, o.complete, 100*float64(o.complete)/float64(max(o.accepted, 1)), o.refused, o.touched, len(o.unsound))
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
		_ = os.WriteFile(p, []byte(strings.Join(o.misses, "\n")+"\n\n"+strings.Join(o.unsound, "\n")), 0o600)
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
	o.report()
	for _, u := range o.unsound {
		t.Error(u)
	}
	if 1000*o.complete < 995*o.accepted {
		t.Errorf("%d of %d accepted statements are complete: want 99.5 %%", o.complete, o.accepted)
	}
}
