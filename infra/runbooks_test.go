package infra

import (
	"maps"
	"os"
	"strings"
	"testing"
)

// Every alarm has its runbook.
func TestRunbooks(t *testing.T) {
	b, err := os.ReadFile("../docs/runbooks/alarms.md")
	if err != nil {
		t.Fatal(err)
	}
	titles := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "## "); ok {
			for name := range strings.SplitSeq(strings.TrimSpace(rest), ", ") {
				titles[name+"Alarm"] = true
			}
		}
	}
	alarms := open(t).of("AWS::CloudWatch::Alarm")
	maps.Copy(alarms, template{load(t, "tunnel.yaml")}.of("AWS::CloudWatch::Alarm"))
	for name := range alarms {
		if !titles[name] {
			t.Errorf("%s has no runbook", name)
		}
	}
	for name := range titles {
		if alarms[name] == nil {
			t.Errorf("the runbook has %s, which is no alarm", name)
		}
	}
}
