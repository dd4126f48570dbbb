package audit

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
)

// SealBlob encrypts what lies beside the log under a session's data key, bound to its place. The same bytes in the same place always give
// the same result, so that what is stored twice is one object: the nonce is a keyed hash of place and content, and no two contents share one.
// use keeps kinds of blob apart, by a key of their own for each.
func SealBlob(dataKey []byte, use string, place, plain []byte) ([]byte, error) {
	aead, nonceKey, err := blobKeys(dataKey, use)
	if err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, nonceKey)
	h.Write(place)
	h.Write(plain)
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	copy(nonce, h.Sum(nil))
	return aead.Seal(nonce, nonce, plain, place), nil
}

// OpenBlob decrypts what was sealed for this very place.
func OpenBlob(dataKey []byte, use string, place, sealed []byte) ([]byte, error) {
	aead, _, err := blobKeys(dataKey, use)
	if err != nil {
		return nil, err
	}
	n := aead.NonceSize()
	if len(sealed) < n {
		return nil, errors.New("too short")
	}
	return aead.Open(nil, sealed[:n], sealed[n:], place)
}

// blobKeys are of one use alone: nonces of command bodies under the same data key are random, and must not meet these.
func blobKeys(dataKey []byte, use string) (cipher.AEAD, []byte, error) {
	if len(dataKey) != 32 {
		return nil, nil, fmt.Errorf("data key has %d bytes, want 32", len(dataKey))
	}
	derive := func(what string) []byte {
		h := hmac.New(sha256.New, dataKey)
		h.Write([]byte("sallyport " + use + " " + what + " v1"))
		return h.Sum(nil)
	}
	block, err := aes.NewCipher(derive("key"))
	if err != nil {
		return nil, nil, fmt.Errorf("data key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	return aead, derive("nonce"), err
}
