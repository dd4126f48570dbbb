package postgres

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/sqltext"
)

// regressOrder is what the server's own schedule puts before the rest, because later files use what these make.
var regressOrder = strings.Fields(`test_setup boolean char name varchar text int2 int4 int8 oid float4 float8 bit numeric txid uuid enum money
rangetypes pg_lsn regproc strings md5 numerology point lseg line box path polygon circle date time timetz timestamp timestamptz interval
inet macaddr macaddr8 multirangetypes geometry horology tstypes regex type_sanity opr_sanity misc_sanity comments expressions unicode xid
mvcc copy copyselect copydml insert insert_conflict create_function_c create_misc create_operator create_procedure create_table create_type
create_schema create_index create_index_spgist create_view index_including index_including_gist create_aggregate create_function_sql
create_cast constraints triggers select inherit typed_table vacuum drop_if_exists updatable_views roleattributes create_am hash_func errors
sanity_check select_into select_distinct select_distinct_on select_implicit select_having subselect union case join aggregates
transactions random portals arrays btree_index hash_index update delete namespace prepared_xacts`)

// regressLast end in changes of definitions that everything after them would meet.
var regressLast = []string{"event_trigger", "tablespace", "infinite_recurse"}

type regressFile struct {
	name       string
	statements []string
}

// regressFiles reads the server's own regression suite, in an order in which it runs.
func regressFiles(t testing.TB) []regressFile {
	t.Helper()
	f, err := os.Open("testdata/regress.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var files []regressFile
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(h.Name, ".sql") {
			continue
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, regressFile{strings.TrimSuffix(path.Base(h.Name), ".sql"), psqlStatements(string(text))})
	}
	rank := func(name string) int {
		if i := slices.Index(regressOrder, name); i >= 0 {
			return i
		}
		if i := slices.Index(regressLast, name); i >= 0 {
			return 10_000 + i
		}
		return len(regressOrder)
	}
	slices.SortStableFunc(files, func(a, b regressFile) int { return rank(a.name) - rank(b.name) })
	return files
}

// psqlStatements splits a script as psql does: at a ';' outside of brackets and of BEGIN ATOMIC, or at a backslash command, which is
// dropped. \c comes back as such. What follows a COPY FROM STDIN is data.
func psqlStatements(script string) (out []string) {
	for len(script) > 0 {
		sql, rest, command := psqlNext(script)
		script = rest
		if s := strings.TrimSpace(sql); s != "" {
			out = append(out, s)
			if copiesIn(s) {
				if i := strings.Index(script, "\n\\.\n"); i >= 0 {
					script = script[i+4:]
				}
			}
		}
		if strings.HasPrefix(command, `\c `) || command == `\c` || strings.HasPrefix(command, `\connect`) {
			out = append(out, `\c`)
		}
	}
	return out
}

func psqlNext(script string) (sql, rest, command string) {
	depth, atomic, last, begun := 0, 0, "", false
	s := sqltext.NewScanner(script)
	for {
		r, ok := s.Next()
		if !ok {
			return script, "", ""
		}
		text := script[r.Start:r.End]
		switch {
		case r.Kind == sqltext.Word:
			w := strings.ToLower(text)
			switch {
			case w == "atomic" && last == "begin":
				atomic = 1
			case atomic > 0 && (w == "begin" || w == "case"):
				atomic++
			case atomic > 0 && w == "end":
				atomic--
			}
			last, begun = w, true
		case r.Kind == sqltext.Space || r.Kind == sqltext.Comment:
		case text == "(" || text == "[":
			depth++
		case text == ")" || text == "]":
			depth--
		case text == ";" && depth <= 0 && atomic == 0:
			return script[:r.Start], script[r.End:], ""
		case text == `\` && depth <= 0:
			line, after, _ := strings.Cut(script[r.Start:], "\n")
			sql = script[:r.Start]
			if !begun || !strings.HasPrefix(line, `\g`) && !strings.HasPrefix(line, `\crosstab`) && !strings.HasPrefix(line, `\;`) && !strings.HasPrefix(line, `\watch`) {
				if strings.TrimSpace(sql) != "" && begun {
					return sql, after, line
				}
				return "", after, line
			}
			return sql, after, line
		}
	}
}
