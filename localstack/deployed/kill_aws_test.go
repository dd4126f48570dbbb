//go:build aws

package deployed

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// kill ends every process of a function at once, as when its machine is lost. It returns how many there were.
func (s *System) kill(physical string) (int, error) {
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return 0, err
	}
	n := 0
	for _, f := range all {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil || !ours(pid, s.emulator.cmd.Process.Pid) {
			continue
		}
		env, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(append([]byte{0}, env...), []byte("\x00AWS_LAMBDA_FUNCTION_NAME="+physical+"\x00")) {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return n, fmt.Errorf("kill %s: %w", physical, err)
		}
		n++
	}
	return n, nil
}

// ours says whether a process descends from another.
func ours(pid, from int) bool {
	for range 16 {
		if pid == from {
			return true
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return false
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			return false
		}
		if pid, err = strconv.Atoi(fields[1]); err != nil || pid <= 1 {
			return false
		}
	}
	return false
}
