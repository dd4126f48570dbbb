package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
)

// Results of a test.
const (
	pass = "pass"
	fail = "fail"
	skip = "skip"
)

// results reads what a suite printed: the events of go test -json, pytest's short summary (-rA), or lines of the form "pass NAME". A test
// that is told twice, such as by a retry, fails if it failed once.
func results(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	all := map[string]string{}
	lines := bufio.NewScanner(f)
	lines.Buffer(make([]byte, 1<<20), 64<<20)
	for lines.Scan() {
		name, result := result(lines.Text())
		if name != "" && all[name] != fail {
			all[name] = result
		}
	}
	return all, lines.Err()
}

func result(line string) (name, result string) {
	if strings.HasPrefix(line, "{") {
		var e struct{ Action, Package, Test string }
		if json.Unmarshal([]byte(line), &e) != nil || e.Test == "" || e.Action != pass && e.Action != fail && e.Action != skip {
			return "", ""
		}
		return e.Package[strings.LastIndex(e.Package, "/")+1:] + "." + e.Test, e.Action
	}
	word, rest, _ := strings.Cut(line, " ")
	rest, _, _ = strings.Cut(strings.TrimSpace(rest), " - ")
	switch word {
	case "PASSED", "XPASS", pass:
		return rest, pass
	case "FAILED", "ERROR", fail:
		return rest, fail
	case "SKIPPED", "XFAIL", skip:
		return rest, skip
	}
	return "", ""
}

// explanations are differences that are known and wanted: suite.test, tab, reason.
func explanations(path string) (map[string]string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	known := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if name, why, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok && !strings.HasPrefix(name, "#") {
			known[name] = why
		}
	}
	return known, nil
}

// row is one suite on one server.
type row struct {
	suite     string
	version   int
	direct    map[string]int
	gated     map[string]int
	commands  int
	explained []string
	open      []string // pass directly, and neither pass through the gate nor are explained
	better    []string
}

func (r *row) compare(direct, gated map[string]string, known map[string]string) {
	r.direct, r.gated = count(direct), count(gated)
	for _, name := range slices.Sorted(maps.Keys(direct)) {
		full := r.suite + "." + name
		switch {
		case direct[name] == gated[name]:
		case direct[name] != pass:
			if gated[name] == pass {
				r.better = append(r.better, name)
			}
		case known[full] != "":
			r.explained = append(r.explained, name)
		default:
			r.open = append(r.open, name)
		}
	}
}

func count(all map[string]string) map[string]int {
	n := map[string]int{}
	for _, v := range all {
		n[v]++
	}
	return n
}

func (r *row) print(out io.Writer) {
	for _, name := range r.open {
		_, _ = fmt.Fprintf(out, "  differs: %s %d: %s\n", r.suite, r.version, name)
	}
}

// table prints the rows as docs/COMPATIBILITY.md has them; a difference that nothing explains is an error, and so is a suite that ran nothing.
func table(out io.Writer, rows []row) error {
	bad := 0
	_, _ = fmt.Fprintln(out, "| suite | server | direct: pass / fail / skip | gate: pass / fail / skip | commands decided | explained | unexplained |\n|---|---|---|---|---|---|---|")
	for _, r := range rows {
		_, _ = fmt.Fprintf(out, "| %s | %d | %d / %d / %d | %d / %d / %d | %d | %d | %d |\n", r.suite, r.version, r.direct[pass], r.direct[fail], r.direct[skip],
			r.gated[pass], r.gated[fail], r.gated[skip], r.commands, len(r.explained), len(r.open))
		if bad += len(r.open); r.direct[pass] == 0 {
			return fmt.Errorf("%s on %d: nothing passed directly", r.suite, r.version)
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d tests pass directly and not through the gate", bad)
	}
	return nil
}
