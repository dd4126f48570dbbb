package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/policy"
)

// policyRun runs `sallyport policy ARGS…` and returns what it printed and its exit code.
func policyRun(t *testing.T, args ...string) (string, int) {
	t.Helper()
	c := policyCommand()
	c.SilenceErrors, c.SilenceUsage = true, true
	var out strings.Builder
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetArgs(args)
	err := c.Execute()
	if err == nil {
		return out.String(), api.ExitOK
	}
	if e := (*api.Error)(nil); errors.As(err, &e) {
		return out.String() + e.Message, e.Exit()
	}
	return out.String() + err.Error(), exitCode(err)
}

func edit(t *testing.T, file, old, new string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		t.Fatalf("%s does not contain %q", file, old)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(b), old, new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPolicyFromPackToFailure(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policy")
	expect := func(code int, want string, args ...string) {
		t.Helper()
		out, got := policyRun(t, args...)
		if got != code || !strings.Contains(out, want) {
			t.Errorf("%v: exit code %d, want %d with %q:\n%s", args, got, code, want, out)
		}
	}
	expect(2, "no such file", "lint", dir)
	expect(2, `policy pack "none"`, "init", dir, "--pack", "none")
	expect(0, "next: sallyport policy test", "init", dir, "--pack", "guarded-postgres")
	expect(2, "is not empty", "init", dir)
	expect(2, "is not a directory", "lint", filepath.Join(dir, "targets.yaml"))
	expect(2, "want text or json", "lint", dir, "-o", "xml")
	expect(0, "nothing to say", "lint", dir)
	expect(0, " 0 failed, bundle sha256:", "test", dir)

	expect(0, "accounts-are-reviewed", "explain", dir, "--case", "coder updates one account, held")
	expect(2, `no case is named "x"`, "explain", dir, "--case", "x")
	expect(2, "want --case, or --user and --target", "explain", dir)
	alice := []string{"explain", dir, "--user", "alice", "--group", "engineers", "--target", "app"}
	expect(0, "held for a reviewer", append(alice, "--actor", "coder", "--effect", "write", "--resource", "public.accounts")...)
	expect(0, `denied by rule "no-write-without-where"`, append(alice, "--effect", "write", "--resource", "public.orders", "--no-where")...)
	expect(0, `denied by rule "capability"`, append(alice, "--allow", "read:app/public.orders", "--resource", "public.customers")...)
	expect(0, "masked: email", append(alice, "--resource", "public.customers", "--class", "email")...)
	expect(0, `allowed by rule "engineers-connect"`, append(alice, "--effect", "connect")...)
	expect(2, `effect "drop"`, append(alice, "--effect", "drop")...)
	expect(2, `capability "all"`, append(alice, "--allow", "all")...)

	edit(t, filepath.Join(dir, "access.cedar"), `Table::"app/public.orders"`, `Table::"app/public.other"`)
	expect(2, "story.yaml:", "test", dir)
	expect(2, "outcome is \"deny\", want \"allow\"", "test", dir)
	edit(t, filepath.Join(dir, "targets.yaml"), "labels", "lables")
	expect(2, filepath.Join(dir, "targets.yaml")+":6: field lables not found", "lint", dir)
	expect(2, "field lables not found", "test", dir)
}

func TestPolicyJSON(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policy")
	if out, code := policyRun(t, "init", dir); code != 0 {
		t.Fatal(out)
	}
	var tests struct {
		Address string
		Passed  int
		Failed  *int
		Results []policy.TestResult
	}
	out, _ := policyRun(t, "test", dir, "-o", "json")
	if err := json.Unmarshal([]byte(out), &tests); err != nil || tests.Passed == 0 || tests.Failed == nil || *tests.Failed != 0 || len(tests.Results) != tests.Passed {
		t.Errorf("%v: %s", err, out)
	}
	var lint struct{ Problems []policy.Problem }
	out, _ = policyRun(t, "lint", dir, "-o", "json")
	if err := json.Unmarshal([]byte(out), &lint); err != nil || lint.Problems == nil || len(lint.Problems) != 0 {
		t.Errorf("%v: %s", err, out)
	}
	var e policy.Explanation
	out, _ = policyRun(t, "explain", dir, "--case", "an engineer connects", "-o", "json")
	if err := json.Unmarshal([]byte(out), &e); err != nil || len(e.Steps) != 1 || e.Verdict.Rule != "engineers-connect" {
		t.Errorf("%v: %s", err, out)
	}
}
