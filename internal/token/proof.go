package token

import (
	"crypto/ecdsa"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

// ExporterLabel is the label of the TLS exporter that a session proof carries (RFC 8446 section 7.5): no context, 32 bytes.
const ExporterLabel = "EXPORTER-sallyport-session-v1"

// Proof binds a session to the TLS channel between endpoint and agent: the client's key says that it is on this very channel, with
// this agent, for this target, using this token. It is worthless on any other channel.
type Proof struct {
	Target    access.TargetName
	AgentKey  string // thumbprint of the agent's certificate key, as the client saw it
	Exporter  []byte // 32 bytes, see ExporterLabel
	Nonce     string // from the broker, good once
	TokenHash string // HashToken of the access token
	Endpoint  string
	IssuedAt  time.Time // whole seconds
}

type proofClaims struct {
	Target    string `json:"target"`
	AgentKey  string `json:"agent_key"`
	Exporter  string `json:"exporter"`
	Nonce     string `json:"nonce"`
	TokenHash string `json:"ath"`
	Endpoint  string `json:"endpoint"`
	IssuedAt  int64  `json:"iat"`
}

// SignProof signs with the key that the access token is bound to.
func SignProof(key *ecdsa.PrivateKey, p Proof) (string, error) {
	c := proofClaims{
		Target: string(p.Target), AgentKey: p.AgentKey, Exporter: encode(p.Exporter), Nonce: p.Nonce, TokenHash: p.TokenHash, Endpoint: p.Endpoint,
		IssuedAt: p.IssuedAt.Unix(),
	}
	if _, err := c.proof(); err != nil {
		return "", fmt.Errorf("session proof: %w", err)
	}
	raw, err := signEmbedded(key, typProof, c)
	if err != nil {
		return "", fmt.Errorf("session proof: %w", err)
	}
	return raw, nil
}

// VerifyProof verifies the signature and the time, and returns what was signed and the thumbprint of the key that signed it. The caller
// compares every field, and the thumbprint with the token's. Errors are of kind api.ErrLogin.
func VerifyProof(raw string, now time.Time) (Proof, string, error) {
	var c proofClaims
	jkt, err := verifyEmbedded(raw, typProof, &c)
	if err != nil {
		return Proof{}, "", api.Because(api.ErrLogin, "", "session proof: %v", err)
	}
	if !within(c.IssuedAt, now) {
		return Proof{}, "", api.Because(api.ErrLogin, "", "session proof: its time is more than %s from ours: set the clock", Window)
	}
	p, err := c.proof()
	if err != nil {
		return Proof{}, "", api.Because(api.ErrLogin, "", "session proof: %v", err)
	}
	return p, jkt, nil
}

func (c proofClaims) proof() (Proof, error) {
	if err := access.CheckName("target", c.Target); err != nil {
		return Proof{}, err
	}
	exporter, err := decode(c.Exporter)
	if err != nil || len(exporter) != 32 {
		return Proof{}, errors.New("exporter is not 32 bytes")
	}
	if !isThumbprint(c.AgentKey) || !isRandom(c.TokenHash) || !isRandom(c.Endpoint) {
		return Proof{}, errors.New("agent key, token hash or endpoint is not 32 bytes")
	}
	if b, err := decode(c.Nonce); err != nil || len(b) != nonceSize {
		return Proof{}, errors.New("not a nonce of the broker")
	}
	return Proof{
		Target: access.TargetName(c.Target), AgentKey: c.AgentKey, Exporter: exporter, Nonce: c.Nonce, TokenHash: c.TokenHash, Endpoint: c.Endpoint,
		IssuedAt: time.Unix(c.IssuedAt, 0).UTC(),
	}, nil
}

type keyProofClaims struct {
	Audience string `json:"aud"`
	ID       string `json:"jti"`
	IssuedAt int64  `json:"iat"`
}

// SignKeyProof shows, to the issuer iss, that a child holds the key that its token is to be bound to. The parent passes it on
// without ever having the key.
func SignKeyProof(key *ecdsa.PrivateKey, iss string, now time.Time) (string, error) {
	raw, err := signEmbedded(key, typKeyProof, keyProofClaims{Audience: iss, ID: NewRandom(), IssuedAt: now.Unix()})
	if err != nil {
		return "", fmt.Errorf("key proof: %w", err)
	}
	return raw, nil
}

// VerifyKeyProof verifies a child's key proof, without any I/O. Errors are of kind api.ErrDenied.
func VerifyKeyProof(raw, iss string, now time.Time) (Possession, error) {
	var c keyProofClaims
	jkt, err := verifyEmbedded(raw, typKeyProof, &c)
	switch {
	case err != nil:
		return Possession{}, api.Because(api.ErrDenied, "", "key proof: %v", err)
	case iss == "" || c.Audience != iss:
		return Possession{}, api.Because(api.ErrDenied, "", "key proof: made for another issuer")
	case !within(c.IssuedAt, now):
		return Possession{}, api.Because(api.ErrDenied, "", "key proof: its time is more than %s from ours: set the clock", Window)
	case !isRandom(c.ID):
		return Possession{}, api.Because(api.ErrDenied, "", "key proof: its jti is not 32 bytes")
	}
	return Possession{Thumbprint: jkt, Used: UsedOnce("jti", []byte(jkt+"\x00"+c.ID), time.Unix(c.IssuedAt, 0).Add(Window))}, nil
}

// LoginNonce is the OIDC nonce of a login whose ID token only the holder of a key can use: the provider signs it into the token,
// and the broker computes it again from the key that asks. salt is random and told to the broker with the ID token.
func LoginNonce(thumbprint, salt string) string {
	h := sha256.Sum256([]byte("sallyport login\x00" + thumbprint + "\x00" + salt))
	return encode(h[:])
}

// A nonce is 16 random bytes, 8 of expiry, and a MAC over these and what it is for: the broker keeps nothing until it is used.
const (
	nonceLife = 60 * time.Second
	nonceSize = 16 + 8 + 32
)

// NewNonce makes a nonce for one session proof: of this key, target and endpoint, for a minute, good once. stateKey has 32 bytes.
func NewNonce(stateKey []byte, jkt string, target access.TargetName, endpoint string, now time.Time) string {
	b := make([]byte, 24, nonceSize)
	random, _ := decode(NewRandom())
	copy(b, random[:16])
	binary.BigEndian.PutUint64(b[16:], uint64(now.Add(nonceLife).Unix()))
	return encode(append(b, nonceMAC(stateKey, b, jkt, target, endpoint)...))
}

// CheckNonce verifies a nonce; used is the put-if-absent that spends it (see Spend).
func CheckNonce(stateKey []byte, nonce, jkt string, target access.TargetName, endpoint string, now time.Time) (used store.Write, err error) {
	b, err := decode(nonce)
	if err != nil || len(b) != nonceSize {
		return store.Write{}, api.Because(api.ErrLogin, "", "not a nonce of this broker")
	}
	if !hmac.Equal(b[24:], nonceMAC(stateKey, b[:24], jkt, target, endpoint)) {
		return store.Write{}, api.Because(api.ErrLogin, "", "the nonce was made for somebody or something else")
	}
	until := time.Unix(int64(binary.BigEndian.Uint64(b[16:24])), 0)
	if !now.Before(until) {
		return store.Write{}, api.Because(api.ErrLogin, "open the connection again", "the nonce has expired")
	}
	return UsedOnce("nonce", b[:24], until), nil
}

func nonceMAC(stateKey, head []byte, jkt string, target access.TargetName, endpoint string) []byte {
	m := hmac.New(sha256.New, derive(stateKey, "nonce"))
	m.Write(head)
	for _, s := range []string{jkt, string(target), endpoint} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		m.Write(n[:])
		m.Write([]byte(s))
	}
	return m.Sum(nil)
}

// derive makes a key for one use out of the broker's state key, so that no use can be played against another.
func derive(stateKey []byte, use string) []byte {
	if len(stateKey) < 32 {
		panic("token: the state key has fewer than 32 bytes") // a wiring mistake, found at start: sealing under a short key must not happen
	}
	k, err := hkdf.Key(sha256.New, stateKey, nil, "sallyport "+use+" v1", 32)
	if err != nil {
		panic("token: " + err.Error()) // only for lengths that SHA-256 cannot give
	}
	return k
}
