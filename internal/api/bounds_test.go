package api

import (
	"encoding/json"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
)

// A body of 6 MB made gigabytes: hundreds of bytes of memory for an element of three.
func TestListsAreCountedBeforeTheyAreMade(t *testing.T) {
	many := strings.Repeat("{},", 2<<20-100) + "{}"
	nulls := strings.Repeat("null,", 1<<20) + "null"
	for name, body := range map[string]string{
		"commands":                   `{"agent":"a","asks":[{"commands":[` + many + `]}]}`,
		"commands of null":           `{"agent":"a","asks":[{"commands":[` + nulls + `]}]}`,
		"asks":                       `{"agent":"a","asks":[` + many + `]}`,
		"outcomes":                   `{"outcomes":[` + many + `]}`,
		"chunks":                     `{"chunks" : [` + many + `]}`,
		"no name":                    `[` + many + `]`,
		"touches":                    `[{"touches":[` + many + `]}]`,
		"params in another spelling": `[{"Params":[` + many[:3*maxElements+3] + `{}]}]`,
		"params of many commands":    `[` + strings.Repeat(`{"params":[`+strings.Repeat("{},", 60000)+`{}]},`, 20) + `{}]`,
		"a name that only looks so":  `{"asks":["params",` + many + `]}`,
		"lists in lists":             `{"asks":[` + strings.Repeat(`{"commands":[{},{}]},`, 2000) + `{}]}`,
		"after an escape":            `{"verb":"\"","asks":[` + many + `]}`,
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := Bounded([]byte(body))
			runtime.ReadMemStats(&after)
			if !errors.Is(err, ErrTooLarge) {
				t.Errorf("taken: %v", err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 2*uint64(len(body))+1<<20 {
				t.Errorf("%d bytes were allocated to find out", n)
			}
		})
	}
}

// What agents send passes: a full batch, each command with as many parameters as fit a call; a text that looks like a list.
func TestFullCallsAreTaken(t *testing.T) {
	commands := make([]access.Command, MaxBatch)
	for i := range commands {
		commands[i].Params = make([]access.Param, 10_000)
		commands[i].Text = strings.Repeat("[{},{}]", 1000) + `\"`
		for range 100 {
			commands[i].Touches = append(commands[i].Touches, access.Touch{Resource: access.Resource{Columns: make([]string, 50)}})
		}
	}
	outcomes := make([]Outcome, 500)
	for i := range outcomes {
		outcomes[i].Result.Masked = map[string]int64{"a": 1, "b": 2}
	}
	for name, v := range map[string]any{
		"check":    CheckRequest{Asks: []Ask{{Commands: commands}}},
		"claim":    ClaimRequest{Command: access.Command{Params: make([]access.Param, 65_535)}},
		"upload":   commands,
		"outcomes": RecordRequest{Outcomes: outcomes},
		"chunks":   ChunksRequest{Chunks: make([]Chunk, MaxChunkBatch)},
		"changes":  ChangesRequest{Sessions: make([]LiveSession, 1000), Approvals: make([]access.ApprovalID, 1000)},
	} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := Bounded(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// elements counts what Bounded must have counted, out of the decoded value.
func elements(v any) (n int) {
	switch v := v.(type) {
	case []any:
		n = len(v)
		for _, x := range v {
			n += elements(x)
		}
	case map[string]any:
		for _, x := range v {
			n += elements(x)
		}
	}
	return n
}

func FuzzBounded(f *testing.F) {
	f.Add([]byte(`{"asks":[{"commands":[{"params":[{"value":"a\"]"},null]}]}]}`))
	f.Add([]byte(`["\\",[[],{}],"[,,"]`))
	f.Add([]byte(`"`))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := Bounded(b)
		var v any
		if json.Unmarshal(b, &v) == nil && elements(v) > maxElements+maxLong && err == nil {
			t.Fatalf("%d elements were taken", elements(v))
		}
		if len(b) < maxElements && err != nil {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
	})
}

// The lists that are long must be fields of a command.
func TestLongListsAreFieldsOfCommands(t *testing.T) {
	found := map[string]bool{}
	var look func(reflect.Type)
	look = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if f.Type.Kind() == reflect.Slice {
				found[`"`+name+`"`] = true
				if e := f.Type.Elem(); e.Kind() == reflect.Struct {
					look(e)
				}
			}
			if f.Type.Kind() == reflect.Struct {
				look(f.Type)
			}
		}
	}
	look(reflect.TypeFor[access.Command]())
	for name := range long {
		if !found[name] {
			t.Errorf("%s is no list of a command", name)
		}
	}
	for name := range found {
		if !long[name] && name != `"value"` { // bytes
			t.Errorf("%s is a list of a command and counts as short", name)
		}
	}
}
