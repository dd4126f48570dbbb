package ssh_test

import (
	"net"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/client/endpoint"
	"github.com/sallyport/sallyport/client/endpoint/ssh"
	"github.com/sallyport/sallyport/internal/access"
)

func TestRefuse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			err = ssh.Protocol{}.Refuse(conn, endpoint.Refusal{Message: "no decision: the gate is closed", Denied: access.Denied{Hint: "the relay is away"}})
			_ = conn.Close()
		}
		done <- err
	}()
	_, err = gossh.Dial("tcp", l.Addr().String(), &gossh.ClientConfig{User: "x", HostKeyCallback: gossh.InsecureIgnoreHostKey()}) //nolint:gosec // no key is shown
	if err == nil || !strings.Contains(err.Error(), "the gate is closed; the relay is away") {
		t.Errorf("the client is told %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestDSN(t *testing.T) {
	p := ssh.Protocol{}
	if got := p.DSN(endpoint.Local{Dir: "/run/x"}); got != "ssh+unix://sallyport@/run/x/ssh.sock" {
		t.Error(got)
	}
	password, _, err := endpoint.NewPassword()
	if err != nil {
		t.Fatal(err)
	}
	if got := p.DSN(endpoint.Local{Dir: "/run/x", Port: 2200, Password: password}); got != "ssh://sallyport:"+password.Reveal()+"@127.0.0.1:2200" {
		t.Error(got)
	}
}

func TestEnv(t *testing.T) {
	if got := (ssh.Protocol{}).Env(endpoint.Local{Dir: "/run/x"}); len(got) != 1 || got[0] != "ANSIBLE_SSH_CONTROL_PATH_DIR=/run/x" {
		t.Errorf("%q", got)
	}
}
