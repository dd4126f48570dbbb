//go:build aws

package deployed

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// One stack is operated and broken, step after step: deploying it takes longest.
func TestOperatingAStack(t *testing.T) {
	w := open(t)
	w.login(t, w.home, "alice")
	w.works(t, "a new stack")
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"doctor", w.testDoctor},
		{"doctor with its own rights", w.testDoctorPolicy},
		{"a stolen signature", w.testStolenSignature},
		{"a stolen proof", w.testStolenProof},
		{"forged events", w.testForgedEvents},
		{"deployed twice", w.testTwice},
		{"a table throttles", w.testThrottled},
		{"killed between entry and answer", w.testKilled},
		{"S3 does not answer", w.testS3},
		{"KMS refuses a clock", w.testSkew},
		{"a broken version", w.testBroken},
		{"an update that cannot be made", w.testRollback},
		{"another epoch", w.testEpoch},
		{"an agent with yesterday's keys", w.testOldKeys},
		{"deleted, and deployed again", w.testAgain},
	} {
		if !t.Run(step.name, step.run) {
			return
		}
	}
}

func (w *world) testDoctor(t *testing.T) {
	if err := w.invoke(t.Context(), "SealFunction"); err != nil {
		t.Fatal(err)
	}
	if r, by := w.doctor(t); !r.OK || len(r.Checks) < 24 {
		t.Fatalf("a stack that works: %+v", by)
	}
	alarms, err := w.cloud.physical(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	aws := func(args ...string) {
		t.Helper()
		if err := w.cloud.aws(t.Context(), nil, args...); err != nil {
			t.Fatal(err)
		}
	}
	locked := func(days string) {
		aws("s3api", "put-object-lock-configuration", "--bucket", w.Outputs["EvidenceBucket"], "--object-lock-configuration",
			`{"ObjectLockEnabled":"Enabled","Rule":{"DefaultRetention":{"Mode":"GOVERNANCE","Days":`+days+`}}}`)
	}
	recovery := func(on string) {
		aws("dynamodb", "update-continuous-backups", "--table-name", w.Outputs["AuditTable"], "--point-in-time-recovery-specification", "PointInTimeRecoveryEnabled="+on)
	}
	locked("3")
	recovery("false")
	aws("kms", "disable-key", "--key-id", w.Outputs["CheckpointKey"])
	aws("cloudwatch", "set-alarm-state", "--alarm-name", alarms["DecideErrorsAlarm"], "--state-value", "ALARM", "--state-reason", "a test")
	r, by := w.doctor(t)
	if r.OK {
		t.Error("doctor finds nothing")
	}
	for name, want := range map[string]string{"evidence lock": "fail: GOVERNANCE for 3 days", "table AuditTable": "fail: point-in-time recovery is off", "key CheckpointKey": "fail: it is Disabled",
		"alarms": "fail: DecideErrorsAlarm"} {
		if !strings.HasPrefix(by[name], want) {
			t.Errorf("%s: %q, want %q", name, by[name], want)
		}
	}
	locked("1")
	recovery("true")
	aws("kms", "enable-key", "--key-id", w.Outputs["CheckpointKey"])
	aws("cloudwatch", "set-alarm-state", "--alarm-name", alarms["DecideErrorsAlarm"], "--state-value", "OK", "--state-reason", "a test")
	if err := w.Outage(true); err != nil {
		t.Fatal(err)
	}
	if _, by := w.doctor(t); !strings.HasPrefix(by["discovery"], "fail: ") {
		t.Errorf("a broker that does not answer: %q", by)
	}
	if err := w.Outage(false); err != nil {
		t.Fatal(err)
	}
	if r, by := w.doctor(t); !r.OK {
		t.Errorf("a stack that works again: %+v", by)
	}
	for args, want := range map[string]string{"nosuch": "there is no stack nosuch", "": "give either --stack or --outputs"} {
		if code, out := w.call(t, w.home, "", "doctor", "--stack", args); code != 2 || !strings.Contains(out, want) {
			t.Errorf("doctor of %q: %d %s", args, code, out)
		}
	}
}

func (w *world) testTwice(t *testing.T) {
	before := w.Outputs
	if err := w.cloud.deploy(t.Context(), w.parameters); err != nil {
		t.Fatal(err)
	}
	after, err := w.cloud.outputs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range before {
		if after[k] != v {
			t.Errorf("%s was %s and is %s", k, v, after[k])
		}
	}
	w.works(t, "deployed twice")
}

// throttled is longer than agents wait for changes, so that open sessions end; then the gate opens again by itself.
const throttled = 45 * time.Second

func (w *world) testThrottled(t *testing.T) {
	live := w.session(t)
	live.ask(t, "select 'be' || 'fore';", "before\n")
	w.Break(Faults{Instead: func(c Call) (int, string) {
		if strings.HasPrefix(c.Action, "dynamodb:") {
			return 400, "ProvisionedThroughputExceededException"
		}
		return 0, ""
	}})
	begun := time.Now()
	out := live.ask(t, "select 'through-' || 'the-gate';", "HINT", "FATAL", "closed")
	t.Logf("an open session: %s", out)
	if strings.Contains(out, "through-the-gate") {
		t.Errorf("an open session: %s", out)
	}
	t.Logf("a new session: %s", w.shut(t, "throttled"))
	eventually(t, time.Minute, "the throttling's end", func() (bool, string) { return time.Since(begun) > throttled, "" })
	w.shut(t, "throttled for long")
	w.Break(Faults{})
	w.works(t, "throttled no more")
}

// killed is told of by hand: the entry is stored, and the function that would have said so is gone.
func (w *world) testKilled(t *testing.T) {
	physical, err := w.cloud.physical(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	live := w.session(t)
	live.ask(t, "select 'be' || 'fore';", "before\n")
	var once sync.Once
	killed := make(chan error, 1)
	w.Break(Faults{Done: func(c Call) {
		if c.Function == "decide" && c.Action == "dynamodb:PutItem" && c.Resource == "AuditTable.Arn" {
			once.Do(func() {
				n, err := w.kill(physical["DecideFunction"])
				if err == nil && n == 0 {
					err = os.ErrNotExist
				}
				killed <- err
			})
		}
	}})
	out := live.ask(t, "select 'kil' || 'led';", "killed\n", "HINT", "FATAL")
	w.Break(Faults{})
	if err := <-killed; err != nil {
		t.Fatalf("kill: %v", err)
	}
	t.Logf("the client heard: %s", out)
	log, err := os.ReadFile(w.pg.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	ran := strings.Count(string(log), "select 'kil' || 'led'")
	if answered := strings.Contains(out, "killed\n"); ran > 1 || answered != (ran == 1) {
		t.Errorf("it ran %d times; the client heard %s", ran, out)
	}
	w.works(t, "after the kill")
}

func (w *world) testS3(t *testing.T) {
	physical, err := w.cloud.physical(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// A function that starts without the policy decides nothing.
	w.Break(Faults{Instead: func(c Call) (int, string) {
		if strings.HasPrefix(c.Action, "s3:") {
			return 503, "SlowDown"
		}
		return 0, ""
	}})
	if n, err := w.kill(physical["DecideFunction"]); err != nil || n == 0 {
		t.Fatalf("kill: %d %v", n, err)
	}
	t.Logf("without a policy: %s", w.shut(t, "S3 answers 503"))
	if err := w.invoke(t.Context(), "SealFunction"); err == nil {
		t.Error("seal says that it sealed while S3 answers 503")
	}
	w.Break(Faults{})
	w.works(t, "S3 answers again")
	// Somebody else's object is in the way: seal goes on, or fails and goes on later, and the log stays whole.
	var once sync.Once
	w.Break(Faults{Instead: func(c Call) (status int, code string) {
		if c.Function == "seal" && c.Action == "s3:PutObject" {
			once.Do(func() { status, code = 412, "PreconditionFailed" })
		}
		return status, code
	}})
	said := w.invoke(t.Context(), "SealFunction")
	w.Break(Faults{})
	t.Logf("seal, 412: %v", said)
	if err := w.invoke(t.Context(), "SealFunction"); err != nil {
		t.Fatal(err)
	}
}

func (w *world) testSkew(t *testing.T) {
	for _, code := range []string{"InvalidSignatureException", "RequestExpired"} {
		w.Break(Faults{Instead: func(c Call) (int, string) {
			if c.Function == "token" && c.Action == "kms:Sign" {
				return 403, code
			}
			return 0, ""
		}})
		id, err := w.IDToken("alice")
		if err != nil {
			t.Fatal(err)
		}
		if exit, out := w.call(t, filepath.Join(w.dir, "other"), id, "login", "--id-token-file", "-", "--url", w.Broker); exit == 0 || strings.Contains(out, "logged in") || !strings.Contains(out, "next: ") {
			t.Errorf("%s: a login without a signature: %d %s", code, exit, out)
		} else {
			t.Logf("%s: %s", code, out)
		}
		w.Break(Faults{})
	}
	w.works(t, "KMS signs again")
}

// tree is a copy of what is deployed, to be spoilt: its directory, and its template.
func (w *world) tree(t *testing.T, name string) (dir, template string) {
	t.Helper()
	dir = filepath.Join(w.dir, name)
	template = filepath.Join(dir, "infra", "template.yaml")
	b, err := os.ReadFile(filepath.Join(w.root, "infra", "template.yaml"))
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(template), 0o700), os.CopyFS(filepath.Join(dir, "dist"), os.DirFS(filepath.Join(w.root, "dist"))))
	}
	if err == nil {
		err = os.WriteFile(template, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir, template
}

// testBroken deploys a decide that cannot start, and then the version before it.
func (w *world) testBroken(t *testing.T) {
	tree, template := w.tree(t, "broken")
	bootstrap := filepath.Join(tree, "dist", "functions", "decide", "bootstrap")
	if err := os.WriteFile(bootstrap, []byte("#!/bin/sh\necho broken on purpose >&2\nexit 3\n"), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	w.cloud.template = template
	err := w.cloud.deploy(t.Context(), w.parameters)
	w.cloud.template = ""
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a broken decide: %s", w.shut(t, "a broken version"))
	if r, by := w.doctor(t); r.OK || !strings.HasPrefix(by["function decide"], "fail: ") {
		t.Errorf("doctor: %q", by)
	}
	if err := w.cloud.deploy(t.Context(), w.parameters); err != nil {
		t.Fatal(err)
	}
	w.works(t, "the version before it")
}

// testEpoch refuses every token from before; agents and relays go on, and a relay learns the epoch by itself.
func (w *world) testEpoch(t *testing.T) {
	w.parameters["Epoch"] = "2"
	if err := w.cloud.deploy(t.Context(), w.parameters); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "tokens of the epoch before are refused", func() (bool, string) {
		code, out := w.call(t, w.home, "", "whoami")
		return code == 3, out
	})
	w.shut(t, "tokens of the epoch before")
	w.login(t, w.home, "alice")
	w.works(t, "another epoch, and the relay of before")
	log, err := os.ReadFile(filepath.Join(w.dir, "system", "relay", "relay.log"))
	if err != nil || !strings.Contains(string(log), `msg="the broker's epoch" epoch=2 before=1`) {
		t.Errorf("the relay's log: %v\n%s", err, log)
	}
	w.login(t, filepath.Join(w.dir, "system", "adam"), "adam")
}

// testOldKeys revokes the agent, whose keys are as good as those of a copy from yesterday then, and gives it a new join token.
func (w *world) testOldKeys(t *testing.T) {
	adam := filepath.Join(w.dir, "system", "adam")
	w.good(t, adam, "", "agent", "revoke", "dev", "--reason", "a copy of its keys is about")
	eventually(t, 30*time.Second, "the revoked agent is shut out", func() (bool, string) {
		code, out := w.call(t, w.home, "", "psql", "app", "--", "-qAtc", "select 1")
		return code != 0, out
	})
	t.Logf("a revoked agent: %s", w.shut(t, "an agent with old keys"))
	if err := w.agent.stop(programStop); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(w.dir, "system", "agent")); err != nil {
		t.Fatal(err)
	}
	if err := w.startAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.works(t, "an agent that was enrolled anew")
}

// testAgain deletes the stack, whose evidence stays locked, fails to make it again, and then makes it again.
func (w *world) testAgain(t *testing.T) {
	old := w.Outputs
	if err := w.Locked(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code, out := w.call(t, w.home, "", "doctor", "--stack", stackName); code != 2 || !strings.Contains(out, "there is no stack") {
		t.Errorf("doctor of a deleted stack: %d %s", code, out)
	}
	// A stack that fails half-way: the name of its last bucket is taken.
	_, half := w.tree(t, "half")
	template, err := os.ReadFile(half)
	if err != nil {
		t.Fatal(err)
	}
	spoilt := strings.Replace(string(template), "\nOutputs:\n", "\n  Impossible:\n    Type: AWS::S3::Bucket\n    DependsOn: Dashboard\n    Properties: {BucketName: sallyport-deploy}\n\nOutputs:\n", 1)
	if err := os.WriteFile(half, []byte(spoilt), 0o600); err != nil {
		t.Fatal(err)
	}
	w.cloud.template = half
	err = w.cloud.deploy(t.Context(), w.parameters)
	w.cloud.template = ""
	if err == nil {
		t.Error("a bucket whose name is taken was made")
	}
	if code, out := w.call(t, w.home, "", "init", "--stack", stackName); code == 0 || !strings.Contains(out, "was never made whole") || !strings.Contains(out, "next: ") {
		t.Errorf("init of a stack that failed half-way: %d %s", code, out)
	}
	if err := w.cloud.deploy(t.Context(), w.parameters); err != nil {
		t.Logf("deploying over it: %v", err)
		if err := w.cloud.remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.cloud.deploy(t.Context(), w.parameters); err != nil {
			t.Fatal(err)
		}
	}
	if w.Outputs, err = w.cloud.outputs(t.Context()); err != nil {
		t.Fatal(err)
	}
	// AWS gives the new stack a bucket of another name. Here it gets the old one, which is locked and whose log another key signed: seal
	// must not go on with it.
	if w.Outputs["EvidenceBucket"] == old["EvidenceBucket"] {
		if err := w.invoke(t.Context(), "SealFunction"); err == nil || !strings.Contains(err.Error(), "published checkpoint") {
			t.Errorf("seal goes on with a log of another key: %v", err)
		}
	}
	// The old evidence is as provable as before, without its stack.
	d := map[string]any{"Stacks": []any{map[string]any{"StackName": "old", "StackStatus": "CREATE_COMPLETE", "Outputs": pairs(old)}}}
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	file, into := filepath.Join(w.dir, "old.json"), filepath.Join(w.dir, "old")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	w.good(t, w.home, "", "stack", "evidence", into, "--outputs", file)
	w.good(t, w.home, "", "audit", "verify", "--dir", into)
}

func pairs(m map[string]string) []any {
	var all []any
	for k, v := range m {
		all = append(all, map[string]string{"OutputKey": k, "OutputValue": v})
	}
	return all
}
