package main

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/stack/inspect"
)

// forged is what somebody names a table, an actor or an entry after, to write on an auditor's terminal.
const forged = "x\x1b[2J\x1b[Hthe record is whole\n      result    ok, 1 rows\u202e"

func fit(t *testing.T, out, line string) {
	t.Helper()
	if strings.ContainsFunc(out, unfit) {
		t.Errorf("control characters reach the terminal: %q", out)
	}
	for l := range strings.Lines(out) {
		if strings.HasPrefix(l, line) {
			t.Errorf("a line was forged: %q", l)
		}
	}
}

func TestNobodyWritesOnTheAuditorsTerminal(t *testing.T) {
	var b strings.Builder
	printReport(&b, audit.Report{Checkpoint: audit.CheckpointView{Origin: "o" + forged}, NotProven: []string{forged}, Proven: []string{forged},
		Problems: []audit.Problem{{Code: 10, What: "session " + forged}}})
	fit(t, b.String(), "      result")
	if !strings.Contains(b.String(), "THE RECORD IS NOT WHOLE") {
		t.Error(b.String())
	}
	b.Reset()
	if err := printEntry(&b, audit.Entry{Kind: audit.Kind(forged), Target: forged, Lineage: &access.Lineage{Path: []access.Node{{Name: forged}}}}, false); err != nil {
		t.Fatal(err)
	}
	fit(t, b.String(), "      result")
}

func TestNamesDoNotWriteLines(t *testing.T) {
	lineage := access.Lineage{Principal: forged, Groups: []string{forged}, Path: []access.Node{{Name: forged, Purpose: forged}}}
	touches := []access.Touch{{Effect: forged, Resource: access.Resource{Kind: forged, Name: forged, Columns: []string{forged}}}}
	var b strings.Builder
	if err := printApproval(&b, api.ApprovalView{Hold: forged, Lineage: lineage, State: access.State{Database: forged, Role: forged}, Touches: touches, By: forged, Reason: forged}); err != nil {
		t.Fatal(err)
	}
	fit(t, b.String(), "      result")
	b.Reset()
	cmd := api.CommandView{Verb: forged, Touches: touches, Decision: access.Decision{Rule: forged, Reasons: []string{forged}, Hint: forged},
		Approval: &api.ApprovalView{By: forged, Reason: forged}, Result: &access.Result{Tag: forged, Error: forged, Masked: map[string]int64{forged: 1}}}
	if err := printSession(&b, api.SessionView{Lineage: lineage, Client: api.Client{Program: forged}, Commands: []api.CommandView{cmd},
		Recordings: []api.RecordingView{{Kind: forged, Name: forged, Ended: forged}}}); err != nil {
		t.Fatal(err)
	}
	fit(t, strings.Replace(b.String(), "      result    "+resultWord(cmd), "", 1), "      result")
}

// Whoever reads what a command was reads what it ran by a name.
func TestWhatIsPreparedIsShown(t *testing.T) {
	var b strings.Builder
	if err := printApproval(&b, api.ApprovalView{Text: "execute x", State: access.State{Prepared: "delete from orders"}}); err != nil {
		t.Fatal(err)
	}
	if err := printSession(&b, api.SessionView{Commands: []api.CommandView{{Text: "execute x", Prepared: "delete from orders"}}}); err != nil {
		t.Fatal(err)
	}
	if strings.Count(b.String(), "delete from orders") != 2 {
		t.Error(b.String())
	}
}

// So they read the text that masks: before it runs, and of a command whose outcome says that it ran.
func TestWhatMasksIsShown(t *testing.T) {
	var b strings.Builder
	if err := printApproval(&b, api.ApprovalView{Text: "select x", Masked: "select hidden"}); err != nil {
		t.Fatal(err)
	}
	c := api.CommandView{Text: "select x", Masked: "select hidden"}
	ran := c
	ran.Result = &access.Result{Status: access.StatusOK, Beneath: true}
	if err := printSession(&b, api.SessionView{Commands: []api.CommandView{c, ran}}); err != nil {
		t.Fatal(err)
	}
	if strings.Count(b.String(), "select hidden") != 2 {
		t.Error(b.String())
	}
}

// What a deployment says of itself, or a policy of a question, is one finding and no more.
func TestFindingsDoNotWriteLines(t *testing.T) {
	var b strings.Builder
	if err := printInspection(&b, inspect.Report{Checks: []inspect.Check{{Name: "clock", Status: inspect.Fail, Found: "x\nok    keys                 all well", Next: "x\nok    keys                 all well"}}}); err != nil {
		t.Fatal(err)
	}
	fit(t, b.String(), "ok ")
}
