package deployed

import "syscall"

// childAttr ends a program with its starter, also when that is killed, and keeps a terminal's Ctrl-C from it: it is stopped in order.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
