//go:build unix

package embedded

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Lock keeps `sallyport dev` out of a data directory, or says that it is in there.
func Lock(dir string) (unlock func(), err error) { return lock(filepath.Join(dir, "lock")) }

// lock keeps a second instance out of the directory, also after a kill -9: the kernel lets go of it.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // the lock is what failed
		return nil, fmt.Errorf("%s is in use by another `sallyport dev`: stop it, or give another --dir", path)
	}
	return func() { _ = f.Close() }, nil
}

// ours refuses a directory in which somebody else could put files of their own where keys and configuration are looked for.
func ours(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("data directory %s belongs to another user: give another --dir", dir)
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return fmt.Errorf("data directory %s has mode %04o: others can put files into it (chmod go-w %s)", dir, perm, dir)
	}
	return nil
}
