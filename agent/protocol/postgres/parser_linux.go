package postgres

import "syscall"

// confine bounds what the process may take: 2 GiB of addresses, of which Go reserves some hundred MiB; no core, which would hold the
// text; no more files than it has.
func confine() error {
	for resource, limit := range map[int]uint64{syscall.RLIMIT_AS: 2 << 30, syscall.RLIMIT_CORE: 0, syscall.RLIMIT_NOFILE: 16, syscall.RLIMIT_FSIZE: 0} {
		if err := syscall.Setrlimit(resource, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
			return err
		}
	}
	return nil
}
