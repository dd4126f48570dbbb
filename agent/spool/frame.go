package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// A record on disk: length (4 bytes, big endian), CRC-32C of the payload (4 bytes), payload.
const frameHead = 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTorn means that a record is not whole: the process, the machine or the disk failed while it was written.
var errTorn = errors.New("record is torn or damaged")

func appendFrame(b, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(payload, castagnoli))
	return append(b, payload...)
}

// frame cuts the first record off b. whole is false where b ends before it does; errTorn is for what cannot become a record.
func frame(b []byte, limit int) (payload, rest []byte, whole bool, err error) {
	if len(b) < frameHead {
		return nil, b, false, nil
	}
	n := binary.BigEndian.Uint32(b)
	if n == 0 || n > uint32(limit) {
		return nil, b, false, errTorn
	}
	if len(b) < frameHead+int(n) {
		return nil, b, false, nil
	}
	payload = b[frameHead : frameHead+int(n)]
	if crc32.Checksum(payload, castagnoli) != binary.BigEndian.Uint32(b[4:]) {
		return nil, b, false, errTorn
	}
	return payload, b[frameHead+int(n):], true, nil
}
