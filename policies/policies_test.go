package policies_test

import (
	"io/fs"
	"slices"
	"testing"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/policies"
)

func TestPacksPassTheirOwnCases(t *testing.T) {
	for _, name := range policies.Names {
		t.Run(name, func(t *testing.T) {
			dir, err := policies.Pack(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range policy.Lint(dir) {
				t.Errorf("lint: %s", p)
			}
			b, err := policy.Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			results := b.Test()
			if len(results) == 0 {
				t.Error("no cases")
			}
			for _, r := range results {
				for _, f := range r.Failures {
					t.Errorf("%s:%d: %s: %s\n%+v", r.File, r.Line, r.Name, f, r.Verdict)
				}
			}
		})
	}
}

func TestEveryDirectoryIsAPack(t *testing.T) {
	dirs, err := fs.ReadDir(policies.FS, ".")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range dirs {
		names = append(names, d.Name())
	}
	if !slices.Equal(names, policies.Names) {
		t.Errorf("embedded %v, named %v", names, policies.Names)
	}
	for _, name := range []string{"", "..", "guarded-postgres/tests", "none"} {
		if _, err := policies.Pack(name); err == nil {
			t.Errorf("pack %q is given", name)
		}
	}
}
