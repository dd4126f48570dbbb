//go:build !linux

package postgres

import "syscall"

// confine bounds what the process may take.
func confine() error {
	return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
}
