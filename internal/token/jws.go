package token

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Types of our signed objects (the JWS header "typ"). A verifier accepts one, so that none passes for another.
const (
	typAccess   = "at+jwt" // RFC 9068
	typTicket   = "sallyport-ticket+jwt"
	typDPoP     = "dpop+jwt" // RFC 9449
	typProof    = "sallyport-session+jwt"
	typKeyProof = "sallyport-key+jwt"
)

var algorithms = []jose.SignatureAlgorithm{jose.ES256}

// signEmbedded signs claims with a key of the caller's, which the header carries.
func signEmbedded(key *ecdsa.PrivateKey, typ string, claims any) (string, error) {
	if err := checkKey(publicOf(key)); err != nil {
		return "", err
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encode claims: %w", err)
	}
	o := (&jose.SignerOptions{EmbedJWK: true}).WithType(jose.ContentType(typ))
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, o)
	if err != nil {
		return "", fmt.Errorf("signer: %w", err)
	}
	jws, err := s.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	raw, err := jws.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("serialise: %w", err)
	}
	if len(raw) > MaxToken {
		return "", fmt.Errorf("a proof of %d bytes is over the limit of %d", len(raw), MaxToken)
	}
	return raw, nil
}

func publicOf(key *ecdsa.PrivateKey) *ecdsa.PublicKey {
	if key == nil {
		return nil
	}
	return &key.PublicKey
}

// parse reads one compact JWS and checks everything about it but its signature. Only "typ" may stand in the header beside what
// the algorithm needs: no jku, x5u, crit or b64 means that nothing else can change what is verified.
func parse(raw, typ string) (*jose.JSONWebSignature, jose.Header, error) {
	if len(raw) > MaxToken {
		return nil, jose.Header{}, fmt.Errorf("longer than %d bytes", MaxToken)
	}
	jws, err := jose.ParseSignedCompact(raw, algorithms)
	if err != nil {
		return nil, jose.Header{}, err
	}
	if len(jws.Signatures) != 1 {
		return nil, jose.Header{}, errors.New("not exactly one signature")
	}
	h := jws.Signatures[0].Protected
	if h.ExtraHeaders[jose.HeaderType] != typ {
		return nil, jose.Header{}, fmt.Errorf("typ is not %s", typ)
	}
	if len(h.ExtraHeaders) != 1 || h.Nonce != "" {
		return nil, jose.Header{}, errors.New("a header that is not known")
	}
	return jws, h, nil
}

// verifyEmbedded verifies a JWS by the key in its own header, and returns that key's thumbprint: who signed, not whether they may.
func verifyEmbedded(raw, typ string, claims any) (string, error) {
	jws, h, err := parse(raw, typ)
	if err != nil {
		return "", err
	}
	if h.JSONWebKey == nil || h.KeyID != "" {
		return "", errors.New("the header carries no key")
	}
	key, ok := h.JSONWebKey.Key.(*ecdsa.PublicKey)
	if !ok {
		return "", errors.New("the header's key is not a public P-256 key")
	}
	if err := checkKey(key); err != nil {
		return "", err
	}
	payload, err := jws.Verify(key)
	if err != nil {
		return "", err
	}
	return Thumbprint(key), strict(payload, claims)
}

// strict decodes one JSON value: no unknown field, nothing after it.
func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the JSON value")
	}
	return nil
}

func checkKey(k *ecdsa.PublicKey) error {
	if k == nil || k.Curve != elliptic.P256() {
		return errors.New("the key is not a P-256 key")
	}
	if _, err := k.ECDH(); err != nil {
		return fmt.Errorf("the key is not valid: %w", err)
	}
	return nil
}

// Thumbprint is a key's name everywhere: RFC 7638, SHA-256, base64url. It is empty for a key that is not P-256.
func Thumbprint(key *ecdsa.PublicKey) string {
	if checkKey(key) != nil {
		return ""
	}
	t, err := (&jose.JSONWebKey{Key: key}).Thumbprint(crypto.SHA256)
	if err != nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(t)
}

// HashToken is the base64url SHA-256 of a token as it is sent: DPoP's "ath" (RFC 9449 section 4.2).
func HashToken(raw string) string {
	h := sha256.Sum256([]byte(raw))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// ParseJWKS reads a key set and returns its P-256 keys. It refuses a set with any other kind of key: the broker publishes none.
func ParseJWKS(b []byte) ([]*ecdsa.PublicKey, error) {
	var set jose.JSONWebKeySet
	if len(b) > 64<<10 {
		return nil, errors.New("key set: over 64 KiB")
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	if len(set.Keys) == 0 {
		return nil, errors.New("key set: no keys")
	}
	keys := make([]*ecdsa.PublicKey, 0, len(set.Keys))
	for _, k := range set.Keys {
		key, ok := k.Key.(*ecdsa.PublicKey)
		if !ok || checkKey(key) != nil {
			return nil, errors.New("key set: a key that is not a public P-256 key")
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// rawSignature turns an ASN.1 ECDSA signature into r || s of 32 bytes each (RFC 7518 section 3.4, RFC 9421 section 3.3.4).
func rawSignature(der []byte) ([]byte, error) {
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) != 0 {
		return nil, errors.New("signature: not an ASN.1 ECDSA signature")
	}
	if sig.R.Sign() <= 0 || sig.S.Sign() <= 0 || sig.R.BitLen() > 256 || sig.S.BitLen() > 256 {
		return nil, errors.New("signature: out of range")
	}
	out := make([]byte, 64)
	sig.R.FillBytes(out[:32])
	sig.S.FillBytes(out[32:])
	return out, nil
}

// verifyRaw verifies what rawSignature made.
func verifyRaw(key *ecdsa.PublicKey, digest, sig []byte) bool {
	return len(sig) == 64 && ecdsa.Verify(key, digest, new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
}

// within says whether a time given in whole seconds is at most Window away.
func within(t int64, now time.Time) bool {
	d := now.Sub(time.Unix(t, 0))
	return d <= Window && d >= -Window
}
