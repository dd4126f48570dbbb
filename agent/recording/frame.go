package recording

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// A record on disk: length (4 bytes, big endian), CRC-32C of the payload (4 bytes), payload. A payload is a letter and what it says:
//
//	'o' JSON      the recordings that are open, at the head of a file
//	'b' JSON      a recording begins
//	'c' n JSON b  a chunk: the length of its JSON (2 bytes, big endian), the JSON, its bytes
const (
	frameHead = 8
	// maxFrame bounds a payload: a whole chunk, or the list of maxTapes open recordings.
	maxFrame = 512 << 10
	// maxTitle is the most that the JSON of one recording or chunk takes: a name of api.MaxRecorded, escaped, and ids.
	maxTitle = 4 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTorn means that a record is not whole: the process, the machine or the disk failed while it was written.
var errTorn = errors.New("record is torn or damaged")

// title is what is known of an open recording.
type title struct {
	Session access.SessionID `json:"session"`
	Command access.CommandID `json:"command"`
	Seq     uint64           `json:"seq"`
	Kind    string           `json:"kind"`
	Name    string           `json:"name,omitempty"`
	Next    int              `json:"next"` // index of the chunk to come
}

// record is one decoded payload: the list, or the chunk with its bytes, or the recording that begins.
type record struct {
	open  []title
	begin *title
	chunk *api.Chunk
}

func appendFrame(b, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(payload, castagnoli))
	return append(b, payload...)
}

// frame cuts the first record off b. whole is false where b ends before it does; errTorn is for what cannot become a record.
func frame(b []byte) (payload, rest []byte, whole bool, err error) {
	if len(b) < frameHead {
		return nil, b, false, nil
	}
	n := binary.BigEndian.Uint32(b)
	if n == 0 || n > maxFrame {
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

func encode(letter byte, v any) ([]byte, error) {
	j, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(j) >= maxFrame {
		return nil, fmt.Errorf("a record of %d bytes", len(j))
	}
	return appendFrame(nil, append([]byte{letter}, j...)), nil
}

func encodeChunk(c api.Chunk) ([]byte, error) {
	data := c.Data
	c.Data = nil
	j, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	if len(j) > maxTitle || len(data) > api.MaxChunk {
		return nil, fmt.Errorf("a chunk of %d bytes under a title of %d", len(data), len(j))
	}
	payload := make([]byte, 0, 3+len(j)+len(data))
	payload = binary.BigEndian.AppendUint16(append(payload, 'c'), uint16(len(j)))
	payload = append(append(payload, j...), data...)
	return appendFrame(make([]byte, 0, frameHead+len(payload)), payload), nil
}

// decode reads a payload; what it cannot read whole is errTorn. A chunk's bytes are the payload's own.
func decode(payload []byte) (record, error) {
	if len(payload) == 0 {
		return record{}, errTorn
	}
	var r record
	var err error
	switch rest := payload[1:]; payload[0] {
	case 'o':
		err = strict(rest, &r.open)
	case 'b':
		r.begin = new(title)
		err = strict(rest, r.begin)
	case 'c':
		if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
			return record{}, errTorn
		}
		n := 2 + int(binary.BigEndian.Uint16(rest))
		r.chunk = new(api.Chunk)
		if err = strict(rest[2:n], r.chunk); err == nil && r.chunk.Data != nil || len(rest)-n > api.MaxChunk {
			return record{}, errTorn
		}
		r.chunk.Data = rest[n:]
	default:
		return record{}, errTorn
	}
	if err != nil {
		return record{}, errors.Join(errTorn, err)
	}
	return r, nil
}

func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errTorn
	}
	return nil
}
