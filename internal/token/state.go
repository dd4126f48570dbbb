package token

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// State is what the broker knows of a session. The agent carries it, sealed, so that deciding needs no read for it. It holds keys:
// its printed form shows none of them.
type State struct {
	Session    access.SessionID  `json:"session"`
	Agent      access.AgentName  `json:"agent"`
	AgentKey   string            `json:"agent_key"` // thumbprint of the agent's key at open
	Target     access.TargetName `json:"target"`
	Lineage    access.Lineage    `json:"lineage"`
	Capability access.Capability `json:"capability"`
	Thumbprint string            `json:"jkt"` // of the client's key
	Opened     time.Time         `json:"opened"`
	Expires    time.Time         `json:"expires"`
	DigestKey  []byte            `json:"digest_key"`
	DataKey    []byte            `json:"data_key"`
	Bundle     string            `json:"bundle"`
}

// String names the session and nothing secret; so does every other way of printing a State.
func (s State) String() string { return "session state of " + string(s.Session) }

// GoString is String: %#v must not show the keys either.
func (s State) GoString() string { return s.String() }

// Format keeps fmt from walking the fields.
func (s State) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// maxState bounds a sealed state before it is decoded: a lineage and a capability at their limits, twice over.
const maxState = 32 << 10

// SealState encrypts and authenticates a state (AES-256-GCM).
func SealState(stateKey []byte, s State) (string, error) {
	if s.Session == "" || len(s.DigestKey) != 32 || len(s.DataKey) != 32 {
		return "", errors.New("seal session state: no session, or keys that are not 32 bytes")
	}
	plain, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("seal session state: %w", err)
	}
	aead, err := stateAEAD(stateKey)
	if err != nil {
		return "", fmt.Errorf("seal session state: %w", err)
	}
	raw := encode(aead.Seal(nil, nil, plain, []byte("sallyport state v1")))
	if len(raw) > maxState {
		return "", fmt.Errorf("seal session state: over %d bytes", maxState)
	}
	return raw, nil
}

// OpenState decrypts what SealState made; anything else is refused as api.ErrDenied. It looks at no clock: the caller compares Expires.
func OpenState(stateKey []byte, raw string) (State, error) {
	if len(raw) > maxState {
		return State{}, api.Because(api.ErrDenied, "", "session state is over %d bytes", maxState)
	}
	b, err := decode(raw)
	if err != nil {
		return State{}, api.Because(api.ErrDenied, "", "session state is not ours")
	}
	aead, err := stateAEAD(stateKey)
	if err != nil {
		return State{}, err
	}
	plain, err := aead.Open(nil, nil, b, []byte("sallyport state v1"))
	if err != nil {
		return State{}, api.Because(api.ErrDenied, "", "session state is not ours")
	}
	var s State
	if err := strict(plain, &s); err != nil {
		return State{}, api.Because(api.ErrDenied, "", "session state is of another version")
	}
	return s, nil
}

func stateAEAD(stateKey []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(derive(stateKey, "state"))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
