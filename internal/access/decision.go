package access

import (
	"encoding/json"
	"fmt"
	"time"
)

// Decision is the answer to one command: outcome, reasons, obligations.
type Decision struct {
	Command     CommandID    `json:"command"`
	Seq         uint64       `json:"seq"`
	Digest      string       `json:"digest"` // echoes the canonical digest of the command it answers
	Outcome     Outcome      `json:"outcome"`
	Code        string       `json:"code,omitempty"`    // of a denial: one of the Code constants; empty is CodeDenied
	Rule        string       `json:"rule"`              // the rule that settled it: a policy's @id, or a built-in such as "default-deny"
	Reasons     []string     `json:"reasons,omitempty"` // one per policy that took part
	Hint        string       `json:"hint,omitempty"`    // what to do next, in a sentence
	Obligations []Obligation `json:"obligations,omitempty"`
	Approval    ApprovalID   `json:"approval,omitempty"`
	HoldName    string       `json:"hold,omitempty"`
	Link        string       `json:"link,omitempty"`   // the reviewer's page, where held
	Expires     time.Time    `json:"expires,omitzero"` // of the hold
}

// Kinds of obligation. One that the agent does not know denies.
const (
	ObligeMask   = "mask"   // mask the classes named
	ObligeRows   = "rows"   // deliver at most Limit rows, then end the command with an error; change at most as many, or none
	ObligeRecord = "record" // record the command in full (every agent does)
)

// Obligation is what must be done for an allow to count.
type Obligation struct {
	Kind    string   `json:"kind"`
	Classes []string `json:"classes,omitempty"`
	Limit   int64    `json:"limit,omitempty"`
}

// HeldCommand is what a room tells its client while a command waits for a reviewer.
type HeldCommand struct {
	Approval ApprovalID
	Name     string // of the hold
	Link     string
	Expires  time.Time
}

// Codes of a Denied, stable for programs.
const (
	CodeDenied      = "denied"       // policy, capability or floor
	CodeHeldDenied  = "held_denied"  // a reviewer said no
	CodeHeldExpired = "held_expired" // nobody answered in time
	CodeCancelled   = "cancelled"    // the client gave up while held
	CodeRevoked     = "revoked"      // the lineage is no longer alive
	CodeNoDecision  = "no_decision"  // the gate is closed: no answer, a late one, or one not understood
	CodeUnsupported = "unsupported"  // the room does not carry this
	CodeNotMaskable = "not_maskable" // a protected value would travel where it cannot be masked
	CodeBusy        = "busy"         // a local limit (spool full, too many sessions)
)

// Denied says why a command must not run. It is one of the two kinds of error that cross a boundary.
type Denied struct {
	Code      string     `json:"code"`
	Rule      string     `json:"rule"`
	Approval  ApprovalID `json:"approval_id,omitempty"`
	Retryable bool       `json:"retryable"`
	Hint      string     `json:"hint"`
	Command   CommandID  `json:"command_id,omitempty"`
	Index     int        `json:"-"` // which command of the batch
}

// Error is a sentence for people; Detail is the same for programs.
func (d *Denied) Error() string {
	if d.Code == CodeNoDecision {
		return "no decision: the gate is closed"
	}
	return fmt.Sprintf("denied by rule %q", d.Rule)
}

// Detail is stable JSON {code, rule, approval_id, retryable, hint}.
func (d *Denied) Detail() string {
	b, err := json.Marshal(d)
	if err != nil {
		return `{"code":"denied","rule":"","retryable":false,"hint":""}`
	}
	return string(b)
}
