package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// small is a directory in which everything that a test may want to break is there once.
var small = map[string]string{
	"targets.yaml": `targets:
  - name: app
    protocol: postgres
    database: app
    labels: {env: prod, tier: "1"}
  - {name: files, protocol: ssh}
`,
	"holds.yaml": `holds:
  - name: prod-write
    reviewers: [reviewers]
    expires: 15m
    description: Writes wait.
  - {name: audit-read, reviewers: [auditors, reviewers], expires: 1h}
`,
	"classes.yaml": `classes:
  - {name: email, mask: email, columns: ["*.customers.email", "public.users.mail"]}
  - {name: card, mask: card, columns: ["*.*.card_number"]}
`,
	"roles.yaml": `auditors: [auditors, lawyers]
administrators: [administrators]
`,
	"a.cedar": `@id("connect") permit (principal in Group::"engineers", action == Action::"connect", resource == Target::"app");
@id("read") permit (principal in Group::"engineers", action == Action::"read", resource in Target::"app");
@id("write") permit (principal in Group::"engineers", action in [Action::"write", Action::"read"], resource is Table in Target::"app");
@id("reveal-mail") permit (principal in User::"rita", action == Action::"reveal", resource == DataClass::"email");
@id("held") @hold("prod-write") @hint("Wait.") forbid (principal, action == Action::"write", resource == Table::"app/public.accounts");
@id("looked-at") @hold("audit-read") forbid (principal, action == Action::"read", resource == Table::"app/public.audit");
@id("no-salary") forbid (principal, action, resource == Column::"app/public.staff.salary");
`,
	"tests/a.yaml": `cases:
  - name: reads
    as: {user: alice, groups: [engineers]}
    target: app
    command: {verb: SELECT, touches: [{effect: read, kind: table, name: public.orders}]}
    want: {outcome: allow}
`,
	"README.md":  "notes",
	".gitignore": "*",
}

// with is small with some files replaced, or removed where the new body is "-".
func with(changes ...string) fstest.MapFS {
	files := maps.Clone(small)
	for i := 0; i+1 < len(changes); i += 2 {
		if files[changes[i]] = changes[i+1]; changes[i+1] == "-" {
			delete(files, changes[i])
		}
	}
	dir := fstest.MapFS{}
	for name, body := range files {
		dir[name] = &fstest.MapFile{Data: []byte(body)}
	}
	return dir
}

