package policy

import (
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// Request is everything that a decision depends on.
type Request struct {
	Command    access.Command
	Target     access.TargetName
	Agent      access.AgentName
	Lineage    access.Lineage
	Capability access.Capability // of the lineage's token, already no wider than every ancestor's
	Approved   []string          // holds that a claimed approval lifts
	Now        time.Time
}

// Verdict is what a bundle says about a Request. The zero value denies.
type Verdict struct {
	Outcome     access.Outcome
	Code        string              // access.Code… of a denial
	Rule        string              // the @id of the policy that settled it, or one of the built-in rules
	Reasons     []string            // one per policy that took part
	Hint        string              // what to do next
	Obligations []access.Obligation // of an allow
	Hold        string              // name of the hold to wait under
}

// Built-in rules, beside the @id of policies and the agent's own refusals.
const (
	RuleDefaultDeny   = "default-deny"       // no policy permits it
	RuleCapability    = "capability"         // the token's capability does not cover it
	RuleIncomplete    = "incomplete"         // not understood in full, and "unknown" is not permitted
	RuleNoTouches     = "no-touches"         // a command of which the room reported no effect at all
	RuleTooMany       = "too-many-resources" // more than MaxTouches or MaxClasses
	RuleUnknownTarget = "unknown-target"     // the bundle has no such target
	RuleUnknownKind   = "unknown-resource"   // a kind of resource that policy cannot name
	RuleNoLineage     = "no-lineage"         // nobody asks
	RuleSeveralHolds  = "several-holds"      // approvals under more than one name would be needed
	RulePolicyError   = "policy-error"       // a policy could not be evaluated
	RuleNotMaskable   = "not-maskable:"      // followed by the class
)

// Decide judges a command. It is pure and total: equal arguments give equal verdicts, and nothing that it is given makes it panic.
func Decide(b *Bundle, r Request) Verdict { return Verdict{} }

// Connect judges the opening of a session on r.Target; r.Command is not looked at.
func Connect(b *Bundle, r Request) Verdict { return Verdict{} }
