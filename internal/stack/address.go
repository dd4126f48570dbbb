package stack

import (
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/sallyport/sallyport/internal/api"
)

// maxAddresses is how many addresses one function remembers: its own, and those of a rename or two. The one that was asked at longest ago is
// forgotten for another: who may name addresses at will must not take its own from a function.
const maxAddresses = 4

// Serve returns the handler that build makes for the function's public URL. Where no URL is set it is the address that the request
// came to, as Lambda gives it: a function cannot be told its own URL before it has one. Building once at start finds what is wrong
// with the rest.
func (s *Stack) Serve(build func(base string) (http.Handler, error)) (http.Handler, error) {
	if s.err != nil {
		return nil, s.err
	}
	if base := s.getenv(URL); base != "" {
		h, err := build(strings.TrimSuffix(base, "/"))
		return behind(s.through, h), err
	}
	if _, err := build("https://address.invalid"); err != nil {
		return nil, err
	}
	return behind(s.through, &addressed{build: build, handlers: map[string]http.Handler{}}), nil
}

type addressed struct {
	build    func(base string) (http.Handler, error)
	mu       sync.Mutex
	handlers map[string]http.Handler
	asked    []string // their addresses, the last one last
}

func (a *addressed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h, err := a.at(r.Host)
	if err != nil {
		api.Fail(w, nil, err)
		return
	}
	h.ServeHTTP(w, r)
}

func (a *addressed) at(host string) (http.Handler, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if host == "" {
		return nil, api.Because(api.ErrBadRequest, "set "+URL+" to the public URL", "this function was asked at no address")
	}
	h, ok := a.handlers[host]
	if !ok {
		var err error
		if h, err = a.build("https://" + host); err != nil {
			return nil, err
		}
		if len(a.asked) == maxAddresses {
			delete(a.handlers, a.asked[0])
			a.asked = a.asked[1:]
		}
		a.handlers[host] = h
	}
	a.asked = append(slices.DeleteFunc(a.asked, func(at string) bool { return at == host }), host)
	return h, nil
}
