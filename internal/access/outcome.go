package access

import "fmt"

// Outcome is what a decision comes to. The zero value denies.
type Outcome uint8

// The strictest outcome is the smallest, so that the strictest of several is their minimum.
const (
	Deny Outcome = iota
	Hold
	Allow
)

func (o Outcome) String() string {
	switch o {
	case Allow:
		return "allow"
	case Hold:
		return "hold"
	}
	return "deny"
}

// MarshalText writes "deny", "hold" or "allow".
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads what MarshalText writes; anything else is an error and leaves Deny.
func (o *Outcome) UnmarshalText(b []byte) error {
	*o = Deny
	switch string(b) {
	case "deny":
	case "hold":
		*o = Hold
	case "allow":
		*o = Allow
	default:
		return fmt.Errorf("outcome %q is not one of deny, hold, allow", b)
	}
	return nil
}

// Effect is what a command does to a resource, whatever verb was typed.
type Effect string

// The effects, from architecture section 3. The zero value is treated as Unknown.
const (
	Read     Effect = "read"
	Write    Effect = "write"
	Define   Effect = "define"
	Grant    Effect = "grant"
	Execute  Effect = "execute"
	Transfer Effect = "transfer"
	Forward  Effect = "forward"
	Connect  Effect = "connect"
	Unknown  Effect = "unknown"
)

// Effects lists every effect that a capability or a policy may name (Unknown cannot be granted).
var Effects = []Effect{Read, Write, Define, Grant, Execute, Transfer, Forward, Connect}
