// Package approval holds the record of a held command and the only ways in which it may change.
// It refuses a verdict by anybody but another person of a reviewing group who logged in for it, and every second use.
package approval

import (
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// Status of a Record. The zero Status is none of them and permits nothing.
type Status string

// Statuses. Pending and approved records end by time as well: see StatusAt.
const (
	Pending   Status = "pending"
	Approved  Status = "approved" // by a reviewer; runs only once it is claimed
	Denied    Status = "denied"   // by a reviewer
	Expired   Status = "expired"
	Withdrawn Status = "withdrawn" // by the client that asked
	Claimed   Status = "claimed"   // used
)

// Record is a held command and what became of it. It is kept in store.Approvals, which is encrypted at rest: the reviewer must
// see the exact text.
type Record struct {
	ID         access.ApprovalID `json:"id"` // a ULID made by the broker
	Status     Status            `json:"status"`
	Hold       string            `json:"hold"`
	Session    access.SessionID  `json:"session"`
	Command    access.CommandID  `json:"command"`
	Seq        uint64            `json:"seq"`
	Digest     string            `json:"digest"` // access.Digest of the one command that may use it
	Target     access.TargetName `json:"target"`
	State      access.State      `json:"state"`
	Verb       string            `json:"verb"`
	Normalised string            `json:"normalised"`
	Text       string            `json:"text"`
	Masked     string            `json:"masked,omitempty"` // what runs in its place where classes must stay masked: see access.Command
	Params     []access.Param    `json:"params,omitempty"`
	Touches    []access.Touch    `json:"touches,omitempty"`
	Lineage    access.Lineage    `json:"lineage"`
	Agent      access.AgentName  `json:"agent"`
	Bundle     string            `json:"bundle"`    // address of the bundle that held it
	Reviewers  []string          `json:"reviewers"` // groups of the hold
	Created    time.Time         `json:"created"`
	Expires    time.Time         `json:"expires"`

	By        string    `json:"by,omitempty"`        // the reviewer's subject
	ByGroups  []string  `json:"by_groups,omitempty"` // those of Reviewers that the reviewer was in
	Reason    string    `json:"reason,omitempty"`    // the reviewer's, or why it was withdrawn
	AuthTime  time.Time `json:"auth_time,omitzero"`
	DecidedAt time.Time `json:"decided_at,omitzero"` // of the verdict
	UsedAt    time.Time `json:"used_at,omitzero"`    // of the claim or withdrawal
}

// Reviewer is a signed-in person who answers.
type Reviewer struct {
	Subject  string
	Groups   []string
	AuthTime time.Time // of the login made for this very verdict
}
