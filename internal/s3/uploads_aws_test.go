//go:build aws

package s3_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/s3"
	"github.com/sallyport/sallyport/internal/store"
)

func TestGrant(t *testing.T) {
	b, _ := open(t)
	data := bytes.Repeat([]byte("a large command; "), 700_000) // 12 MB
	put := func(u store.Upload, body []byte, without string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, u.URL, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range u.Header {
			if k != without {
				r.Header.Set(k, v)
			}
		}
		resp, err := (&http.Client{Transport: transport}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	u, err := b.Grant(t.Context(), "uploads/S/C", int64(len(data)), sha256.Sum256(data), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("headers %v", u.Header)
	if got := put(u, data, ""); got != http.StatusOK {
		t.Fatalf("as granted: %d", got)
	}
	if got, err := b.Open(t.Context(), "uploads/S/C"); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if got := put(u, data, ""); got != http.StatusPreconditionFailed {
		t.Errorf("a second time: %d", got)
	}
	if _, err := b.Grant(t.Context(), "../x", 1, [32]byte{}, time.Minute); err == nil {
		t.Error("a name that leaves")
	}
	if _, err := b.Grant(t.Context(), "x", s3.MaxBlob+1, [32]byte{}, time.Minute); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}
