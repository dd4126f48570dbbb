package broker

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
)

// Public makes the calls that need no identity.
type Public struct{ caller caller }

// NewPublic calls the broker at url, which is as for ActorConfig.
func NewPublic(url string) (*Public, error) {
	c, err := newCaller(url)
	if err != nil {
		return nil, err
	}
	return &Public{caller: c}, nil
}

// Base is the broker's URL without the pin.
func (p *Public) Base() string { return p.caller.base }

// CloseIdle closes the connections that wait for a next call.
func (p *Public) CloseIdle() { p.caller.http.CloseIdleConnections() }

// Discovery tells where everything is.
func (p *Public) Discovery(ctx context.Context) (api.Discovery, error) {
	body, err := p.get(ctx, api.PathDiscovery)
	if err != nil {
		return api.Discovery{}, err
	}
	return decodeDiscovery(body)
}

// Keys fetches the keys that sign access tokens and tickets, for token.NewVerifier.
func (p *Public) Keys(ctx context.Context) ([]*ecdsa.PublicKey, error) {
	body, err := p.get(ctx, api.PathJWKS)
	if err != nil {
		return nil, err
	}
	return token.ParseJWKS(body)
}

// Enroll trades a join token for a certificate.
func (p *Public) Enroll(ctx context.Context, r api.EnrollRequest) (api.EnrollResponse, error) {
	var out api.EnrollResponse
	in, err := json.Marshal(r)
	if err != nil {
		return out, fmt.Errorf("encode: %w", err)
	}
	req, err := p.caller.request(ctx, http.MethodPost, api.PathEnroll, in, "application/json")
	if err != nil {
		return out, err
	}
	body, err := p.caller.send(req)
	if err != nil {
		return out, err
	}
	return out, decode(body, &out)
}

func (p *Public) get(ctx context.Context, path string) ([]byte, error) {
	req, err := p.caller.request(ctx, http.MethodGet, path, nil, "")
	if err != nil {
		return nil, err
	}
	return p.caller.send(req)
}
