//go:build aws

package deployed

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// testDoctorPolicy asks with a user of the account that has infra/doctor-policy.json and nothing else, and then nothing at all.
func (w *world) testDoctorPolicy(t *testing.T) {
	aws := func(out any, args ...string) {
		t.Helper()
		if err := w.cloud.aws(t.Context(), out, args...); err != nil {
			t.Fatal(err)
		}
	}
	aws(nil, "iam", "create-user", "--user-name", "doctor")
	aws(nil, "iam", "put-user-policy", "--user-name", "doctor", "--policy-name", "doctor", "--policy-document", "file://"+filepath.Join(w.root, "infra", "doctor-policy.json"))
	var key struct {
		AccessKey struct {
			ID     string `json:"AccessKeyId"`
			Secret string `json:"SecretAccessKey"`
		}
	}
	aws(&key, "iam", "create-access-key", "--user-name", "doctor")
	doctor := func() (int, report) {
		code, out := w.call(t, w.home, "", "doctor", "--stack", stackName, "-o", "json")
		var r report
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			return code, report{}
		}
		return code, r
	}
	before := w.Env
	w.Env = append(slices.Clone(before), "AWS_ACCESS_KEY_ID="+key.AccessKey.ID, "AWS_SECRET_ACCESS_KEY="+key.AccessKey.Secret, "AWS_ENDPOINT_URL="+w.emulator.inside)
	defer func() { w.Env = before }()
	if code, r := doctor(); code != 0 || !r.OK {
		for _, c := range r.Checks {
			t.Logf("%s: %s: %s", c.Name, c.Status, c.Found)
		}
		t.Errorf("with its policy: exit %d", code)
	}
	aws(nil, "iam", "delete-user-policy", "--user-name", "doctor", "--policy-name", "doctor")
	if code, r := doctor(); code == 0 || r.OK {
		t.Errorf("without a right: exit %d, %+v", code, r)
	}
}

// testRollback deploys a decide that cannot start together with something that cannot be made: CloudFormation replaces decide, and goes back
// to the one that ran. The open session lives.
func (w *world) testRollback(t *testing.T) {
	tree, template := w.tree(t, "rollback")
	if err := os.WriteFile(filepath.Join(tree, "dist", "functions", "decide", "bootstrap"), []byte("#!/bin/sh\nexit 3\n"), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	b, err := os.ReadFile(template)
	if err != nil {
		t.Fatal(err)
	}
	spoilt := strings.Replace(string(b), "\nOutputs:\n", "\n  Impossible:\n    Type: AWS::Lambda::Url\n    DependsOn: DecideFunction\n    Properties: {TargetFunctionArn: nobody, AuthType: AWS_IAM}\n\nOutputs:\n", 1)
	if err := os.WriteFile(template, []byte(spoilt), 0o600); err != nil {
		t.Fatal(err)
	}
	live := w.session(t)
	live.ask(t, "select 'be' || 'fore';", "before\n")
	w.cloud.template = template
	err = w.cloud.deploy(t.Context(), w.parameters)
	w.cloud.template = ""
	if err == nil || !strings.Contains(err.Error(), "UPDATE_ROLLBACK_COMPLETE") {
		t.Errorf("an update that cannot be made: %v", err)
	}
	var events struct {
		StackEvents []struct {
			ID     string `json:"LogicalResourceId"`
			Status string `json:"ResourceStatus"`
		}
	}
	if err := w.cloud.aws(t.Context(), &events, "cloudformation", "describe-stack-events", "--stack-name", stackName); err != nil {
		t.Fatal(err)
	}
	replaced := 0
	for _, e := range events.StackEvents { // newest first
		if e.ID == stackName && e.Status == "UPDATE_IN_PROGRESS" {
			break
		}
		if e.ID == "DecideFunction" && e.Status == "UPDATE_COMPLETE" {
			replaced++
		}
	}
	if replaced == 0 {
		t.Errorf("decide was never replaced: %+v", events.StackEvents)
	}
	if said := live.ask(t, "select 'af' || 'ter';", "after\n", "HINT", "FATAL"); !strings.Contains(said, "after\n") {
		t.Errorf("the open session: %s", said)
	}
	w.works(t, "rolled back")
	if r, by := w.doctor(t); !r.OK || !strings.HasPrefix(by["stack"], "warn: UPDATE_ROLLBACK_COMPLETE") {
		t.Errorf("doctor: %+v", by)
	}
	if err := w.cloud.deploy(t.Context(), w.parameters); err != nil {
		t.Fatal(err)
	}
	w.works(t, "deployed again")
}
