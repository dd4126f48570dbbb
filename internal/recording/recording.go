// Package recording keeps what a command left beside its outcome, a terminal or a file, as sealed chunks, and shows it to people.
// It refuses a chunk that was sealed as another one, and escapes of a recorded program that would do more to a terminal than draw.
package recording

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/store"
)

// Place is which chunk of which recording some bytes are.
type Place struct {
	Session access.SessionID
	Command access.CommandID
	Index   int
	Last    bool
	Reason  string // of the last one
}

// Record is what the broker knows of one recording. It lives in store.Registry, beside the others of its session.
type Record struct {
	Session access.SessionID `json:"session"`
	Command access.CommandID `json:"command"`
	Seq     uint64           `json:"seq"` // of the command
	Agent   access.AgentName `json:"agent"`
	Kind    string           `json:"kind"`
	Name    string           `json:"name,omitempty"`
	Next    int              `json:"next"`  // index of the chunk to come
	Bytes   int64            `json:"bytes"` // so far
	Started time.Time        `json:"started"`
	Updated time.Time        `json:"updated"`
	Ended   string           `json:"ended,omitempty"` // the last chunk's reason; empty before it
}

func partition(s access.SessionID) string { return "recordings#" + string(s) }

// Put is the write that stores a record under a condition: the zero Cond makes a new one.
func (r Record) Put(cond store.Cond) (store.Write, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return store.Write{}, fmt.Errorf("encode recording of %s: %w", r.Command, err)
	}
	k := store.Key{PK: partition(r.Session), SK: string(r.Command)}
	return store.Write{Table: store.Registry, Item: store.Item{Key: k, Body: body}, Cond: cond}, nil
}

// Get reads a record, strongly; store.ErrNotFound where there is none.
func Get(ctx context.Context, items store.Items, s access.SessionID, c access.CommandID) (Record, store.Item, error) {
	it, err := items.Get(ctx, store.Registry, store.Key{PK: partition(s), SK: string(c)}, true)
	if err != nil {
		return Record{}, store.Item{}, fmt.Errorf("recording of %s: %w", c, err)
	}
	r, err := decode(it)
	return r, it, err
}

// List returns a session's recordings in order of their commands, at most limit.
func List(ctx context.Context, items store.Items, s access.SessionID, limit int) ([]Record, error) {
	var all []Record
	for cursor := ""; len(all) < limit; {
		p, err := items.Query(ctx, store.Registry, partition(s), "", cursor, min(limit-len(all), 100))
		if err != nil {
			return nil, fmt.Errorf("recordings of %s: %w", s, err)
		}
		for _, it := range p.Items {
			r, err := decode(it)
			if err != nil {
				return nil, err
			}
			all = append(all, r)
		}
		if cursor = p.Cursor; cursor == "" {
			break
		}
	}
	return all, nil
}

func decode(it store.Item) (Record, error) {
	var r Record
	d := json.NewDecoder(bytes.NewReader(it.Body))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Record{}, fmt.Errorf("decode recording %s: %w", it.SK, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) || string(r.Command) != it.SK || partition(r.Session) != it.PK {
		return Record{}, fmt.Errorf("decode recording %s: it is of another command", it.SK)
	}
	return r, nil
}

const use = "recording"

// Seal encrypts a chunk under its session's data key, bound to its place. The same chunk always gives the same bytes, so that one that is
// delivered twice is one object.
func Seal(dataKey []byte, p Place, plain []byte) ([]byte, error) {
	return audit.SealBlob(dataKey, use, p.bytes(), plain)
}

// Open decrypts a chunk that was sealed for this very place.
func Open(dataKey []byte, p Place, sealed []byte) ([]byte, error) {
	plain, err := audit.OpenBlob(dataKey, use, p.bytes(), sealed)
	if err != nil {
		return nil, fmt.Errorf("chunk %d of %s: %w", p.Index, p.Command, err)
	}
	return plain, nil
}

// bytes is the place as associated data: each part with its length, so that no two places are spelt alike.
func (p Place) bytes() []byte {
	b := []byte("sallyport recording v1\x00")
	for _, s := range []string{string(p.Session), string(p.Command), p.Reason} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(p.Index))
	if p.Last {
		return append(b, 1)
	}
	return append(b, 0)
}
