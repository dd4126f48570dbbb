package api

import (
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// Paths of functions/decide. Every call is signed by the agent's enrolled key (RFC 9421, see Sign).
const (
	PathOpen  = "/decide/open"
	PathCheck = "/decide/check"
	PathClaim = "/decide/claim"
	PathClose = "/decide/close"
)

// MaxBatch is how many commands one check may carry.
const MaxBatch = 64

// PermitLife is how long after the agent sent the question a permit may still be used, on the agent's monotonic clock.
const PermitLife = 5 * time.Second

// OpenRequest asks for a session. The proof is the client's signature over this very connection.
type OpenRequest struct {
	Session access.SessionID  `json:"session"` // ULID made by the agent, time within 60 s
	Target  access.TargetName `json:"target"`
	Agent   access.AgentName  `json:"agent"`
	Token   string            `json:"token"` // the client's access token
	Proof   string            `json:"proof"` // token.Proof: JWS by the token's key over target, agent key, TLS exporter, nonce
	// Exporter is the agent's own view of the TLS exporter (32 bytes); the proof must carry the same.
	Exporter []byte `json:"exporter"`
	Client   Client `json:"client"`
}

// Client describes the program that opened the connection, as the endpoint saw it: display and audit only.
type Client struct {
	Program string `json:"program,omitempty"`
	PID     int    `json:"pid,omitempty"`
	UID     int    `json:"uid,omitempty"`
}

// OpenResponse carries what the agent needs for the session's life.
type OpenResponse struct {
	Session access.SessionID `json:"session"`
	// State is opaque to the agent: sealed by the broker, sent back with every check.
	State     string         `json:"state"`
	DigestKey []byte         `json:"digest_key"` // 32 bytes, see access.Digest
	Lineage   access.Lineage `json:"lineage"`
	Classes   []access.Class `json:"classes"` // of the active bundle
	Bundle    string         `json:"bundle"`  // its content address
	Expires   time.Time      `json:"expires"` // the session ends then at the latest
}

// CheckRequest asks for decisions on up to MaxBatch commands of any sessions of one agent.
type CheckRequest struct {
	Agent access.AgentName `json:"agent"`
	Asks  []Ask            `json:"asks"` // one per session, commands in order of Seq
}

// Ask is the part of a CheckRequest that belongs to one session.
type Ask struct {
	Session  access.SessionID `json:"session"`
	State    string           `json:"state"` // from OpenResponse
	Prev     string           `json:"prev"`  // audit.Link before Commands[0]
	Commands []access.Command `json:"commands"`
	// Uploaded says that Commands are not here but where PathUpload let them be put, as a JSON array.
	Uploaded *Uploaded `json:"uploaded,omitempty"`
}

// PathUpload hands out the right to upload an Ask's commands where a call cannot carry them; signed by the agent.
const PathUpload = "/decide/upload"

// MaxUpload is the most that an Ask's commands may be, encoded: what a function holds in memory several times over.
const MaxUpload = 32 << 20

// Uploaded names the commands of an Ask that were put beside the call.
type Uploaded struct {
	First  access.CommandID `json:"first"` // id of the first command
	Bytes  int64            `json:"bytes"`
	SHA256 []byte           `json:"sha256"` // 32 bytes
}

// UploadRequest asks to upload an Ask's commands.
type UploadRequest struct {
	Agent    access.AgentName `json:"agent"`
	Session  access.SessionID `json:"session"`
	State    string           `json:"state"`
	Uploaded Uploaded         `json:"uploaded"`
}

// UploadResponse says how: a PUT to URL with exactly these headers. An answer of 412 says that it is there already.
type UploadResponse struct {
	URL    string            `json:"url"`
	Header map[string]string `json:"header"`
}

// CheckResponse answers every Ask in order; each has as many decisions as it had commands, or an error.
type CheckResponse struct {
	Answers []Answer `json:"answers"`
}

// Answer belongs to one Ask. After a command that is not allowed, the rest of its Ask are denied with rule "batch-stopped"
// and were not stored.
type Answer struct {
	Session   access.SessionID  `json:"session"`
	Decisions []access.Decision `json:"decisions,omitempty"`
	Error     *Error            `json:"error,omitempty"` // nothing of this Ask may run
}

// ClaimRequest uses an approval, exactly once, or withdraws the held command.
type ClaimRequest struct {
	Agent    access.AgentName  `json:"agent"`
	Session  access.SessionID  `json:"session"`
	State    string            `json:"state"`
	Approval access.ApprovalID `json:"approval"`
	Command  access.Command    `json:"command"` // the held command again: digest and policy are checked anew
	Withdraw bool              `json:"withdraw,omitempty"`
}

// ClaimResponse carries the final decision (the zero Decision for a withdrawal).
type ClaimResponse struct {
	Decision access.Decision `json:"decision"`
}

// CloseRequest ends a session in order.
type CloseRequest struct {
	Agent   access.AgentName `json:"agent"`
	Session access.SessionID `json:"session"`
	State   string           `json:"state"`
	LastSeq uint64           `json:"last_seq"`
	Prev    string           `json:"prev"` // audit.Link after the last command
	Reason  string           `json:"reason"`
}

// Paths of functions/changes and functions/record; signed by the agent.
const (
	PathChanges = "/changes"
	PathRecord  = "/record"
)

// ChangesRequest asks what a live agent must know.
type ChangesRequest struct {
	Agent     access.AgentName    `json:"agent"`
	Sessions  []LiveSession       `json:"sessions"`        // at most 1000 a call
	Approvals []access.ApprovalID `json:"approvals"`       // being waited for
	Spool     *Spool              `json:"spool,omitempty"` // now and then, for the broker's figures
}

// Spool is what an agent could not deliver yet.
type Spool struct {
	Bytes         int64   `json:"bytes"`
	OldestSeconds float64 `json:"oldest_seconds"`
}

// LiveSession names a session by its sealed state, from which the broker knows its lineage.
type LiveSession struct {
	Session access.SessionID `json:"session"`
	State   string           `json:"state"`
}

// ChangesResponse lists the sessions that must end now, and the verdicts that came in.
type ChangesResponse struct {
	Ended    []EndedSession `json:"ended,omitempty"`
	Verdicts []Verdict      `json:"verdicts,omitempty"`
	Bundle   string         `json:"bundle"`
}

// EndedSession must end now: its next command would be refused.
type EndedSession struct {
	Session access.SessionID `json:"session"`
	Code    string           `json:"code"` // access.CodeRevoked
	Hint    string           `json:"hint"`
}

// Verdict is a reviewer's answer. Approved alone permits nothing: the agent must claim it.
type Verdict struct {
	Approval access.ApprovalID `json:"approval"`
	Status   string            `json:"status"` // approval.Status: "approved", "denied", "expired", "withdrawn"
	Reason   string            `json:"reason,omitempty"`
}

// RecordRequest delivers outcomes, at least once: the broker stores each once.
type RecordRequest struct {
	Agent    access.AgentName `json:"agent"`
	Outcomes []Outcome        `json:"outcomes"` // at most 500
}

// Outcome is how one permitted command ended.
type Outcome struct {
	Session access.SessionID `json:"session"`
	Command access.CommandID `json:"command"`
	Seq     uint64           `json:"seq"`
	Time    time.Time        `json:"time"`
	Result  access.Result    `json:"result"`
}
