package stack

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"

	"github.com/sallyport/sallyport/internal/api"
)

// OriginSecret is the setting of functions behind the stack's own distribution: name or ARN of what it shows them, in Secrets Manager.
const OriginSecret = "SALLYPORT_ORIGIN_SECRET" // #nosec G101 -- the name of a setting

// HeaderOrigin is where the distribution shows it. It says which way a request came, and nothing about who asks.
const HeaderOrigin = "X-Sallyport-Origin"

// BehindOrigin makes what Serve returns refuse, where there is such a secret, all that did not come through the distribution: its limits and
// its firewall are for everybody.
func (s *Stack) BehindOrigin(ctx context.Context) {
	if s.getenv(OriginSecret) == "" {
		return
	}
	want := sha256.Sum256([]byte(s.secret(ctx, OriginSecret).Reveal()))
	s.through = func(r *http.Request) bool {
		got := sha256.Sum256([]byte(r.Header.Get(HeaderOrigin)))
		return subtle.ConstantTimeCompare(got[:], want[:]) == 1
	}
}

// behind is h, for those alone who may pass.
func behind(through func(*http.Request) bool, h http.Handler) http.Handler {
	if through == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !through(r) {
			api.Fail(w, nil, api.Because(api.ErrDenied, "use the public name", "this address answers its own distribution alone"))
			return
		}
		r.Header.Del(HeaderOrigin)
		h.ServeHTTP(w, r)
	})
}
