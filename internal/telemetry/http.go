package telemetry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/http"
)

// HeaderRequest tells a caller the id under which the call is in the log.
const HeaderRequest = "Sallyport-Request"

type requestKey struct{}

// WithRequest gives the next call of this context an id that somebody else has made: AWS's own.
func WithRequest(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestKey{}, id)
}

func newRequest() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails: the runtime ends the process first
	return hex.EncodeToString(b)
}

// Serve makes a call of every request: its id goes back to the caller, its trace goes on where the caller began it.
func (t *Telemetry) Serve(next http.Handler) http.Handler {
	if t == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := r.Context().Value(requestKey{}).(string)
		if id == "" {
			id = newRequest()
		}
		w.Header().Set(HeaderRequest, id)
		parent, _ := ParseTraceparent(r.Header.Get("Traceparent"))
		route := r.Method + " " + routeOf(r.URL.Path)
		ctx, c := t.begin(r.Context(), id, route, parent)
		s := &status{ResponseWriter: w, code: http.StatusOK}
		next.ServeHTTP(s, r.WithContext(ctx))
		if c.span != nil {
			c.span.Set("http.request.method", r.Method)
			c.span.Set("http.route", routeOf(r.URL.Path))
			c.span.Set("http.response.status_code", float64(s.code))
			c.span.Set("sallyport.request", id)
		}
		t.end(ctx, c, s.code >= http.StatusBadRequest, slog.String("route", route), slog.Int("status", s.code))
	})
}

// routeOf is a path with what names one thing cut off: a path is whatever a stranger sends.
func routeOf(path string) string {
	n := 0
	for i := 1; i < len(path); i++ {
		switch c := path[i]; {
		case c == '/':
			if n++; n == 2 {
				return path[:i] + "/…"
			}
		case c >= 'a' && c <= 'z', c == '-', c == '.':
		default:
			return path[:i] + "…"
		}
		if i == 40 {
			return path[:i] + "…"
		}
	}
	return path
}

// status remembers what was answered.
type status struct {
	http.ResponseWriter
	code  int
	wrote bool
}

func (s *status) WriteHeader(code int) {
	if !s.wrote && code >= 200 {
		s.code, s.wrote = code, true
	}
	s.ResponseWriter.WriteHeader(code)
}

func (s *status) Write(b []byte) (int, error) {
	s.wrote = true
	return s.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController through.
func (s *status) Unwrap() http.ResponseWriter { return s.ResponseWriter }
