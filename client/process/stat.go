package process

import (
	"bytes"
	"fmt"
	"strconv"
)

// stat is what /proc/PID/stat says, as far as it matters here (proc_pid_stat(5)).
type stat struct {
	parent int
	start  uint64
	state  byte
}

// parseStat reads one line of /proc/PID/stat. The name of the program stands in parentheses and may itself hold any byte,
// parentheses and newlines included, so the fields are counted from the last closing one.
func parseStat(b []byte) (stat, error) {
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return stat{}, fmt.Errorf("stat line has no program name")
	}
	fields := bytes.Fields(b[end+1:])
	const state, parent, start = 0, 1, 19 // fields 3, 4 and 22 of the line
	if len(fields) <= start || len(fields[state]) != 1 {
		return stat{}, fmt.Errorf("stat line has %d fields after the name, want more than %d", len(fields), start)
	}
	pp, err := strconv.Atoi(string(fields[parent]))
	if err != nil || pp < 0 {
		return stat{}, fmt.Errorf("stat line: parent %q", fields[parent])
	}
	st, err := strconv.ParseUint(string(fields[start]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("stat line: start time %q", fields[start])
	}
	return stat{parent: pp, start: st, state: fields[state][0]}, nil
}

// parseLocks reads the hard limit of file locks out of /proc/PID/limits; "unlimited" is no limit.
func parseLocks(b []byte) (limit uint64, limited bool, err error) {
	for line := range bytes.Lines(b) {
		rest, ok := bytes.CutPrefix(line, []byte("Max file locks"))
		if !ok {
			continue
		}
		f := bytes.Fields(rest)
		if len(f) < 2 {
			break
		}
		if string(f[1]) == "unlimited" {
			return 0, false, nil
		}
		n, err := strconv.ParseUint(string(f[1]), 10, 64)
		if err != nil {
			return 0, false, fmt.Errorf("limits: file locks %q", f[1])
		}
		return n, true, nil
	}
	return 0, false, fmt.Errorf("limits: no line for file locks")
}
