package infra

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/columns"
)

// declared are the columns of the copies as Athena calls them: "position bigint".
func declared() (all []string) {
	types := map[reflect.Kind]string{reflect.String: "string", reflect.Int64: "bigint", reflect.Int32: "int", reflect.Bool: "boolean", reflect.Slice: "array<string>"}
	row := reflect.TypeFor[columns.Row]()
	for f := range row.NumField() {
		t := row.Field(f).Type
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		name, options, _ := strings.Cut(row.Field(f).Tag.Get("parquet"), ",")
		kind := types[t.Kind()]
		if strings.Contains(options, "timestamp") {
			kind = "timestamp"
		}
		all = append(all, name+" "+kind)
	}
	return all
}

func TestTheTableIsWhatCopiesHave(t *testing.T) {
	p := at(template{load(t, "athena.yaml")}.of("AWS::Glue::Table")["Entries"], "Properties", "TableInput")
	var got []string
	for _, c := range list(at(p, "StorageDescriptor", "Columns")) {
		got = append(got, show(at(c, "Name"))+" "+show(at(c, "Type")))
	}
	if want := declared(); !slices.Equal(got, want) {
		t.Errorf("columns\n%q\nwant\n%q", got, want)
	}
	where := show(at(p, "StorageDescriptor", "Location"))
	parameters := at(p, "Parameters")
	keys := list(at(p, "PartitionKeys"))
	if len(keys) != 1 || at(keys[0], "Name") != "day" || at(keys[0], "Type") != "date" || at(parameters, "projection.enabled") != "true" ||
		at(parameters, "projection.day.type") != "date" || at(parameters, "projection.day.format") != "yyyy-MM-dd" ||
		at(parameters, "storage.location.template", "Fn::Sub") != "s3://${CopiesBucket}/entries/day=${!day}/" || where != "s3://CopiesBucket/entries/" ||
		at(parameters, "projection.day.range", "Fn::Sub") != "${FirstDay},NOW+1DAYS" {
		t.Errorf("days are not projected, or elsewhere: %v %v %s", keys, parameters, where)
	}
}

// Every word of a query that is not SQL's is a column, a table, or a name that the query gives; every kind is one of an entry's.
func TestQueriesNameWhatEntriesHave(t *testing.T) {
	known := []string{"entries", "log", "day", "line"}
	for _, c := range declared() {
		known = append(known, strings.Fields(c)[0])
	}
	kinds := []string{}
	for _, k := range []audit.Kind{audit.KindCommand, audit.KindOutcome, audit.KindVerdict, audit.KindClaim} {
		kinds = append(kinds, string(k))
	}
	queries := template{load(t, "athena.yaml")}.of("AWS::Athena::NamedQuery")
	if len(queries) != 6 {
		t.Errorf("%d queries", len(queries))
	}
	for name, q := range queries {
		if wrong := unknown(at(q, "Properties", "QueryString").(string), known, kinds); len(wrong) > 0 {
			t.Errorf("%s: %q", name, wrong)
		}
		if d := show(at(q, "Properties", "Description")); len(d) < 20 {
			t.Errorf("%s: %q says little", name, d)
		}
	}
	for _, sql := range []string{"SELECT nosuch FROM entries", "SELECT e.nosuch FROM entries e", "SELECT id FROM entries WHERE kind = 'nosuch'", "SELECT nosuch FROM entries WHERE kind = 'outcome'"} {
		if len(unknown(sql, known, kinds)) == 0 {
			t.Errorf("this test finds nothing in %q", sql)
		}
	}
}

// unknown are the words of a query that are none of these.
func unknown(sql string, columns, kinds []string) (wrong []string) {
	for _, m := range regexp.MustCompile(`kind (?:= |IN \()((?:'[a-z]+'(?:, )?)+)`).FindAllStringSubmatch(sql, -1) {
		for k := range strings.SplitSeq(m[1], ", ") {
			if !slices.Contains(kinds, strings.Trim(k, "'")) {
				wrong = append(wrong, k)
			}
		}
	}
	given := slices.Clone(columns)
	for _, m := range regexp.MustCompile(`(?:AS|entries|log) ([a-z_]+)`).FindAllStringSubmatch(sql, -1) {
		given = append(given, m[1])
	}
	bare := regexp.MustCompile(`'[^']*'|"[^"]*"`).ReplaceAllString(sql, "")
	for _, m := range regexp.MustCompile(`([a-z_]+)(\(?)`).FindAllStringSubmatch(bare, -1) {
		if m[2] == "" && !slices.Contains(given, m[1]) && !slices.Contains([]string{"current_date", "interval", "day"}, m[1]) {
			wrong = append(wrong, m[1])
		}
	}
	return wrong
}

// What a query reads is bounded, and every query over entries names days.
func TestQueriesAreBounded(t *testing.T) {
	x := template{load(t, "athena.yaml")}
	for name, q := range x.of("AWS::Athena::NamedQuery") {
		sql := at(q, "Properties", "QueryString").(string)
		tables, days := strings.Count(strings.ReplaceAll(sql, "\n", " "), " entries"), strings.Count(sql, "day >= current_date")
		if tables != days || tables == 0 && !strings.Contains(sql, `"$path"`) {
			t.Errorf("%s: %d tables, %d of them by day", name, tables, days)
		}
	}
	for name, g := range x.of("AWS::Athena::WorkGroup") {
		c := at(g, "Properties", "WorkGroupConfiguration")
		if at(c, "EnforceWorkGroupConfiguration") != "true" || show(at(c, "BytesScannedCutoffPerQuery")) != "MaxScanBytes" || fmt.Sprint(at(c, "ResultConfiguration", "EncryptionConfiguration")) == "<nil>" {
			t.Errorf("%s: %v", name, c)
		}
	}
}
