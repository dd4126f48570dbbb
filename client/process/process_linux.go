package process

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxDepth bounds how many ancestors are walked: far more than any shell nests, far fewer than would take noticeable time.
const maxDepth = 1024

// Peer is the process that connected a unix socket, held by a pidfd. Close it.
type Peer struct {
	ID
	UID int
	fd  int // pidfd
}

// PeerOf identifies who connected c (not who holds it now: a descriptor can be handed on). On Linux 6.5 and later the kernel
// gives a pidfd of the very process; before, the pidfd is opened by id right away.
func PeerOf(c *net.UnixConn) (*Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("peer credentials: %w", err)
	}
	var p *Peer
	ctlErr := raw.Control(func(fd uintptr) { p, err = peerOf(int(fd)) })
	if err = errors.Join(ctlErr, err); err != nil {
		if p != nil {
			p.Close()
		}
		return nil, fmt.Errorf("peer credentials: %w", err)
	}
	return p, nil
}

func peerOf(fd int) (*Peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, err
	}
	if cred.Pid <= 0 {
		return nil, fmt.Errorf("the caller's process is not visible from here (another pid namespace): %w", ErrGone)
	}
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if errors.Is(err, unix.ENOPROTOOPT) { // before Linux 6.5
		pidfd, err = unix.PidfdOpen(int(cred.Pid), 0)
	}
	if err != nil {
		return nil, errors.Join(ErrGone, err)
	}
	p := &Peer{ID: ID{PID: int(cred.Pid)}, UID: int(cred.Uid), fd: pidfd}
	s, err := readStat(p.PID)
	if err != nil || !p.Alive() {
		p.Close()
		return nil, errors.Join(ErrGone, err)
	}
	p.Start = s.start
	return p, nil
}

// Hold takes a pidfd of the process that id names, or ErrGone.
func Hold(id ID) (*Peer, error) {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if err != nil {
		return nil, errors.Join(ErrGone, err)
	}
	p := &Peer{ID: id, fd: fd}
	s, err := readStat(id.PID)
	if err != nil || s.start != id.Start || !p.Alive() {
		p.Close()
		return nil, errors.Join(ErrGone, err)
	}
	p.UID, err = owner(id.PID)
	if err != nil {
		p.Close()
		return nil, errors.Join(ErrGone, err)
	}
	return p, nil
}

// Close lets go of the pidfd.
func (p *Peer) Close() { _ = unix.Close(p.fd) }

// Alive says whether the process has not ended yet: a pidfd polls readable once it has.
func (p *Peer) Alive() bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err == nil && n == 0
	}
}

// Ancestors lists the process itself and those that it descends from, nearest first, as they stand at one moment: the list is
// read twice and must be the same, and the process must live through both.
func (p *Peer) Ancestors() ([]ID, error) {
	for range 3 { // somebody in between may just have been re-parented: look again
		first, err := ancestors(p.ID)
		if err != nil {
			return nil, err
		}
		second, err := ancestors(p.ID)
		if err != nil {
			return nil, err
		}
		if !p.Alive() {
			return nil, ErrGone
		}
		if equal(first, second) {
			return first, nil
		}
	}
	return nil, ErrGone
}

func ancestors(from ID) ([]ID, error) {
	var ids []ID
	for pid := from.PID; pid != 0; {
		if len(ids) == maxDepth {
			return nil, fmt.Errorf("more than %d ancestors", maxDepth)
		}
		s, err := readStat(pid)
		if err != nil {
			return nil, errors.Join(ErrGone, err)
		}
		if pid == from.PID && s.start != from.Start {
			return nil, ErrGone
		}
		ids = append(ids, ID{PID: pid, Start: s.start})
		pid = s.parent
	}
	return ids, nil
}

func equal(a, b []ID) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// Mark is the run that the process was started in, whoever its parent is now.
func (p *Peer) Mark() (Mark, error) {
	b, err := os.ReadFile(path(p.PID, "limits"))
	if err != nil {
		return 0, errors.Join(ErrGone, err)
	}
	limit, limited, err := parseLocks(b)
	if err != nil {
		return 0, fmt.Errorf("mark of %v: %w", p.ID, err)
	}
	if !p.Alive() {
		return 0, ErrGone
	}
	if !limited {
		return 0, nil
	}
	return markOf(limit), nil
}

// Program is the name of what runs in the process, for display: the process can call itself what it likes.
func (p *Peer) Program() string {
	b, err := os.ReadFile(path(p.PID, "comm"))
	if err != nil {
		return ""
	}
	return string(bytes.ToValidUTF8(bytes.TrimSpace(b), nil))
}

// Self names this process.
func Self() (ID, error) {
	s, err := readStat(os.Getpid())
	if err != nil {
		return ID{}, fmt.Errorf("own process: %w", err)
	}
	return ID{PID: os.Getpid(), Start: s.start}, nil
}

// Own is the mark of this process: zero outside every run.
func Own() (Mark, error) {
	var l unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_LOCKS, nil, &l); err != nil {
		return 0, fmt.Errorf("own mark: %w", err)
	}
	return markOf(l.Max), nil
}

// Lower gives this process, and all that it starts from now on, a mark of their own below the one they had. There is no way
// back.
func Lower() (Mark, error) {
	var l unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_LOCKS, nil, &l); err != nil {
		return 0, fmt.Errorf("lower mark: %w", err)
	}
	var r [8]byte
	if _, err := rand.Read(r[:]); err != nil {
		return 0, fmt.Errorf("lower mark: %w", err)
	}
	from := markTop
	if m := markOf(l.Max); m != 0 {
		from = m
	} else if l.Max < uint64(markTop) {
		return 0, fmt.Errorf("lower mark: the limit on file locks (RLIMIT_LOCKS) of this process was lowered already; lift it")
	}
	m := from - 1 - Mark(binary.BigEndian.Uint64(r[:])%markStep)
	if m < markBottom {
		return 0, fmt.Errorf("lower mark: too many runs inside each other")
	}
	if err := unix.Prlimit(0, unix.RLIMIT_LOCKS, &unix.Rlimit{Cur: uint64(m), Max: uint64(m)}, nil); err != nil {
		return 0, fmt.Errorf("lower mark: %w", err)
	}
	return m, nil
}

// Protect keeps other processes of the same user from reading this one's memory, environment and descriptors, and keeps it
// from leaving a core dump (PR_SET_DUMPABLE, prctl(2)). What it starts is not protected: exec resets it.
func Protect() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("protect process: %w", err)
	}
	return nil
}

// KeepDescriptors keeps every descriptor but the standard three from what this process starts from now on, also those that it was
// started with itself.
func KeepDescriptors() error {
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keep descriptors: %w", err)
	}
	return nil
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(path(pid, "stat"))
	if err != nil {
		return stat{}, err
	}
	s, err := parseStat(b)
	if err != nil {
		return stat{}, err
	}
	if s.state == 'Z' || s.state == 'X' {
		return stat{}, ErrGone
	}
	return s, nil
}

// owner is the effective user of a process. The owner of its /proc directory would not do: that is root where it is not dumpable.
func owner(pid int) (int, error) {
	b, err := os.ReadFile(path(pid, "status"))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("Uid:")); ok {
			if f := bytes.Fields(rest); len(f) == 4 {
				return strconv.Atoi(string(f[1]))
			}
		}
	}
	return 0, fmt.Errorf("status of process %d names no user", pid)
}

func path(pid int, file string) string { return "/proc/" + strconv.Itoa(pid) + "/" + file }
