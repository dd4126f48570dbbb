// Package process tells the processes of this machine apart: who is at the other end of a unix socket, and who started whom.
// It refuses to answer where a process has gone, has changed under its eyes, or where the system cannot say.
//
// Three things are known of a process. Its id and start time name it among all that ever had this id. Its ancestors are read
// from /proc, twice, while a pidfd shows that the process is still the one that connected. Its mark is a number that a process
// inherits and that it can only lower: each `sallyport run` lowers it once for itself and everything below, so that a process
// whose ancestors died, and which was re-parented to somebody else's tree, still shows where it came from.
//
// The mark is the hard limit RLIMIT_LOCKS, which no Linux since 2.6 enforces (getrlimit(2)). A process with CAP_SYS_RESOURCE
// can raise it: against root nothing here protects.
package process

import (
	"errors"
	"fmt"
)

// ErrUnsupported means that this system has no way to tell processes apart well enough.
var ErrUnsupported = errors.New("this system cannot tell processes apart well enough (Linux only)")

// ErrGone means that the process ended, or that its ancestors changed while they were read.
var ErrGone = errors.New("the process has gone or was re-parented")

// ID names one process for all time since boot: ids are used again, start times are not.
type ID struct {
	PID   int
	Start uint64 // clock ticks since boot
}

func (i ID) String() string { return fmt.Sprintf("process %d", i.PID) }

// Mark is a place in the tree of runs. The zero Mark belongs to no run.
type Mark uint64

// Marks live in one corner of the 64-bit range, so that a limit which somebody else lowered is not taken for one of ours.
const (
	markTop    Mark = 0x5a11_7fff_ffff_ffff
	markBottom Mark = 0x5a11_0000_0000_0000
	// markStep bounds how far one run lowers the mark: the range of 2^47 holds at least 128 runs inside each other, and a
	// lineage has at most 8.
	markStep = 1 << 40
)

// markOf reads a hard limit; anything outside the range is no mark.
func markOf(limit uint64) Mark {
	if m := Mark(limit); m >= markBottom && m <= markTop {
		return m
	}
	return 0
}
