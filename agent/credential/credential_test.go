package credential_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"github.com/sallyport/sallyport/agent/credential"
	"github.com/sallyport/sallyport/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const canary = "canary-5f2b9c-do-not-print"

// Every way of printing a secret, alone and inside of others, that a program has.
func TestASecretCannotPrint(t *testing.T) {
	s := secret.New(canary)
	type login struct {
		User     string
		Password secret.Secret
	}
	in := login{"app", s}
	var log bytes.Buffer
	l := slog.New(slog.NewJSONHandler(&log, nil))
	l.Info("x", "secret", s, "login", in, "pointer", &in, "list", []secret.Secret{s}, "error", fmt.Errorf("e: %v", s))
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "login", in, "pointer", &in)
	j, err := json.Marshal(map[string]any{"a": in, "b": &s})
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	all := log.String() + string(j) + string(y)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%T"} {
		for _, v := range []any{s, &s, in, &in, []any{s}, map[string]secret.Secret{"k": s}} {
			all += fmt.Sprintf(verb, v) + "\n"
		}
	}
	all += fmt.Sprint(s, &s, in) + fmt.Sprintln(s)
	if hex := fmt.Sprintf("%x", canary); strings.Contains(all, canary) || strings.Contains(all, hex) || strings.Contains(all, strings.ToUpper(hex)) {
		t.Errorf("the secret was printed: %s", all)
	}
	if s.Reveal() != canary || (secret.Secret{}).Reveal() != "" {
		t.Error("it is not what it was made from")
	}
}

func write(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFetch(t *testing.T) {
	getenv := func(name string) string { return map[string]string{"PW": canary}[name] }
	for name, c := range map[string]struct {
		s    credential.Source
		want string
		err  string
	}{
		"file":              {credential.Source{File: write(t, canary+"\n", 0o600)}, canary, ""},
		"file with CRLF":    {credential.Source{File: write(t, canary+"\r\n", 0o400)}, canary, ""},
		"two line breaks":   {credential.Source{File: write(t, canary+"\n\n", 0o600)}, canary + "\n", ""},
		"group can read":    {credential.Source{File: write(t, canary, 0o640)}, "", "chmod 600"},
		"others can write":  {credential.Source{File: write(t, canary, 0o602)}, "", "chmod 600"},
		"empty file":        {credential.Source{File: write(t, "\n", 0o600)}, "", "gives nothing"},
		"zero byte":         {credential.Source{File: write(t, canary+"\x00x", 0o600)}, "", "zero byte"},
		"too large":         {credential.Source{File: write(t, strings.Repeat(canary, 4000), 0o600)}, "", "more than"},
		"no file":           {credential.Source{File: "/nonexistent"}, "", "no such file"},
		"directory":         {credential.Source{File: t.TempDir()}, "", "not a file"},
		"environment":       {credential.Source{Env: "PW"}, canary, ""},
		"not set":           {credential.Source{Env: "NOPE"}, "", "NOPE is not set"},
		"command":           {credential.Source{Command: []string{"printf", canary + "\n"}}, canary, ""},
		"command fails":     {credential.Source{Command: []string{"sh", "-c", "echo " + canary + "; echo " + canary + " >&2; exit 3"}}, "", "exit status 3"},
		"command is silent": {credential.Source{Command: []string{"true"}}, "", "gives nothing"},
		"command floods":    {credential.Source{Command: []string{"sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x"}}, "", "more than"},
		"no such command":   {credential.Source{Command: []string{"/nonexistent"}}, "", "no such file"},
		"nothing":           {credential.Source{}, "", "exactly one"},
		"two":               {credential.Source{File: "x", Env: "PW"}, "", "exactly one"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.s.Fetch(t.Context(), getenv)
			if c.err == "" && (err != nil || got.Reveal() != c.want) {
				t.Fatal(err)
			}
			if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if err != nil && strings.Contains(strings.ReplaceAll(err.Error(), strings.Join(c.s.Command, " "), ""), canary) {
				t.Errorf("the error tells the credential: %v", err)
			}
		})
	}
}

func TestRDSToken(t *testing.T) {
	env := map[string]string{"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": canary}
	s := credential.Source{RDS: credential.RDS{Region: "eu-west-1", Endpoint: "db.internal:5432", User: "app"}}
	token, err := s.Fetch(t.Context(), func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	if got := token.Reveal(); !strings.HasPrefix(got, "db.internal:5432/?Action=connect&DBUser=app&") || !strings.Contains(got, "X-Amz-Signature=") || strings.Contains(got, canary) {
		t.Error(got)
	}
	delete(env, "AWS_SECRET_ACCESS_KEY")
	if _, err := s.Fetch(t.Context(), func(k string) string { return env[k] }); err == nil || !strings.Contains(err.Error(), "AWS_SECRET_ACCESS_KEY is not") {
		t.Errorf("half an identity: %v", err)
	}
	s.Env = "PW"
	if s.Check() == nil {
		t.Error("two sources")
	}
}

func TestACommandThatHangsIsEnded(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := (credential.Source{Command: []string{"sleep", "60"}}).Fetch(ctx, nil); err == nil || time.Since(start) > 5*time.Second {
		t.Fatalf("%v after %s", err, time.Since(start))
	}
}
