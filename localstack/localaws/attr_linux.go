//go:build aws

package localaws

import "syscall"

// childAttr ends the server with its starter, also when that is killed.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
