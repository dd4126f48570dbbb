package ssh

import (
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/localstack/sshserver"
)

// unprivileged is a host whose login is not root's, so that it takes signals.
func unprivileged(t *testing.T) *sshserver.Server {
	t.Helper()
	srv, err := sshserver.Start(sshserver.Config{Unprivileged: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Stop(); err != nil {
			t.Error(err)
		}
	})
	return srv
}

// Where the host takes signals, what a session runs has ended within a second of the session, whatever it thinks of
// signals. (A server that is not root's can give no terminals.)
func TestKilled(t *testing.T) {
	h := open(t, unprivileged(t)).allow(Settings{})
	c := h.dial()
	start := func(text string) *ssh.Session {
		t.Helper()
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(text); err != nil {
			t.Fatal(err)
		}
		return s
	}
	naps := map[string]string{"plain": "62.1111", "stubborn": "62.2222", "behind": "62.3333"}
	sessions := []*ssh.Session{
		start("sleep " + naps["plain"]),
		start("trap '' TERM HUP INT; sleep " + naps["stubborn"] + "; true"),
		start("(sleep " + naps["behind"] + ") & wait"),
	}
	for name, nap := range naps {
		eventually(t, name+" runs", func() bool { return running(t, "sleep\x00"+nap) })
	}
	begun := time.Now()
	h.end(&access.Denied{Code: access.CodeRevoked, Rule: "revoked", Hint: "over"})
	for _, s := range sessions {
		_ = s.Wait() // told in TestRevoked
	}
	for name, nap := range naps {
		eventually(t, name+" is gone", func() bool { return !running(t, "sleep\x00"+nap) })
	}
	if took := time.Since(begun); took > 3*time.Second { // a second, and a busy machine
		t.Errorf("it took %s", took)
	}
}

// Where it does not, the agent ends what a session runs by a command of its own: on terminals too, and where the session has used up all that the host gives.
func TestReaped(t *testing.T) {
	h := open(t, server(t, "MaxSessions 3")).allow(Settings{Shells: []Mode{ModeTerminal}, Reap: true})
	c := h.dial()
	naps := []string{"62.6661", "62.6662", "62.6663"}
	var sessions []*ssh.Session
	for i, nap := range naps {
		eventually(t, "it starts", func() bool { // the room itself asks for the home
			s, err := c.NewSession()
			if err != nil {
				return false
			}
			if i == 0 && s.RequestPty("xterm", 24, 80, nil) != nil {
				return false
			}
			sessions = append(sessions, s)
			return s.Start("trap '' TERM HUP INT; sleep "+nap+"; true") == nil
		})
		eventually(t, "it runs", func() bool { return running(t, "sleep\x00"+nap) })
	}
	begun := time.Now()
	h.end(&access.Denied{Code: access.CodeRevoked, Rule: "revoked", Hint: "over"})
	for _, s := range sessions {
		_ = s.Wait() // told in TestRevoked
	}
	for _, nap := range naps {
		eventually(t, nap+" is gone", func() bool { return !running(t, "sleep\x00"+nap) })
	}
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("it took %s", took)
	}
}
