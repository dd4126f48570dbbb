//go:build !linux

package pgserver

import "syscall"

// childAttr keeps a terminal's Ctrl-C from the server.
func childAttr(cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Setpgid: true}
}
