package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What suites print, and what becomes of it: a test that passes directly and not through the gate counts as a difference, whether it failed,
// was not run, or died; one that passes when run again, or is explained, does not.
func TestDifferences(t *testing.T) {
	write := func(lines ...string) map[string]string {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		all, err := results(path)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	r := row{suite: "s", version: 18,
		direct: write(`{"Action":"pass","Package":"a/b","Test":"TestA"}`, `{"Action":"pass","Package":"a/b","Test":"TestA/in='/tmp/TestA123/001'"}`,
			"PASSED t.py::test_one", "PASSED t.py::test_two", "pass psql \\d", "fail broken"),
		gated: write(`{"Action":"fail","Package":"a/b","Test":"TestA"}`, `{"Action":"pass","Package":"a/b","Test":"TestA/in='/tmp/TestA456/001'"}`,
			"FAILED t.py::test_one - AssertionError", "fail broken")}
	known := map[string]string{"s.t.py::test_one": "a reason"}
	if got := r.differing(known); !slices.Equal(got, []string{"b.TestA", "psql \\d", "t.py::test_two"}) {
		t.Fatalf("differ: %q", got)
	}
	if n := r.more([]string{"b.TestA"}, map[string]string{"b.TestA": pass, "t.py::test_two": pass}); n != 1 {
		t.Errorf("%d passed when run again", n)
	}
	r.compare(known)
	if !slices.Equal(r.open, []string{"psql \\d", "t.py::test_two"}) || !slices.Equal(r.explained, []string{"t.py::test_one"}) {
		t.Errorf("%q, %q", r.open, r.explained)
	}
	var out bytes.Buffer
	if err := table(&out, []row{r}); err == nil || !strings.Contains(err.Error(), "2 tests") {
		t.Errorf("%v", err)
	}
	if err := table(&out, []row{{suite: "s", direct: map[string]string{"x": fail}}}); err == nil {
		t.Error("a suite of which nothing passed is no failure")
	}
	if err := table(&out, []row{{suite: "s", direct: map[string]string{"x": pass}, gated: map[string]string{"x": pass}}}); err != nil {
		t.Error(err)
	}
}

// One suite that cannot run does not take the others' results with it.
func TestEach(t *testing.T) {
	broken := errors.New("broken")
	rows, err := each([]func() (row, error){
		func() (row, error) { return row{}, broken },
		func() (row, error) { return row{suite: "second"}, nil },
	}, 2)
	if !errors.Is(err, broken) || len(rows) != 2 || rows[1].suite != "second" {
		t.Errorf("%+v, %v", rows, err)
	}
}