func load1(t *testing.T, changes ...string) *Bundle {
	t.Helper()
	b, err := Load(with(changes...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLoad(t *testing.T) {
	b := load1(t)
	if got := b.Targets[0]; got.Name != "app" || got.Database != "app" || got.Labels["env"] != "prod" || got.Labels["tier"] != "1" || got.Protocol != "postgres" {
		t.Errorf("target %+v", got)
	}
	if got, ok := b.Hold("prod-write"); !ok || got.Expires.Minutes() != 15 || got.Reviewers[0] != "reviewers" || got.Description != "Writes wait." {
		t.Errorf("hold %+v %v", got, ok)
	}
	if b.Holds[0].Name != "audit-read" {
		t.Error("holds are not sorted")
	}
	if len(b.Classes) != 2 || b.Classes[0].Name != "email" || b.Classes[0].Mask != "email" || b.Classes[0].Columns[1] != "public.users.mail" {
		t.Errorf("classes %+v", b.Classes)
	}
	if !b.Roles.Auditor([]string{"x", "lawyers"}) || b.Roles.Auditor([]string{"administrators"}) || !b.Roles.Administrator([]string{"administrators"}) || b.Roles.Administrator(nil) {
		t.Errorf("roles %+v", b.Roles)
	}
	if _, ok := b.Target("none"); ok {
		t.Error("a target that is not there is found")
	}
	if _, ok := b.Hold("none"); ok {
		t.Error("a hold that is not there is found")
	}
	if problems := Lint(with()); len(problems) != 0 {
		t.Errorf("lint: %v", problems)
	}
}

func TestArchive(t *testing.T) {
	b := load1(t)
	if b.Address != load1(t, "README.md", "other notes", ".hidden", "x").Address {
		t.Error("what is no part of the bundle changes its address")
	}
	if b.Address == load1(t, "tests/a.yaml", small["tests/a.yaml"]+"\n").Address {
		t.Error("another byte, the same address")
	}
	again, err := FromArchive(b.Archive())
	if err != nil {
		t.Fatal(err)
	}
	if again.Address != b.Address || len(again.rules) != len(b.rules) || len(again.cases) != 1 || !strings.HasPrefix(b.Address, "sha256:") {
		t.Errorf("%s with %d rules came back as %s with %d", b.Address, len(b.rules), again.Address, len(again.rules))
	}
	good := string(b.Archive())
	for name, body := range map[string]string{
		"nothing":          "",
		"not JSON":         "{",
		"trailing":         good + " ",
		"leading":          " " + good,
		"unknown field":    strings.Replace(good, `{"v":1,`, `{"v":1,"x":1,`, 1),
		"other version":    strings.Replace(good, `{"v":1,`, `{"v":2,`, 1),
		"foreign file":     strings.Replace(good, `"a.cedar"`, `"a.sh"`, 1),
		"path":             strings.Replace(good, `"a.cedar"`, `"../a.cedar"`, 1),
		"hidden file":      strings.Replace(good, `"a.cedar"`, `".a.cedar"`, 1),
		"order":            strings.Replace(good, `"a.cedar"`, `"z.cedar"`, 1),
		"invalid UTF-8":    strings.Replace(good, "Wait.", "Wait\xff", 1),
		"NUL":              strings.Replace(good, "Wait.", `Wait\u0000`, 1),
		"problem":          strings.Replace(good, "prod-write", "prod-read", 1),
		"too large":        strings.Repeat(" ", 2*MaxArchive+1),
		"escaped the same": strings.Replace(good, "Wait.", `\u0057ait.`, 1),
	} {
		if b, err := FromArchive([]byte(body)); err == nil || b != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestWith(t *testing.T) {
	b := load1(t)
	classes := "classes: [{name: email, mask: full, columns: [a.b.c]}]\n"
	want := load1(t, "classes.yaml", classes)
	got, err := b.With("classes.yaml", []byte(classes))
	if err != nil || got.Address != want.Address {
		t.Errorf("with another file: %v, %v", got, err)
	}
	if same, err := got.With("classes.yaml", []byte(small["classes.yaml"])); err != nil || same.Address != b.Address {
		t.Errorf("and back: %v", err)
	}
	for name, body := range map[string]string{
		"classes.yml": "", "../classes.yaml": "", "classes.yaml": "classes: [{}]", "holds.yaml": "holds: []\n",
		"tests/big.yaml": strings.Repeat(" ", MaxFile+1), "tests/nul.yaml": "\x00",
	} {
		if b, err := b.With(name, []byte(body)); err == nil || b != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	policy := func(s string) []string { return []string{"b.cedar", s} }
	targets := func(s string) []string { return []string{"targets.yaml", small["targets.yaml"] + s} }
	holds := func(s string) []string { return []string{"holds.yaml", small["holds.yaml"] + s} }
	classes := func(s string) []string { return []string{"classes.yaml", small["classes.yaml"] + s} }
	cases := func(s string) []string { return []string{"tests/b.yaml", "cases:\n" + s} }
	ask := "    as: {user: a}\n    target: app\n"
	connect := ask + "    connect: true\n"
	for _, c := range []struct {
		name    string
		changes []string
		want    string
	}{
		// Files.
		{"unknown file", []string{"b.ceder", ""}, "b.ceder: not part of a policy directory"},
		{"unknown directory", []string{"more/a.cedar", ""}, "more: not part"},
		{"unknown test file", []string{"tests/a.yml", ""}, "tests/a.yml: not part"},
		{"no targets", []string{"targets.yaml", "-"}, "targets.yaml: no target is named"},
		{"empty targets", []string{"targets.yaml", ""}, "targets.yaml: no target is named"},
		{"NUL", policy("// \x00"), "b.cedar: a NUL byte"},
		{"UTF-8", policy("// \xff"), "b.cedar: not UTF-8"},
		{"large", policy("//" + strings.Repeat("x", MaxFile)), "b.cedar: over 262144 bytes"},

		// YAML as such.
		{"unknown key", targets("  - {name: b, protocol: x, addr: 1}\n"), "targets.yaml:7: field addr not found"},
		{"unknown top key", targets("target: []\n"), "targets.yaml:7: field target not found"},
		{"key twice", targets("  - {name: b, name: c, protocol: x}\n"), `targets.yaml:7: mapping key "name" already defined`},
		{"two documents", targets("---\ntargets: []\n"), "targets.yaml: more than one YAML document"},
		{"two documents, second broken", targets("---\n{"), "targets.yaml: more than one YAML document"},
		{"anchor", targets("  - &x {name: b, protocol: x}\n"), "targets.yaml:7:5: anchors"},
		{"alias", targets("  - {name: b, protocol: &p x}\n  - {name: c, protocol: *p}\n"), "targets.yaml:7:25: anchors"},
		{"tag", targets("  - !!map {name: b, protocol: x}\n"), "targets.yaml:7:5: anchors, aliases and tags"},
		{"syntax", targets("  - {name: b\n"), "targets.yaml:"},
		{"type", targets("  - [b]\n"), "targets.yaml:7: cannot unmarshal"},

		// Lists.
		{"target name", targets("  - {name: B, protocol: x}\n"), `targets.yaml:7:12: target name "B"`},
		{"target without name", targets("  - {protocol: x}\n"), `targets.yaml:7:5: target name ""`},
		{"target protocol", targets("  - {name: b, protocol: ''}\n"), `targets.yaml:7:25: protocol name ""`},
		{"target twice", targets("  - {name: app, protocol: x}\n"), `targets.yaml:7:12: target "app" is there twice`},
		{"target database", targets("  - {name: b, protocol: x, database: \"a\\nb\"}\n"), "targets.yaml:7:38: database"},
		{"label key", targets("  - {name: b, protocol: x, labels: {A: x}}\n"), `targets.yaml:7:40: label "A"`},
		{"label value", targets("  - {name: b, protocol: x, labels: {a: ''}}\n"), `targets.yaml:7:40: label "a"`},
		{"too many", targets(strings.Repeat("  - {}\n", 1000)), "targets.yaml:2:3: over 1000 targets"},
		{"hold name", holds("  - {name: 'a b', reviewers: [r], expires: 5m}\n"), `holds.yaml:7:12: hold name "a b"`},
		{"hold twice", holds("  - {name: prod-write, reviewers: [r], expires: 5m}\n"), `holds.yaml:7:12: hold "prod-write" is there twice`},
		{"hold without reviewers", holds("  - {name: a, expires: 5m}\n"), `holds.yaml:7:5: hold "a" has no reviewers`},
		{"hold with an empty group", holds("  - {name: a, reviewers: [''], expires: 5m}\n"), `holds.yaml:7:27: group ""`},
		{"hold with a group twice", holds("  - {name: a, reviewers: [x, x], expires: 5m}\n"), `holds.yaml:7:30: group "x" is there twice`},
		{"hold without expiry", holds("  - {name: a, reviewers: [r]}\n"), `holds.yaml:7:5: hold "a" expires ""`},
		{"hold too long", holds("  - {name: a, reviewers: [r], expires: 25h}\n"), `holds.yaml:7:40: hold "a" expires "25h"`},
		{"hold too short", holds("  - {name: a, reviewers: [r], expires: 1s}\n"), `holds.yaml:7:40:`},
		{"hold of odd length", holds("  - {name: a, reviewers: [r], expires: 60.5s}\n"), `holds.yaml:7:40:`},
		{"hold description", holds("  - {name: a, reviewers: [r], expires: 1m, description: \"\\u200b\"}\n"), `holds.yaml:7:57: description`},
		{"holds syntax", []string{"holds.yaml", "["}, "holds.yaml:"},
		{"class name", classes("  - {name: E, mask: full, columns: [a.b.c]}\n"), `classes.yaml:4:12: class "E"`},
		{"class twice", classes("  - {name: card, mask: full, columns: [a.b.c]}\n"), `classes.yaml:4:12: class "card" is there twice`},
		{"class mask", classes("  - {name: x, mask: rot13, columns: [a.b.c]}\n"), `classes.yaml:4:21: class "x": mask "rot13": want one of email, card, last4, partial:FIRST-LAST`},
		{"class without columns", classes("  - {name: x, mask: full}\n"), `classes.yaml:4:5: class "x": want 1 to`},
		{"class detector", classes("  - {name: x, mask: full, detector: email}\n"), `classes.yaml:4:37: class "x": detector "email" is not one of mail, card, iban, ssn, phone, secret`},
		{"class detector twice", classes("  - {name: x, mask: full, detector: ssn}\n  - {name: y, mask: full, detector: ssn}\n"), `classes.yaml:5:37: detector "ssn" is in class "x" already`},
		{"class key", classes("  - {name: x, mask: full, detect: ssn}\n"), `classes.yaml:4: field detect not found`},
		{"class column", classes("  - {name: x, mask: full, columns: [users.mail]}\n"), `classes.yaml:4:37: column "users.mail"`},
		{"class column, end", classes("  - {name: x, mask: full, columns: [a.b.]}\n"), `column "a.b."`},
		{"class column twice", classes("  - {name: x, mask: full, columns: ['*.*.card_number']}\n"), `classes.yaml:4:37: column "*.*.card_number" is in class "card" already`},
		{"classes syntax", []string{"classes.yaml", "["}, "classes.yaml:"},
		{"role group", []string{"roles.yaml", "auditors: [a, a]\n"}, `roles.yaml:1:15: group "a" is there twice`},
		{"role unknown", []string{"roles.yaml", "admins: [a]\n"}, "roles.yaml:1: field admins not found"},

		// Policies.
		{"syntax", policy("\npermit (principal, action, resource"), "b.cedar:2:36"},
		{"unterminated", policy("@id(\"x"), "b.cedar:1:5: literal not terminated"},
		{"effect", policy("allow (principal, action, resource);"), "unexpected effect: allow"},
		{"number", policy("@id(\"x\") permit (principal, action, resource) when { 99999999999999999999 > 1 };"), "b.cedar: strconv.ParseInt"},
		{"block comment", policy("// ok\n/* no */"), "b.cedar:2:1: block comments"},
		{"nesting", policy("\n" + strings.Repeat("(", 65)), "b.cedar:2:65: brackets nested deeper than 64"},
		{"no id", policy("permit (principal, action, resource);"), "b.cedar:1:1: a policy without @id"},
		{"bad id", policy("@id(\"a b\") permit (principal, action, resource);"), `b.cedar:1:1: @id "a b"`},
		{"id of a built-in", policy("@id(\"capability\") permit (principal, action, resource);"), `@id "capability" is the name of a built-in`},
		{"id twice", policy("\n\n @id(\"read\") permit (principal, action, resource);"), `b.cedar:3:2: @id "read" is there twice, first at a.cedar:2`},
		{"annotation twice", policy("@id(\"x\")\n@id(\"y\") permit (principal, action, resource);"), "duplicate annotation"},
		{"unknown annotation", policy("@id(\"x\") @holds(\"prod-write\") forbid (principal, action, resource);"), "annotation @holds is not one of"},
		{"hold of no name", policy("@id(\"x\") @hold forbid (principal, action, resource);"), `@hold "" is not in holds.yaml`},
		{"hold that is not there", policy("@id(\"x\") @hold(\"none\") forbid (principal, action, resource);"), `b.cedar:1:1: @hold "none" is not in holds.yaml`},
		{"hold on a permit", policy("@id(\"x\") @hold(\"prod-write\") permit (principal, action, resource);"), "@hold on a permit"},
		{"hold on reveal", policy("@id(\"x\") @hold(\"prod-write\") forbid (principal, action == Action::\"reveal\", resource);"), "@hold on reveal"},
		{"hold on connect", policy("@id(\"x\") @hold(\"prod-write\") forbid (principal, action in [Action::\"connect\"], resource);"), "@hold on connect"},
		{"record of something else", policy("@id(\"x\") @record(\"everything\") permit (principal, action, resource);"), `@record "everything": want "content"`},
		{"record of nothing", policy("@id(\"x\") @record permit (principal, action, resource);"), `@record "": want "content"`},
		{"rows that are no number", policy("@id(\"x\") @rows(\"many\") permit (principal, action, resource);"), `@rows "many": want`},
		{"no rows", policy("@id(\"x\") @rows(\"0\") permit (principal, action, resource);"), `@rows "0": want`},
		{"rows on a forbid", policy("@id(\"x\") @rows(\"5\") forbid (principal, action, resource);"), "@rows on a forbid"},
		{"record on a forbid", policy("@id(\"x\") @record(\"content\") forbid (principal, action, resource);"), "@record on a forbid"},
		{"empty hint", policy("@id(\"x\") @hint(\"\") forbid (principal, action, resource);"), "@hint: want"},
		{"hint of two lines", policy("@id(\"x\") @hint(\"a\\nb\") forbid (principal, action, resource);"), "@hint: want"},
		{"unknown action", policy("@id(\"x\") forbid (principal, action == Action::\"drop\", resource);"), `Action::"drop": want one of`},
		{"unknown action in a list", policy("@id(\"x\") forbid (principal, action in [Action::\"read\", Action::\"Write\"], resource);"), `Action::"Write": want one of`},
		{"unknown action, in", policy("@id(\"x\") forbid (principal, action in Action::\"all\", resource);"), `Action::"all": want one of`},
		{"unknown action in a condition", policy("@id(\"x\") forbid (principal, action, resource) when { action == Action::\"drop\" };"), `Action::"drop": want one of`},
		{"unknown target", policy("@id(\"x\") forbid (principal, action, resource in Target::\"ap\");"), `Target::"ap": target "ap" is not in targets.yaml`},
		{"unknown target of a table", policy("@id(\"x\") forbid (principal, action, resource == Table::\"ap/public.t\");"), `target "ap" is not in`},
		{"table without schema", policy("@id(\"x\") forbid (principal, action, resource == Table::\"app/t\");"), `Table::"app/t": want TARGET/NAME`},
		{"database without target", policy("@id(\"x\") forbid (principal, action, resource == Database::\"app\");"), `want TARGET/NAME`},
		{"target in a condition", policy("@id(\"x\") forbid (principal, action, resource) when { resource in Target::\"ap\" };"), `target "ap" is not in`},
		{"unknown class", policy("@id(\"x\") permit (principal, action == Action::\"reveal\", resource == DataClass::\"mail\");"), `DataClass::"mail" is not in classes.yaml`},
		{"permit on a column", policy("@id(\"x\") permit (principal, action, resource == Column::\"app/public.t.c\");"), "a column is named only by a forbid"},
		{"columns by type", policy("@id(\"x\") forbid (principal, action, resource is Column);"), "a column is named only by a forbid"},
		{"columns by type in a table", policy("@id(\"x\") forbid (principal, action, resource is Column in Table::\"app/public.t\");"), "a column is named only by a forbid"},
		{"in a column", policy("@id(\"x\") forbid (principal, action, resource in Column::\"app/public.t.c\");"), "a column is named only by a forbid"},
		{"column without table", policy("@id(\"x\") forbid (principal, action, resource == Column::\"app/t.c\");"), `Column::"app/t.c": want TARGET/NAME`},
		{"principal is a user", policy("@id(\"x\") forbid (principal == User::\"bob\", action, resource);"), `write principal in User::"bob"`},
		{"unknown type", policy("@id(\"x\") forbid (principal in Team::\"a\", action, resource);"), "b.cedar:1:1: x: "},
		{"unknown attribute", policy("@id(\"x\") forbid (principal, action, resource) when { context.facts.where };"), "`where`"},
		{"wrong type", policy("@id(\"x\") forbid (principal, action, resource) when { context.delegation.depth == \"2\" };"), "b.cedar:1:1: x: "},
		{"action that does not fit", policy("@id(\"x\") forbid (principal, action == Action::\"reveal\", resource is Table);"), "unable to find an applicable action"},

		// Cases.
		{"case key", cases("  - {nam: a}\n"), "tests/b.yaml:2: field nam not found"},
		{"case without name", cases("  - want: {outcome: deny}\n" + connect), `tests/b.yaml:2:5: name ""`},
		{"case twice", cases(strings.Repeat("  - name: a\n    want: {outcome: deny}\n"+connect, 2)), `tests/b.yaml:7:11: name "a"`},
		{"case of nothing", cases("  - name: a\n    want: {outcome: deny}\n" + ask), "tests/b.yaml:2:5: want either a command or connect"},
		{"case of both", cases("  - name: a\n    want: {outcome: deny}\n    command: {verb: X}\n" + connect), "want either a command or connect"},
		{"case target", cases("  - name: a\n    want: {outcome: deny}\n    as: {user: a}\n    connect: true\n    target: none\n"), `tests/b.yaml:6:13: target "none"`},
		{"case approved", cases("  - name: a\n    want: {outcome: deny}\n    approved: [none]\n" + connect), `tests/b.yaml:4:16: hold "none"`},
		{"case outcome", cases("  - name: a\n    want: {outcome: maybe}\n" + connect), `tests/b.yaml:3:21: outcome "maybe"`},
		{"case without want", cases("  - name: a\n" + connect), `tests/b.yaml:2:5: outcome ""`},
		{"case hold", cases("  - name: a\n    want: {outcome: allow, hold: prod-write}\n" + connect), "tests/b.yaml:3:34: a hold belongs to outcome hold"},
		{"case rows", cases("  - name: a\n    want: {outcome: deny, rows: 5}\n" + connect), "rows belong to outcome allow"},
		{"case record", cases("  - name: a\n    want: {outcome: deny, record: true}\n" + connect), "recording belongs to outcome allow"},
		{"case mask", cases("  - name: a\n    want: {outcome: deny, mask: [email]}\n" + connect), "tests/b.yaml:3:33: masks belong to outcome allow"},
		{"case user", cases("  - name: a\n    want: {outcome: deny}\n    as: {groups: [x]}\n    target: app\n    connect: true\n"), "tests/b.yaml:4:9: nobody asks"},
		{"case assurance", cases("  - name: a\n    want: {outcome: deny}\n    as: {user: a, assurance: high}\n    target: app\n    connect: true\n"), `assurance "high"`},
		{"case login", cases("  - name: a\n    want: {outcome: deny}\n    as: {user: a, logged_in: yesterday}\n    target: app\n    connect: true\n"), `logged_in "yesterday"`},
		{"case actor", cases("  - name: a\n    want: {outcome: deny}\n    as: {user: a, actors: [A]}\n    target: app\n    connect: true\n"), `tests/b.yaml:4:28: actor name "A"`},
		{"case actors", cases("  - name: a\n    want: {outcome: deny}\n    as: {user: a, actors: [" + strings.Repeat("a,", 64) + "]}\n    target: app\n    connect: true\n"), "over 63 actors"},
		{"case capability", cases("  - name: a\n    want: {outcome: deny}\n    as: {user: a, capability: [all]}\n    target: app\n    connect: true\n"), `tests/b.yaml:4:32: capability "all"`},
		{"case effect", cases("  - name: a\n    want: {outcome: deny}\n    command: {touches: [{effect: drop, kind: table, name: t}]}\n" + ask), `tests/b.yaml:4:34: effect "drop"`},
		{"case kind", cases("  - name: a\n    want: {outcome: deny}\n    command: {touches: [{effect: read, kind: view, name: t}]}\n" + ask), `tests/b.yaml:4:46: kind "view"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := Load(with(c.changes...))
			if err == nil || b != nil {
				t.Fatalf("accepted, want %q", c.want)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %q", err, c.want)
			}
			var ps Problems
			if !errors.As(err, &ps) {
				t.Errorf("the error is a %T", err)
			}
		})
	}
}

func TestLoadFindsEverything(t *testing.T) {
	_, err := Load(with("targets.yaml", small["targets.yaml"]+"  - {name: app, protocol: x}\n", "b.cedar", "permit (principal, action, resource);\nforbid (principal, action, resource);"))
	want := "policy: b.cedar:1:1: a policy without @id(\"name\")\nb.cedar:2:1: a policy without @id(\"name\")\ntargets.yaml:7:12: target \"app\" is there twice"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestLintWarns(t *testing.T) {
	problems := Lint(with("tests/a.yaml", "-",
		"holds.yaml", small["holds.yaml"]+"  - {name: spare, reviewers: [r], expires: 5m}\n",
		"b.cedar", "@id(\"all\") permit (principal, action, resource);\n@id(\"bare\") permit (principal, action == Action::\"reveal\", resource);\n"+
			"@id(\"some\") permit (principal, action, resource) when { context.verb == \"SHOW\" };\n@id(\"none\") forbid (principal, action, resource);"))
	var got []string
	for _, p := range problems {
		got = append(got, p.String())
	}
	want := []string{"b.cedar:1:1: warning: all permits everything to everybody", "b.cedar:2:1: warning: bare reveals every class of data to everybody",
		`holds.yaml:7:5: warning: hold "spare" is named by no policy`, "tests: warning: no test cases: nothing shows that the policies do what they are meant to"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if _, err := Load(with("tests/a.yaml", "-")); err != nil {
		t.Errorf("a warning keeps the directory out: %v", err)
	}
}

// broken fails where it is told to.
type broken struct {
	fs.FS
	name string
	read bool
}

func (b broken) Open(name string) (fs.File, error) {
	if name != b.name {
		return b.FS.Open(name)
	}
	if b.read {
		f, err := b.FS.Open(name)
		return brokenFile{f}, err
	}
	return nil, errors.New("the disk is broken")
}

type brokenFile struct{ fs.File }

func (brokenFile) Read([]byte) (int, error) { return 0, errors.New("the sector is broken") }

func TestFilesThatCannotBeRead(t *testing.T) {
	for _, c := range []struct {
		dir  fs.FS
		want string
	}{
		{broken{FS: with(), name: "."}, ".: the disk is broken"},
		{broken{FS: with(), name: "tests"}, "tests: the disk is broken"},
		{broken{FS: with(), name: "a.cedar"}, "a.cedar: the disk is broken"},
		{broken{FS: with(), name: "a.cedar", read: true}, "a.cedar: the sector is broken"},
	} {
		if _, err := Load(c.dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	many := with()
	for i := range MaxFiles + 1 {
		many[fmt.Sprintf("f%d.cedar", i)] = &fstest.MapFile{}
	}
	if _, err := Load(many); err == nil || !strings.Contains(err.Error(), "the directory is over 512 files") {
		t.Errorf("got %v", err)
	}
	large := with()
	for i := range 17 {
		large[fmt.Sprintf("f%d.cedar", i)] = &fstest.MapFile{Data: []byte(strings.Repeat(" ", MaxFile))}
	}
	if _, err := Load(large); err == nil || !strings.Contains(err.Error(), "4194304 bytes") {
		t.Errorf("got %v", err)
	}
	if _, err := Load(with("tests/sub/x.yaml", "x")); err == nil || !strings.Contains(err.Error(), "tests/sub: not part") {
		t.Errorf("a directory below tests: %v", err)
	}
}

func TestNestingIsCountedAsTheParserReads(t *testing.T) {
	for body, want := range map[string]bool{
		strings.Repeat("(", 64):                         true,
		strings.Repeat("()", 100):                       true,
		"// " + strings.Repeat("(", 100):                true,
		"// )))\n" + strings.Repeat("{", 65):            false,
		`"` + strings.Repeat("[", 100) + `"`:            true,
		`"\"` + strings.Repeat("[", 100) + `"`:          true,
		`"\\"` + strings.Repeat("[", 100):               false,
		"\"a\n" + strings.Repeat("[", 65):               false,
		"\"//\"" + strings.Repeat("[", 65):              false,
		"a / b " + strings.Repeat("[", 65):              false,
		`")"` + strings.Repeat("[", 65):                 false,
		`"` + strings.Repeat("[", 65):                   true,
		"// /* \n" + strings.Repeat("[", 10):            true,
		`"/*"` + strings.Repeat("[", 10):                true,
		strings.Repeat("(", 64) + ")" + "(" + "// (\n(": false,
	} {
		if _, wrong := readable(body, 64); (wrong == "") != want {
			t.Errorf("%.40q: %q, want readable: %v", body, wrong, want)
		}
	}
}

func TestBrokenSchema(t *testing.T) {
	for _, text := range []string{"entity", "entity A in [B];"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%q is taken for a schema", text)
				}
			}()
			newValidator(text)
		}()
	}
}

func TestPlaces(t *testing.T) {
	for message, want := range map[string]place{
		"nothing said":                                {},
		"yaml: line 7: mapping":                       {7, 0},
		"yaml: line 7, column 3: mapping":             {7, 3},
		"yaml: line 99999999999999999999999: mapping": {9223372036854775807, 0},
	} {
		if got, _ := split(yamlPlace, message); got != want {
			t.Errorf("%q: %v, want %v", message, got, want)
		}
	}
	if got := (Problem{File: "f", Message: "m"}).String(); got != "f: m" {
		t.Error(got)
	}
	if got := (Problem{File: "f", Line: 2, Message: "m"}).String(); got != "f:2: m" {
		t.Error(got)
	}
}

func TestClassesNameFiles(t *testing.T) {
	b := load1(t, "classes.yaml", `classes:
  - {name: email, mask: email, columns: ["/srv/app/customers*", "*.customers.email"]}
`)
	if got := b.Classes[0].Columns[0]; got != "/srv/app/customers*" {
		t.Errorf("got %q", got)
	}
	if _, err := Load(with("classes.yaml", "classes:\n  - {name: email, mask: email, columns: [\"/\"]}\n")); err == nil {
		t.Error("a class of every file of no name was taken")
	}
}

func TestClassesDetect(t *testing.T) {
	b := load1(t, "classes.yaml", `classes:
  - {name: secret, mask: full, detector: secret}
  - {name: email, mask: email, detector: mail, columns: ["*.customers.email"]}
`)
	if c := b.Classes[0]; c.Detector != "secret" || c.Columns != nil {
		t.Errorf("got %+v", c)
	}
	if c := b.Classes[1]; c.Detector != "mail" || len(c.Columns) != 1 {
		t.Errorf("got %+v", c)
	}
}
