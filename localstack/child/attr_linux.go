package child

import "syscall"

// Attr starts a program in a process group of its own, so that a terminal's Ctrl-C does not reach it, and has the kernel send it end when
// its starter is gone.
func Attr(end syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: end}
}
