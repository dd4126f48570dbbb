package broker

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/telemetry"
	"github.com/sallyport/sallyport/internal/token"
)

// AgentConfig says which agent calls.
type AgentConfig struct {
	URL         string                          // as for ActorConfig
	Certificate func() (tls.Certificate, error) // the current one, with its Leaf and an *ecdsa.PrivateKey; asked at every call
	Now         func() time.Time                // nil: time.Now
	AWS         Signer                          // signs calls around the agent's own signature, for functions that ask for an AWS identity; nil: none does
	Telemetry   *telemetry.Telemetry            // nil: nothing is traced
}

// Signer signs a request that is complete: sigv4.Signer.
type Signer interface {
	Sign(ctx context.Context, req *http.Request, body []byte) error
}

// Agent is an enrolled agent that calls the broker; every call is signed by its key (RFC 9421).
type Agent struct {
	caller      caller
	outside     *http.Client // to object stores
	certificate func() (tls.Certificate, error)
	now         func() time.Time
	aws         Signer
	tel         *telemetry.Telemetry
}

// NewAgent makes the client. It holds connections: one for a process is enough.
func NewAgent(c AgentConfig) (*Agent, error) {
	if c.Certificate == nil {
		return nil, errors.New("broker client: no certificate")
	}
	call, err := newCaller(c.URL)
	if err != nil {
		return nil, err
	}
	call.way.iam = c.AWS != nil
	a := &Agent{caller: call, outside: address{}.client(), certificate: c.Certificate, now: c.Now, aws: c.AWS, tel: c.Telemetry}
	if a.now == nil {
		a.now = time.Now
	}
	return a, nil
}

// CloseIdle closes the connections that wait for a next call.
func (a *Agent) CloseIdle() {
	a.caller.http.CloseIdleConnections()
	a.outside.CloseIdleConnections()
}

// Open asks for a session.
func (a *Agent) Open(ctx context.Context, r api.OpenRequest) (api.OpenResponse, error) {
	var out api.OpenResponse
	return out, a.post(ctx, api.PathOpen, r, &out)
}

// Check asks for decisions. What one call cannot carry goes beside it: see api.PathUpload.
func (a *Agent) Check(ctx context.Context, r api.CheckRequest) (api.CheckResponse, error) {
	return a.check(ctx, r)
}

// Claim uses an approval, or withdraws the held command.
func (a *Agent) Claim(ctx context.Context, r api.ClaimRequest) (api.ClaimResponse, error) {
	var out api.ClaimResponse
	return out, a.post(ctx, api.PathClaim, r, &out)
}

// Close ends a session in order.
func (a *Agent) Close(ctx context.Context, r api.CloseRequest) error {
	return a.post(ctx, api.PathClose, r, nil)
}

// Changes asks what a live agent must know.
func (a *Agent) Changes(ctx context.Context, r api.ChangesRequest) (api.ChangesResponse, error) {
	var out api.ChangesResponse
	return out, a.post(ctx, api.PathChanges, r, &out)
}

// Record delivers outcomes; sending them again does no harm.
func (a *Agent) Record(ctx context.Context, r api.RecordRequest) error {
	return a.post(ctx, api.PathRecord, r, nil)
}

// Chunks delivers chunks of recordings; sending them again does no harm.
func (a *Agent) Chunks(ctx context.Context, r api.ChunksRequest) (api.ChunksResponse, error) {
	var out api.ChunksResponse
	return out, a.post(ctx, api.PathChunks, r, &out)
}

// Recertify trades a CSR for a fresh certificate with the same names.
func (a *Agent) Recertify(ctx context.Context, r api.RecertifyRequest) (api.EnrollResponse, error) {
	var out api.EnrollResponse
	return out, a.post(ctx, api.PathRecertify, r, &out)
}

func (a *Agent) post(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("call broker: encode: %w", err)
	}
	return a.postBody(ctx, path, body, out)
}

func (a *Agent) postBody(ctx context.Context, path string, body []byte, out any) (err error) {
	ctx, span, end := a.tel.Start(ctx, http.MethodPost+" "+path, telemetry.KindClient)
	defer func() { end(err != nil) }()
	req, err := a.caller.request(ctx, http.MethodPost, path, body, "application/json")
	if err != nil {
		return err
	}
	cert, err := a.certificate()
	if err != nil {
		return fmt.Errorf("call broker: %w", err)
	}
	key, ok := cert.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || cert.Leaf == nil {
		return errors.New("call broker: the agent's certificate has no leaf or no ECDSA key")
	}
	if err := token.SignAgent(req, body, cert.Leaf, key, a.now()); err != nil {
		return fmt.Errorf("call broker: %w", err)
	}
	if a.aws != nil { // around everything above; the agent's signature is what the functions go by
		if err := a.aws.Sign(ctx, req, body); err != nil {
			return fmt.Errorf("call broker: %w", err)
		}
	}
	if span != nil { // not signed: it is for nobody to rely on
		req.Header.Set("Traceparent", span.Context().Traceparent())
	}
	// What an agent asks is idempotent: the transport may send it again when a kept connection turns out to be closed. The empty value
	// says so to net/http and is not sent.
	req.Header["Idempotency-Key"] = nil
	answer, err := a.caller.send(req)
	if err != nil {
		return err
	}
	return decode(answer, out)
}
