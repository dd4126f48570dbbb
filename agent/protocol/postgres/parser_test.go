package postgres

import (
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// parserWord makes this test binary the process that parses; see TestMain.
const parserWord = "parse-for-tests"

func newTestParsers(t testing.TB, n int) *parsers {
	p := newParsers([]string{os.Args[0], parserWord}, n)
	t.Cleanup(p.close)
	return p
}

func TestParserAnswersLikeTheLibrary(t *testing.T) {
	p := newTestParsers(t, 2)
	for _, sql := range append([]string{"", "select '" + strings.Repeat("x", 1<<20) + "'"}, oracleStatements...) {
		got, err := p.parse(sql)
		want, wantErr := pg.Parse(sql)
		if (err == nil) != (wantErr == nil) || !proto.Equal(got, want) {
			t.Errorf("%.100s: %v, want %v", sql, err, wantErr)
		}
	}
	if _, err := p.parse("selec 1"); err == nil || errors.Is(err, errParserEnded) {
		t.Errorf("a syntax error is %v", err)
	}
}

// A text that ends the parser is refused, and the one after it is served.
func TestParserIsKilled(t *testing.T) {
	p := newTestParsers(t, 1)
	cat := handCatalogue(t)
	cat.parser = p
	st := session{database: "db", role: "r", searchPath: "public"}
	if c, _ := analyse("select id from customers", nil, st, cat, defaultLimits); !c.Complete {
		t.Fatal(c.Why)
	}
	w := <-p.idle
	if err := w.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.idle <- w
	c, _ := analyse("select name from customers", nil, st, cat, defaultLimits)
	if c.Complete || !strings.Contains(c.Why, "parser ended") {
		t.Errorf("with the parser killed: complete %t, %q", c.Complete, c.Why)
	}
	if c, _ := analyse("select name from customers", nil, st, cat, defaultLimits); !c.Complete {
		t.Errorf("after it: %s", c.Why)
	}
	// What would overflow the stack of this very process, past the check that is there to prevent it.
	if _, err := p.parse("select 1" + strings.Repeat("+1", 3_000_000)); err == nil {
		t.Error("a chain of three million operators parses")
	}
	if _, err := p.parse("select 1"); err != nil {
		t.Errorf("after the chain: %v", err)
	}
}

func TestParserServesMany(t *testing.T) {
	p := newTestParsers(t, 2)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if _, err := p.parse("select id, name from customers where id = 1"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// An answer that is not one is an error, whatever it says its length is.
func FuzzReadAnswer(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 1, 'x'})
	f.Add([]byte{1, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		ok, body, err := readAnswer(strings.NewReader(string(b)), nil)
		if err == nil && (len(body) > len(b) || ok != (b[0] == 0)) {
			t.Fatalf("%x: %t %x", b, ok, body)
		}
	})
}

func BenchmarkParser(b *testing.B) {
	p := newTestParsers(b, 1)
	for name, sql := range map[string]string{
		"lookup": "SELECT id, name, email FROM customers WHERE id = $1",
		"join":   "SELECT c.name, o.id, o.amount FROM customers c JOIN orders o ON o.customer_id = c.id JOIN accounts a ON a.id = c.id WHERE o.amount > $1 ORDER BY o.id LIMIT 10",
	} {
		b.Run(name+"/process", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.parse(sql); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/here", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := pg.Parse(sql); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
