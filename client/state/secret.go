package state

import (
	"encoding/json"
	"fmt"
	"log/slog"
)

// Secret is a token or password. Every way of printing it prints "[secret]". The zero Secret is empty.
type Secret struct{ v *string }

// NewSecret wraps s.
func NewSecret(s string) Secret { return Secret{v: &s} }

// Reveal returns the value: only where it goes onto the wire, or into the 0600 file of this package.
func (s Secret) Reveal() string {
	if s.v == nil {
		return ""
	}
	return *s.v
}

const hidden = "[secret]"

// Format keeps fmt from printing the value, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hidden)) }

// LogValue keeps slog from printing the value.
func (s Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalJSON keeps encoding/json from printing the value.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(hidden) }
