//go:build duckdb

package story_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/localstack/story"
)

// The queries of infra/athena.yaml, as they stand there, over the copies of a whole story, by an engine that is not ours: what they answer is what the
// log says.
func TestDuckDBAnswersWhatTheLogSays(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	err = story.Play(t.Context(), story.Config{Bin: filepath.Join(root, "bin"), Out: t.Output(), Done: func(ctx context.Context, data string) error {
		compare(t, ctx, root, data)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// line is one entry of the log, with what leads to it.
type line struct {
	audit.Entry
	raw, segment string
}

func logOf(t *testing.T, data string) (all []line) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(data, "evidence", "entries", "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range segments {
		b, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		for raw := range strings.Lines(string(b)) {
			l := line{raw: strings.TrimSuffix(raw, "\n"), segment: "entries/" + filepath.Base(s)}
			if err := json.Unmarshal([]byte(raw), &l.Entry); err != nil {
				t.Fatal(err)
			}
			all = append(all, l)
		}
	}
	return all
}

// namedQueries are those of the template.
func namedQueries(t *testing.T, root string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "infra", "athena.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Resources map[string]struct {
			Type       string    `yaml:"Type"`
			Properties yaml.Node `yaml:"Properties"`
		} `yaml:"Resources"`
	}
	if err := yaml.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for name, r := range doc.Resources {
		if r.Type != "AWS::Athena::NamedQuery" {
			continue
		}
		for i := 0; i < len(r.Properties.Content); i += 2 {
			if r.Properties.Content[i].Value == "QueryString" {
				all[name] = r.Properties.Content[i+1].Value
			}
		}
	}
	return all
}

type question struct {
	SQL        string   `json:"sql"`
	Parameters []string `json:"parameters,omitempty"`
}

type answer struct {
	Columns, Types []string
	Rows           [][]any
}

// text is a value of a row as a comparison has it.
func (a answer) text(row int, column string) string {
	i := slices.Index(a.Columns, column)
	if i < 0 {
		return "no column " + column
	}
	v := a.Rows[row][i]
	if l, ok := v.([]any); ok {
		words := []string{}
		for _, x := range l {
			words = append(words, fmt.Sprint(x))
		}
		slices.Sort(words)
		return strings.Join(words, ",")
	}
	return fmt.Sprint(v)
}

func (a answer) texts(columns ...string) (all []string) {
	for i := range a.Rows {
		var row []string
		for _, c := range columns {
			row = append(row, a.text(i, c))
		}
		all = append(all, strings.Join(row, " | "))
	}
	slices.Sort(all)
	return all
}

func ask(t *testing.T, ctx context.Context, root, data string, questions []question) []answer {
	t.Helper()
	in, err := json.Marshal(map[string]any{"data": data, "queries": questions})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, "build", "duckdb", "bin", "python"), filepath.Join(root, "localstack", "scripts", "duckdb_query.py"))
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	var answers []answer
	d := json.NewDecoder(&out)
	d.UseNumber()
	if err := d.Decode(&answers); err != nil {
		t.Fatal(err)
	}
	return answers
}

// hidden is in the story's commands or tables, and in the log encrypted at the most; open is in the log as it is.
var (
	hidden = []string{"4111111111111111", "ada@example.com", "777005", "alive-4", "after-revocation", "canary-"}
	open   = []string{"coder", "prod-write", "public.customers"}
)

func compare(t *testing.T, ctx context.Context, root, data string) {
	t.Helper()
	log, named := logOf(t, data), namedQueries(t, root)
	order := slices.Sorted(maps.Keys(named))
	var claimed line
	for _, l := range log {
		if l.Kind == audit.KindClaim {
			claimed = l
		}
	}
	var questions []question
	for _, n := range order {
		q := question{SQL: named[n]}
		switch n {
		case "Subagents":
			q.Parameters = []string{"coder"}
		case "TheLine":
			q.Parameters = []string{claimed.segment, claimed.ID}
		}
		questions = append(questions, q)
	}
	for _, word := range slices.Concat(hidden, open) {
		questions = append(questions, question{SQL: "select count(*) as n from entries where contains(entries::varchar, ?)", Parameters: []string{word}})
	}
	questions = append(questions, question{SQL: "select count(*) as n, count(distinct position) as places, max(position) as last, min(day) = min(time)::date as days from entries"})
	answers := ask(t, ctx, root, data, questions)
	said := map[string]answer{}
	for i, n := range order {
		said[n] = answers[i+1]
	}
	for name, want := range expected(log, claimed) {
		columns := strings.Fields(name)
		if got := said[columns[0]].texts(columns[1:]...); !slices.Equal(got, want) || len(want) == 0 {
			t.Errorf("%s answers\n  %s\nthe log says\n  %s", columns[0], strings.Join(got, "\n  "), strings.Join(want, "\n  "))
		}
	}
	for i, word := range slices.Concat(hidden, open) {
		n := answers[1+len(order)+i].text(0, "n")
		if slices.Contains(hidden, word) != (n == "0") {
			t.Errorf("%q is in %s rows", word, n)
		}
	}
	if got, want := answers[len(answers)-1].texts("n", "places", "last", "days")[0], fmt.Sprintf("%d | %d | %d | true", len(log), len(log), len(log)-1); got != want {
		t.Errorf("rows: %s, want %s", got, want)
	}
}

