package token

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
)

// NewID makes a ULID of this time.
func NewID(now time.Time) (string, error) {
	id, err := ulid.New(ulid.Timestamp(now), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make id: %w", err)
	}
	return id.String(), nil
}

// NewRandom is 32 random bytes, base64url: endpoints, salts.
func NewRandom() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails (crypto/rand since Go 1.24)
	return encode(b)
}

// encode is base64url without padding; decode accepts exactly what encode writes, so that no value has two spellings.
func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func decode(s string) ([]byte, error) { return base64.RawURLEncoding.Strict().DecodeString(s) }

// isRandom says whether s is 32 bytes in base64url: an endpoint, a thumbprint, a hash.
func isRandom(s string) bool {
	if len(s) != 43 {
		return false
	}
	b, err := decode(s)
	return err == nil && len(b) == 32
}

func isThumbprint(s string) bool { return isRandom(s) }
