package ssh

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/sallyport/sallyport/internal/access"
)

// Numbers of messages (RFC 4250 section 4.1.2, RFC 4419 section 5): where a server shows its key.
const (
	msgNewKeys      = 21
	msgKexReply     = 31 // of Diffie-Hellman with a fixed group, elliptic curves and the hybrids of today
	msgKexGroupDone = 33
)

const (
	maxPacket = 35000 // RFC 4253 section 6.1
	maxHello  = 64 << 10
)

// HostKey is a server's public key as known_hosts writes it.
type HostKey struct{ Algorithm, Key string }

// Learn passes on what a server says, and calls learnt with its key before a client sees that. What is not understood is passed on unread.
func Learn(server io.Reader, learnt func(HostKey) error) io.Reader {
	return &learner{r: server, learnt: learnt, lines: true}
}

type learner struct {
	r      io.Reader
	learnt func(HostKey) error
	ready  []byte // may be read
	held   []byte // the beginning of something that is not whole yet
	lines  bool   // the version, and what may come before it
	total  int
	over   bool
}

// Read passes whole lines and packets on until the key is known, and then everything.
func (l *learner) Read(p []byte) (int, error) {
	for len(l.ready) == 0 {
		if l.over {
			return l.r.Read(p)
		}
		b := make([]byte, 4096)
		n, err := l.r.Read(b)
		l.held = append(l.held, b[:n]...)
		if l.total += n; l.total > maxHello {
			l.over = true
		}
		for !l.over && l.unit() {
			if l.lines {
				continue
			}
			if kerr := l.look(); kerr != nil {
				return 0, kerr
			}
		}
		if l.over || err != nil {
			l.ready, l.held, l.over = append(l.ready, l.held...), nil, true
		}
		if err != nil && len(l.ready) == 0 {
			return 0, err
		}
	}
	n := copy(p, l.ready)
	l.ready = l.ready[n:]
	return n, nil
}

// unit says whether something whole is held: a line is made ready at once, a packet is left for look.
func (l *learner) unit() bool {
	if l.lines {
		i := bytes.IndexByte(l.held, '\n')
		if i < 0 {
			return false
		}
		l.lines = !bytes.HasPrefix(l.held, []byte("SSH-"))
		l.pass(i + 1)
		return l.lines || l.unit()
	}
	if len(l.held) < 6 {
		return false
	}
	n := binary.BigEndian.Uint32(l.held)
	if n < 2 || n > maxPacket {
		l.over = true
		return false
	}
	return len(l.held) >= 4+int(n)
}

func (l *learner) pass(n int) {
	l.ready, l.held = append(l.ready, l.held[:n]...), l.held[n:]
}

// look looks at the packet that is held, and makes it ready.
func (l *learner) look() error {
	n := 4 + int(binary.BigEndian.Uint32(l.held))
	switch l.held[5] {
	case msgNewKeys:
		l.over = true
	case msgKexReply, msgKexGroupDone:
		if k, ok := hostKey(l.held[6:n]); ok {
			l.over = true
			if err := l.learnt(k); err != nil {
				return err
			}
		}
	}
	l.pass(n)
	return nil
}

var algorithm = regexp.MustCompile(`^[a-z0-9][a-z0-9@.-]{2,63}$`)

// hostKey reads the first field of a reply: a key, whose own first field is its algorithm (RFC 4253 section 6.6).
func hostKey(b []byte) (HostKey, bool) {
	blob, ok := field(b)
	if !ok {
		return HostKey{}, false
	}
	name, ok := field(blob)
	if !ok || !algorithm.Match(name) {
		return HostKey{}, false
	}
	return HostKey{Algorithm: string(name), Key: base64.StdEncoding.EncodeToString(blob)}, true
}

func field(b []byte) ([]byte, bool) {
	if len(b) < 4 {
		return nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return nil, false
	}
	return b[4 : 4+n], true
}

// maxKeys is how many keys are kept of one host: each agent that serves it has one of its own.
const maxKeys = 8

// Remember puts a key of a host in front of a file that OpenSSH reads as known_hosts; what else the file says stays.
func Remember(file, host string, k HostKey) error {
	if err := access.CheckName("target", strings.SplitN(host, ".", 2)[0]); err != nil {
		return err
	}
	unlock, err := lock(file + ".lock")
	if err != nil {
		return fmt.Errorf("remember the host key: %w", err)
	}
	defer unlock()
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remember the host key: %w", err)
	}
	line := host + " " + k.Algorithm + " " + k.Key
	lines := strings.Split(strings.TrimSuffix(string(old), "\n"), "\n")
	if lines[0] == line {
		return nil
	}
	all, own := []string{line}, 1
	for _, o := range lines {
		if strings.HasPrefix(o, host+" ") {
			if own++; o == line || own > maxKeys {
				continue
			}
		}
		if o != "" {
			all = append(all, o)
		}
	}
	if err := replace(file, strings.Join(slices.Clip(all), "\n")+"\n"); err != nil {
		return fmt.Errorf("remember the host key: %w", err)
	}
	return nil
}

// lock keeps two connections that begin at once from losing each other's line.
func lock(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// replace writes a whole file or none.
func replace(file, text string) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".sallyport-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
