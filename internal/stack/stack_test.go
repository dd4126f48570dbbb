package stack_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/stack"
)

func env(over map[string]string) func(string) string {
	all := map[string]string{"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
		stack.TableRegistry: "r", stack.URL: "https://b.test/"}
	return func(k string) string {
		if v, ok := over[k]; ok {
			return v
		}
		return all[k]
	}
}

func TestTheFirstErrorStays(t *testing.T) {
	for name, over := range map[string]map[string]string{
		"AWS_REGION":                {"AWS_REGION": ""},
		"AWS_ENDPOINT_URL_DYNAMODB": {"AWS_ENDPOINT_URL_DYNAMODB": "localhost"},
		"no tables":                 {stack.TableRegistry: ""},
		stack.EvidenceBucket:        {},
		stack.Epoch:                 {stack.EvidenceBucket: "b", stack.Epoch: "0"},
	} {
		s := stack.Open(env(over))
		s.Evidence()
		s.Verifier(t.Context())
		if err := s.Err(); err == nil || !strings.Contains(err.Error(), name) {
			if name != stack.Epoch { // the key comes before it
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := s.Serve(nil); err == nil {
			t.Errorf("%s: served", name)
		}
	}
}

func echo(base string) (http.Handler, error) {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, base) }), nil
}

func get(h http.Handler, host string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "https://"+host+"/", nil)
	r.Host = host
	h.ServeHTTP(w, r)
	return w
}

func TestServeKnowsItsAddress(t *testing.T) {
	h, err := stack.Open(env(nil)).Serve(echo)
	if err != nil {
		t.Fatal(err)
	}
	if got := get(h, "other.test").Body.String(); got != "https://b.test" {
		t.Errorf("with a URL: %s", got)
	}
	built := map[string]int{}
	if h, err = stack.Open(env(map[string]string{stack.URL: ""})).Serve(func(base string) (http.Handler, error) { built[base]++; return echo(base) }); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		host := fmt.Sprintf("%d.lambda-url.test", i)
		for range 2 {
			if got := get(h, host).Body.String(); got != "https://"+host {
				t.Errorf("without one: %s", got)
			}
		}
	}
	// Whoever can name addresses takes none from those that go on being asked at, and does not make the function keep more than a few.
	for i := range 100 {
		for _, host := range []string{fmt.Sprintf("x%d.test", i), "3.lambda-url.test"} {
			if got := get(h, host).Body.String(); got != "https://"+host {
				t.Errorf("among many: %s", got)
			}
		}
	}
	if built["https://3.lambda-url.test"] != 1 {
		t.Errorf("an address in use was forgotten: %v", built)
	}
	if get(h, "0.lambda-url.test"); built["https://0.lambda-url.test"] != 2 {
		t.Errorf("a hundred addresses are kept: %v", built)
	}
	if w := get(h, ""); w.Code != http.StatusBadRequest {
		t.Errorf("no address: %d %s", w.Code, w.Body)
	}
	broken := errors.New("broken")
	for _, url := range []string{"", "https://b.test"} {
		_, err := stack.Open(env(map[string]string{stack.URL: url})).Serve(func(string) (http.Handler, error) { return nil, broken })
		if !errors.Is(err, broken) {
			t.Errorf("%q: %v", url, err)
		}
	}
}
