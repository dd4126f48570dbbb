//go:build unix && !linux

package embedded

import "syscall"

// childAttr keeps a terminal's Ctrl-C from the agent: it is stopped in order.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
