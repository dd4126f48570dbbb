package pgserver_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/localstack/pgserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStartSeedLogAndLeaveNothing(t *testing.T) {
	s, err := pgserver.Start(t.Context(), pgserver.Config{Seed: "create table t (a int); insert into t values (7)"})
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Exec(t.Context(), "select a from t")
	if err != nil || string(res[0].Rows[0][0]) != "7" {
		t.Fatalf("%v %v", res, err)
	}
	log, err := os.ReadFile(s.LogFile)
	if err != nil || !strings.Contains(string(log), "select a from t") {
		t.Fatalf("statement log: %q, %v", log, err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(s.LogFile)); !os.IsNotExist(err) {
		t.Fatalf("left behind: %v", err)
	}
}

func TestABrokenServerIsAnErrorAndLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	if err := os.Chmod(os.Getenv("TMPDIR"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []pgserver.Config{{Bin: "/nonexistent"}, {Seed: "not sql"}, {Parameters: map[string]string{"port": "not-a-port"}}} {
		if s, err := pgserver.Start(t.Context(), c); err == nil {
			t.Errorf("%+v started %+v", c, s)
		}
	}
	left, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestEveryVersion(t *testing.T) {
	for _, v := range []int{14, 15, 16, 17, 18} {
		t.Run(strconv.Itoa(v), func(t *testing.T) {
			t.Parallel()
			s, err := pgserver.Start(t.Context(), pgserver.Config{Version: v})
			if err != nil {
				t.Fatal(err)
			}
			res, err := s.Exec(t.Context(), "select current_setting('server_version_num')::int / 10000")
			if err != nil || string(res[0].Rows[0][0]) != strconv.Itoa(v) {
				t.Errorf("%v %v", res, err)
			}
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := pgserver.Start(t.Context(), pgserver.Config{Version: 9}); err == nil {
		t.Error("version 9 was found")
	}
}
