package tunnel

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// Hello opens a stream: from an endpoint to its relay, and, without the ticket, from the relay to the agent.
type Hello struct {
	V      int               `json:"v"` // Version
	Target access.TargetName `json:"target"`
	Ticket string            `json:"ticket,omitempty"`
}

// ErrFrame is the kind of every error about what a frame holds; an error of the connection it came on is not one.
var ErrFrame = errors.New("malformed frame")

// WriteFrame sends v as one frame, in one write: four bytes of length (big endian), then JSON.
func WriteFrame(w io.Writer, v any) error {
	b, err := AppendFrame(nil, v)
	if err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}

// AppendFrame appends v as one frame to b.
func AppendFrame(b []byte, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode frame: %w", err)
	}
	if len(body) > MaxFrame {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrFrame, len(body), MaxFrame)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...), nil
}

// ReadFrame reads one frame into v and not a byte more. The length is checked before anything is allocated for it; unknown fields and
// anything after the JSON value are refused.
func ReadFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > MaxFrame {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrFrame, n, MaxFrame)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("read frame: %w", noEOF(err))
	}
	return decode(body, v)
}

func decode(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrFrame, err)
	}
	if d.InputOffset() != int64(len(body)) {
		return fmt.Errorf("%w: something follows the JSON value", ErrFrame)
	}
	return nil
}

// noEOF keeps an end in the middle of a frame from looking like an orderly one.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ReadHello reads and checks a hello.
func ReadHello(r io.Reader) (Hello, error) {
	var h Hello
	if err := ReadFrame(r, &h); err != nil {
		return Hello{}, err
	}
	if h.V != Version {
		return Hello{}, fmt.Errorf("%w: version %d, want %d", ErrFrame, h.V, Version)
	}
	if err := access.CheckName("target", string(h.Target)); err != nil {
		return Hello{}, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return h, nil
}

// ReadPreamble reads and checks a preamble. Its token and proof are not looked at.
func ReadPreamble(r io.Reader) (api.Preamble, error) {
	var p api.Preamble
	if err := ReadFrame(r, &p); err != nil {
		return api.Preamble{}, err
	}
	if p.V != Version {
		return api.Preamble{}, fmt.Errorf("%w: version %d, want %d", ErrFrame, p.V, Version)
	}
	if p.Endpoint == "" || p.Token == "" || p.Proof == "" {
		return api.Preamble{}, fmt.Errorf("%w: a preamble needs an endpoint, a token and a proof", ErrFrame)
	}
	return p, nil
}

// ReadWelcome reads an answer to a hello or preamble; a refusal is its *api.Error.
func ReadWelcome(r io.Reader) error {
	var w api.Welcome
	if err := ReadFrame(r, &w); err != nil {
		return err
	}
	if w.V != Version {
		return fmt.Errorf("%w: version %d, want %d", ErrFrame, w.V, Version)
	}
	if w.Error != nil {
		return w.Error
	}
	return nil
}
