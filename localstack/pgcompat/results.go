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
	"regexp"
	"slices"
	"strings"
)

// Results of a test.
const (
	pass = "pass"
	fail = "fail"
	skip = "skip"
)

// results reads what a suite printed: the events of go test -json, pytest's short summary (-rA) or what it tells as it goes (-v), or lines of the form "pass NAME". A test
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

// temporary finds the number in the name of a test's directory, which some tests are named after.
var temporary = regexp.MustCompile(`(/Test[A-Za-z]+)[0-9]+/`)

// going is a line of pytest -v.
var going = regexp.MustCompile(`^(\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b.*\[ *[0-9]+%\]$`)

func result(line string) (name, result string) {
	if strings.HasPrefix(line, "{") {
		var e struct{ Action, Package, Test string }
		if json.Unmarshal([]byte(line), &e) != nil || e.Test == "" || e.Action != pass && e.Action != fail && e.Action != skip {
			return "", ""
		}
		return e.Package[strings.LastIndex(e.Package, "/")+1:] + "." + temporary.ReplaceAllString(e.Test, "$1/"), e.Action
	}
	if m := going.FindStringSubmatch(line); m != nil {
		line = m[2] + " " + m[1]
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
	direct    map[string]string
	gated     map[string]string
	bouncer   map[string]string // nil: not run
	commands  int
	repeated  int // passed through the gate when run again
	explained []string
	open      []string // pass directly, and neither pass through the gate nor are explained
}

// differing are the tests that pass directly and not through the gate, and are not explained.
func (r *row) differing(known map[string]string) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(r.direct)) {
		if r.direct[name] == pass && r.gated[name] != pass && known[r.suite+"."+name] == "" {
			names = append(names, name)
		}
	}
	return names
}

// more takes over what passed when it was run again, and says how many those are.
func (r *row) more(tests []string, results map[string]string) int {
	before := r.repeated
	for _, name := range tests {
		if results[name] == pass {
			r.gated[name] = pass
			r.repeated++
		}
	}
	return r.repeated - before
}

func (r *row) compare(known map[string]string) {
	r.open = r.differing(known)
	for _, name := range slices.Sorted(maps.Keys(r.direct)) {
		if r.direct[name] == pass && r.gated[name] != pass && known[r.suite+"."+name] != "" {
			r.explained = append(r.explained, name)
		}
	}
}

// counted writes results as pass / fail / skip, subtests included, and how many of those that passed are tests of their own.
func counted(all map[string]string) string {
	n, top := map[string]int{}, 0
	for name, v := range all {
		n[v]++
		if v == pass && !strings.Contains(name, "/") {
			top++
		}
	}
	return fmt.Sprintf("%d / %d / %d (%d)", n[pass], n[fail], n[skip], top)
}

// shown is how many names of one suite are printed.
const shown = 50

func (r *row) print(out io.Writer) {
	for i, name := range r.open {
		if i == shown {
			_, _ = fmt.Fprintf(out, "  and %d more of %s %d\n", len(r.open)-shown, r.suite, r.version)
			break
		}
		was := r.gated[name]
		if was == "" {
			was = "not run"
		}
		_, _ = fmt.Fprintf(out, "  differs: %s %d: %s (%s)\n", r.suite, r.version, name, was)
	}
	for _, name := range slices.Sorted(maps.Keys(r.bouncer)) {
		if r.direct[name] == pass && r.bouncer[name] != pass && !strings.Contains(name, "/") {
			_, _ = fmt.Fprintf(out, "  PgBouncer: %s %d: %s\n", r.suite, r.version, name)
		}
	}
}

// table prints the rows as docs/COMPATIBILITY.md has them; a difference that nothing explains is an error, and so is a suite that ran nothing.
func table(out io.Writer, rows []row) error {
	bad := 0
	var errs []error
	_, _ = fmt.Fprintln(out, "Pass / fail / skip, with subtests; in brackets the tests that pass without them.\n"+
		"| suite | server | direct | gate | PgBouncer | commands decided | passed when run again | explained | unexplained |\n|---|---|---|---|---|---|---|---|---|")
	for _, r := range rows {
		bouncer := "-"
		if r.bouncer != nil {
			bouncer = counted(r.bouncer)
		}
		_, _ = fmt.Fprintf(out, "| %s | %d | %s | %s | %s | %d | %d | %d | %d |\n", r.suite, r.version, counted(r.direct), counted(r.gated), bouncer, r.commands,
			r.repeated, len(r.explained), len(r.open))
		bad += len(r.open)
		if !slices.Contains(slices.Collect(maps.Values(r.direct)), pass) {
			errs = append(errs, fmt.Errorf("%s on %d: nothing passed directly", r.suite, r.version))
		}
	}
	if bad > 0 {
		errs = append(errs, fmt.Errorf("%d tests pass directly and not through the gate", bad))
	}
	return errors.Join(errs...)
}
