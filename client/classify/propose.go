package classify

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// head is what a file begins with that has nothing yet.
const head = "Proposed from names and samples of values: read it before you use it. The first class that matches a column counts."

// Merge adds a report's proposals to a classes.yaml (nil: to a new one), each with what speaks for it. Classes, columns, their order and
// comments that are there stay, and a file to which nothing is added comes back as it was; a class is taken up again by its name, or by its detector.
func (r *Report) Merge(classes []byte) ([]byte, error) {
	if len(r.Proposals)+len(r.Seldom)+len(r.Doubtful) == 0 {
		return classes, nil
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(classes, &doc); err != nil {
		return nil, fmt.Errorf("classes.yaml: %w", err)
	}
	if len(doc.Content) == 0 {
		doc = yaml.Node{Kind: yaml.DocumentNode, HeadComment: strings.TrimSpace(doc.HeadComment + "\n" + head), Content: []*yaml.Node{{Kind: yaml.MappingNode}}}
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, errors.New("classes.yaml: want `classes:` and a list under it")
	}
	list := value(root, "classes")
	if list == nil || list.Kind == yaml.ScalarNode && list.Tag == "!!null" {
		fresh := &yaml.Node{Kind: yaml.SequenceNode}
		if list == nil {
			root.Content = append(root.Content, text("classes"), fresh)
		} else {
			*list = *fresh
		}
		list = value(root, "classes")
	}
	if list.Kind != yaml.SequenceNode {
		return nil, errors.New("classes.yaml: `classes` is not a list")
	}
	for _, f := range r.Proposals {
		columnsOf(class(list, f)).add(f)
	}
	for line := range strings.Lines(r.aside()) {
		if !bytes.Contains(classes, []byte(line)) { // of an earlier run
			list.FootComment += line
		}
	}
	list.FootComment = strings.TrimSpace(list.FootComment)
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(&doc), e.Close()); err != nil {
		return nil, fmt.Errorf("classes.yaml: %w", err)
	}
	return b.Bytes(), nil
}

// aside are comments on what was found and is no column of a class.
func (r *Report) aside() string {
	var b strings.Builder
	for _, f := range r.Seldom {
		fmt.Fprintf(&b, "%s holds such values now and then (%s): `detector: %s` in class %s would mask them.\n", pattern(f.Column), f.Why(), f.Detector, f.Class)
	}
	for _, f := range r.Doubtful {
		fmt.Fprintf(&b, "%s is called like class %s, but none of %d values is one.\n", pattern(f.Column), f.Class, f.Values)
	}
	return b.String()
}

// class finds the class that a finding belongs to, or adds it at the end.
func class(list *yaml.Node, f Finding) *yaml.Node {
	for _, key := range []string{"name", "detector"} {
		want := f.Class
		if key == "detector" {
			want = f.Detector
		}
		i := slices.IndexFunc(list.Content, func(n *yaml.Node) bool { v := value(n, key); return v != nil && want != "" && v.Value == want })
		if i >= 0 {
			return list.Content[i]
		}
	}
	n := &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{text("name"), text(f.Class), text("mask"), text(f.Mask)}}
	list.Content = append(list.Content, n)
	list.Style = 0
	return n
}

// columns is the list of a class's columns.
type columns struct{ *yaml.Node }

func columnsOf(class *yaml.Node) columns {
	n := value(class, "columns")
	if n == nil {
		n = &yaml.Node{Kind: yaml.SequenceNode}
		class.Content = append(class.Content, text("columns"), n)
	}
	class.Style, n.Style = 0, 0 // a line each, so that there is room for the reason
	return columns{n}
}

func (c columns) add(f Finding) {
	p := pattern(f.Column)
	if !slices.ContainsFunc(c.Content, func(n *yaml.Node) bool { return n.Value == p }) {
		c.Content = append(c.Content, &yaml.Node{Kind: yaml.ScalarNode, Style: yaml.DoubleQuotedStyle, Value: p, LineComment: plain(f.Type) + ": " + f.Why()})
	}
}

// pattern is the column as a policy names it. What a policy does not take becomes '*', which matches it.
func pattern(c Column) string { return plain(c.String()) }

// plain is a name that ends neither a comment nor a terminal's line.
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != utf8.RuneError {
			return r
		}
		return '*'
	}, name)
}

func text(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: s} }

func value(n *yaml.Node, key string) *yaml.Node {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}
