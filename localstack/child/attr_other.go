//go:build unix && !linux

package child

import "syscall"

// Attr starts a program in a process group of its own, so that a terminal's Ctrl-C does not reach it. A killed starter leaves it running:
// only Linux can end it then.
func Attr(syscall.Signal) *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
