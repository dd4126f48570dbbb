package postgres

import (
	"bufio"
	"compress/gzip"
	"os"
	"strings"
	"testing"
)

// What pgAdmin and pgweb send while somebody clicks through a database (testdata/README.md): all of it is understood. Where columns are
// masked, what shows others' sessions, samples of values or credentials is refused, and nothing else.
func TestGUIs(t *testing.T) {
	b := newBench(t)
	guarded := b.cat
	open, err := loadCatalogue(b.rows(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	statements := recordedGUIs(t)
	if len(statements) < 250 {
		t.Fatalf("%d statements", len(statements))
	}
	for _, sql := range statements {
		b.cat = open
		if c, _ := b.facts(sql); !c.Complete || c.Refused != nil {
			t.Errorf("%s: %s %v", sql, c.Why, c.Refused)
		}
		b.cat = guarded
		c, _ := b.facts(sql)
		if c.Refused == nil {
			continue
		}
		more := false
		for _, word := range []string{"pg_stat_", "pg_statio_", "pg_stats", "pg_locks", "pg_prepared_xacts", "umoptions", "subconninfo", "rolpassword", "pg_authid"} {
			more = more || strings.Contains(sql, word)
		}
		if c.Refused.Rule != "postgres.statistics" || !more {
			t.Errorf("where columns are masked: %s: %+v", sql, c.Refused)
		}
	}
}

func recordedGUIs(t *testing.T) []string {
	f, err := os.Open("testdata/guis.sql.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	var all []string
	var one strings.Builder
	for lines.Scan() {
		if lines.Text() == ";;" {
			all = append(all, one.String())
			one.Reset()
			continue
		}
		one.WriteString(lines.Text() + "\n")
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}
