package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// again is the first argument of this program when it is started a second time, in name spaces of its own.
const again = "contained"

// contained runs a program in root as nobody. This program starts itself again in a mount name space of its own, where root is mounted
// read-only over itself, and there becomes the program: what it mounts is gone with it.
func contained(ctx context.Context, root, program string, args ...string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, self, append([]string{again, root, program}, args...)...)
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("run %s: %w: %s", program, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// become is the second start.
func become(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("%s: wants a root and a program", again)
	}
	root := args[0]
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"keep mounts to itself", func() error { return syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "") }},
		{"mount the root", func() error { return syscall.Mount(root, root, "", syscall.MS_BIND, "") }},
		{"make it read-only", func() error {
			return syscall.Mount("", root, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY|syscall.MS_NOSUID|syscall.MS_NODEV, "")
		}},
		{"enter it", func() error { return syscall.Chroot(root) }},
		{"go there", func() error { return syscall.Chdir("/") }},
		{"see that it is read-only", func() error {
			if err := os.WriteFile("/tmp/x", nil, 0o600); err == nil {
				return fmt.Errorf("it can be written to")
			}
			return nil
		}},
		{"forget groups", func() error { return syscall.Setgroups(nil) }},
		{"become nobody's group", func() error { return syscall.Setgid(user) }},
		{"become nobody", func() error { return syscall.Setuid(user) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return syscall.Exec(args[1], args[1:], nil) //nolint:gosec // the image's own program
}
