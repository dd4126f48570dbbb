//go:build unix && !linux

package deployed

import "syscall"

// childAttr keeps a terminal's Ctrl-C from a program: it is stopped in order.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
