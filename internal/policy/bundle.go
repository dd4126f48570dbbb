package policy

import (
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// Bundle is one immutable version of a policy directory. The zero value denies everything.
type Bundle struct {
	// Address is "sha256:" and the hex digest of Archive.
	Address string
	Targets []Target // sorted by name
	Holds   []Hold   // sorted by name
	Classes []access.Class
	Roles   Roles
}

// Target is what everybody may know of a configured destination. Address and credential are the agent's alone.
type Target struct {
	Name     access.TargetName `json:"name"`
	Protocol string            `json:"protocol"`
	Labels   map[string]string `json:"labels,omitempty"`
	Database string            `json:"database,omitempty"` // display name of the default database
}

// Hold is a name under which commands wait for a reviewer.
type Hold struct {
	Name        string        `json:"name"`
	Reviewers   []string      `json:"reviewers"` // groups, at least one
	Expires     time.Duration `json:"expires"`   // how long a command waits
	Description string        `json:"description,omitempty"`
}

// Roles says which groups may see, and which may administer, more than their own.
type Roles struct {
	Auditors       []string `json:"auditors,omitempty"`
	Administrators []string `json:"administrators,omitempty"`
}

// Auditor says whether one of the groups may see everybody's sessions and approvals.
func (r Roles) Auditor(groups []string) bool { return common(r.Auditors, groups) }

// Administrator says whether one of the groups may make join tokens and revoke anybody.
func (r Roles) Administrator(groups []string) bool { return common(r.Administrators, groups) }

func common(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// Target finds a target by name.
func (b *Bundle) Target(name access.TargetName) (Target, bool) {
	for _, t := range b.Targets {
		if t.Name == name {
			return t, true
		}
	}
	return Target{}, false
}

// Hold finds a hold by name.
func (b *Bundle) Hold(name string) (Hold, bool) {
	for _, h := range b.Holds {
		if h.Name == name {
			return h, true
		}
	}
	return Hold{}, false
}

// Load reads a policy directory strictly. Its error lists every Problem that was found.
func Load(dir fs.FS) (*Bundle, error) { return nil, errors.New("not there yet") }

// Archive is the bundle as canonical bytes.
func (b *Bundle) Archive() []byte { return nil }

// FromArchive reads what Archive wrote; other bytes, even with the same meaning, are an error.
func FromArchive(archive []byte) (*Bundle, error) { return nil, errors.New("not there yet") }
