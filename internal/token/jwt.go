package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

// What we issue ourselves, access tokens and tickets, are JWTs by golang-jwt: ES256 with a key that may lie in KMS. What others sign with
// a key in the header (DPoP, session and key proofs) is go-jose's, which knows JSON Web Keys.

// signer is ES256 for golang-jwt by a store.Signer. It lives for one signature, which is why it may hold a context.
type signer struct {
	*jwt.SigningMethodECDSA
	ctx context.Context
}

// Sign implements jwt.SigningMethod.
func (s signer) Sign(input string, key any) ([]byte, error) {
	k, ok := key.(store.Signer)
	if !ok {
		return nil, jwt.ErrInvalidKeyType
	}
	digest := sha256.Sum256([]byte(input))
	der, err := sign(s.ctx, k, digest[:])
	if err != nil {
		return nil, err
	}
	return rawSignature(der)
}

// sign is k's signature, or the refusal that says that there is none: nothing was given away, so that the caller may ask again. Why it did
// not sign is for the log alone.
func sign(ctx context.Context, k store.Signer, digest []byte) ([]byte, error) {
	der, err := k.Sign(ctx, digest)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", api.Because(api.ErrUnavailable, "try again", "the key that signs did not answer").By(api.RuleSigningKey), err)
	}
	return der, nil
}

// body is a claims set as it stands: what it says is judged by strict and by the caller, not by the library's own validation.
type body struct{ json.RawMessage }

func (body) GetExpirationTime() (*jwt.NumericDate, error) { return nil, nil }
func (body) GetIssuedAt() (*jwt.NumericDate, error)       { return nil, nil }
func (body) GetNotBefore() (*jwt.NumericDate, error)      { return nil, nil }
func (body) GetIssuer() (string, error)                   { return "", nil }
func (body) GetSubject() (string, error)                  { return "", nil }
func (body) GetAudience() (jwt.ClaimStrings, error)       { return nil, nil }

func (i *Issuer) sign(ctx context.Context, typ string, claims any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encode claims: %w", err)
	}
	t := jwt.NewWithClaims(signer{jwt.SigningMethodES256, ctx}, body{payload})
	t.Header["typ"], t.Header["kid"] = typ, Thumbprint(i.key.Public())
	raw, err := t.SignedString(i.key)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	if len(raw) > MaxToken {
		return "", api.Because(api.ErrTooLarge, "shorten groups, purposes or capabilities", "a token of %d bytes is over the limit of %d", len(raw), MaxToken)
	}
	return raw, nil
}

// header is all that may stand in the header of what we issued: no jwk, jku, x5u, crit or b64 that could change what is verified.
type header struct {
	Algorithm string `json:"alg"`
	Type      string `json:"typ"`
	KeyID     string `json:"kid"`
}

var jwtParser = jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation())

// verifyKnown verifies a JWT by the one of our keys that it names, and decodes its claims strictly.
func verifyKnown(raw, typ string, keys map[string]*ecdsa.PublicKey, claims any) error {
	if len(raw) > MaxToken {
		return fmt.Errorf("longer than %d bytes", MaxToken)
	}
	first, _, ok := strings.Cut(raw, ".")
	if !ok {
		return jwt.ErrTokenMalformed
	}
	plain, err := base64.RawURLEncoding.Strict().DecodeString(first)
	if err != nil {
		return jwt.ErrTokenMalformed
	}
	var h header
	if err := strict(plain, &h); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	if h.Type != typ {
		return fmt.Errorf("typ is not %s", typ)
	}
	var b body
	if _, err := jwtParser.ParseWithClaims(raw, &b, func(t *jwt.Token) (any, error) {
		key, ok := keys[h.KeyID]
		if !ok || t.Header["kid"] != h.KeyID { // the library must have read the same header
			return nil, errors.New("signed by a key that is not known")
		}
		return key, nil
	}); err != nil {
		return err
	}
	return strict(b.RawMessage, claims)
}
