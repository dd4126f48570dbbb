package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/agent"
	"github.com/sallyport/sallyport/internal/api"
)

const canary = "canary-password"

const good = `
broker: https://127.0.0.1:1/
state_dir: state
targets:
  app: {protocol: postgres, address: "127.0.0.1:5432", user: app, password: {env: PW}, tls: {mode: disable}}
floor: {deny: [{id: no-ddl, effects: [define], resource: "*"}]}
`

// run is the command as a shell would run it.
func run(t *testing.T, config string, args ...string) (stdout string, err error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, log bytes.Buffer
	c := command(func(name string) string { return map[string]string{"PW": canary}[name] }, &out, &log)
	c.SetArgs(append(args, "--config", file))
	err = c.ExecuteContext(t.Context())
	if all := out.String() + log.String() + errText(err); strings.Contains(all, canary) {
		t.Errorf("the credential was told: %s", all)
	}
	return out.String(), err
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestCheckConfig(t *testing.T) {
	out, err := run(t, good, "check-config")
	if err != nil || !strings.Contains(out, "target app: postgres at 127.0.0.1:5432, unverified on this machine, as app") || !strings.Contains(out, "1 denials") {
		t.Errorf("%q %v", out, err)
	}
	for _, c := range []struct{ old, new, want string }{
		{"protocol: postgres", "protocol: gopher", `no protocol "gopher"`}, {"env: PW", "env: NOPE", "NOPE is not set"}, {"env: PW", "file: nope", "no such file"},
		{"{env: PW}", canary, "never the value"}, {"state_dir: state", "state_dir: state\nverbose: true", "verbose"},
	} {
		if _, err := run(t, strings.Replace(good, c.old, c.new, 1), "check-config"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.new, err)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"run", "x"}, {"serve"}, {"run", "--verbose"}} {
		if _, err := run(t, good, args...); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
	c := command(os.Getenv, &bytes.Buffer{}, &bytes.Buffer{})
	c.SetArgs([]string{"run"})
	if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "--config") {
		t.Error(err)
	}
}

func TestNotEnrolled(t *testing.T) {
	for _, sub := range []string{"run", "enroll"} {
		if _, err := run(t, good, sub); err == nil || !strings.Contains(err.Error(), "join_token") {
			t.Errorf("%s: %v", sub, err)
		}
	}
}

func TestReadyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ready")
	var out bytes.Buffer
	if err := tellReady(&out, path, agent.Ready{Agent: "a", PID: 7}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(b, out.Bytes()) || !strings.Contains(out.String(), `"agent":"a"`) {
		t.Errorf("%s %s %v", b, out.String(), err)
	}
	if err := removeReady(path); err != nil {
		t.Error(err)
	}
	if err := errors.Join(tellReady(&out, "", agent.Ready{}), removeReady("")); err != nil {
		t.Error(err)
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{{errors.New("x"), api.ExitUsage}, {api.Because(api.ErrUnavailable, "", "x"), api.ExitUnreachable}, {api.ErrDenied, api.ExitDenied}, {context.Canceled, api.ExitUsage}} {
		if got := exit(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
}
