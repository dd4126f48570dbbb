package ssh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Packets of sftp version 3 (draft-ietf-secsh-filexfer-02, section 3).
const (
	fxpInit     = 1
	fxpVersion  = 2
	fxpOpen     = 3
	fxpClose    = 4
	fxpRead     = 5
	fxpWrite    = 6
	fxpLstat    = 7
	fxpFstat    = 8
	fxpSetstat  = 9
	fxpFsetstat = 10
	fxpOpendir  = 11
	fxpReaddir  = 12
	fxpRemove   = 13
	fxpMkdir    = 14
	fxpRmdir    = 15
	fxpRealpath = 16
	fxpStat     = 17
	fxpRename   = 18
	fxpReadlink = 19
	fxpSymlink  = 20
	fxpStatus   = 101
	fxpHandle   = 102
	fxpData     = 103
	fxpName     = 104
	fxpAttrs    = 105
	fxpExtended = 200
	fxpExtReply = 201
)

// Status codes (section 7).
const (
	fxOK               = 0
	fxEOF              = 1
	fxPermissionDenied = 3
	fxFailure          = 4
	fxBadMessage       = 5
	fxConnectionLost   = 7
	fxUnsupported      = 8
)

// Flags of open (section 6.3).
const (
	fxfRead   = 1
	fxfWrite  = 2
	fxfAppend = 4
	fxfCreat  = 8
	fxfTrunc  = 16
	fxfExcl   = 32
)

const (
	// maxPacket is OpenSSH's SFTP_MAX_MSG_LENGTH.
	maxPacket = 256 << 10
	// maxPath is PATH_MAX of Linux.
	maxPath = 4096
	// maxHandle is from section 6.2.
	maxHandle = 256
)

var errPacket = errors.New("malformed sftp packet")

// readPacket reads a packet into buf, which it grows where it must: its kind and what follows.
func readPacket(r io.Reader, buf []byte) ([]byte, error) {
	if cap(buf) < 4 {
		buf = make([]byte, 4, 34<<10)
	}
	if _, err := io.ReadFull(r, buf[:4]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(buf[:4])
	if size < 1 || size > maxPacket {
		return nil, fmt.Errorf("sftp packet of %d bytes: want 1 to %d", size, maxPacket)
	}
	if uint32(cap(buf)) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	if _, err := io.ReadFull(r, buf); err != nil {
		return nil, fmt.Errorf("sftp packet: %w", err)
	}
	return buf, nil
}

// fields reads what a packet holds; bad is set by the first thing that is not there.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) uint32() uint32 {
	if len(f.b) < 4 {
		f.b, f.bad = nil, true
		return 0
	}
	v := binary.BigEndian.Uint32(f.b)
	f.b = f.b[4:]
	return v
}

func (f *fields) uint64() uint64 {
	hi := f.uint32()
	return uint64(hi)<<32 | uint64(f.uint32())
}

func (f *fields) string(most int) string {
	n := f.uint32()
	if f.bad || uint64(n) > uint64(len(f.b)) || uint64(n) > uint64(most) {
		f.b, f.bad = nil, true
		return ""
	}
	s := string(f.b[:n])
	f.b = f.b[n:]
	return s
}

// path is a name of a file: no zero byte ends it early.
func (f *fields) path() string {
	s := f.string(maxPath)
	for i := range len(s) {
		if s[i] == 0 {
			f.bad = true
			return ""
		}
	}
	return s
}

// build makes a packet: length, kind, id and what is added.
type build struct{ b []byte }

func packet(kind byte, id uint32) *build {
	return &build{binary.BigEndian.AppendUint32([]byte{0, 0, 0, 0, kind}, id)}
}

func (p *build) uint32(v uint32) *build { p.b = binary.BigEndian.AppendUint32(p.b, v); return p }
func (p *build) string(s string) *build { p.b = appendString(p.b, s); return p }
func (p *build) raw(b []byte) *build    { p.b = append(p.b, b...); return p }

func (p *build) bytes() []byte {
	binary.BigEndian.PutUint32(p.b, uint32(len(p.b)-4))
	return p.b
}

// status is an answer without content.
func status(id, code uint32, text string) []byte {
	return packet(fxpStatus, id).uint32(code).string(text).string("").bytes()
}
