package stack_test

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/sallyport/sallyport/internal/stack"
)

// Behind a distribution, a function answers nobody else, whatever its own address; without one, everybody who can prove who they are.
func TestOnlyThroughTheDistribution(t *testing.T) {
	manager := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		_, _ = io.WriteString(w, `{"Name":"origin","SecretString":"the-secret"}`)
	}))
	defer manager.Close()
	base := map[string]string{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "eu-west-1", stack.TableGrants: "grants", "AWS_ENDPOINT_URL": manager.URL}
	for name, tt := range map[string]struct {
		vars   map[string]string
		header []string
		status int
	}{
		"no distribution":        {nil, nil, http.StatusNoContent},
		"through it":             {map[string]string{stack.OriginSecret: "origin", stack.URL: "https://sallyport.example"}, []string{"the-secret"}, http.StatusNoContent},
		"through it, no name":    {map[string]string{stack.OriginSecret: "origin"}, []string{"the-secret"}, http.StatusNoContent},
		"past it":                {map[string]string{stack.OriginSecret: "origin", stack.URL: "https://sallyport.example"}, nil, http.StatusForbidden},
		"past it, no name":       {map[string]string{stack.OriginSecret: "origin"}, nil, http.StatusForbidden},
		"another secret":         {map[string]string{stack.OriginSecret: "origin"}, []string{"another"}, http.StatusForbidden},
		"empty":                  {map[string]string{stack.OriginSecret: "origin"}, []string{""}, http.StatusForbidden},
		"another before its own": {map[string]string{stack.OriginSecret: "origin"}, []string{"another", "the-secret"}, http.StatusForbidden},
	} {
		vars := maps.Clone(base)
		maps.Copy(vars, tt.vars)
		s := stack.Open(func(k string) string { return vars[k] })
		s.BehindOrigin(t.Context())
		h, err := s.Serve(func(string) (http.Handler, error) {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get(stack.HeaderOrigin) != "" {
					t.Errorf("%s: the secret goes further than it must", name)
				}
				w.WriteHeader(http.StatusNoContent)
			}), nil
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "https://f.lambda-url.example/x", nil)
		for _, v := range tt.header {
			r.Header.Add(stack.HeaderOrigin, v)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
}

// A secret that cannot be read is no reason to answer everybody.
func TestNoSecretNoAnswer(t *testing.T) {
	down := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) }))
	defer down.Close()
	vars := map[string]string{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "eu-west-1", stack.TableGrants: "grants", "AWS_ENDPOINT_URL": down.URL,
		stack.OriginSecret: "origin"}
	s := stack.Open(func(k string) string { return vars[k] })
	s.BehindOrigin(t.Context())
	if h, err := s.Serve(func(string) (http.Handler, error) { return http.NotFoundHandler(), nil }); err == nil || h != nil {
		t.Fatal(h, err)
	}
}