// expected is what each query has to answer, out of the log: by its name and the columns that are compared.
func expected(log []line, claimed line) map[string][]string {
	denials, all := map[string]int{}, map[string][]string{}
	type sum struct {
		commands, failed, rows, bytes, masked int64
		classes                               map[string]bool
	}
	type below struct{ commands, denied, held int64 }
	back, sub := map[string]*sum{}, map[string]*below{}
	commands := map[access.CommandID]line{}
	for _, l := range log {
		under := func() *below {
			if l.Lineage == nil || !slices.ContainsFunc(l.Lineage.Path, func(n access.Node) bool { return n.Name == "coder" }) {
				return &below{}
			}
			k := fmt.Sprintf("%s | %d | %s", l.Lineage.Chain(), l.Lineage.Depth(), l.Target)
			if sub[k] == nil {
				sub[k] = &below{}
			}
			return sub[k]
		}
		switch l.Kind {
		case audit.KindCommand:
			commands[access.CommandID(l.ID)] = l
			d := l.Decision
			all["WhoRanWhat chain target outcome rule verb statement"] = append(all["WhoRanWhat chain target outcome rule verb statement"],
				strings.Join([]string{l.Lineage.Chain(), string(l.Target), d.Outcome.String(), null(d.Rule), l.Command.Verb, null(l.Command.Normalised)}, " | "))
			u := under()
			u.commands++
			switch d.Outcome {
			case access.Deny:
				u.denied++
				denials[strings.Join([]string{d.Rule, l.Lineage.Principal, l.Lineage.Actor().Name, string(l.Target)}, " | ")]++
			case access.Hold:
				u.held++
			}
		case audit.KindOutcome:
			under()
			k := string(l.Target) + " | " + l.Lineage.Chain()
			if back[k] == nil {
				back[k] = &sum{classes: map[string]bool{}}
			}
			s := back[k]
			s.commands, s.rows, s.bytes = s.commands+1, s.rows+l.Result.Rows, s.bytes+l.Result.Bytes
			if l.Result.Status != access.StatusOK {
				s.failed++
			}
			for class, n := range l.Result.Masked {
				s.masked, s.classes[class] = s.masked+n, true
			}
		}
	}
	for k, n := range denials {
		all["DenialsByRule rule principal actor target denials"] = append(all["DenialsByRule rule principal actor target denials"], fmt.Sprintf("%s | %d", k, n))
	}
	for k, s := range back {
		all["WhatCameBack target chain commands failed row_count byte_count masked classes"] = append(all["WhatCameBack target chain commands failed row_count byte_count masked classes"],
			fmt.Sprintf("%s | %d | %d | %d | %d | %d | %s", k, s.commands, s.failed, s.rows, s.bytes, s.masked, strings.Join(slices.Sorted(maps.Keys(s.classes)), ",")))
	}
	for k, u := range sub {
		all["Subagents chain depth target commands denied held"] = append(all["Subagents chain depth target commands denied held"], fmt.Sprintf("%s | %d | %d | %d", k, u.commands, u.denied, u.held))
	}
	for _, l := range log {
		if l.Kind == audit.KindVerdict {
			c := commands[l.Approval.Command]
			all["Approvals approval_status approval_by hold asked_by target statement approval"] = append(all["Approvals approval_status approval_by hold asked_by target statement approval"],
				strings.Join([]string{l.Approval.Status, l.Approval.By, l.Approval.Hold, c.Lineage.Chain(), string(c.Target), c.Command.Normalised, string(l.Approval.ID)}, " | "))
		}
		if l.segment == claimed.segment && l.ID == claimed.ID {
			all["TheLine line"] = append(all["TheLine line"], l.raw)
		}
	}
	for _, rows := range all {
		slices.Sort(rows)
	}
	return all
}

// null is how an empty text comes back.
func null(s string) string {
	if s == "" {
		return "<nil>"
	}
	return s
}
