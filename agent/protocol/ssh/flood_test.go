package ssh

import (
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// A client that floods one connection harms itself alone: the room ends it, or refuses, and others go on.
func TestFloods(t *testing.T) {
	t.Parallel()
	h := open(t, server(t)).allow(Settings{Shells: []Mode{ModeLine, ModeTerminal}, Forward: true, Listen: true})
	session := func(t *testing.T, c *ssh.Client) *ssh.Session {
		t.Helper()
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for name, flood := range map[string]func(t *testing.T, c *ssh.Client){
		"channels": func(t *testing.T, c *ssh.Client) {
			t.Helper()
			var wg sync.WaitGroup
			for range 10 * maxChannels {
				wg.Go(func() { _, _ = c.NewSession() }) // most are refused
			}
			wg.Wait()
		},
		"unknown requests": func(t *testing.T, c *ssh.Client) {
			t.Helper()
			s := session(t, c)
			for range 3000 {
				if _, err := s.SendRequest("what@ever", false, nil); err != nil {
					return
				}
			}
		},
		"signals": func(t *testing.T, c *ssh.Client) {
			t.Helper()
			s := session(t, c)
			if err := s.Start("cat"); err != nil {
				t.Fatal(err)
			}
			for range 3000 {
				if s.Signal("URG") != nil || s.WindowChange(10, 10) != nil {
					return
				}
			}
		},
		"unknown channels": func(t *testing.T, c *ssh.Client) {
			t.Helper()
			for range 500 {
				if _, _, err := c.OpenChannel("x11", nil); err == nil {
					t.Error("opened")
				}
			}
		},
		"global requests": func(t *testing.T, c *ssh.Client) {
			t.Helper()
			for range 3000 {
				if _, _, err := c.SendRequest("hostkeys-prove-00@openssh.com", false, nil); err != nil {
					return
				}
			}
		},
		"environment": func(t *testing.T, c *ssh.Client) {
			t.Helper()
			s := session(t, c)
			for range 3000 {
				if _, err := s.SendRequest("env", false, ssh.Marshal(&variable{"LANG", "C"})); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := h.dial()
			done := make(chan struct{})
			go func() { defer close(done); flood(t, c) }()
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				t.Error("it goes on and on")
			}
			_ = c.Close() // the room may have
			if r := h.ssh(nil, "echo alive"); r.out != "alive\n" {
				t.Errorf("others: %+v", r)
			}
		})
	}
}
