package broker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/sallyport/sallyport/internal/api"
)

// check sends a question. Commands that one call cannot carry are uploaded first, those of one session after those of another, until
// the rest fits.
func (a *Agent) check(ctx context.Context, r api.CheckRequest) (api.CheckResponse, error) {
	var out api.CheckResponse
	body, err := json.Marshal(r)
	if err != nil {
		return out, fmt.Errorf("call broker: encode: %w", err)
	}
	if !carried(body) {
		if body, err = a.lighten(ctx, r); err != nil {
			return out, err
		}
	}
	return out, a.postBody(ctx, api.PathCheck, body, &out)
}

// frame is what Lambda's event has beside a body: its own fields, and headers with the agent's certificate among them.
const frame = 64 << 10

// carried says whether a call carries the body wherever the broker runs. Behind a function URL it is the event that may have api.MaxBody, and
// the body is a JSON string in it, its quotes escaped once more, or base64. How AWS writes what is not ASCII is not said anywhere: \uXXXX is
// the longest that it can be.
func carried(body []byte) bool {
	asText := 0
	for _, c := range body {
		switch {
		case c == '"' || c == '\\':
			asText += 2
		case c < 0x20:
			asText += 6
		case c < 0x80:
			asText++
		default:
			asText += 3 // six for a character of two or three bytes, twelve for one of four
		}
	}
	return max(asText, base64.StdEncoding.EncodedLen(len(body)))+frame <= api.MaxBody
}

// light is how large the commands of a session may be that stay in a call which is too large.
const light = 256 << 10

func (a *Agent) lighten(ctx context.Context, r api.CheckRequest) ([]byte, error) {
	asks := make([]api.Ask, len(r.Asks))
	for i, ask := range r.Asks {
		commands, err := json.Marshal(ask.Commands)
		if err != nil {
			return nil, fmt.Errorf("call broker: encode: %w", err)
		}
		if asks[i] = ask; len(commands) <= light || len(ask.Commands) == 0 {
			continue
		}
		if len(commands) > api.MaxUpload {
			return nil, api.Because(api.ErrTooLarge, "send it in parts", "the command has %d bytes with its parameters, more than %d", len(commands), api.MaxUpload)
		}
		sum := sha256.Sum256(commands)
		up := api.Uploaded{First: ask.Commands[0].ID, Bytes: int64(len(commands)), SHA256: sum[:]}
		var grant api.UploadResponse
		if err := a.post(ctx, api.PathUpload, api.UploadRequest{Agent: r.Agent, Session: ask.Session, State: ask.State, Uploaded: up}, &grant); err != nil {
			return nil, err
		}
		if err := a.put(ctx, grant, commands); err != nil {
			return nil, fmt.Errorf("upload commands: %w", err)
		}
		asks[i].Commands, asks[i].Uploaded = nil, &up
	}
	r.Asks = asks
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("call broker: encode: %w", err)
	}
	return body, nil
}

// put writes what was granted. The URL is the broker's own, or an object store's under TLS; plain HTTP is for this machine alone.
func (a *Agent) put(ctx context.Context, grant api.UploadResponse, b []byte) error {
	u, err := url.Parse(grant.URL)
	if err != nil {
		return errors.New("the broker names no URL")
	}
	client := a.outside
	switch ip := net.ParseIP(u.Hostname()); {
	case u.Scheme+"://"+u.Host == a.caller.base:
		client = a.caller.http
	case u.Scheme == "https", u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()):
	default:
		return fmt.Errorf("the broker names a URL of scheme %q", u.Scheme)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, grant.URL, bytes.NewReader(b))
	if err != nil {
		return err
	}
	for k, v := range grant.Header {
		req.Header.Set(k, v)
	}
	resp, err := client.Do(req)
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		err = ue.Err // without the URL: it permits what it says
	}
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it was read, or does not matter
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode >= 200 && resp.StatusCode < 300 || resp.StatusCode == http.StatusPreconditionFailed { // there already: the broker looks at it
		return nil
	}
	return fmt.Errorf("HTTP status %d", resp.StatusCode)
}
