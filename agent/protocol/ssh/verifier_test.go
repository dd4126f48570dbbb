package ssh

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"testing"

	"github.com/sallyport/sallyport/internal/api"
)

func verifier(t testing.TB, password string) *api.Verifier {
	t.Helper()
	salted, err := pbkdf2.Key(sha256.New, password, []byte("salt"), 4096, sha256.Size)
	if err != nil {
		t.Fatal(err)
	}
	h := hmac.New(sha256.New, salted)
	h.Write([]byte("Client Key"))
	stored := sha256.Sum256(h.Sum(nil))
	return &api.Verifier{Iterations: 4096, Salt: []byte("salt"), StoredKey: stored[:]}
}
