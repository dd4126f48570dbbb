package columns_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/columns"
)

const canary = "4111-canary-1111"

// entries has every part of an entry, and a canary wherever the log encrypts.
func entries(t testing.TB) []audit.Entry {
	t.Helper()
	key := bytes.Repeat([]byte{7}, 32)
	lineage := &access.Lineage{Principal: "alice", Groups: []string{"dev", "ops"}, Assurance: access.Exchanged,
		Path: []access.Node{{ID: "01ROOT", Name: "alice"}, {ID: "01CODER", Name: "coder", Purpose: "fix the bug"}}}
	cmd := access.Command{ID: "01CMD", Session: "01SES", Seq: 3, Verb: "UPDATE", Text: "update t set a = '" + canary + "'", Normalised: "update t set a = $1",
		Masked: canary, Params: []access.Param{{Value: []byte(canary)}}, State: access.State{Database: "app", Role: "svc", Prepared: canary},
		Touches: []access.Touch{{Effect: access.Write, Resource: access.Resource{Kind: access.KindTable, Name: "public.t", Columns: []string{"a"}}},
			{Effect: access.Read, Resource: access.Resource{Kind: access.KindTable, Name: "public.s"}},
			{Effect: access.Read, Resource: access.Resource{Kind: access.KindTable, Name: "public.r"}}},
		Classes: []access.ClassUse{{Class: "email", On: "public.s.mail"}, {Class: "card", On: "public.s.card"}, {Class: "email", On: "public.r.mail"}}, Complete: true}
	kept, err := audit.CommandOf(cmd, "digest", key)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 4, 23, 59, 59, 123456789, time.UTC)
	approval := &audit.Approval{ID: "01APP", Command: "01CMD", Digest: "digest", Hold: "prod", Status: "approved", By: "rita", Reason: "fine", Auth: at.Add(-time.Hour)}
	e := func(kind audit.Kind, id string) audit.Entry {
		return audit.Entry{V: 1, Kind: kind, ID: id, Time: at, Agent: "edge", Session: "01SES", Seq: 3, Target: "app", Lineage: lineage}
	}
	open, command, verdict, outcome, chunk := e(audit.KindOpen, "01SES"), e(audit.KindCommand, "01CMD"), e(audit.KindVerdict, "01CMD"), e(audit.KindOutcome, "01CMD"), e(audit.KindRecording, "01REC")
	open.Note = map[string]string{"protocol": "postgres", "bundle": "b"}
	command.Command = kept
	command.Decision = &access.Decision{Outcome: access.Hold, Rule: "hold-writes", Reasons: []string{"z", "a"}, Hint: "ask", Approval: "01APP", HoldName: "prod",
		Obligations: []access.Obligation{{Kind: access.ObligeMask, Classes: []string{"email", "card"}}, {Kind: access.ObligeRows, Limit: 100}, {Kind: access.ObligeRows, Limit: 10}}}
	verdict.Approval = approval
	outcome.Result = &access.Result{Status: access.StatusOK, Tag: "UPDATE 1", Rows: 1, Bytes: 20, Masked: map[string]int64{"email": 2, "card": 3}, Duration: 99}
	chunk.Recording = &audit.Recording{Command: "01CMD", Kind: "terminal", Index: 0, Bytes: 5, SHA256: "ff", Last: true, Reason: "complete"}
	return []audit.Entry{open, command, verdict, outcome, chunk}
}

