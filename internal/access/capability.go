package access

import (
	"fmt"
	"slices"
	"strings"
)

// Grantlet is one line of a capability, written EFFECTS:TARGET[/RESOURCE], for example "read,write:app/public.customers".
// TARGET and RESOURCE may use '*' for any run of characters; no RESOURCE means every resource of the target.
type Grantlet struct {
	Effects  []Effect `json:"e"`
	Target   string   `json:"t"`
	Resource string   `json:"r"` // "*" for all
}

// Capability is a set of Grantlets. The zero value permits nothing.
type Capability []Grantlet

// Everything is the capability of a fresh login: what policy permits, no narrower.
func Everything() Capability {
	return Capability{{Effects: slices.Clone(Effects), Target: "*", Resource: "*"}}
}

// ParseGrantlet reads EFFECTS:TARGET[/RESOURCE]. EFFECTS may be '*' for all.
func ParseGrantlet(s string) (Grantlet, error) {
	effects, rest, ok := strings.Cut(s, ":")
	if !ok || effects == "" || rest == "" || len(s) > 512 {
		return Grantlet{}, fmt.Errorf("capability %q: want EFFECTS:TARGET[/RESOURCE], like read,write:app/public.orders", s)
	}
	g := Grantlet{Resource: "*"}
	if effects == "*" {
		g.Effects = slices.Clone(Effects)
	} else {
		for e := range strings.SplitSeq(effects, ",") {
			if !slices.Contains(Effects, Effect(e)) {
				return Grantlet{}, fmt.Errorf("capability %q: effect %q is not one of %v", s, e, Effects)
			}
			if !slices.Contains(g.Effects, Effect(e)) {
				g.Effects = append(g.Effects, Effect(e))
			}
		}
	}
	target, resource, ok := strings.Cut(rest, "/")
	if target == "" || (ok && resource == "") {
		return Grantlet{}, fmt.Errorf("capability %q: empty target or resource", s)
	}
	g.Target = target
	if ok {
		g.Resource = resource
	}
	return g, nil
}

// String writes what ParseGrantlet reads.
func (g Grantlet) String() string {
	es := make([]string, len(g.Effects))
	for i, e := range g.Effects {
		es[i] = string(e)
	}
	return strings.Join(es, ",") + ":" + g.Target + "/" + g.Resource
}

// Permits says whether the capability covers one effect on one resource of a target.
func (c Capability) Permits(e Effect, t TargetName, resource string) bool {
	for _, g := range c {
		if slices.Contains(g.Effects, e) && Match(g.Target, string(t)) && Match(g.Resource, resource) {
			return true
		}
	}
	return false
}

// Covers says whether every Grantlet of child is covered by a single Grantlet of c, effect by effect. It errs towards no:
// a pattern is covered only by itself, by '*', or by a prefix pattern that it extends.
func (c Capability) Covers(child Capability) bool {
	for _, g := range child {
		for _, e := range g.Effects {
			if !slices.ContainsFunc(c, func(p Grantlet) bool {
				return slices.Contains(p.Effects, e) && patternCovers(p.Target, g.Target) && patternCovers(p.Resource, g.Resource)
			}) {
				return false
			}
		}
	}
	return true
}

func patternCovers(parent, child string) bool {
	if parent == "*" || parent == child {
		return true
	}
	if !strings.Contains(child, "*") {
		return Match(parent, child)
	}
	p, ok := strings.CutSuffix(parent, "*")
	return ok && !strings.Contains(p, "*") && strings.HasPrefix(child, p)
}

// Match says whether s matches a pattern in which '*' stands for any run of characters. It takes linear time per star.
func Match(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	last := parts[len(parts)-1]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, last)
}
