package policy

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
)

const caseHead = "cases:\n"

// one is a file with one case: who and what, and what is wanted.
func one(what, want string) string {
	return caseHead + "  - name: it\n    as: {user: alice, groups: [engineers]}\n    target: app\n" + what + "    want: " + want + "\n"
}

func TestCases(t *testing.T) {
	update := "    command: {verb: UPDATE, facts: {has_where: true}, touches: [{effect: write, kind: table, name: public.accounts}]}\n"
	read := "    command: {verb: SELECT, touches: [{effect: read, kind: table, name: public.t}], classes: [{class: email, on: public.t.e}]}\n"
	for _, c := range []struct {
		name string
		body string
		want []string // failures
	}{
		{"passes", one(update, "{outcome: hold, hold: prod-write, rule: held}"), nil},
		{"outcome", one(update, "{outcome: deny}"), []string{`outcome is "hold", want "deny"`, `hold is "prod-write", want ""`}},
		{"hold", one(update, "{outcome: hold}"), []string{`hold is "prod-write", want ""`}},
		{"rule", one(update, "{outcome: hold, hold: prod-write, rule: other}"), []string{`rule is "held", want "other"`}},
		{"code", one("    command: {verb: SELECT}\n", "{outcome: deny, code: not_maskable}"), []string{`code is "denied", want "not_maskable"`}},
		{"mask", one(read, "{outcome: allow, mask: [email]}"), nil},
		{"no mask wanted", one(read, "{outcome: allow}"), []string{`mask is "email", want ""`}},
		{"other mask wanted", one(read, "{outcome: allow, mask: [email, card]}"), []string{`mask is "email", want "card email"`}},
		{"not recorded", one(read, "{outcome: allow, mask: [email], record: false}"), nil},
		{"any number of rows", one(read, "{outcome: allow, mask: [email], rows: 0}"), nil},
		{"fewer rows wanted", one(read, "{outcome: allow, mask: [email], rows: 5}"), []string{`rows is "0", want "5"`}},
		{"recording wanted", one(read, "{outcome: allow, mask: [email], record: true}"), []string{`record is "false", want "true"`}},
		{"connect", one("    connect: true\n", "{outcome: allow, rule: connect}"), nil},
		{"approved", one("    approved: [prod-write]\n"+update, "{outcome: allow, rule: write}"), nil},
		{"refused", one("    command: {refused: {rule: postgres.x, hint: no}}\n", "{outcome: deny, rule: postgres.x}"), nil},
		{"incomplete", one("    command: {incomplete: odd, touches: [{effect: unknown, kind: database}]}\n", "{outcome: deny, rule: incomplete}"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := load1(t, "tests/a.yaml", c.body)
			results := b.Test()
			if len(results) != 1 || results[0].Name != "it" || results[0].File != "tests/a.yaml" || results[0].Line != 2 {
				t.Fatalf("%+v", results)
			}
			if !slices.Equal(results[0].Failures, c.want) {
				t.Errorf("got %q, want %q", results[0].Failures, c.want)
			}
			e, ok := b.Case("it")
			if !ok || !reflect.DeepEqual(e.Verdict, results[0].Verdict) {
				t.Errorf("explained as %+v", e.Verdict)
			}
		})
	}
}

func TestCaseSaysEverything(t *testing.T) {
	b := load1(t, "tests/a.yaml", caseHead+`  - name: all of it
    as: {user: alice, groups: [g], actors: [coder, tester], purpose: fix, assurance: attested, logged_in: 2h, capability: ["read:app", "write:app/x"]}
    target: app
    agent: a1
    at: 2026-03-04T05:06:07Z
    approved: [prod-write]
    command:
      verb: COPY
      prepare: true
      incomplete: why
      state: {database: d, role: r, search_path: s}
      facts: {has_where: true, functions: [f], row_limit: 3, in_txn: true, statements: 2, deletes: true, locks: true}
      touches: [{effect: read, kind: table, name: public.t, columns: [a]}]
      classes: [{class: email, on: public.t.a, derived: true, how: somewhere}]
      refused: {rule: r, hint: h}
    want: {outcome: deny}
`)
	got := b.cases[0].request
	lines := access.Capability{{Effects: []access.Effect{access.Read}, Target: "app", Resource: "*"}, {Effects: []access.Effect{access.Write}, Target: "app", Resource: "x"}}
	now := noon.AddDate(0, 2, -3).Add(-6*3600e9 - 53*60e9 - 53e9)
	want := Request{Target: "app", Agent: "a1", Approved: []string{"prod-write"}, Now: now, Capability: lines,
		Lineage: access.Lineage{Principal: "alice", Groups: []string{"g"}, Assurance: access.Attested, AuthTime: now.Add(-2 * 3600e9),
			Path: []access.Node{{ID: "login", Name: "alice"}, {ID: "actor-1", Name: "coder"}, {ID: "actor-2", Name: "tester", Purpose: "fix"}}},
		Command: access.Command{Verb: "COPY", Why: "why", Prepare: true, State: access.State{Database: "d", Role: "r", SearchPath: "s"},
			Facts:   access.Facts{HasWhere: true, Functions: []string{"f"}, RowLimit: 3, InTxn: true, Statement: 2, Deletes: true, Locks: true},
			Touches: []access.Touch{{Effect: access.Read, Resource: access.Resource{Kind: access.KindTable, Name: "public.t", Columns: []string{"a"}}}},
			Classes: []access.ClassUse{{Class: "email", On: "public.t.a", Derived: true, How: "somewhere"}},
			Refused: &access.Refusal{Rule: "r", Hint: "h"}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestExplain(t *testing.T) {
	b := load1(t, "b.cedar", `@id("broken") permit (principal, action == Action::"write", resource) when { context.delegation.depth + 9223372036854775807 > 0 };`)
	e := Explain(b, ask(read("public.staff", "pay"), write("public.accounts"), read("public.staff", "salary"), read("public.staff"), uses("email", false)))
	var got []string
	for _, s := range e.Steps {
		line := s.Action + " " + s.Resource + " " + s.Outcome.String() + " " + s.Rule + ":"
		for _, p := range s.Policies {
			line += " " + p.ID + "/" + p.Effect
			if p.Applies {
				line += "!"
			}
			if p.Error != "" {
				line += "?"
			}
		}
		got = append(got, line)
	}
	want := []string{
		`read Table::"app/public.staff" allow read: read/permit! write/permit!`,
		`write Table::"app/public.accounts" deny policy-error: write/permit! held/hold! broken/permit?`,
		`read Column::"app/public.staff.salary" deny no-salary: no-salary/forbid!`,
		`reveal DataClass::"email" deny default-deny:`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if p := e.Steps[1].Policies[1]; p.Hold != "prod-write" || p.File != "a.cedar" || p.Line != 5 {
		t.Errorf("%+v", p)
	}
	if e := Explain(b, Request{}); e.Steps == nil || len(e.Steps) != 0 || e.Verdict.Outcome != access.Deny {
		t.Errorf("%+v", e)
	}
	if _, ok := b.Case("none"); ok {
		t.Error("a case that is not there is explained")
	}
}
