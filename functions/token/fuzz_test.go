package token_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tokenfn "github.com/sallyport/sallyport/functions/token"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/token"
)

// FuzzExchange posts whatever strangers may post: never a token, never a panic, and nobody is asked about what is no ID token.
func FuzzExchange(f *testing.F) {
	db := must(sqlite.Open(filepath.Join(f.TempDir(), "store.db")))
	f.Cleanup(func() { _ = db.Close() })
	key := fileKey{newKey()}
	ca := must(token.LoadCA(context.Background(), db, key, time.Now()))
	const base = "https://broker.example"
	h := must(tokenfn.New(tokenfn.Config{
		Items: db, Issuer: token.NewIssuer(base, key, 1), Verifier: token.NewVerifier(base, 1, key.Public()), CA: ca, StateKey: make([]byte, 32),
		OIDC: tokenfn.OIDC{Issuer: "https://op.example", ClientID: clientID, HTTPClient: &http.Client{Transport: nobody{}}}, Bundles: bundle{}, Base: base,
	}))
	f.Add("grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token_type=urn:ietf:params:oauth:token-type:id_token&subject_token=a.b.c")
	f.Add("grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token_type=urn:ietf:params:oauth:token-type:access_token&subject_token=T&actor_name=x&purpose=p&capability=read:a&actor_life=5")
	f.Add("%zz;=&")
	f.Fuzz(func(t *testing.T, form string) {
		for _, authorization := range []string{"", "DPoP T"} {
			r := httptest.NewRequest(http.MethodPost, api.PathToken, strings.NewReader(form))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("DPoP", must(token.SignDPoP(key.PrivateKey, http.MethodPost, base+api.PathToken, "", time.Now())))
			if authorization != "" {
				r.Header.Set("Authorization", authorization)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code < 400 || w.Code == http.StatusInternalServerError {
				t.Errorf("status %d: %s", w.Code, w.Body)
			}
		}
	})
}

// nobody is an identity provider that cannot be reached.
type nobody struct{}

func (nobody) RoundTrip(*http.Request) (*http.Response, error) { return nil, http.ErrServerClosed }
