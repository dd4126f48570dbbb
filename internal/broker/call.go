package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/sallyport/sallyport/internal/api"
)

// caller sends one request and reads one answer.
type caller struct {
	address
	http *http.Client
	way  *way
}

func newCaller(url string) (caller, error) {
	a, err := parseAddress(url)
	if err != nil {
		return caller{}, err
	}
	return caller{address: a, http: a.client(), way: &way{}}, nil
}

// request makes the request for a path of the broker, to the function that serves it; the body is given twice because signing covers it.
func (c caller) request(ctx context.Context, method, path string, body []byte, contentType string) (*http.Request, error) {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	base, err := c.baseOf(ctx, path)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, r)
	if err != nil {
		return nil, fmt.Errorf("call broker: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("Accept", "application/json")
	return req, nil
}

// send returns the body of a 2xx answer, or the broker's *api.Error, or an error of the network.
func (c caller) send(req *http.Request) ([]byte, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call broker: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or abandoned
	body, err := io.ReadAll(io.LimitReader(resp.Body, api.MaxBody+1))
	if err != nil {
		return nil, fmt.Errorf("call broker: read answer: %w", err)
	}
	if len(body) > api.MaxBody {
		return nil, fmt.Errorf("call broker: the answer is over %d bytes", api.MaxBody)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return body, nil
	}
	return nil, failure(resp.StatusCode, body)
}

// Stranger is an answer that no function of ours gives: of AWS where a function is not there, cannot start or is at its limit, or of something that
// stands before the broker.
type Stranger struct{ Status int }

func (s Stranger) Error() string {
	if s.Status == http.StatusForbidden { // AWS's own word at a function URL
		return "it answered with HTTP status 403 and nothing that we understand: is the stack there, or does it ask agents for an AWS identity (AgentAccess; aws: in agent.yaml)?"
	}
	return fmt.Sprintf("it answered with HTTP status %d and nothing that we understand", s.Status)
}

// failure reads an answer that is not 2xx. Only a code of ours whose status is the answer's counts: something between us and the
// broker may answer too.
func failure(status int, body []byte) error {
	e := new(api.Error)
	if err := decode(body, e); err == nil && e.Code != "" && e.Status() == status {
		return e
	}
	return fmt.Errorf("call broker: %w", Stranger{status})
}

// decode reads exactly one JSON value without unknown fields. out nil takes any answer.
// decodeDiscovery takes fields that it does not know, and nothing else that is wrong: a stack is upgraded before the programs that ask it,
// and what they hear first must not shut them out.
func decodeDiscovery(body []byte) (api.Discovery, error) {
	var d api.Discovery
	if err := json.Unmarshal(body, &d); err != nil {
		return api.Discovery{}, fmt.Errorf("broker's answer: %w", err)
	}
	return d, nil
}

func decode(body []byte, out any) error {
	if out == nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(out); err != nil {
		return fmt.Errorf("broker's answer: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("broker's answer: something follows the JSON value")
	}
	return nil
}
