package postgres

import (
	"os"
	"testing"

	"github.com/sallyport/sallyport/agent/protocol/postgres/pgtest"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == parserWord {
		if ParserMain(os.Stdin, os.Stdout) != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(pgtest.Main(m))
}
