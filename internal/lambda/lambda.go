// Package lambda serves an http.Handler behind a Lambda function URL, in whole answers.
// It refuses answers over what Lambda carries, rather than cut them.
package lambda

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-lambda-go/events"
	runtime "github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/sallyport/sallyport/internal/telemetry"
)

// maxAnswer bounds an answer's body in bytes: Lambda carries 6 MB, of which base64 takes a fourth.
const maxAnswer = 4 << 20

// Getenv is the process's environment.
type Getenv = func(string) string

// Serve runs the handler that build makes for the function's life. It returns where there is none.
func Serve(name string, getenv Getenv, build func(ctx context.Context, getenv Getenv, log *slog.Logger) (http.Handler, error)) error {
	t, h, err := start(name, getenv, build)
	if err != nil {
		return err
	}
	h = t.Serve(h)
	runtime.Start(func(ctx context.Context, e events.LambdaFunctionURLRequest) (events.LambdaFunctionURLResponse, error) {
		defer t.Flush(ctx) // afterwards the process is frozen
		return Answer(telemetry.WithRequest(ctx, requestID(ctx)), h, e)
	})
	return nil
}

// Schedule runs a function that nobody waits for: by a schedule, or a stream that only says that there is something to do.
func Schedule(name string, getenv Getenv, build func(ctx context.Context, getenv Getenv, log *slog.Logger) (func(ctx context.Context) error, error)) error {
	t, run, err := start(name, getenv, build)
	if err != nil {
		return err
	}
	runtime.Start(func(ctx context.Context) error {
		defer t.Flush(ctx)
		return t.Run(ctx, requestID(ctx), name, run)
	})
	return nil
}

// start makes what a function tells, and what it does: under Lambda one call at a time, figures in its lines, by the name that Lambda gave it.
func start[T any](name string, getenv Getenv, build func(ctx context.Context, getenv Getenv, log *slog.Logger) (T, error)) (t *telemetry.Telemetry, what T, err error) {
	t, err = telemetry.New(telemetry.Config{Function: cmp.Or(getenv("AWS_LAMBDA_FUNCTION_NAME"), name), Getenv: getenv, Figures: true, Single: true})
	if err == nil {
		what, err = build(context.Background(), getenv, t.Log())
	}
	return t, what, err
}

// requestID is AWS's own id of the invocation, by which its logs and traces know it.
func requestID(ctx context.Context) string {
	if c, ok := lambdacontext.FromContext(ctx); ok {
		return c.AwsRequestID
	}
	return ""
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
	host := spelled(e.RequestContext.DomainName)
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

// spelled is a host as its owner writes it: who could have it spelled otherwise would be asking at another address.
func spelled(host string) string {
	return strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(host), ":443"), ".")
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
	if b := w.body.Bytes(); utf8.Valid(b) && inJSON(b) <= base64.StdEncoding.EncodedLen(maxAnswer) {
		out.Body = string(b)
	} else {
		out.Body, out.IsBase64Encoded = base64.StdEncoding.EncodeToString(b), true
	}
	return out
}

// inJSON is how long text becomes as a JSON string, at the most: a long answer of many quotes would be over what Lambda carries.
func inJSON(b []byte) (n int) {
	for _, c := range b {
		switch {
		case c == '"' || c == '\\':
			n += 2
		case c < 0x20 || c == '<' || c == '>' || c == '&': // as encoding/json writes them
			n += 6
		case c >= 0x80: // of three bytes that may become six
			n += 2
		default:
			n++
		}
	}
	return n
}
