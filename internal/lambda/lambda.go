// Package lambda serves an http.Handler behind a Lambda function URL, in whole answers.
// It refuses answers over what Lambda carries, rather than cut them.
package lambda

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-lambda-go/events"
	runtime "github.com/aws/aws-lambda-go/lambda"
)

// maxAnswer bounds an answer's body in bytes: Lambda carries 6 MB, of which base64 takes a third.
const maxAnswer = 4 << 20

// Serve runs the handler for the function's life. It does not return.
func Serve(h http.Handler) {
	runtime.Start(func(ctx context.Context, e events.LambdaFunctionURLRequest) (events.LambdaFunctionURLResponse, error) {
		return Answer(ctx, h, e)
	})
}

// Answer is one request. Of what the caller sent, the method, path, query, headers, cookies and body reach the handler; the host is the
// address that AWS took the request at, whatever the caller's Host header says.
func Answer(ctx context.Context, h http.Handler, e events.LambdaFunctionURLRequest) (events.LambdaFunctionURLResponse, error) {
	r, err := request(ctx, e)
	if err != nil {
		return events.LambdaFunctionURLResponse{StatusCode: http.StatusBadRequest}, nil //nolint:nilerr // the caller's mistake, not ours
	}
	w := &writer{header: http.Header{}}
	h.ServeHTTP(w, r)
	if w.over {
		return events.LambdaFunctionURLResponse{}, fmt.Errorf("answer of %s %s: over %d bytes", r.Method, r.URL.Path, maxAnswer)
	}
	return w.response(), nil
}

func request(ctx context.Context, e events.LambdaFunctionURLRequest) (*http.Request, error) {
	body := []byte(e.Body)
	if e.IsBase64Encoded {
		var err error
		if body, err = base64.StdEncoding.DecodeString(e.Body); err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
	}
	host := e.RequestContext.DomainName
	if host == "" || strings.ContainsAny(host, "/?#@") || !strings.HasPrefix(e.RawPath, "/") {
		return nil, errors.New("no host, or no path")
	}
	url := "https://" + host + e.RawPath
	if e.RawQueryString != "" {
		url += "?" + e.RawQueryString
	}
	r, err := http.NewRequestWithContext(ctx, e.RequestContext.HTTP.Method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range e.Headers {
		r.Header.Set(k, v) // Lambda has joined what came more than once
	}
	if len(e.Cookies) > 0 {
		r.Header.Set("Cookie", strings.Join(e.Cookies, "; "))
	}
	r.Header.Del("Host")
	r.RemoteAddr = net.JoinHostPort(e.RequestContext.HTTP.SourceIP, "0")
	r.RequestURI = r.URL.RequestURI()
	return r, nil
}

// writer keeps an answer until it is whole.
type writer struct {
	header http.Header // the handler's
	sent   http.Header // as they were when the status was
	status int
	body   bytes.Buffer
	over   bool
}

func (w *writer) Header() http.Header { return w.header }

func (w *writer) WriteHeader(status int) {
	if w.status != 0 || status < 200 { // informational ones have nobody to go to
		return
	}
	w.status, w.sent = status, w.header.Clone()
}

func (w *writer) Write(b []byte) (int, error) {
	if w.status == 0 {
		if w.header.Get("Content-Type") == "" && len(b) > 0 {
			w.header.Set("Content-Type", http.DetectContentType(b))
		}
		w.WriteHeader(http.StatusOK)
	}
	if w.body.Len()+len(b) > maxAnswer {
		w.over = true
		return 0, fmt.Errorf("answer over %d bytes", maxAnswer)
	}
	return w.body.Write(b)
}

func (w *writer) response() events.LambdaFunctionURLResponse {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	out := events.LambdaFunctionURLResponse{StatusCode: w.status, Headers: map[string]string{}, Cookies: w.sent.Values("Set-Cookie")}
	w.sent.Del("Set-Cookie")
	for k, v := range w.sent {
		out.Headers[k] = strings.Join(v, ", ")
	}
	if b := w.body.Bytes(); utf8.Valid(b) {
		out.Body = string(b)
	} else {
		out.Body, out.IsBase64Encoded = base64.StdEncoding.EncodeToString(b), true
	}
	return out
}
