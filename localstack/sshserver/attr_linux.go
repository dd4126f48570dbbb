package sshserver

import "syscall"

// childAttr makes the server end with the process that started it, however that ends.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
