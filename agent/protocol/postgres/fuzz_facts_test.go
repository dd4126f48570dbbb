package postgres

import (
	"strings"
	"testing"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/sallyport/sallyport/internal/access"
)

// handCatalogue is a catalogue without a server, for what must be quick.
func handCatalogue(t testing.TB) *catalogue {
	t.Helper()
	answers := map[string][][]string{
		sqlSchemas:   {{"public", "true"}, {"pg_catalog", "true"}, {"hidden", "false"}, {"app", "true"}},
		sqlRelations: {{"20000", "public", "customers", "r", ""}, {"20001", "public", "orders", "r", ""}, {"20002", "public", "v", "v", ""}, {"20003", "hidden", "secrets", "r", ""}},
		sqlColumns: {{"20000", "1", "id", "integer", "N", "false"}, {"20000", "2", "name", "text", "S", "false"}, {"20000", "3", "email", "text", "S", "false"}, {"20001", "1", "id", "integer", "N", "false"},
			{"20001", "2", "amount", "numeric", "N", "false"}, {"20002", "1", "email", "text", "S", "false"}, {"20003", "1", "v", "text", "S", "false"}},
		sqlViewReads:   {{"20002", "20000", "false"}},
		sqlBuiltin:     {{"lower"}, {"pg_sleep"}, {"set_config"}, {"count"}},
		sqlViewColumns: {{"20002", "20000", "3"}},
	}
	c, err := loadCatalogue(func(sql string) ([][]string, error) { return answers[sql], nil }, []access.Class{{Name: "email", Columns: []string{"*.email"}, Mask: "email"}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// FuzzAnalyse holds the analyser to two promises on any text: it never panics, and it never calls complete and read-only what
// holds a node that modifies.
func FuzzAnalyse(f *testing.F) {
	for _, s := range oracleStatements {
		f.Add(s)
	}
	for _, s := range []string{"select 1; drop table orders", "with d as (delete from orders returning 1) select 1", "explain analyze delete from orders", "copy (delete from orders returning 1) to stdout",
		"do $$ $$", "alter table customers add x int", "set role x", "create view x as select 1", "select 1 into x", "\x00", "select '\xff'", strings.Repeat("(", 1000), "select " + strings.Repeat("1+", 5000) + "1"} {
		f.Add(s)
	}
	cat := handCatalogue(f)
	st := session{database: "db", role: "r", searchPath: `"$user", public`}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 {
			return
		}
		got := examine(text, st, cat, defaultLimits).command // not study: a panic must show
		if got.Text != text {
			t.Fatalf("the text is changed")
		}
		if len(got.Touches) == 0 {
			t.Fatalf("%q touches nothing", text)
		}
		if !got.Complete || got.Refused != nil || !readOnly(got) {
			return
		}
		tree, err := pg.Parse(text)
		if err != nil {
			t.Fatalf("%q is complete and does not parse: %v", text, err)
		}
		for _, s := range tree.GetStmts() {
			explained := false
			if e := s.GetStmt().GetExplainStmt(); e != nil {
				explained = !strings.Contains(strings.ToLower(text), "analy")
			}
			if kind := modifying(s); kind != "" && !explained {
				t.Fatalf("%q is called read-only and holds a %s", text, kind)
			}
		}
	})
}

func readOnly(c access.Command) bool {
	for _, t := range c.Touches {
		if t.Effect != access.Read {
			return false
		}
	}
	return true
}

// modifying finds the first node that changes something. The list of what does not is the one that is kept.
func modifying(n any) string {
	switch n.(type) {
	case *pg.RawStmt, *pg.SelectStmt, *pg.TransactionStmt, *pg.VariableShowStmt, *pg.ExplainStmt, *pg.CopyStmt, *pg.ConstraintsSetStmt:
	case *pg.IntoClause:
		return "IntoClause"
	default:
		if strings.HasSuffix(kindOf(n), "Stmt") {
			return kindOf(n)
		}
	}
	found := ""
	children(n, func(c any) {
		if found == "" {
			found = modifying(c)
		}
	})
	return found
}

// FuzzCatalogue feeds odd rows: a catalogue that cannot be read is an error, never a panic.
func FuzzCatalogue(f *testing.F) {
	f.Add("20000", "public", "r", "3")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		_, _ = loadCatalogue(func(sql string) ([][]string, error) {
			n := strings.Count(strings.SplitN(sql, " FROM ", 2)[0], ",") + 1
			rows := [][]string{{a, b, c, d, a, b, c}}
			return [][]string{rows[0][:min(n, len(rows[0]))]}, nil
		}, []access.Class{{Name: "x", Columns: []string{b}}})
		_ = splitPath(b)
	})
}
