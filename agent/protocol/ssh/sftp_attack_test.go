package ssh

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// rawFiles is a client of sftp that sends what it likes.
type rawFiles struct {
	t testing.TB
	io.Writer
	from io.Reader
}

func (h *house) rawSFTP() *rawFiles {
	h.t.Helper()
	s, err := h.dial().NewSession()
	if err != nil {
		h.t.Fatal(err)
	}
	f := &rawFiles{t: h.t}
	if f.Writer, err = s.StdinPipe(); err != nil {
		h.t.Fatal(err)
	}
	if f.from, err = s.StdoutPipe(); err != nil {
		h.t.Fatal(err)
	}
	if err := s.RequestSubsystem("sftp"); err != nil {
		h.t.Fatal(err)
	}
	f.send(packet(fxpInit, 3).bytes())
	f.answer()
	return f
}

func (f *rawFiles) send(packets ...[]byte) {
	f.t.Helper()
	var all []byte
	for _, p := range packets {
		all = append(all, p...)
	}
	if _, err := f.Write(all); err != nil {
		f.t.Fatal(err)
	}
}

func (f *rawFiles) answer() []byte {
	f.t.Helper()
	p, err := readPacket(f.from, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

// open opens a file for reading, and gives its handle.
func (f *rawFiles) open(name string) string {
	f.t.Helper()
	f.send(packet(fxpOpen, 1).string(name).uint32(fxfRead).uint32(0).bytes())
	p := f.answer()
	in := fields{b: p[5:]}
	if p[0] != fxpHandle {
		f.t.Fatalf("no handle: %q", p)
	}
	return in.string(maxHandle)
}

// A client that closes a file before it has the answers gets no byte that is not in the record.
func TestSFTPClosedAhead(t *testing.T) {
	t.Parallel()
	h := open(t, server(t))
	name := filepath.Join(t.TempDir(), "keepme")
	if err := os.WriteFile(name, []byte("not to be missed"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := h.rawSFTP()
	handle := f.open(name)
	read := func(id uint32) []byte {
		return packet(fxpRead, id).string(handle).uint32(0).uint32(0).uint32(100).bytes()
	}
	f.send(read(2), packet(fxpClose, 3).string(handle).bytes(), read(4))
	if p := f.answer(); p[0] == fxpStatus { // the room's own answer overtakes the host's
		p = f.answer()
		if p[0] != fxpData || !strings.Contains(string(p), "missed") {
			t.Fatalf("got %q", p)
		}
	}
	eventually(t, "the outcome", func() bool {
		for _, o := range h.outcomes() {
			if strings.Contains(o.Result.Tag, "closed") {
				if !strings.Contains(o.Result.Tag, "read 16 sha256:") {
					t.Errorf("%+v", o.Result)
				}
				return true
			}
		}
		return false
	})
	if got := h.tape(); !strings.Contains(string(got.Bytes()), "missed") {
		t.Errorf("kept %q", got.Bytes())
	}
}

// What a name leads to is looked at again once a reviewer has said yes: it may be another file by then.
func TestSFTPSwappedWhileHeld(t *testing.T) {
	t.Parallel()
	h := open(t, server(t))
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(dir, "holdme"), 0o700))
	must(os.Mkdir(filepath.Join(dir, "other"), 0o700))
	must(os.WriteFile(filepath.Join(dir, "holdme/file"), []byte("harmless"), 0o600))
	must(os.WriteFile(filepath.Join(dir, "other/file"), []byte("secret"), 0o600))
	f := h.rawSFTP()
	f.send(packet(fxpOpen, 1).string(filepath.Join(dir, "holdme/file")).uint32(fxfRead).uint32(0).bytes())
	var verdict chan api.Verdict
	var id access.ApprovalID
	eventually(t, "held", func() bool {
		h.broker.mu.Lock()
		defer h.broker.mu.Unlock()
		for i, c := range h.broker.verdicts {
			id, verdict = i, c
		}
		return verdict != nil
	})
	must(os.RemoveAll(filepath.Join(dir, "holdme")))
	must(os.Symlink("other", filepath.Join(dir, "holdme")))
	verdict <- api.Verdict{Approval: id, Status: "approved"}
	if p := f.answer(); p[0] != fxpStatus {
		t.Errorf("another file than the one that was approved was opened: %q", p)
	}
}
