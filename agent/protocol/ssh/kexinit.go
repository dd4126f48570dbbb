package ssh

import (
	"bytes"
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"sync"
)

// strictMarker is how a server says that it does strict key exchange (OpenSSH PROTOCOL, section 1.10): without it, packets of the handshake
// could be removed unseen (CVE-2023-48795).
const strictMarker = "kex-strict-s-v00@openssh.com"

// maxIntro bounds what is kept of a peer's first words: lines before its version, its version, and one packet.
const maxIntro = 48 << 10

// intro keeps the beginning of what the peer says, until the first packet is whole.
type intro struct {
	net.Conn

	mu   sync.Mutex
	b    []byte
	kex  []string // of the first packet
	done bool
}

func (c *intro) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.done && n > 0 {
		c.b = append(c.b, b[:n]...)
		kex, ok := firstKexInit(c.b)
		if c.done = ok || len(c.b) > maxIntro; c.done {
			c.kex, c.b = kex, nil
		}
	}
	return n, err
}

func (c *intro) strict() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.kex, strictMarker)
}

// firstKexInit reads the key exchange methods out of an unencrypted SSH_MSG_KEXINIT that is the first packet (RFC 4253 sections 4.2, 6, 7.1). ok says
// that there is nothing more to wait for.
func firstKexInit(b []byte) (kex []string, ok bool) {
	for !bytes.HasPrefix(b, []byte("SSH-")) {
		_, rest, found := bytes.Cut(b, []byte{'\n'})
		if !found {
			return nil, false
		}
		b = rest
	}
	_, b, found := bytes.Cut(b, []byte{'\n'})
	if !found || len(b) < 5 {
		return nil, false
	}
	size := binary.BigEndian.Uint32(b)
	if size > maxIntro || size < 2 {
		return nil, true
	}
	if uint32(len(b)-4) < size {
		return nil, false
	}
	const cookie = 16
	p := b[5 : 4+size]
	if len(p) < 1+cookie+4 || p[0] != 20 {
		return nil, true
	}
	p = p[1+cookie:]
	n := binary.BigEndian.Uint32(p)
	if uint64(n) > uint64(len(p)-4) {
		return nil, true
	}
	return strings.Split(string(p[4:4+n]), ","), true
}
