package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Dir is the state directory, mode 0700. Files in it are 0600.
type Dir struct{ name string }

// Open makes the directory if it is missing. name is SALLYPORT_HOME; empty means ~/.config/sallyport.
func Open(name, home string) (Dir, error) {
	if name == "" {
		if home == "" {
			return Dir{}, errors.New("open state: neither SALLYPORT_HOME nor HOME is set")
		}
		name = filepath.Join(home, ".config", "sallyport")
	}
	name, err := filepath.Abs(name)
	if err != nil {
		return Dir{}, fmt.Errorf("open state: %w", err)
	}
	if err := os.MkdirAll(name, 0o700); err != nil {
		return Dir{}, fmt.Errorf("open state: %w", err)
	}
	fi, err := os.Stat(name)
	if err != nil {
		return Dir{}, fmt.Errorf("open state: %w", err)
	}
	if err := private(name, fi); err != nil {
		return Dir{}, fmt.Errorf("open state: %w", err)
	}
	return Dir{name: name}, nil
}

// private refuses what another user owns or may look into.
func private(name string, fi fs.FileInfo) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user", name)
	}
	if perm := fi.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("%s has mode %04o: others can look into it (chmod go= %s)", name, perm, name)
	}
	return nil
}

func (d Dir) path(file string) string { return filepath.Join(d.name, file) }

func (d Dir) read(file string) ([]byte, error) {
	f, err := os.OpenFile(d.path(file), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", d.path(file))
	}
	if err := private(d.path(file), fi); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s is over %d bytes", d.path(file), maxFile)
	}
	return b, nil
}

// write replaces a file at once: a reader sees the old one or the new one, also after a power cut.
func (d Dir) write(file string, b []byte) error {
	f, err := os.CreateTemp(d.name, "."+file+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it has been renamed
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), d.path(file)); err != nil {
		return err
	}
	return d.sync()
}

func (d Dir) remove(file string) error {
	if err := os.Remove(d.path(file)); err != nil {
		return err
	}
	return d.sync()
}

func (d Dir) sync() error {
	f, err := os.Open(d.name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// lock keeps other processes out until unlock; the system lets go of it when the process ends.
func (d Dir) lock() (unlock func(), err error) {
	f, err := os.OpenFile(d.path(lockFile), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock state: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// File is the path of a file that another program keeps in the directory.
func (d Dir) File(name string) string { return d.path(name) }
