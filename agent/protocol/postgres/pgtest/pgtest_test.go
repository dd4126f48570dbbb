package pgtest_test

import (
	"os"
	"testing"

	"github.com/sallyport/sallyport/agent/protocol/postgres/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func TestOneServerForAll(t *testing.T) {
	s := pgtest.Start(t)
	if again := pgtest.Start(t); again != s {
		t.Fatal("a second server was started")
	}
	before := s.LogSize(t)
	if got := string(s.Exec(t, "select email from customers where id = 2")[0].Rows[0][0]); got != "grace@example.org" {
		t.Fatalf("got %q", got)
	}
	if !s.Logged(t, before, "where id = 2") || s.Logged(t, before, "where id = 3") {
		t.Fatal("the log does not hold exactly what ran")
	}
	s.Exec(t, "delete from orders")
	s.Seed(t)
	if got := string(s.Exec(t, "select count(*) from orders")[0].Rows[0][0]); got != "3" {
		t.Fatalf("seeded again: %s orders", got)
	}
}
