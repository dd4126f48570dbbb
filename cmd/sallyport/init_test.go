package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/api"
)

const oneStack = `{"Stacks":[{"StackName":"s","StackStatus":"CREATE_COMPLETE","Outputs":[` +
	`{"OutputKey":"Release","OutputValue":"1"},{"OutputKey":"Broker","OutputValue":"https://127.0.0.1:1/"},{"OutputKey":"Console","OutputValue":"https://c.test/"},` +
	`{"OutputKey":"Issuer","OutputValue":"i"},{"OutputKey":"LogName","OutputValue":"l/a"},{"OutputKey":"TokenUrl","OutputValue":"u"},{"OutputKey":"DecideUrl","OutputValue":"u"},` +
	`{"OutputKey":"ChangesUrl","OutputValue":"u"},{"OutputKey":"RecordUrl","OutputValue":"u"},{"OutputKey":"ApproveUrl","OutputValue":"u"},{"OutputKey":"EnrollUrl","OutputValue":"u"},` +
	`{"OutputKey":"GrantsTable","OutputValue":"t"},{"OutputKey":"ApprovalsTable","OutputValue":"t"},{"OutputKey":"RegistryTable","OutputValue":"t"},{"OutputKey":"AuditTable","OutputValue":"t"},` +
	`{"OutputKey":"EvidenceBucket","OutputValue":"b"},{"OutputKey":"BlobsBucket","OutputValue":"b"},{"OutputKey":"TokenKey","OutputValue":"k"},{"OutputKey":"CaKey","OutputValue":"k"},` +
	`{"OutputKey":"CheckpointKey","OutputValue":"k"},{"OutputKey":"StateKey","OutputValue":"k"}]}]}`

// called runs the program as a user would, with nothing in its environment but what is given.
func called(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	files := make([]*os.File, 3)
	for i := range files {
		f, err := os.CreateTemp(t.TempDir(), "std")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		files[i] = f
	}
	a := &app{getenv: func(k string) string { return env[k] }, stdin: files[0], stdout: files[1], stderr: files[2]}
	code = a.main(t.Context(), args)
	read := func(f *os.File) string {
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	return code, read(files[1]), read(files[2])
}

func TestInitKnowsTheBroker(t *testing.T) {
	file := filepath.Join(t.TempDir(), "stack.json")
	if err := os.WriteFile(file, []byte(oneStack), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"SALLYPORT_HOME": filepath.Join(t.TempDir(), "home")}
	if code, _, stderr := called(t, env, "login", "--id-token-file", file); code != api.ExitUsage || !strings.Contains(stderr, "sallyport init --stack NAME") {
		t.Errorf("login before init: %d %s", code, stderr)
	}
	if code, out, stderr := called(t, env, "init", "--outputs", file); code != api.ExitOK || !strings.Contains(out, "https://127.0.0.1:1/") || !strings.Contains(out, "next: sallyport login") {
		t.Fatalf("init: %d %s %s", code, out, stderr)
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("a.b.c"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := called(t, env, "login", "--id-token-file", token); code != api.ExitUnreachable || !strings.Contains(stderr, "127.0.0.1:1") {
		t.Errorf("login after init: %d %s", code, stderr)
	}
	env["SALLYPORT_URL"] = "https://other.test/"
	if code, _, stderr := called(t, env, "init", "--outputs", file); code != api.ExitOK || !strings.Contains(stderr, "has the last word") {
		t.Errorf("init beside SALLYPORT_URL: %d %s", code, stderr)
	}
	// The same broker with the pin of its own CA is not another one, and no output has the pin: it is kept.
	env["SALLYPORT_URL"] = "https://127.0.0.1:1/#ca=nJYoluu_IfwPCB0aMPdKGIFvyF3tz6i9di9089Fce_o"
	if code, out, stderr := called(t, env, "init", "--outputs", file); code != api.ExitOK || stderr != "" || !strings.Contains(out, env["SALLYPORT_URL"]) {
		t.Errorf("init beside its own pin: %d %s %s", code, out, stderr)
	}
}

// Where nothing can be reached everything has failed, each with what to do, and the exit code says so.
func TestDoctorOfNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "stack.json")
	if err := os.WriteFile(file, []byte(oneStack), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"SALLYPORT_HOME": filepath.Join(t.TempDir(), "home")}
	code, out, stderr := called(t, env, "doctor", "--outputs", file)
	if code != api.ExitVerify || !strings.Contains(out, "ok    stack") || strings.Count(out, "fail") < 8 || strings.Count(out, "next: ") < strings.Count(out, "\nfail") {
		t.Errorf("%d %s %s", code, out, stderr)
	}
	if code, out, _ = called(t, env, "doctor", "--outputs", file, "-o", "json"); code != api.ExitVerify || !strings.Contains(out, `"ok": false`) {
		t.Errorf("%d %s", code, out)
	}
	if code, _, stderr = called(t, env, "doctor"); code != api.ExitUsage {
		t.Errorf("%d %s", code, stderr)
	}
}
