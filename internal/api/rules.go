package api

// Rules that decide names in a Decision beside those of policy: what a program may tell apart.
const (
	RuleRevoked       = "revoked"           // the lineage is not alive; the session ends
	RuleLoginExpired  = "login-expired"     // its login ran out; the session ends
	RuleExpired       = "session-expired"   // the session's own time ran out
	RulePolicyChanged = "policy-changed"    // classes of data differ from those at open: open the session again
	RuleBatchStopped  = "batch-stopped"     // an earlier command of the Ask stops it: not stored, ask again with the same sequence
	RuleTooManyHolds  = "too-many-holds"    // MaxHolds commands of this login wait already
	RuleTooLarge      = "command-too-large" // it does not fit an entry
	RuleHoldDenied    = "hold-denied"       // a reviewer said no
	RuleHoldExpired   = "hold-expired"      // nobody answered, or the approval was not used, in time
	RuleHoldWithdrawn = "hold-withdrawn"
	RuleHoldReviewer  = "hold-reviewer"     // the groups of who approved review this no longer
	RuleHoldUsed      = "hold-used"         // the approval was claimed before
	RuleHoldMismatch  = "approval-mismatch" // the command is not the one that was approved
)

// Rules that refusals of whole calls name (Error.Rule), where they say more than the error's kind.
const (
	RuleAgentSignature = "agent-signature" // the call is not signed by an agent's key under our CA
	RuleAgentExpired   = "agent-expired"   // its certificate ended: enroll it with a new join token
	RuleAgentRevoked   = "agent-revoked"   // an administrator revoked it: the same
	RuleAgentName      = "agent-name"      // an agent speaks for another one
	RuleAgentTarget    = "agent-target"    // the agent's certificate does not name the target
	RuleClock          = "clock"           // a time is too far from ours
	RuleSessionState   = "session-state"   // the session's sealed state is not ours, or of somebody else
	RuleSessionOver    = "session-over"    // it was closed or ended
	RuleSessionProof   = "session-proof"   // the client did not sign this very channel
	RuleAdministrators = "administrators"  // only administrators in person may do it
	RuleJoinToken      = "join-token"      // it is unknown, used or too old
	RuleSigningKey     = "signing-key"     // the key that signs tokens, tickets or certificates (KMS) did not answer: try again
	RuleEpochOver      = "epoch-over"      // a token from before the epoch was raised: log in again
	RuleEpochAhead     = "epoch-ahead"     // a token of an epoch that who verifies it has not heard of yet
)

// MaxHolds is how many commands of one login may wait for reviewers at a time: a flood would bury the one that matters.
const MaxHolds = 10

// MaxHoldsHour is how many commands of one login may be held within an hour, whatever became of them: reviewers are told of each.
const MaxHoldsHour = 100
