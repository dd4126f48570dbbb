package audit

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// Kind of an entry.
type Kind string

// Kinds of entry.
const (
	KindLogin     Kind = "login"    // a root was made
	KindDelegate  Kind = "delegate" // a child actor was made
	KindRevoke    Kind = "revoke"
	KindEnroll    Kind = "enroll"
	KindOpen      Kind = "open"    // a session
	KindCommand   Kind = "command" // the intent and its decision; stored before the answer
	KindVerdict   Kind = "verdict" // a reviewer's
	KindClaim     Kind = "claim"   // the approval was used
	KindWithdraw  Kind = "withdraw"
	KindOutcome   Kind = "outcome" // how a permitted command ended
	KindClose     Kind = "close"
	KindRecording Kind = "recording" // a chunk of what a command left beside its outcome
)

// Entry is one line of evidence. Fields that a kind does not use are empty.
type Entry struct {
	V    int       `json:"v"` // 1
	Kind Kind      `json:"kind"`
	ID   string    `json:"id"`   // ULID: the command's id where there is one; the idempotency key
	Time time.Time `json:"time"` // the broker's clock, UTC

	Agent   access.AgentName  `json:"agent,omitempty"`
	Session access.SessionID  `json:"session,omitempty"`
	Seq     uint64            `json:"seq,omitempty"`
	Prev    string            `json:"prev,omitempty"` // Link before this command (command), after the last one (close)
	Target  access.TargetName `json:"target,omitempty"`
	Lineage *access.Lineage   `json:"lineage,omitempty"`

	Command   *Command          `json:"command,omitempty"`
	Decision  *access.Decision  `json:"decision,omitempty"`
	Approval  *Approval         `json:"approval,omitempty"`
	Result    *access.Result    `json:"result,omitempty"`
	Recording *Recording        `json:"recording,omitempty"`
	Note      map[string]string `json:"note,omitempty"` // kind-specific display data, never secret
}

// Command is what the log keeps of a command: normalised text for everybody, the exact body under the session's data key.
type Command struct {
	Verb       string            `json:"verb"`
	Digest     string            `json:"digest"` // access.Digest
	Normalised string            `json:"normalised"`
	Body       []byte            `json:"body,omitempty"`  // see SealBody
	Large      *Large            `json:"large,omitempty"` // in place of Body, where that does not fit
	State      access.State      `json:"state"`
	Touches    []access.Touch    `json:"touches,omitempty"`
	Classes    []access.ClassUse `json:"classes,omitempty"`
	Facts      access.Facts      `json:"facts"`
	Complete   bool              `json:"complete"`
	Why        string            `json:"why,omitempty"`
	Prepare    bool              `json:"prepare,omitempty"`
}

// Recording is what the log keeps of one chunk of a recording. Its bytes lie beside the log, sealed under the session's data key, as the
// blob RecordingName.
type Recording struct {
	Command access.CommandID `json:"command"`
	Kind    string           `json:"kind"`
	Name    string           `json:"name,omitempty"` // with the first chunk
	Index   int              `json:"index"`
	Bytes   int              `json:"bytes"`  // as recorded
	Stored  int              `json:"stored"` // as sealed
	SHA256  string           `json:"sha256"` // of the sealed bytes, hex
	Last    bool             `json:"last,omitempty"`
	Reason  string           `json:"reason,omitempty"` // why it ended, with the last one
}

// RecordingPrefix is where chunks lie among the log's blobs.
const RecordingPrefix = "recordings/"

// RecordingName is the blob of one chunk.
func RecordingName(s access.SessionID, c access.CommandID, index int) string {
	return fmt.Sprintf("%s%s/%s/%06d", RecordingPrefix, s, c, index)
}

// Approval is what the log keeps of a verdict or claim.
type Approval struct {
	ID      access.ApprovalID `json:"id"`
	Command access.CommandID  `json:"command"`
	Digest  string            `json:"digest"`
	Hold    string            `json:"hold,omitempty"`
	Status  string            `json:"status"`
	By      string            `json:"by,omitempty"`
	Reason  string            `json:"reason,omitempty"`
	Auth    time.Time         `json:"auth_time,omitzero"` // of the reviewer's login
}

// FirstLink is the chain's value before a session's first command.
func FirstLink(s access.SessionID) string {
	h := sha256.Sum256([]byte("sallyport session v1\x00" + string(s)))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// Link is the chain's value after a command: the hash of the value before, the command's id, sequence and digest.
func Link(prev string, id access.CommandID, seq uint64, digest string) string {
	h := sha256.New()
	h.Write([]byte("sallyport command v1\x00"))
	for _, s := range []string{prev, string(id), digest} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], seq)
	h.Write(n[:])
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}
