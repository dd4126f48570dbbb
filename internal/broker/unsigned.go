package broker

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/internal/api"
)

// Answer is what a call without any proof of who asks was told.
type Answer struct {
	Status int
	Code   string    // of an *api.Error; "" when the answer is none of ours
	Date   time.Time // the other side's clock, to the second; zero where it does not say
}

// Unsigned makes a call that nobody signed, to the function that serves the path: who looks after a broker sees whether it is refused.
func (p *Public) Unsigned(ctx context.Context, method, path string) (Answer, error) {
	req, err := p.caller.request(ctx, method, path, []byte("{}"), "application/json")
	if err != nil {
		return Answer{}, err
	}
	if method == http.MethodGet {
		req.Body, req.ContentLength = nil, 0
	}
	resp, err := p.caller.http.Do(req)
	if err != nil {
		return Answer{}, fmt.Errorf("call broker: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or abandoned
	body, err := io.ReadAll(io.LimitReader(resp.Body, api.MaxBody))
	if err != nil {
		return Answer{}, fmt.Errorf("call broker: read answer: %w", err)
	}
	a := Answer{Status: resp.StatusCode}
	e := new(api.Error)
	if decode(body, e) == nil && e.Status() == resp.StatusCode {
		a.Code = e.Code
	}
	a.Date, _ = http.ParseTime(resp.Header.Get("Date")) // zero is what it says
	return a, nil
}
