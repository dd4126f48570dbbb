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

// MaxHolds is how many commands of one login may wait for reviewers at a time: a flood would bury the one that matters.
const MaxHolds = 10
