package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sallyport/sallyport/functions/copies"
	"github.com/sallyport/sallyport/functions/seal"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/columns"
	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/keyfile"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/localstack/embedded"
)

// evidenceOf makes a data directory whose log has n entries, each of another day.
func evidenceOf(t *testing.T, n int) string {
	t.Helper()
	where := t.TempDir()
	db, err := sqlite.Open(filepath.Join(where, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := dir.Open(filepath.Join(where, "evidence"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := keyfile.Open(filepath.Join(where, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := keys.Signer("checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		w, err := audit.Put(audit.Entry{V: 1, Kind: audit.KindEnroll, ID: ulid.Make().String(), Agent: "edge", Time: time.Date(2026, 1, 1+i, 0, 0, 0, 0, time.UTC)})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Put(t.Context(), w); err != nil {
			t.Fatal(err)
		}
	}
	sealer, err := seal.New(seal.Config{Items: db, Feed: db, Blobs: log, Heads: log, Signer: signer, Origin: "sallyport.test/audit"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sealer.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []interface{ Close() error }{db, log} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return where
}

func TestAuditCopies(t *testing.T) {
	where := evidenceOf(t, 3)
	run := func(args ...string) (int, copies.State, string) {
		t.Helper()
		code, out, stderr := called(t, nil, append([]string{"audit", "copies", "-o", "json"}, args...)...)
		var st copies.State
		if code == api.ExitOK {
			if err := json.Unmarshal([]byte(out), &st); err != nil {
				t.Fatalf("%v in %s", err, out)
			}
		}
		return code, st, stderr
	}
	all := copies.State{Log: 3, Copied: 3, Files: 3}
	if code, st, stderr := run("--dir", where); code != api.ExitOK || st != all || stderr != "" {
		t.Fatalf("%d %+v %s", code, st, stderr)
	}
	if code, st, _ := run("--dir", where); code != api.ExitOK || st != (copies.State{Log: 3, Copied: 3}) {
		t.Errorf("again: %d %+v", code, st)
	}
	file := filepath.Join(where, embedded.CopiesDir, "entries", "day=2026-01-02", "0000000000000000-0000000000000003.parquet")
	if err := os.WriteFile(file, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, st, _ := run("--dir", where, "--rebuild"); code != api.ExitOK || st != all {
		t.Errorf("rebuild: %d %+v", code, st)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if rows, err := columns.Decode(b); err != nil || len(rows) != 1 || rows[0].Agent != "edge" {
		t.Errorf("%v %v", rows, err)
	}
	if code, out, stderr := called(t, nil, "audit", "copies", "--dir", where, "--to", filepath.Join(where, "sql")); code != api.ExitOK || !strings.HasPrefix(out, "3 entries in ") || stderr != "3 of 3 entries\n" {
		t.Errorf("%d %s %s", code, out, stderr)
	}
	// It is no broom: the log itself, and what is somebody else's, stays.
	for _, to := range []string{filepath.Join(where, "evidence"), where} {
		if code, _, stderr := run("--dir", where, "--to", to, "--rebuild"); code != api.ExitUsage || !strings.Contains(stderr, "is no place for copies") {
			t.Errorf("--to %s: %d %s", to, code, stderr)
		}
	}
	if _, err := os.Stat(filepath.Join(where, "evidence", audit.SegmentName(0))); err != nil {
		t.Error(err)
	}
	unlock, err := embedded.Lock(where)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if code, _, stderr := run("--dir", where); code == api.ExitOK || !strings.Contains(stderr, "--to") {
		t.Errorf("the system is running: %d %s", code, stderr)
	}
	for _, args := range [][]string{{}, {"--dir", t.TempDir()}, {"--dir", where, "-o", "xml"}} {
		if code, _, _ := run(args...); code == api.ExitOK {
			t.Errorf("%q is taken", args)
		}
	}
}
