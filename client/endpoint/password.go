package endpoint

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/internal/token"
)

// iterations is the least that SCRAM-SHA-256 allows (RFC 7677 section 4). More would protect a password that can be guessed;
// this one has 256 random bits.
const iterations = 4096

// NewPassword makes a one-off password and its SCRAM-SHA-256 verifier (RFC 5803): the room checks callers against the verifier
// and never holds the password.
func NewPassword() (secret.Secret, *api.Verifier, error) {
	password := token.NewRandom()
	v, err := NewVerifier(password)
	if err != nil {
		return secret.Secret{}, nil, fmt.Errorf("make password: %w", err)
	}
	return secret.New(password), v, nil
}

// NewVerifier makes a password's verifier, under a salt of its own.
func NewVerifier(password string) (*api.Verifier, error) {
	salt := make([]byte, 16)
	if _, err := rand.Read(salt); err != nil {
		return nil, err
	}
	return verifier(password, salt, iterations)
}

func verifier(password string, salt []byte, n int) (*api.Verifier, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, n, sha256.Size)
	if err != nil {
		return nil, err
	}
	stored := sha256.Sum256(mac(salted, "Client Key"))
	return &api.Verifier{Iterations: n, Salt: salt, StoredKey: stored[:], ServerKey: mac(salted, "Server Key")}, nil
}

func mac(key []byte, s string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(s))
	return h.Sum(nil)
}
