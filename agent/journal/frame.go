package journal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// FrameHead is what a record takes on disk beside its payload: the payload's length (4 bytes, big endian) and its CRC-32C (4 bytes).
const FrameHead = 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrTorn means that a record is not whole: the process, the machine or the disk failed while it was written.
var ErrTorn = errors.New("record is torn or damaged")

// AppendFrame appends a payload, of at least one byte, as a record.
func AppendFrame(b, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(payload, castagnoli))
	return append(b, payload...)
}

// Frame cuts the first record off b. whole is false where b ends before it does; ErrTorn is for what cannot become a record of at most
// limit bytes of payload.
func Frame(b []byte, limit int) (payload, rest []byte, whole bool, err error) {
	if len(b) < FrameHead {
		return nil, b, false, nil
	}
	n := binary.BigEndian.Uint32(b)
	if n == 0 || n > uint32(limit) {
		return nil, b, false, ErrTorn
	}
	if len(b) < FrameHead+int(n) {
		return nil, b, false, nil
	}
	payload = b[FrameHead : FrameHead+int(n)]
	if crc32.Checksum(payload, castagnoli) != binary.BigEndian.Uint32(b[4:]) {
		return nil, b, false, ErrTorn
	}
	return payload, b[FrameHead+int(n):], true, nil
}
