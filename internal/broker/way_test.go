package broker

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
)

// trusting makes the client believe in the test servers' certificates, as it would in a public one.
func trusting(c *caller, s *httptest.Server) { c.http = s.Client() }

func TestFunctionsWithURLsOfTheirOwn(t *testing.T) {
	key := newKey()
	var discoveries atomic.Int32
	var first, decide *httptest.Server
	answer := func(s **httptest.Server) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == api.PathDiscovery {
				discoveries.Add(1)
				api.Write(w, api.Discovery{Issuer: "x", Functions: map[string]string{"decide": decide.URL + "/"}})
				return
			}
			if _, err := token.VerifyDPoP(r, (*s).URL, "", time.Now()); err != nil {
				t.Errorf("%s: the proof is for another function: %v", r.URL, err)
			}
			w.Header().Set("Served-By", (*s).URL)
			_, _ = io.WriteString(w, `{}`)
		})
	}
	first, decide = httptest.NewTLSServer(answer(&first)), httptest.NewTLSServer(answer(&decide))
	t.Cleanup(first.Close)
	t.Cleanup(decide.Close)
	a := must(NewActor(ActorConfig{URL: first.URL, Key: key}))
	trusting(&a.caller, first)
	ctx := t.Context()
	for _, path := range []string{api.PathWhoami, api.PathCan, api.PathCan + "?x=1", api.PathJoin} {
		if err := a.Do(ctx, http.MethodPost, path, nil, nil); err != nil {
			t.Fatal(err)
		}
		want := first.URL
		if strings.HasPrefix(path, api.PathCan) {
			want = decide.URL
		}
		if req := must(a.caller.request(ctx, http.MethodPost, path, nil, "")); "https://"+req.URL.Host != want {
			t.Errorf("%s goes to %s, want %s", path, req.URL, want)
		}
	}
	if n := discoveries.Load(); n != 1 {
		t.Errorf("asked %d times where the functions are", n)
	}
}

func TestFunctionsThatCannotBe(t *testing.T) {
	for _, url := range []string{"http://127.0.0.1:1", "https://x/path", "https://u:p@x", "", "https://x/#ca=" + token.NewRandom()} {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != api.PathDiscovery {
				t.Errorf("called %s though discovery is no good", r.URL)
			}
			api.Write(w, api.Discovery{Issuer: "x", Functions: map[string]string{"decide": url}})
		}))
		t.Cleanup(s.Close)
		a := must(NewActor(ActorConfig{URL: s.URL, Key: newKey()}))
		trusting(&a.caller, s)
		if err := a.Do(context.Background(), http.MethodPost, api.PathCan, nil, nil); err == nil {
			t.Errorf("%q: accepted", url)
		}
	}
}

// What a newer broker tells beside must not shut an older program out; what is not JSON, or is another kind of value, must.
func TestDiscoveryOfANewerBroker(t *testing.T) {
	for body, ok := range map[string]bool{
		`{"issuer":"x","epoch":2,"moon":{"phase":1}}`: true,
		`{"issuer":"x"} {"issuer":"y"}`:               false,
		`{"issuer":1}`:                                false,
		`[]`:                                          false,
		``:                                            false,
	} {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
		p := must(NewPublic(s.URL))
		trusting(&p.caller, s)
		if d, err := p.Discovery(t.Context()); (err == nil) != ok || ok && (d.Issuer != "x" || d.Epoch != 2) {
			t.Errorf("%s: %+v %v", body, d, err)
		}
		s.Close()
	}
}
