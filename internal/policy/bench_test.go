package policy

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/sallyport/sallyport/internal/access"
)

// manyPolicies is a directory of n policies as a company would have them: for each of its tables and groups a few.
func manyPolicies(n int) fstest.MapFS {
	var cedar strings.Builder
	for i := range n - 4 {
		table, group := i/4, i/4%20
		switch i % 4 {
		case 0:
			fmt.Fprintf(&cedar, "@id(\"r%d\") permit (principal in Group::\"g%d\", action == Action::\"read\", resource == Table::\"app/public.t%d\") when { context.delegation.depth < 4 };\n", i, group, table)
		case 1:
			fmt.Fprintf(&cedar, "@id(\"w%d\") permit (principal in Group::\"g%d\", action in [Action::\"read\", Action::\"write\"], resource == Table::\"app/public.t%d\") when { context.facts.has_where };\n", i, group, table)
		case 2:
			fmt.Fprintf(&cedar, "@id(\"f%d\") forbid (principal, action == Action::\"write\", resource == Table::\"app/public.t%d\") when { context.verb == \"DELETE\" };\n", i, table)
		case 3:
			fmt.Fprintf(&cedar, "@id(\"h%d\") @hold(\"h\") forbid (principal in Group::\"g%d\", action, resource in Target::\"other\") when { context.facts.in_txn };\n", i, group)
		}
	}
	cedar.WriteString(`
@id("all-read") permit (principal in Group::"engineers", action == Action::"read", resource in Target::"app");
@id("no-where") forbid (principal, action == Action::"write", resource) unless { context.facts.has_where };
@id("no-define") forbid (principal, action in [Action::"define", Action::"grant"], resource) when { context.delegation.depth >= 1 };
@id("depth") forbid (principal, action, resource) when { context.delegation.depth > 5 };
`)
	return fstest.MapFS{
		"targets.yaml": {Data: []byte("targets: [{name: app, protocol: postgres, database: app, labels: {env: prod}}, {name: other, protocol: postgres}]")},
		"holds.yaml":   {Data: []byte("holds: [{name: h, reviewers: [r], expires: 5m}]")},
		"classes.yaml": {Data: []byte("classes: [{name: email, mask: email, columns: ['*.*.email']}]")},
		"all.cedar":    {Data: []byte(cedar.String())},
	}
}

func benchRequest() Request {
	return Request{Target: "app", Agent: "a1", Capability: access.Everything(), Now: noon,
		Lineage: access.Lineage{Principal: "alice", Groups: []string{"engineers", "g3", "everybody"}, Assurance: access.Exchanged, AuthTime: noon,
			Path: []access.Node{{ID: "01A", Name: "alice"}, {ID: "01B", Name: "coder", Purpose: "fix the import"}}},
		Command: access.Command{Verb: "SELECT", Complete: true, Facts: access.Facts{HasWhere: true, Statement: 1},
			State:   access.State{Database: "app", Role: "app", SearchPath: "public"},
			Touches: []access.Touch{{Effect: access.Read, Resource: access.Resource{Kind: access.KindTable, Name: "public.t5", Columns: []string{"email", "id"}}}},
			Classes: []access.ClassUse{{Class: "email", On: "public.t5.email"}}}}
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			bundle, err := Load(manyPolicies(n))
			if err != nil {
				b.Fatal(err)
			}
			r := benchRequest()
			b.ReportAllocs()
			for b.Loop() {
				if v := Decide(bundle, r); v.Outcome != access.Allow {
					b.Fatal(v)
				}
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	dir := manyPolicies(1000)
	bundle, err := Load(dir)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("directory", func(b *testing.B) {
		for b.Loop() {
			if _, err := Load(dir); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("archive", func(b *testing.B) {
		for b.Loop() {
			if _, err := FromArchive(bundle.Archive()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
