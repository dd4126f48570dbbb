// Package refuse says what CloudFormation would refuse of a stack's parameters, in the template's own sentences and before anything is called.
// It refuses a template whose rules use what it cannot evaluate.
package refuse

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Template is what of a template bears on parameters: their own constraints, and the rules over several of them.
type Template struct {
	parameters map[string]parameter
	rules      map[string]rule
}

type parameter struct {
	Type                  string   `yaml:"Type"`
	Default               *string  `yaml:"Default"`
	AllowedPattern        string   `yaml:"AllowedPattern"`
	AllowedValues         []string `yaml:"AllowedValues"`
	MinValue              *float64 `yaml:"MinValue"`
	MaxValue              *float64 `yaml:"MaxValue"`
	MinLength             *int     `yaml:"MinLength"`
	MaxLength             *int     `yaml:"MaxLength"`
	Description           string   `yaml:"Description"`
	ConstraintDescription string   `yaml:"ConstraintDescription"`
	NoEcho                bool     `yaml:"NoEcho"`
	pattern               *regexp.Regexp
}

type rule struct {
	RuleCondition yaml.Node `yaml:"RuleCondition"`
	Assertions    []struct {
		Assert            yaml.Node `yaml:"Assert"`
		AssertDescription string    `yaml:"AssertDescription"`
	} `yaml:"Assertions"`
	when       expression
	assertions []assertion
}

type assertion struct {
	holds    expression
	sentence string
}

// Read takes a template's text. A function in a rule that is not known here is an error, and so is a parameter that a rule names and that is not there.
func Read(b []byte) (*Template, error) {
	var doc struct {
		Parameters map[string]parameter `yaml:"Parameters"`
		Rules      map[string]rule      `yaml:"Rules"`
	}
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("read template: %w", err)
	}
	if len(doc.Parameters) == 0 {
		return nil, errors.New("read template: it has no parameters")
	}
	t := &Template{parameters: map[string]parameter{}, rules: map[string]rule{}}
	for name, p := range doc.Parameters {
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("read template: parameter %s: %w", name, err)
		}
		if p.AllowedPattern != "" {
			// CloudFormation's patterns are anchored.
			re, err := regexp.Compile("^(?:" + p.AllowedPattern + ")$")
			if err != nil {
				return nil, fmt.Errorf("read template: parameter %s: %w", name, err)
			}
			p.pattern = re
		}
		t.parameters[name] = p
	}
	for name, r := range doc.Rules {
		if err := t.read(&r); err != nil {
			return nil, fmt.Errorf("read template: rule %s: %w", name, err)
		}
		t.rules[name] = r
	}
	return t, nil
}

// check refuses types whose values only an account knows.
func (p parameter) check() error {
	switch p.Type {
	case "String", "Number", "CommaDelimitedList":
		return nil
	}
	if strings.HasPrefix(p.Type, "AWS::") || strings.HasPrefix(p.Type, "List<") { // whether there is such a thing is the account's to say
		return nil
	}
	return fmt.Errorf("type %q is not known", p.Type)
}

func (t *Template) read(r *rule) (err error) {
	if !r.RuleCondition.IsZero() {
		if r.when, err = t.compile(&r.RuleCondition); err != nil {
			return err
		}
	}
	if len(r.Assertions) == 0 {
		return errors.New("it asserts nothing")
	}
	for _, a := range r.Assertions {
		if a.AssertDescription == "" {
			return errors.New("an assertion has no sentence")
		}
		holds, err := t.compile(&a.Assert)
		if err != nil {
			return err
		}
		r.assertions = append(r.assertions, assertion{holds, a.AssertDescription})
	}
	return nil
}

// Refused are the sentences with which a stack of these parameters would be refused, sorted by what they are about; none: the parameters are good.
// Constraints of single parameters come before rules, which are asked only when all of those hold, as CloudFormation does it.
func (t *Template) Refused(given map[string]string) []string {
	var said []string
	values := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if _, ok := t.parameters[name]; !ok {
			said = append(said, fmt.Sprintf("%s is no parameter of the template.", name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.parameters)) {
		p := t.parameters[name]
		v, ok := given[name]
		switch {
		case ok:
		case p.Default != nil:
			v = *p.Default
		default:
			said = append(said, fmt.Sprintf("%s is missing and has no default: %s", name, p.Description))
			continue
		}
		values[name] = v
		if !p.takes(v) {
			said = append(said, p.sentence(name, v))
		}
	}
	if len(said) > 0 {
		return said
	}
	for _, name := range slices.Sorted(maps.Keys(t.rules)) {
		r := t.rules[name]
		if r.when != nil && !r.when.truth(values) {
			continue
		}
		for _, a := range r.assertions {
			if !a.holds.truth(values) {
				said = append(said, a.sentence)
			}
		}
	}
	return said
}

func (p parameter) takes(v string) bool {
	if p.Type == "Number" {
		n, err := strconv.ParseFloat(v, 64)
		if err != nil || p.MinValue != nil && n < *p.MinValue || p.MaxValue != nil && n > *p.MaxValue {
			return false
		}
	}
	if p.MinLength != nil && len(v) < *p.MinLength || p.MaxLength != nil && len(v) > *p.MaxLength {
		return false
	}
	if len(p.AllowedValues) > 0 && !slices.Contains(p.AllowedValues, v) {
		return false
	}
	if p.Type == "CommaDelimitedList" { // the pattern is each one's
		return p.pattern == nil || !slices.ContainsFunc(strings.Split(v, ","), func(s string) bool { return !p.pattern.MatchString(strings.TrimSpace(s)) })
	}
	return p.pattern == nil || p.pattern.MatchString(v)
}

func (p parameter) sentence(name, v string) string {
	shown := strconv.Quote(v)
	if p.NoEcho {
		shown = "not shown"
	}
	if p.ConstraintDescription != "" {
		return fmt.Sprintf("%s It is %s.", strings.TrimSpace(p.ConstraintDescription), shown)
	}
	return fmt.Sprintf("%s is one of %s. It is %s.", name, strings.Join(p.AllowedValues, ", "), shown)
}

// Error is Refused as an error; nil where nothing is refused. name is the template's.
func (t *Template) Error(name string, given map[string]string) error {
	if said := t.Refused(given); len(said) > 0 {
		return fmt.Errorf("%s would be refused with these parameters:\n  %s", name, strings.Join(said, "\n  "))
	}
	return nil
}