func rows(t testing.TB, entries []audit.Entry) []columns.Row {
	t.Helper()
	var all []columns.Row
	for i, e := range entries {
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		r, err := columns.Of(b, columns.Place{Position: int64(i), Segment: "entries/0000000000000000.jsonl", SHA256: "ab", Line: int32(i + 1)})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func TestColumns(t *testing.T) {
	all := rows(t, entries(t))
	open, command, verdict, outcome, chunk := all[0], all[1], all[2], all[3], all[4]
	for what, ok := range map[string]bool{
		"open":     open.Protocol == "postgres" && open.Note == `{"bundle":"b","protocol":"postgres"}` && open.Command == "" && open.Outcome == "" && open.Complete == nil,
		"lineage":  open.Chain == "alice → coder" && open.Actor == "coder" && open.ActorID == "01CODER" && open.Purpose == "fix the bug" && *open.Depth == 1 && *open.Assurance == 2 && fmt.Sprint(open.Groups, open.Actors, open.ActorIDs) == "[dev ops] [alice coder] [01ROOT 01CODER]",
		"place":    chunk.Position == 4 && chunk.Line == 5 && chunk.Segment == "entries/0000000000000000.jsonl" && chunk.SHA256 == "ab",
		"time":     command.Time == time.Date(2026, 3, 4, 23, 59, 59, 123000000, time.UTC).UnixMilli() && command.Day() == "2026-03-04",
		"command":  command.Command == "01CMD" && *command.Seq == 3 && command.Verb == "UPDATE" && command.Statement == "update t set a = $1" && command.Database == "app" && command.Role == "svc" && *command.Complete && !*command.Prepared,
		"touches":  fmt.Sprint(command.Effects, command.Resources, command.Columns, command.Classes) == "[read write] [read table public.r read table public.s write table public.t] [public.t.a] [card email]",
		"decision": command.Outcome == "hold" && command.Rule == "hold-writes" && command.Approval == "01APP" && command.Hold == "prod" && *command.RowLimit == 10 && fmt.Sprint(command.Mask, command.Reasons) == "[card email] [z a]",
		"verdict":  verdict.Approval == "01APP" && verdict.ApprovalBy == "rita" && verdict.ApprovalStatus == "approved" && verdict.ApprovalAuth != 0 && verdict.Command == "01CMD",
		"outcome":  outcome.Status == "ok" && *outcome.Rows == 1 && *outcome.Bytes == 20 && *outcome.MaskedValues == 5 && fmt.Sprint(outcome.MaskedClasses) == "[card email]" && *outcome.DurationUS == 99 && outcome.Outcome == "",
		"chunk":    chunk.Command == "01CMD" && *chunk.RecordingIndex == 0 && *chunk.RecordingBytes == 5 && chunk.RecordingEnd == "complete",
	} {
		if !ok {
			t.Errorf("%s is wrong", what)
		}
	}
}

// What the log encrypts is in no column, and what it has in the open is: the same test finds it.
func TestNothingThatTheLogEncrypts(t *testing.T) {
	all := fmt.Sprintf("%+v", rows(t, entries(t)))
	if strings.Contains(all, canary) {
		t.Error("a command's exact text, its parameters or what is prepared is copied")
	}
	if !strings.Contains(all, "update t set a = $1") {
		t.Error("this test finds nothing")
	}
	body := entries(t)[1].Command.Body
	for i := range rows(t, entries(t)) {
		b, err := columns.Encode(rows(t, entries(t))[i : i+1])
		if err != nil || bytes.Contains(b, body[:12]) {
			t.Errorf("row %d: the sealed body is copied, too (%v)", i, err)
		}
	}
}

func TestOutcomes(t *testing.T) {
	e := entries(t)[3]
	e.Result = &access.Result{}
	if r := rows(t, []audit.Entry{e})[0]; r.Status != "unknown" || r.Rows == nil || *r.MaskedValues != 0 {
		t.Errorf("%+v", r)
	}
	d := entries(t)[1]
	d.Decision = &access.Decision{}
	if r := rows(t, []audit.Entry{d})[0]; r.Outcome != "deny" || r.RowLimit != nil {
		t.Errorf("the zero decision is %q", r.Outcome)
	}
}

func TestRefused(t *testing.T) {
	for _, line := range []string{"", "null x", "[]", `{"v":2,"kind":"open","id":"x","time":"2026-01-01T00:00:00Z"}`, `{"v":1,"more":1}`, `{"v":1} {}`, `{"v":1,"time":"yesterday"}`} {
		if _, err := columns.Of([]byte(line), columns.Place{Segment: "entries/x", Line: 9}); err == nil || !strings.Contains(err.Error(), "entries/x line 9") {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestParquet(t *testing.T) {
	want := rows(t, entries(t))
	a, err := columns.Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	b, err := columns.Encode(want)
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("the same rows are other bytes (%v)", err)
	}
	got, err := columns.Decode(a)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, want)
	if _, err := columns.Encode(make([]columns.Row, columns.MaxRows+1)); err == nil {
		t.Error("too many rows")
	}
	if _, err := columns.Decode(a[:len(a)-4]); err == nil {
		t.Error("half a file")
	}
	if _, err := columns.Decode(nil); err == nil {
		t.Error("no file")
	}
}

// same compares rows; a list without elements is none.
func same(t testing.TB, got, want []columns.Row) {
	t.Helper()
	text := func(r columns.Row) string {
		v := reflect.ValueOf(&r).Elem()
		var out strings.Builder
		for i := range v.NumField() {
			f := v.Field(i).Interface()
			switch x := f.(type) {
			case []string:
				f = fmt.Sprintf("%q", x)
			case *int64, *int32, *bool:
				if p := reflect.ValueOf(x); !p.IsNil() {
					f = p.Elem().Interface()
				}
			}
			fmt.Fprintf(&out, "%s=%v\n", v.Type().Field(i).Name, f)
		}
		return out.String()
	}
	if len(got) != len(want) {
		t.Fatalf("%d rows, want %d", len(got), len(want))
	}
	for i := range got {
		if g, w := text(got[i]), text(want[i]); g != w {
			t.Errorf("row %d:\n%s\nwant\n%s", i, g, w)
		}
	}
}

func FuzzOf(f *testing.F) {
	for _, e := range entries(f) {
		b, err := json.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := columns.Of(line, columns.Place{Segment: "s", SHA256: "h", Line: 1})
		if err != nil {
			return
		}
		b, err := columns.Encode([]columns.Row{r, r})
		if err != nil {
			t.Fatal(err)
		}
		got, err := columns.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, []columns.Row{r, r})
	})
}

func BenchmarkOf(b *testing.B) {
	line, err := json.Marshal(entries(b)[1])
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := columns.Of(line, columns.Place{}); err != nil {
			b.Fatal(err)
		}
	}
}
