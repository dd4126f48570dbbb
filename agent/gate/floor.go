package gate

import (
	"slices"

	"github.com/sallyport/sallyport/internal/access"
)

// Floor is what the agent's own configuration refuses and masks, whatever the broker answers. The zero Floor adds nothing.
type Floor struct {
	Deny []FloorRule
	Mask []access.Class // masked always; refused where they cannot be
}

// FloorRule refuses effects on resources.
type FloorRule struct {
	ID       string          // the rule's name in refusals: "floor.ID"
	Effects  []access.Effect // empty means every effect
	Resource string          // a pattern over names of resources; "*" is all
	Hint     string
}

// refuses says which rule of the floor a command meets; nil is none. What the room did not understand may be anything, so that
// any rule refuses it.
func (f Floor) refuses(c *access.Command) *access.Refusal {
	for _, r := range f.Deny {
		if !c.Complete {
			return &access.Refusal{Rule: "floor." + r.ID, Hint: "the agent's own configuration refuses what the room does not understand: " + c.Why}
		}
		for _, t := range c.Touches {
			if r.meets(t) {
				return &access.Refusal{Rule: "floor." + r.ID, Hint: r.hint()}
			}
		}
	}
	for _, u := range c.Classes {
		if u.Derived && !u.Beneath && slices.Contains(f.classes(), u.Class) {
			return &access.Refusal{Rule: "floor.not-maskable:" + u.Class,
				Hint: "the agent's own configuration masks " + u.Class + " always, and cannot here (" + u.How + "): select the plain column"}
		}
	}
	return nil
}

func (r FloorRule) meets(t access.Touch) bool {
	known := slices.Contains(access.Effects, t.Effect)
	return (!known || len(r.Effects) == 0 || slices.Contains(r.Effects, t.Effect)) && access.Match(r.Resource, t.Resource.Name)
}

func (r FloorRule) hint() string {
	if r.Hint != "" {
		return r.Hint
	}
	return "the agent's own configuration refuses this; no approval lifts it"
}

func (f Floor) classes() []string {
	names := make([]string, len(f.Mask))
	for i, c := range f.Mask {
		names[i] = c.Name
	}
	return names
}

// oblige takes obligations on. It returns the rule under which the permit must not be given; "" is none.
func (p *Permit) oblige(obligations []access.Obligation, known []access.Class, rows bool) (rule string) {
	for _, o := range obligations {
		switch o.Kind {
		case access.ObligeMask:
			for _, class := range o.Classes {
				if !slices.ContainsFunc(known, func(c access.Class) bool { return c.Name == class }) {
					return "obligation-class"
				}
			}
			if len(o.Classes) == 0 {
				return "obligation-class"
			}
			p.masks = append(p.masks, o.Classes...)
		case access.ObligeRows:
			if o.Limit <= 0 || !rows {
				return "obligation-rows"
			}
			if p.rows == 0 || o.Limit < p.rows {
				p.rows = o.Limit
			}
		case access.ObligeRecord:
			p.records = true
		default:
			return "obligation-unknown"
		}
	}
	return ""
}
