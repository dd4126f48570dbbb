package postgres

import (
	"os"
	"testing"

	"github.com/sallyport/sallyport/agent/protocol/postgres/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
