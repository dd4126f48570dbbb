package policies_test

import (
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

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

// TestTheManualIsRight loads the examples of docs/policy.md as one directory, and runs its case.
func TestTheManualIsRight(t *testing.T) {
	manual, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := fstest.MapFS{}
	for _, block := range regexp.MustCompile("(?s)```(yaml|cedar)\n(.*?)```").FindAllStringSubmatch(string(manual), -1) {
		name := "manual.cedar"
		if block[1] == "yaml" {
			key, _, _ := strings.Cut(block[2], ":")
			name = map[string]string{"auditors": "roles.yaml", "cases": "tests/manual.yaml"}[key]
			if name == "" {
				name = key + ".yaml"
			}
		}
		dir[name] = &fstest.MapFile{Data: []byte(block[2])}
	}
	if len(dir) != 6 {
		t.Errorf("%d files", len(dir))
	}
	for _, p := range policy.Lint(dir) {
		t.Errorf("lint: %s", p)
	}
	b, err := policy.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range b.Test() {
		if len(r.Failures) > 0 {
			t.Errorf("%s: %q, %+v", r.Name, r.Failures, r.Verdict)
		}
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
