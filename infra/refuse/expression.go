package refuse

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// expression is a condition of a rule, whose every part was looked at when the template was read.
type expression interface {
	truth(values map[string]string) bool
}

type (
	all   []expression
	some  []expression
	not   struct{ of expression }
	equal struct{ a, b operand }
	// in holds where each element of the one is in the other: Fn::Contains has a list first and one value, Fn::EachMemberIn two lists.
	in struct{ elements, list operand }
	// same holds where each element is the one value.
	same struct{ elements, value operand }
)

func (x all) truth(v map[string]string) bool {
	return !slices.ContainsFunc(x, func(e expression) bool { return !e.truth(v) })
}
func (x some) truth(v map[string]string) bool {
	return slices.ContainsFunc(x, func(e expression) bool { return e.truth(v) })
}
func (x not) truth(v map[string]string) bool   { return !x.of.truth(v) }
func (x equal) truth(v map[string]string) bool { return slices.Equal(x.a.list(v), x.b.list(v)) }
func (x in) truth(v map[string]string) bool {
	list := x.list.list(v)
	return !slices.ContainsFunc(x.elements.list(v), func(s string) bool { return !slices.Contains(list, s) })
}
func (x same) truth(v map[string]string) bool {
	value := x.value.list(v)
	return !slices.ContainsFunc(x.elements.list(v), func(s string) bool { return len(value) != 1 || s != value[0] })
}

// operand is a text, a list of them, or a parameter, whose list is parted by commas.
type operand struct {
	ref   string
	parts bool // the parameter is a list
	texts []string
}

func (o operand) list(values map[string]string) []string {
	if o.ref == "" {
		return o.texts
	}
	if !o.parts {
		return []string{values[o.ref]}
	}
	list := strings.Split(values[o.ref], ",")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list
}

// call is a function and its arguments, in the short or the long form.
func call(n *yaml.Node) (name string, arguments *yaml.Node, err error) {
	if strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
		name = strings.TrimPrefix(n.Tag, "!")
		if name != "Ref" && name != "Condition" {
			name = "Fn::" + name
		}
		return name, n, nil
	}
	if n.Kind != yaml.MappingNode || len(n.Content) != 2 {
		return "", nil, fmt.Errorf("line %d: want one function", n.Line)
	}
	return n.Content[0].Value, n.Content[1], nil
}

func (t *Template) compile(n *yaml.Node) (expression, error) {
	name, args, err := call(n)
	if err != nil {
		return nil, err
	}
	if args.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("line %d: %s takes a list", n.Line, name)
	}
	switch name {
	case "Fn::And", "Fn::Or":
		parts := make([]expression, 0, len(args.Content))
		for _, c := range args.Content {
			e, err := t.compile(c)
			if err != nil {
				return nil, err
			}
			parts = append(parts, e)
		}
		if len(parts) < 2 || len(parts) > 10 {
			return nil, fmt.Errorf("line %d: %s takes two to ten conditions", n.Line, name)
		}
		if name == "Fn::And" {
			return all(parts), nil
		}
		return some(parts), nil
	case "Fn::Not":
		if len(args.Content) != 1 {
			return nil, fmt.Errorf("line %d: %s takes one condition", n.Line, name)
		}
		e, err := t.compile(args.Content[0])
		return not{e}, err
	case "Fn::Equals", "Fn::Contains", "Fn::EachMemberIn", "Fn::EachMemberEquals":
		if len(args.Content) != 2 {
			return nil, fmt.Errorf("line %d: %s takes two values", n.Line, name)
		}
		a, err := t.operand(args.Content[0])
		b, err2 := t.operand(args.Content[1])
		if err := errors.Join(err, err2); err != nil {
			return nil, err
		}
		switch name {
		case "Fn::Contains":
			return in{elements: b, list: a}, nil
		case "Fn::EachMemberIn":
			return in{elements: a, list: b}, nil
		case "Fn::EachMemberEquals":
			return same{a, b}, nil
		}
		return equal{a, b}, nil
	}
	return nil, fmt.Errorf("line %d: %s cannot be evaluated here", n.Line, name)
}

func (t *Template) operand(n *yaml.Node) (operand, error) {
	plain := strings.HasPrefix(n.Tag, "!!")
	switch {
	case plain && n.Kind == yaml.ScalarNode:
		return operand{texts: []string{n.Value}}, nil
	case plain && n.Kind == yaml.SequenceNode:
		var o operand
		for _, c := range n.Content {
			if c.Kind != yaml.ScalarNode || !strings.HasPrefix(c.Tag, "!!") {
				return operand{}, fmt.Errorf("line %d: a list of texts alone", c.Line)
			}
			o.texts = append(o.texts, c.Value)
		}
		return o, nil
	}
	name, arg, err := call(n)
	if err != nil {
		return operand{}, err
	}
	p, ok := t.parameters[arg.Value]
	if name != "Ref" || !ok {
		return operand{}, fmt.Errorf("line %d: %s %s is no parameter of the template", n.Line, name, arg.Value)
	}
	return operand{ref: arg.Value, parts: p.Type == "CommaDelimitedList" || strings.HasPrefix(p.Type, "List<")}, nil
}
