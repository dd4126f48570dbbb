package infra

import (
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/audit"
)

// Every path that a query names is one of an entry's.
func TestQueriesNameWhatEntriesHave(t *testing.T) {
	paths := regexp.MustCompile(`'\$\.([a-z_.]+)'`)
	kinds := regexp.MustCompile(`'\$\.kind'\) = '([a-z]+)'`)
	known := map[string]bool{string(audit.KindCommand): true, string(audit.KindOutcome): true}
	queries := template{load(t, "athena.yaml")}.of("AWS::Athena::NamedQuery")
	if len(queries) == 0 {
		t.Fatal("no queries")
	}
	for name, q := range queries {
		sql := at(q, "Properties", "QueryString").(string)
		for _, m := range paths.FindAllStringSubmatch(sql, -1) {
			if !has(reflect.TypeFor[audit.Entry](), strings.Split(m[1], ".")) {
				t.Errorf("%s: an entry has no %s", name, m[1])
			}
		}
		if m := kinds.FindStringSubmatch(sql); m == nil || !known[m[1]] {
			t.Errorf("%s: is of no kind of entry: %q", name, m)
		}
	}
	if has(reflect.TypeFor[audit.Entry](), []string{"decision", "nosuch"}) {
		t.Error("this test finds everything")
	}
}

// has says whether a type's JSON has a path.
func has(of reflect.Type, path []string) bool {
	if len(path) == 0 {
		return true
	}
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct {
		return false
	}
	for f := range of.NumField() {
		name, _, _ := strings.Cut(of.Field(f).Tag.Get("json"), ",")
		if name == path[0] {
			return has(of.Field(f).Type, path[1:])
		}
	}
	return false
}
