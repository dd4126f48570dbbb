package policy

import (
	"slices"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/sallyport/sallyport/internal/access"
)

// Explanation is a verdict with the policies that were looked at, step by step. A verdict that settles before any policy is
// looked at (an unknown target, the capability) has no steps.
type Explanation struct {
	Verdict Verdict `json:"verdict"`
	Steps   []Step  `json:"steps"`
}

// Step is one decision of Cedar: an effect on a resource, or reveal on a class of data.
type Step struct {
	Action   string         `json:"action"`
	Resource string         `json:"resource"` // as policies name it: Table::"app/public.orders"
	Outcome  access.Outcome `json:"outcome"`
	Rule     string         `json:"rule"`
	Hint     string         `json:"hint,omitempty"`
	Policies []PolicyTrace  `json:"policies"` // whose scope may fit; the others were not looked at
}

// PolicyTrace says how one policy took part in a Step.
type PolicyTrace struct {
	ID      string `json:"id"`
	Effect  string `json:"effect"` // "permit", "forbid", "hold"
	Hold    string `json:"hold,omitempty"`
	File    string `json:"file"`
	Line    int    `json:"line"`
	Applies bool   `json:"applies"` // scope and conditions hold
	Error   string `json:"error,omitempty"`
}

// Explain decides like Decide and says how.
func Explain(b *Bundle, r Request) Explanation { return explain(b, r, (*judge).command) }

// ExplainConnect decides like Connect and says how.
func ExplainConnect(b *Bundle, r Request) Explanation { return explain(b, r, (*judge).connect) }

func explain(b *Bundle, r Request, decide func(*judge) Verdict) Explanation {
	e := Explanation{Steps: []Step{}}
	j := &judge{b: b, r: r}
	j.trace = func(action types.String, resource types.EntityUID, candidates []*rule, v Verdict) {
		s := Step{Action: string(action), Resource: resource.String(), Outcome: v.Outcome, Rule: v.Rule, Hint: v.Hint, Policies: []PolicyTrace{}}
		for _, c := range candidates {
			fired, failed, why := j.w.authorize(action, resource, []*rule{c})
			t := PolicyTrace{ID: c.id, Effect: c.effect(), Hold: c.hold, File: c.file, Line: c.at.line, Applies: len(fired) > 0}
			if failed != nil {
				t.Error = why
			}
			s.Policies = append(s.Policies, t)
		}
		if !slices.ContainsFunc(e.Steps, func(o Step) bool { return o.Action == s.Action && o.Resource == s.Resource }) {
			e.Steps = append(e.Steps, s)
		}
	}
	e.Verdict = guard(func() Verdict { return decide(j) })
	return e
}
