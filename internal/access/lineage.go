package access

import "time"

// Node is one step of a lineage, outermost first: the principal's login, then each actor under it.
type Node struct {
	ID      ActorID `json:"id"`
	Name    string  `json:"name"` // the principal's subject for the root, the actor's name below
	Purpose string  `json:"purpose,omitempty"`
}

// Assurance says how well an actor is told from its parent (architecture section 8).
type Assurance int

// Assurance levels.
const (
	Inherited Assurance = iota
	Declared
	Exchanged
	Attested
	Isolated
)

// Lineage is who asks: the principal, its groups, and the path of actors down to the one that speaks.
type Lineage struct {
	Principal string    `json:"principal"` // issuer-scoped subject, "alice"
	Groups    []string  `json:"groups,omitempty"`
	Path      []Node    `json:"path"` // at least the root; Path[0].ID names the root item
	Assurance Assurance `json:"assurance"`
	AuthTime  time.Time `json:"auth_time,omitzero"`
}

// Root is the id of the lineage's root item; empty for the zero Lineage.
func (l Lineage) Root() ActorID {
	if len(l.Path) == 0 {
		return ""
	}
	return l.Path[0].ID
}

// Actor is the node that speaks.
func (l Lineage) Actor() Node {
	if len(l.Path) == 0 {
		return Node{}
	}
	return l.Path[len(l.Path)-1]
}

// Depth is 0 for the principal itself, 1 for its child.
func (l Lineage) Depth() int { return max(len(l.Path)-1, 0) }

// Chain is "alice → coder → tester", for people.
func (l Lineage) Chain() string {
	s := ""
	for i, n := range l.Path {
		if i > 0 {
			s += " → "
		}
		s += n.Name
	}
	return s
}

// Class is one class of data: which columns hold it and how its values are masked.
type Class struct {
	Name string `json:"name"`
	// Columns are patterns over schema.table.column; '*' matches any run of characters.
	Columns []string `json:"columns"`
	// Detector names what recognises values of the class in text that nobody classified: one of package mask's. Empty: nothing does.
	Detector string `json:"detector,omitempty"`
	// Mask is the masker's name in package mask: "email", "card", "last4", "full", "hash".
	Mask string `json:"mask"`
}
