// Package secret is the type of values that must not be seen: credentials, tokens, one-off passwords.
// It refuses to print: fmt, slog, JSON and YAML all show "[secret]".
package secret

import (
	"encoding/json"
	"fmt"
	"log/slog"
)

// Secret holds a value. The zero Secret is empty.
type Secret struct{ v *string } // behind a pointer, so that %v of a struct around it shows an address at worst

// New wraps s.
func New(s string) Secret { return Secret{v: &s} }

// Reveal returns the value: only where it goes onto the wire, or into a file that nobody else can read.
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

// MarshalYAML keeps yaml from printing the value.
func (s Secret) MarshalYAML() (any, error) { return hidden, nil }
