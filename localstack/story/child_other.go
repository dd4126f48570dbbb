//go:build unix && !linux

package story

import "syscall"

// childAttr has nothing to say here: a killed story leaves its system running.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
