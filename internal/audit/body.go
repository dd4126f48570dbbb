package audit

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/internal/access"
)

// Body is the exact command. It rests encrypted under its session's data key, whose destruction is the shred.
type Body struct {
	Text   string         `json:"text"`
	Masked string         `json:"masked,omitempty"` // what runs in its place where classes are masked beneath
	Params []access.Param `json:"params,omitempty"`
	// Prepared is access.State.Prepared: as much the exact text as Text, and like it not for the log's open part.
	Prepared string `json:"prepared,omitempty"`
	// Normalised is there where the entry has only the beginning of it.
	Normalised string `json:"normalised,omitempty"`
}

// CommandOf is what the log keeps of a command: its facts and normalised text in the open, its exact body sealed.
// dataKey has 32 bytes.
func CommandOf(c access.Command, digest string, dataKey []byte) (*Command, error) {
	aead, err := newAEAD(dataKey)
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(Body{Text: c.Text, Masked: c.Masked, Params: c.Params, Prepared: c.State.Prepared})
	if err != nil {
		return nil, fmt.Errorf("encode command body: %w", err)
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("command body nonce: %w", err)
	}
	return &Command{
		Verb: c.Verb, Digest: digest, Normalised: c.Normalised, Body: aead.Seal(nonce, nonce, plain, []byte(c.ID)),
		State: OpenState(c.State), Touches: c.Touches, Classes: c.Classes, Facts: c.Facts, Complete: c.Complete, Why: c.Why, Prepare: c.Prepare,
	}, nil
}

// OpenState is what of a command's state stands in the log in the open: not the text that the target has prepared, which holds literals.
func OpenState(s access.State) access.State {
	s.Prepared = ""
	return s
}

// OpenBody returns the exact command of an entry with this id.
func OpenBody(c *Command, id access.CommandID, dataKey []byte) (Body, error) {
	if c.Large != nil {
		return Body{}, fmt.Errorf("command body of %s: it lies beside the log", id)
	}
	aead, err := newAEAD(dataKey)
	if err != nil {
		return Body{}, err
	}
	if len(c.Body) < aead.NonceSize() {
		return Body{}, errors.New("command body: too short")
	}
	plain, err := aead.Open(nil, c.Body[:aead.NonceSize()], c.Body[aead.NonceSize():], []byte(id))
	if err != nil {
		return Body{}, fmt.Errorf("command body of %s: %w", id, err)
	}
	var b Body
	if err := json.Unmarshal(plain, &b); err != nil {
		return Body{}, fmt.Errorf("command body of %s: %w", id, err)
	}
	return b, nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("data key has %d bytes, want 32", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("data key: %w", err)
	}
	return cipher.NewGCM(block)
}
