package dir

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/store"
)

// UploadPath is where Uploads serves what it grants.
const UploadPath = "/upload/"

// Uploads is the embedded twin of presigned URLs: it grants a signed URL for one object, and takes what is put there. It implements
// store.Uploads and http.Handler.
type Uploads struct {
	Dir  *Dir
	Base string // https URL that UploadPath is served under, without a final slash
	Key  []byte // 32 bytes: signs what is granted
	Now  func() time.Time
}

const headerAbsent = "If-None-Match"

// Grant signs name, size, hash and time.
func (u *Uploads) Grant(_ context.Context, name string, size int64, sum [32]byte, life time.Duration) (store.Upload, error) {
	if err := checkName(name); err != nil {
		return store.Upload{}, err
	}
	if size < 1 || size > MaxBlob || len(u.Key) != 32 {
		return store.Upload{}, fmt.Errorf("grant %s: %d bytes: %w", name, size, store.ErrTooLarge)
	}
	until := strconv.FormatInt(u.Now().Add(life).Unix(), 10)
	q := url.Values{"until": {until}, "size": {strconv.FormatInt(size, 10)}, "sha256": {hex.EncodeToString(sum[:])}}
	q.Set("signature", u.sign(name, q))
	return store.Upload{URL: u.Base + UploadPath + name + "?" + q.Encode(), Header: map[string]string{headerAbsent: "*"}}, nil
}

// Open returns what was put.
func (u *Uploads) Open(ctx context.Context, name string) ([]byte, error) {
	return u.Dir.Open(ctx, name)
}

func (u *Uploads) sign(name string, q url.Values) string {
	h := hmac.New(sha256.New, u.Key)
	for _, s := range []string{"sallyport upload v1", name, q.Get("until"), q.Get("size"), q.Get("sha256")} {
		_, _ = fmt.Fprintf(h, "%d:%s", len(s), s) // never fails
	}
	return hex.EncodeToString(h.Sum(nil))
}

// ServeHTTP takes a PUT that was granted: its URL is looked at before a byte of its body is read.
func (u *Uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, q := strings.TrimPrefix(r.URL.Path, UploadPath), r.URL.Query()
	until, terr := strconv.ParseInt(q.Get("until"), 10, 64)
	size, serr := strconv.ParseInt(q.Get("size"), 10, 64)
	switch {
	case r.Method != http.MethodPut:
		http.Error(w, "only PUT", http.StatusMethodNotAllowed)
		return
	case terr != nil, serr != nil, !hmac.Equal([]byte(q.Get("signature")), []byte(u.sign(name, q))), u.Now().Unix() > until, r.Header.Get(headerAbsent) != "*":
		http.Error(w, "not granted, or not any more", http.StatusForbidden)
		return
	case r.ContentLength != size:
		http.Error(w, "another size was granted", http.StatusForbidden)
		return
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, size))
	if err != nil || int64(len(b)) != size {
		http.Error(w, "the body is not whole", http.StatusBadRequest)
		return
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != q.Get("sha256") {
		http.Error(w, "other bytes were granted", http.StatusBadRequest)
		return
	}
	switch err := u.Dir.Create(r.Context(), name, b); {
	case errors.Is(err, store.ErrConflict):
		http.Error(w, "other bytes are there", http.StatusPreconditionFailed)
	case err != nil:
		http.Error(w, "not stored", http.StatusInternalServerError)
	}
}
