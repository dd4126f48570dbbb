package pgserver

import "syscall"

// childAttr ends the server with its starter, also when that is killed, and keeps a terminal's Ctrl-C from it.
func childAttr(cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Setpgid: true, Pdeathsig: syscall.SIGQUIT}
}
