package access

import (
	"fmt"
	"regexp"
)

type (
	// TargetName names a configured destination: 1 to 63 of [a-z0-9-], starting with a letter.
	TargetName string
	// AgentName names an enrolled agent; the same alphabet as TargetName.
	AgentName string
	// SessionID is one authorised use of one target by one client: a ULID made by the agent.
	SessionID string
	// CommandID is made by the agent, a ULID whose time is within 60 s of the broker's, and the idempotency key everywhere.
	CommandID string
	// ActorID is one node of a lineage: the id (jti) of the delegation that made it. A root's ActorID is its RootID.
	ActorID string
	// ApprovalID is the record of a held command: a ULID made by the broker.
	ApprovalID string
)

var nameShape = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// CheckName says whether s can name a target, an agent or an actor.
func CheckName(kind, s string) error {
	if !nameShape.MatchString(s) {
		return fmt.Errorf("%s name %q: want 1 to 63 of a-z, 0-9 and '-', starting with a letter", kind, s)
	}
	return nil
}
