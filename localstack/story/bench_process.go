package story

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// cpu is the processor time of each of the lane's processes so far.
func (l lane) cpu() ([]time.Duration, error) {
	var all []time.Duration
	for _, p := range l.processes {
		used, err := cpuOf(p.pid)
		if err != nil {
			return nil, err
		}
		all = append(all, used)
	}
	return all, nil
}

// cpuOf adds up what a process's threads have run, in nanoseconds; threads that have ended are missing, of which Go's programs have few.
func cpuOf(pid int) (time.Duration, error) {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, t := range threads {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, t.Name()))
		if err != nil {
			continue // it has ended
		}
		ran, _, _ := strings.Cut(string(b), " ")
		n, err := strconv.ParseInt(ran, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n)
	}
	return sum, nil
}

// usage is a process's memory in MB.
type usage struct{ rss, peak float64 }

func memoryOf(pid int) (usage, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return usage{}, err
	}
	field := func(name string) float64 {
		_, after, _ := strings.Cut(string(b), name+":")
		n, err := strconv.Atoi(strings.Fields(after)[0])
		if err != nil {
			return 0
		}
		return float64(n) / 1000
	}
	return usage{field("VmRSS"), field("VmHWM")}, nil
}

// fromHere makes a process's peak what it has now.
func fromHere(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	_, after, _ := strings.Cut(string(b), "model name\t: ")
	model, _, _ := strings.Cut(after, "\n")
	return model
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	major, _, _ := strings.Cut(strings.TrimSpace(string(b)), "-")
	return major
}
