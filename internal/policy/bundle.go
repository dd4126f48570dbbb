package policy

import (
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

	archive []byte
	rules   []*rule
	index   index
	cases   []testCase
	memo    *memo
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
	i := slices.IndexFunc(b.Targets, func(t Target) bool { return t.Name == name })
	if i < 0 {
		return Target{}, false
	}
	return b.Targets[i], true
}

// Hold finds a hold by name.
func (b *Bundle) Hold(name string) (Hold, bool) {
	i := slices.IndexFunc(b.Holds, func(h Hold) bool { return h.Name == name })
	if i < 0 {
		return Hold{}, false
	}
	return b.Holds[i], true
}
