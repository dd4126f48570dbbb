package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sallyport/sallyport/localstack/sshserver"
)

// TestSSH runs real clients against a real server, through the whole system: the scripts start it by `sallyport dev`, with the agent that
// `make build` made.
func TestSSH(t *testing.T) {
	agent, err := filepath.Abs("../../bin/sallyport-agent")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(agent); err != nil {
		t.Fatalf("%v: run `make build` first", err)
	}
	srv, err := sshserver.Start(sshserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Stop(); err != nil {
			t.Error(err)
		}
	})
	_, port, err := net.SplitHostPort(srv.Addr)
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/ssh", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			for k, v := range map[string]string{"AGENT": agent, "SALLYPORT_HOME": filepath.Join(e.WorkDir, "home"), "HOME": e.WorkDir, "TMPDIR": "/tmp", "TZ": "UTC"} {
				e.Setenv(k, v)
			}
			if err := os.WriteFile(filepath.Join(e.WorkDir, "key"), []byte(srv.Key), 0o600); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(e.WorkDir, "targets.yaml"), fmt.Appendf(nil, "targets:\n  web: {protocol: ssh, address: \"127.0.0.1:%s\", user: %s, private_key: {file: key}, host_key: %q}\n"+
				"  locked: {protocol: ssh, address: \"127.0.0.1:%s\", user: nobody-of-here, private_key: {file: key}, host_key: %q}\n",
				port, srv.User, srv.HostKey, port, srv.HostKey), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}
