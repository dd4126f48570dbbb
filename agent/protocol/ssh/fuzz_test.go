package ssh

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
)

func FuzzAnalyse(f *testing.F) {
	for _, texts := range [][]string{removals, readings} {
		for _, s := range texts {
			f.Add(s)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := analyse(text, deploy)
		if c.Complete && c.Refused == nil && len(c.Touches) == 0 {
			t.Fatalf("%q: complete, and does nothing", text)
		}
		if !c.Complete && c.Why == "" {
			t.Fatalf("%q: incomplete without a reason", text)
		}
		for _, r := range c.Touches {
			if r.Resource.Kind == access.KindPath && (!strings.HasPrefix(r.Resource.Name, "/") || strings.Contains(r.Resource.Name, "/../")) {
				t.Fatalf("%q: touches %q", text, r.Resource.Name)
			}
		}
		if len(c.Touches) > maxTouches {
			t.Fatalf("%q: %d touches", text, len(c.Touches))
		}
	})
}

// TestOracle runs command lines in real shells whose programs are stubs: each that ran was among those that were decided.
func TestOracle(t *testing.T) {
	t.Parallel()
	bin, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	names := []string{"rm", "cat", "ls", "cp", "mv", "grep", "head", "touch", "tee", "sort", "sudo", "nice", "env", "timeout", "mkdir", "wc"}
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(bin, n), []byte("#!/bin/sh\necho "+n+" >> "+log+"\nexit 0\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	texts := slices.Concat(removals, readings)
	for text := range wantedFacts {
		texts = append(texts, text)
	}
	ran := 0
	for _, shellName := range []string{"dash", "bash"} {
		program, err := exec.LookPath(shellName)
		if err != nil {
			t.Fatalf("no %s to ask: %v", shellName, err)
		}
		for _, text := range texts {
			c := analyse(text, deploy)
			if !c.Complete || c.Refused != nil || strings.Contains(text, "/bin/") || strings.Contains(text, "while true") || strings.Contains(text, "sh -") || strings.Contains(text, "/tmp/x") {
				continue // not let through as understood, or no stub would run
			}
			_ = os.Remove(log)
			cmd := exec.Command(program, "-c", text)
			cmd.Dir, cmd.Env = t.TempDir(), []string{"PATH=" + bin, "HOME=" + t.TempDir()}
			_ = cmd.Run() // most fail: the stubs do nothing
			b, _ := os.ReadFile(log)
			for _, name := range strings.Fields(string(b)) {
				ran++
				if !slices.Contains(c.Facts.Functions, name) {
					t.Errorf("%s ran %s for %q, which was read as %v", shellName, name, text, c.Facts.Functions)
				}
			}
		}
	}
	if ran < 50 {
		t.Errorf("only %d programs ran: the oracle says nothing", ran)
	}
}

func FuzzPacket(f *testing.F) {
	f.Add(packet(fxpOpen, 1).string("/etc/hosts").uint32(1).uint32(0).bytes())
	f.Add(status(7, fxPermissionDenied, "no"))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := readPacket(bytes.NewReader(b), nil)
		if err != nil {
			return
		}
		if len(p) < 1 || len(p) > maxPacket || len(p) > len(b)-4 {
			t.Fatalf("%d bytes out of %d", len(p), len(b))
		}
		in := fields{b: p[1:]}
		in.uint32()
		name := in.path()
		if in.bad && name != "" || len(name) > maxPath || strings.IndexByte(name, 0) >= 0 {
			t.Fatalf("name %q, bad %v", name, in.bad)
		}
		in.uint64()
		in.string(maxHandle)
		_, _ = realName(p)
	})
}

func FuzzKexInit(f *testing.F) {
	good := []byte("SSH-2.0-x\r\n")
	body := append([]byte{4, 20}, make([]byte, 16)...)
	body = appendString(body, "curve25519-sha256,"+strictMarker)
	good = append(binary.BigEndian.AppendUint32(good, uint32(len(body))), body...)
	if kex, ok := firstKexInit(good); !ok || !slices.Contains(kex, strictMarker) {
		f.Fatal("the seed is not read")
	}
	f.Add(good)
	f.Add([]byte("hello\nSSH-2.0-x\n\x00\x00\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		kex, ok := firstKexInit(b)
		if !ok && kex != nil {
			t.Fatal("methods before the packet is there")
		}
	})
}
