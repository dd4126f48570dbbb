package access

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"
)

// Digest is the canonical digest of a command: what an approval binds to. It covers target, state, exact text and exact
// parameters, each with its length, keyed with the session's digest key so that a digest in the log cannot be tested
// against guessed literals once the key is destroyed. Base64url, 43 characters.
func Digest(key []byte, target TargetName, c Command) string {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("sallyport command v1\x00"))
	field(h, []byte(target))
	field(h, []byte(c.State.Database))
	field(h, []byte(c.State.Role))
	field(h, []byte(c.State.SearchPath))
	field(h, []byte(c.Text))
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(c.Params)))
	h.Write(n[:])
	for _, p := range c.Params {
		if p.Null {
			h.Write([]byte{0})
			continue
		}
		h.Write([]byte{1})
		field(h, p.Value)
	}
	// Everything before tells its own length, so that nothing else can end like this.
	if c.State.Prepared != "" || c.Masked != "" {
		field(h, []byte(c.State.Prepared))
	}
	if c.Masked != "" {
		field(h, []byte(c.Masked))
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

func field(h hash.Hash, b []byte) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(b)))
	h.Write(n[:])
	h.Write(b)
}
