package policy

import (
	"bytes"
	"errors"
	"io"

	"go.yaml.in/yaml/v3"
)

// document is a decoded YAML file that still knows where things are written.
type document struct {
	file string
	root *yaml.Node
}

// decodeYAML reads one document into v. Unknown and repeated keys, a second document, anchors, aliases and tags are errors.
func decodeYAML(f *findings, file string, body []byte, v any) (document, bool) {
	d := document{file: file, root: &yaml.Node{}}
	if err := yaml.Unmarshal(body, d.root); err != nil {
		d.refuse(f, err)
		return d, false
	}
	if n := fancy(d.root); n != nil {
		f.errorf(file, place{n.Line, n.Column}, "anchors, aliases and tags are not read here")
		return d, false
	}
	dec := yaml.NewDecoder(bytes.NewReader(body))
	dec.KnownFields(true)
	if err := dec.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		d.refuse(f, err)
		return d, false
	}
	if err := dec.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		f.errorf(file, place{}, "more than one YAML document")
		return d, false
	}
	return d, true
}

func (d document) refuse(f *findings, err error) {
	var many *yaml.TypeError
	if !errors.As(err, &many) {
		at, message := split(yamlPlace, err.Error())
		f.errorf(d.file, at, "%s", message)
		return
	}
	for _, e := range many.Errors {
		at, message := split(yamlPlace, e)
		f.errorf(d.file, at, "%s", message)
	}
}

// fancy finds the first node that uses what a reader of a policy should not have to resolve in the head.
func fancy(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
		return n
	}
	for _, c := range n.Content {
		if found := fancy(c); found != nil {
			return found
		}
	}
	return nil
}

// at finds the place of a value by its path of keys (string) and positions (int), or of the nearest thing around it.
func (d document) at(path ...any) place {
	n := d.root
	if len(n.Content) > 0 {
		n = n.Content[0]
	}
	for _, step := range path {
		next := child(n, step)
		if next == nil {
			break
		}
		n = next
	}
	return place{n.Line, n.Column}
}

func child(n *yaml.Node, step any) *yaml.Node {
	switch s := step.(type) {
	case int:
		if n.Kind == yaml.SequenceNode && s < len(n.Content) {
			return n.Content[s]
		}
	case string:
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == s {
				return n.Content[i+1]
			}
		}
	}
	return nil
}
