package recording

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/sallyport/sallyport/agent/journal"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// The payload of a record is a letter and what it says:
//
//	'o' JSON      the recordings that are open, at the head of a file
//	'b' JSON      a recording begins
//	'c' n JSON b  a chunk: the length of its JSON (2 bytes, big endian), the JSON, its bytes
const (
	// maxFrame bounds a payload: a whole chunk, or the list of maxTapes open recordings.
	maxFrame = 512 << 10
	// maxTitle is the most that the JSON of one recording or chunk takes: a name of api.MaxRecorded, escaped, and ids.
	maxTitle = 4 << 10
)

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

func encode(letter byte, v any) ([]byte, error) {
	j, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(j) >= maxFrame {
		return nil, fmt.Errorf("a record of %d bytes", len(j))
	}
	return journal.AppendFrame(nil, append([]byte{letter}, j...)), nil
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
	return journal.AppendFrame(make([]byte, 0, journal.FrameHead+len(payload)), payload), nil
}

// decode reads a payload; what it cannot read whole is journal.ErrTorn. A chunk's bytes are the payload's own.
func decode(payload []byte) (record, error) {
	if len(payload) == 0 {
		return record{}, journal.ErrTorn
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
			return record{}, journal.ErrTorn
		}
		n := 2 + int(binary.BigEndian.Uint16(rest))
		r.chunk = new(api.Chunk)
		if err = strict(rest[2:n], r.chunk); err == nil && r.chunk.Data != nil || len(rest)-n > api.MaxChunk {
			return record{}, journal.ErrTorn
		}
		r.chunk.Data = rest[n:]
	default:
		return record{}, journal.ErrTorn
	}
	if err != nil {
		return record{}, errors.Join(journal.ErrTorn, err)
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
		return journal.ErrTorn
	}
	return nil
}
