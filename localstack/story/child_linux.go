package story

import "syscall"

// childAttr ends what the story started with the story, also when that is killed.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
