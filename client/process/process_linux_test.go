package process

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// pair connects this process to itself.
func pair(t *testing.T) *net.UnixConn {
	t.Helper()
	dir, err := os.MkdirTemp("", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	s, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestPeerIsThisProcess(t *testing.T) {
	p, err := PeerOf(pair(t))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	if p.ID != self || p.UID != os.Geteuid() || !p.Alive() {
		t.Errorf("peer %+v, want %+v", p, self)
	}
	ids, err := p.Ancestors()
	if err != nil {
		t.Fatal(err)
	}
	if len(ids) < 2 || ids[0] != self || ids[1].PID != os.Getppid() {
		t.Errorf("ancestors %v, want %v then %d", ids, self, os.Getppid())
	}
	own, err := Own()
	if err != nil {
		t.Fatal(err)
	}
	if m, err := p.Mark(); err != nil || m != own {
		t.Errorf("mark %x, %v; want %x", m, err, own)
	}
	if p.Program() == "" {
		t.Error("no program name")
	}
}

func TestHoldKnowsWhenAProcessEnds(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s, err := readStat(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	id := ID{PID: cmd.Process.Pid, Start: s.start}
	if _, err := Hold(ID{PID: id.PID, Start: id.Start + 1}); !errors.Is(err, ErrGone) {
		t.Errorf("another start time: %v, want ErrGone", err)
	}
	p, err := Hold(id)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if !p.Alive() || p.UID != os.Geteuid() {
		t.Errorf("%+v is not alive", p)
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if p.Alive() {
		t.Error("alive after its end")
	}
	if _, err := p.Ancestors(); !errors.Is(err, ErrGone) {
		t.Errorf("ancestors of an ended process: %v, want ErrGone", err)
	}
	if _, err := p.Mark(); !errors.Is(err, ErrGone) {
		t.Errorf("mark of an ended process: %v, want ErrGone", err)
	}
	if _, err := Hold(id); !errors.Is(err, ErrGone) {
		t.Errorf("hold an ended process: %v, want ErrGone", err)
	}
}
