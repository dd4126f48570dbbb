package api

import (
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// Paths of the JSON side of functions/approve; DPoP as for PathTicket. A principal sees its own lineage; members of the
// auditors' and administrators' groups see all.
const (
	PathApprovals = "/api/approvals" // GET ?status=, GET /api/approvals/ID
	PathSessions  = "/api/sessions"  // GET ?limit=, GET /api/sessions/ID
	PathActors    = "/api/actors"    // GET: the live tree
)

// ApprovalView is an approval for display.
type ApprovalView struct {
	ID        access.ApprovalID `json:"id"`
	Status    string            `json:"status"`
	Hold      string            `json:"hold"`
	Session   access.SessionID  `json:"session"`
	Command   access.CommandID  `json:"command"`
	Digest    string            `json:"digest"`
	Target    access.TargetName `json:"target"`
	State     access.State      `json:"state"`
	Text      string            `json:"text"`
	Masked    string            `json:"masked,omitempty"` // what runs in its place where classes must stay masked
	Params    []access.Param    `json:"params,omitempty"`
	Touches   []access.Touch    `json:"touches"`
	Lineage   access.Lineage    `json:"lineage"`
	Created   time.Time         `json:"created"`
	Expires   time.Time         `json:"expires"`
	By        string            `json:"by,omitempty"`
	DecidedAt time.Time         `json:"decided_at,omitzero"`
	Reason    string            `json:"reason,omitempty"`
	Link      string            `json:"link"`
}

// SessionView is a session for display; Commands only where one session was asked for.
type SessionView struct {
	ID       access.SessionID  `json:"id"`
	Target   access.TargetName `json:"target"`
	Agent    access.AgentName  `json:"agent"`
	Lineage  access.Lineage    `json:"lineage"`
	Opened   time.Time         `json:"opened"`
	Closed   time.Time         `json:"closed,omitzero"`
	Status   string            `json:"status"` // "open", "closed", "lost", "ended"
	Client   Client            `json:"client"`
	Count    int               `json:"count"`
	Partial  bool              `json:"partial,omitempty"` // there are more commands than one answer has room for
	Commands []CommandView     `json:"commands,omitempty"`
	// Recordings are what the commands left beside their outcomes, in order of the commands.
	Recordings []RecordingView `json:"recordings,omitempty"`
}

// CommandView is one command with its decision and outcome. Text is the exact text where the viewer may see it.
type CommandView struct {
	ID       access.CommandID `json:"id"`
	Seq      uint64           `json:"seq"`
	Time     time.Time        `json:"time"`
	Verb     string           `json:"verb"`
	Text     string           `json:"text"`
	Masked   string           `json:"masked,omitempty"` // what runs in its place where classes must stay masked; Result.Beneath says that it did
	Params   []access.Param   `json:"params,omitempty"`
	Prepared string           `json:"prepared,omitempty"` // what the target had prepared under the name that it ran by
	Large    bool             `json:"large,omitempty"`    // Text is the beginning of its normalised text: the rest lies beside the log
	Touches  []access.Touch   `json:"touches"`
	Decision access.Decision  `json:"decision"`
	Approval *ApprovalView    `json:"approval,omitempty"`
	Result   *access.Result   `json:"result,omitempty"` // nil: outcome unknown
}

// ActorView is one node of the live tree.
type ActorView struct {
	Node     access.Node   `json:"node"`
	Status   string        `json:"status"` // "live", "revoked", "expired"
	Expires  time.Time     `json:"expires"`
	Sessions []SessionView `json:"sessions,omitempty"`
	Children []ActorView   `json:"children,omitempty"`
}
