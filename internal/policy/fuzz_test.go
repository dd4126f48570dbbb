package policy

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/sallyport/sallyport/internal/access"
)

// FuzzLoad feeds one file of each kind. What is accepted must survive its archive and decide without a panic.
func FuzzLoad(f *testing.F) {
	for _, name := range []string{"a.cedar", "targets.yaml", "holds.yaml", "classes.yaml", "roles.yaml", "tests/a.yaml"} {
		f.Add(name, []byte(small[name]))
	}
	f.Add("a.cedar", []byte(extra))
	f.Add("a.cedar", []byte(strings.Repeat("!", 1000)+`@id("x\u{0}") permit (principal, action, resource) when { if a then b else {"x": [1, ip("::")]}.x };`))
	f.Add("targets.yaml", []byte("targets: &a [*a, {<<: *a}]\n--- !!x\n"))
	f.Fuzz(func(t *testing.T, name string, body []byte) {
		dir := with()
		dir[name] = &fstest.MapFile{Data: body}
		for _, p := range Lint(dir) {
			if p.Message == "" || p.Line < 0 || p.Column < 0 {
				t.Errorf("problem %+v", p)
			}
		}
		b, err := Load(dir)
		if err != nil {
			return
		}
		again, err := FromArchive(b.Archive())
		if err != nil || again.Address != b.Address {
			t.Fatalf("the archive of what was loaded is refused: %v", err)
		}
		b.Test()
		for _, r := range []Request{{}, ask(read("public.orders")), ask(write("public.accounts"), uses("email", true)), ask(incomplete)} {
			r.Target = b.Targets[0].Name
			Decide(b, r)
			Connect(b, r)
			Explain(b, r)
		}
	})
}

func FuzzFromArchive(f *testing.F) {
	b, err := Load(with())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b.Archive())
	f.Add([]byte(`{"v":1,"files":[]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		b, err := FromArchive(body)
		if err == nil && string(b.Archive()) != string(body) {
			t.Errorf("other bytes came back")
		}
	})
}

// FuzzDecide gives any command of any lineage: a verdict always comes, the same each time, and nothing incomplete is allowed.
func FuzzDecide(f *testing.F) {
	b, err := Load(with("b.cedar", extra))
	if err != nil {
		f.Fatal(err)
	}
	for _, r := range []Request{{}, benchRequest(), ask(write("public.both"), uses("card", true)), ask(as("root"), read("public.odd"), incomplete)} {
		seed, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var r Request
		if json.Unmarshal(body, &r) != nil {
			return
		}
		v := Decide(b, r)
		if w := Decide(b, r); word(w) != word(v) {
			t.Errorf("%s, then %s", word(v), word(w))
		}
		if !r.Command.Complete && v.Outcome != access.Deny && r.Lineage.Principal != "root" {
			t.Errorf("incomplete and %s", word(v))
		}
		if len(r.Capability) == 0 && v.Outcome != access.Deny {
			t.Errorf("without a capability %s", word(v))
		}
		Connect(b, r)
	})
}
