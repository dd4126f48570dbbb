package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/sallyport/sallyport/internal/access"
)

// Limits of what one decision looks at; a command over them is refused.
const (
	MaxTouches = 1024 // a room stops at 512
	MaxClasses = 1024 // uses of classes of data
	maxReasons = 32
	maxPath    = 64 // actors of a lineage; functions/token stops far earlier
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
	Outcome     access.Outcome      `json:"outcome"`
	Code        string              `json:"code,omitempty"`        // access.Code… of a denial
	Rule        string              `json:"rule"`                  // the @id of the policy that settled it, or one of the built-in rules
	Reasons     []string            `json:"reasons,omitempty"`     // one per policy that took part
	Hint        string              `json:"hint,omitempty"`        // what to do next
	Obligations []access.Obligation `json:"obligations,omitempty"` // of an allow
	Hold        string              `json:"hold,omitempty"`        // name of the hold to wait under
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
func Decide(b *Bundle, r Request) Verdict {
	return guard(func() Verdict { return (&judge{b: b, r: r}).command() })
}

// Connect judges the opening of a session on r.Target; of r.Command only State is looked at. A hold counts as allow: nothing runs yet,
// and each command is held for itself.
func Connect(b *Bundle, r Request) Verdict {
	return guard(func() Verdict { return (&judge{b: b, r: r}).connect() })
}

// guard makes a panic, which could only be a fault of the library below, a denial.
func guard(f func() Verdict) (v Verdict) {
	defer func() {
		if p := recover(); p != nil {
			v = deny(RulePolicyError, "the policy engine failed; tell the policy's owner")
		}
	}()
	return f()
}

func deny(rule, format string, args ...any) Verdict {
	return Verdict{Code: access.CodeDenied, Rule: rule, Hint: fmt.Sprintf(format, args...)}
}

// judge is one decision under way.
type judge struct {
	b       *Bundle
	r       Request
	w       *world
	reasons []string
	holds   []string // names that are needed and not approved
	rows    int64    // the fewest that a permit leaves; 0: any number
	record  bool     // a permit wants that what it permits is recorded
	trace   func(action types.String, resource types.EntityUID, candidates []*rule, v Verdict)
}

// begin checks what every decision needs, and returns why there is none.
func (j *judge) begin() (Verdict, bool) {
	var target Target
	known := false
	if j.b != nil {
		target, known = j.b.Target(j.r.Target)
	}
	if !known {
		return deny(RuleUnknownTarget, "target %s is not in the policy's targets", quote(string(j.r.Target))), false
	}
	if !whole(j.r.Lineage) {
		return deny(RuleNoLineage, "log in again"), false
	}
	j.w = newWorld(j.b, &j.r, target)
	return Verdict{}, true
}

// whole says whether a lineage names somebody, and each actor of its path once.
func whole(l access.Lineage) bool {
	if l.Principal == "" || len(l.Path) == 0 || len(l.Path) > maxPath {
		return false
	}
	for i, n := range l.Path {
		if n.ID == "" || slices.ContainsFunc(l.Path[:i], func(o access.Node) bool { return o.ID == n.ID }) {
			return false
		}
	}
	return true
}

func (j *judge) command() Verdict {
	if v, ok := j.begin(); !ok {
		return v
	}
	c := &j.r.Command
	switch {
	case c.Refused != nil:
		return deny(c.Refused.Rule, "%s", c.Refused.Hint)
	case len(c.Touches) > MaxTouches || len(c.Classes) > MaxClasses:
		return deny(RuleTooMany, "split the command: one may touch at most %d resources", MaxTouches)
	case c.Complete && len(c.Touches) == 0:
		return deny(RuleNoTouches, "the agent reported nothing that this command does")
	}
	touches := c.Touches
	if !c.Complete {
		unknown := access.Touch{Effect: access.Unknown, Resource: access.Resource{Kind: access.KindDatabase}}
		if v := j.touch(unknown); v.Outcome == access.Deny {
			return j.settle(v, nil)
		}
		touches = append([]access.Touch{unknown}, touches...)
	}
	for _, t := range touches {
		if v, ok := j.covered(t); !ok {
			return v
		}
	}
	out := Verdict{Outcome: access.Allow}
	for _, t := range touches {
		out = stricter(out, j.touch(t))
	}
	masks, v := j.reveal(c.Classes)
	return j.settle(stricter(out, v), masks)
}

// stricter is the stricter of two verdicts, the first where they are equal.
func stricter(a, b Verdict) Verdict {
	if b.Outcome < a.Outcome || a.Rule == "" {
		return b
	}
	return a
}

// settle makes the verdict of all steps the command's.
func (j *judge) settle(v Verdict, masks []string) Verdict {
	v.Reasons = j.reasons
	if v.Outcome == access.Deny {
		return v
	}
	if len(j.holds) > 1 {
		v = deny(RuleSeveralHolds, "it needs approvals under %s: send what each holds as a command of its own", strings.Join(j.holds, " and "))
		v.Reasons = j.reasons
		return v
	}
	if v.Outcome == access.Hold && !j.r.Command.Prepare {
		return v
	}
	v.Outcome, v.Hold, v.Hint = access.Allow, "", ""
	if len(masks) > 0 {
		v.Obligations = []access.Obligation{{Kind: access.ObligeMask, Classes: masks}}
	}
	if j.rows > 0 {
		v.Obligations = append(v.Obligations, access.Obligation{Kind: access.ObligeRows, Limit: j.rows})
	}
	if j.record {
		v.Obligations = append(v.Obligations, access.Obligation{Kind: access.ObligeRecord})
	}
	return v
}

func (j *judge) connect() Verdict {
	j.r.Command = access.Command{Verb: "CONNECT", Complete: true, State: j.r.Command.State}
	if v, ok := j.begin(); !ok {
		return v
	}
	if !j.reaches() {
		return j.uncovered("connect to", "target "+quote(string(j.r.Target)))
	}
	v := j.connected()
	v.Reasons = j.reasons
	if v.Outcome == access.Hold {
		v.Outcome, v.Hold, v.Hint = access.Allow, "", ""
	}
	return v
}

func (j *judge) connected() Verdict {
	return j.step(types.String(access.Connect), j.w.targets[0], j.w.targets, "connect to target "+quote(string(j.r.Target)))
}

// reaches says whether the capability has anything to do with the target at all.
func (j *judge) reaches() bool {
	return slices.ContainsFunc(j.r.Capability, func(g access.Grantlet) bool {
		return len(g.Effects) > 0 && access.Match(g.Target, string(j.r.Target))
	})
}

// covered says whether the capability covers a touch. Reading the database or a setting as such (BEGIN, SHOW) carries no data and
// needs no more than to reach the target, and so does connecting; what is unknown could be anything, and needs a capability without limits on the target.
func (j *judge) covered(t access.Touch) (Verdict, bool) {
	var ok bool
	switch e, kind := known(t.Effect), t.Resource.Kind; {
	case e == access.Unknown:
		ok = j.r.Capability.Covers(access.Capability{{Effects: access.Effects, Target: string(j.r.Target), Resource: "*"}})
	case e == access.Read && (kind == access.KindDatabase || kind == access.KindSetting), e == access.Connect && kind == access.KindDatabase:
		ok = j.reaches()
	default:
		ok = j.r.Capability.Permits(e, j.r.Target, t.Resource.Name)
	}
	if ok {
		return Verdict{}, true
	}
	return j.uncovered(string(known(t.Effect))+" on", describe(t.Resource)), false
}

func (j *judge) uncovered(what, on string) Verdict {
	lines := make([]string, 0, len(j.r.Capability))
	for _, g := range j.r.Capability {
		lines = append(lines, g.String())
	}
	return deny(RuleCapability, "this token may only %s, not %s %s: ask the parent for a wider one", quote(strings.Join(lines, " ")), what, on)
}

// known makes every effect that is not in the list the unknown one.
func known(e access.Effect) access.Effect {
	if slices.Contains(access.Effects, e) {
		return e
	}
	return access.Unknown
}

// touch decides one effect on one resource, and on the columns of it that policies name.
func (j *judge) touch(t access.Touch) Verdict {
	effect := known(t.Effect)
	uid, in, ok := j.w.resource(t.Resource, j.r.Command.State.Database)
	if !ok {
		return deny(RuleUnknownKind, "%s is of a kind that policy does not know", describe(t.Resource))
	}
	if effect == access.Connect && uid.Type == typeDatabase {
		return j.connected() // as at the opening of a session
	}
	what := string(effect) + " on " + describe(t.Resource)
	v := j.step(types.String(effect), uid, in, what)
	if effect == access.Unknown && v.Rule == RuleDefaultDeny {
		why := j.r.Command.Why
		if why == "" {
			why = "not understood in full"
		}
		v = deny(RuleIncomplete, "%s: write it in a plainer way", quote(why))
	}
	if uid.Type != typeTable {
		return v
	}
	for _, column := range j.w.bundle.index.columns[uid.ID] {
		name := strings.TrimPrefix(string(column.ID), string(uid.ID)+".")
		if len(t.Resource.Columns) > 0 && !slices.Contains(t.Resource.Columns, name) {
			continue
		}
		j.w.add(column, name, uid)
		v = stricter(v, j.narrow(types.String(effect), column, what+" column "+quote(name)))
	}
	return v
}

// step decides one action on one resource: permitted by some policy, forbidden by none, held by those that are not approved.
func (j *judge) step(action types.String, uid types.EntityUID, in []types.EntityUID, what string) Verdict {
	candidates := j.b.index.candidates(action, in, j.w.principals)
	if action == types.String(access.Unknown) {
		candidates = slices.DeleteFunc(candidates, func(r *rule) bool { return r.permit && r.actions == nil })
	}
	v := j.judge(action, uid, candidates, what)
	if v.Rule == "" {
		v = deny(RuleDefaultDeny, "no policy permits %s: ask the policy's owner", what)
	}
	if j.trace != nil {
		j.trace(action, uid, candidates, v)
	}
	return v
}

// narrow decides a column: only policies that name it take part, and what none of them forbids is left to the table's own verdict.
func (j *judge) narrow(action types.String, column types.EntityUID, what string) Verdict {
	candidates := j.b.index.candidates(action, []types.EntityUID{column}, j.w.principals)
	v := j.judge(action, column, candidates, what)
	if v.Rule == "" {
		return Verdict{Outcome: access.Allow, Rule: "-"}
	}
	if j.trace != nil {
		j.trace(action, column, candidates, v)
	}
	return v
}

// judge evaluates candidates. A verdict without a rule means that none of them fits.
func (j *judge) judge(action types.String, uid types.EntityUID, candidates []*rule, what string) Verdict {
	var firm, holding []*rule
	for _, r := range candidates {
		if r.hold != "" {
			holding = append(holding, r)
		} else {
			firm = append(firm, r)
		}
	}
	fired, failed, why := j.w.authorize(action, uid, firm)
	held, failedHold, whyHold := j.w.authorize(action, uid, holding)
	if failed == nil {
		failed, why = failedHold, whyHold
	}
	if failed != nil {
		return deny(RulePolicyError, "policy %s could not be evaluated on %s (%s): tell the policy's owner", failed.id, what, quote(why))
	}
	for _, r := range fired {
		j.reason(r, r.effect()+"s", what)
		j.record = j.record || r.record
		if r.rows > 0 && (j.rows == 0 || r.rows < j.rows) {
			j.rows = r.rows
		}
	}
	if len(fired) > 0 && !fired[0].permit {
		return deny(fired[0].id, "%s", hint(fired[0], "the policy forbids "+what))
	}
	var waits *rule
	for _, r := range held {
		if slices.Contains(j.r.Approved, r.hold) {
			j.reason(r, "is approved under hold "+r.hold+" for", what)
			continue
		}
		j.reason(r, "holds under "+r.hold, what)
		if action != actionReveal && !slices.Contains(j.holds, r.hold) {
			j.holds = append(j.holds, r.hold)
		}
		if waits == nil {
			waits = r
		}
	}
	switch {
	case waits != nil && (len(fired) > 0 || uid.Type == typeColumn):
		return Verdict{Outcome: access.Hold, Rule: waits.id, Hold: waits.hold, Hint: hint(waits, what+" waits for a reviewer")}
	case len(fired) > 0:
		return Verdict{Outcome: access.Allow, Rule: fired[0].id}
	}
	return Verdict{}
}

func hint(r *rule, otherwise string) string {
	if r.hint != "" {
		return r.hint
	}
	return otherwise
}

func (j *judge) reason(r *rule, does, what string) {
	if s := r.id + " " + does + " " + what; len(j.reasons) < maxReasons && !slices.Contains(j.reasons, s) {
		j.reasons = append(j.reasons, s)
	}
}

// reveal decides each class of data that takes part: revealed, or to be masked, or, where the room cannot mask it, refused. A
// hold that is not approved does not reveal. Classes that are masked beneath what is computed from them are so all together or not at all.
func (j *judge) reveal(uses []access.ClassUse) (masks []string, out Verdict) {
	out = Verdict{Outcome: access.Allow, Rule: "-"}
	revealed := map[string]bool{}
	shown := "" // a class that is used beneath and revealed
	for _, u := range uses {
		if _, ok := revealed[u.Class]; !ok {
			v := j.class(u.Class)
			if v.Rule == RulePolicyError {
				out = stricter(out, v)
			}
			if revealed[u.Class] = v.Outcome == access.Allow; !revealed[u.Class] {
				masks = append(masks, u.Class)
			}
		}
		if u.Beneath && revealed[u.Class] {
			shown = u.Class
		}
	}
	for _, u := range uses {
		switch {
		case revealed[u.Class], !u.Derived, u.Beneath && shown == "":
		case u.Beneath:
			v := deny(RuleNotMaskable+u.Class, "%s is %s data and has to be masked where %s data, which may be seen, is used %s: ask for them one after the other",
				quote(u.On), quote(u.Class), quote(shown), quote(u.How))
			v.Code = access.CodeNotMaskable
			out = stricter(out, v)
		default:
			v := deny(RuleNotMaskable+u.Class, "%s is %s data and is used %s, where it cannot be masked: select the plain column, or leave it out",
				quote(u.On), quote(u.Class), quote(u.How))
			v.Code = access.CodeNotMaskable
			out = stricter(out, v)
		}
	}
	slices.Sort(masks)
	return masks, out
}

func (j *judge) class(name string) Verdict {
	uid := types.NewEntityUID(typeDataClass, types.String(name))
	j.w.add(uid, name, j.w.targets[0])
	in := append([]types.EntityUID{uid}, j.w.targets...)
	return j.step(actionReveal, uid, in, "reveal of "+quote(name))
}

func describe(r access.Resource) string { return quote(string(r.Kind)) + " " + quote(r.Name) }

// quote keeps names of others printable and short: they end up in one line of a client's terminal.
func quote(s string) string {
	if len(s) > 120 {
		s = strings.ToValidUTF8(s[:120], "") + "…"
	}
	if printable(s, 200) {
		return s
	}
	return fmt.Sprintf("%q", s)
}
