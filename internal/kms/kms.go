// Package kms signs with P-256 keys that never leave AWS KMS.
// It refuses a key of another kind, and passes on no signature that the key's public half does not verify.
package kms

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// Limits of one call, retries included. Signing again is harmless.
const (
	attempts   = 4
	maxBackoff = 300 * time.Millisecond
	callLimit  = 10 * time.Second
)

// Signer implements store.Signer with one key.
type Signer struct {
	client *kms.Client
	key    string
	public *ecdsa.PublicKey
}

// NewClient is a client with this package's limits. c carries region, credentials, endpoint and HTTP client; its retryer is replaced.
func NewClient(c aws.Config) (*kms.Client, error) {
	if c.Region == "" || c.Credentials == nil {
		return nil, errors.New("kms: a region and credentials are required")
	}
	return kms.NewFromConfig(c, func(o *kms.Options) {
		o.Retryer = retry.NewStandard(func(r *retry.StandardOptions) {
			r.MaxAttempts, r.MaxBackoff, r.RateLimiter = attempts, maxBackoff, ratelimit.None
		})
	}), nil
}

// NewSigner reads the key's public half. key is an id or ARN.
func NewSigner(ctx context.Context, client *kms.Client, key string) (*Signer, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	out, err := client.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &key})
	if err != nil {
		return nil, fmt.Errorf("kms key %s: %w", key, err)
	}
	if out.KeySpec != types.KeySpecEccNistP256 || out.KeyUsage != types.KeyUsageTypeSignVerify {
		return nil, fmt.Errorf("kms key %s: %s for %s, want %s for %s", key, out.KeySpec, out.KeyUsage, types.KeySpecEccNistP256, types.KeyUsageTypeSignVerify)
	}
	pub, err := x509.ParsePKIXPublicKey(out.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("kms key %s: %w", key, err)
	}
	ec, ok := pub.(*ecdsa.PublicKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, fmt.Errorf("kms key %s: the public key is not on P-256", key)
	}
	return &Signer{client: client, key: key, public: ec}, nil
}

// Public is the key's public half.
func (s *Signer) Public() *ecdsa.PublicKey { return s.public }

// Sign takes a SHA-256 digest and returns an ASN.1 DER signature.
func (s *Signer) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	if len(digest) != 32 {
		return nil, fmt.Errorf("sign: digest has %d bytes, want 32", len(digest))
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	out, err := s.client.Sign(ctx, &kms.SignInput{KeyId: &s.key, Message: digest, MessageType: types.MessageTypeDigest,
		SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256})
	if err != nil {
		return nil, fmt.Errorf("sign with kms key %s: %w", s.key, err)
	}
	if !ecdsa.VerifyASN1(s.public, digest, out.Signature) {
		return nil, fmt.Errorf("sign with kms key %s: the signature does not verify", s.key)
	}
	return out.Signature, nil
}
