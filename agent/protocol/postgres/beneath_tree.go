package postgres

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// The server keeps a view's query as a tree of nodes in which every name is resolved already (pg_rewrite.ev_action, type pg_node_tree). Unlike
// the text that pg_get_viewdef makes of it, the tree can be read without a lock on the tables, and means the same under every search path.

// treeNode is {TAG :label value …}.
type treeNode struct {
	tag    string
	fields []treeField
}

type treeField struct {
	label  string
	values []treeValue // one, but for constants
}

// treeValue is a node, a list, or a word.
type treeValue struct {
	node *treeNode
	list []treeValue
	word string
}

const (
	maxViewTree  = 4 << 20 // bytes of one view's tree; a query of a thousand columns takes a tenth
	maxTreeDepth = 400
)

var errTree = errors.New("a tree of nodes that is not understood")

// readTree reads the text of a pg_node_tree.
func readTree(text string) (treeValue, error) {
	if len(text) > maxViewTree {
		return treeValue{}, errTree
	}
	r := &treeReader{text: text}
	v, err := r.value(r.token(), 0)
	if err == nil && r.token() != "" {
		err = errTree
	}
	return v, err
}

// treeReader reads tokens as the server's pg_strtok does.
type treeReader struct {
	text string
	at   int
}

// token is the next one, with its escapes; empty at the end.
func (r *treeReader) token() string {
	for r.at < len(r.text) && strings.IndexByte(" \n\t", r.text[r.at]) >= 0 {
		r.at++
	}
	begin := r.at
	for r.at < len(r.text) {
		switch c := r.text[r.at]; {
		case strings.IndexByte("(){}", c) >= 0:
			if r.at == begin {
				r.at++
			}
			return r.text[begin:r.at]
		case strings.IndexByte(" \n\t", c) >= 0:
			return r.text[begin:r.at]
		case c == '\\' && r.at+1 < len(r.text):
			r.at++
		}
		r.at++
	}
	return r.text[begin:]
}

func (r *treeReader) value(token string, depth int) (treeValue, error) {
	switch {
	case token == "" || token == ")" || token == "}" || depth > maxTreeDepth:
		return treeValue{}, errTree
	case token == "(":
		list := []treeValue{}
		for token = r.token(); token != ")"; token = r.token() {
			v, err := r.value(token, depth+1)
			if err != nil {
				return treeValue{}, err
			}
			list = append(list, v)
		}
		return treeValue{list: list}, nil
	case token == "{":
		n, err := r.node(depth)
		return treeValue{node: n}, err
	}
	return treeValue{word: token}, nil
}

// node reads what is behind its bracket. The first token behind a label is a value whatever it looks like: names are not told from labels.
func (r *treeReader) node(depth int) (*treeNode, error) {
	n := &treeNode{tag: r.token()}
	for token := r.token(); token != "}"; {
		if !strings.HasPrefix(token, ":") {
			return nil, errTree
		}
		f := treeField{label: token[1:]}
		for token = r.token(); len(f.values) == 0 || token != "}" && !strings.HasPrefix(token, ":"); token = r.token() {
			v, err := r.value(token, depth+1)
			if err != nil {
				return nil, err
			}
			f.values = append(f.values, v)
		}
		n.fields = append(n.fields, f)
	}
	return n, nil
}

// get is the value of a field, the zero value where there is none.
func (n *treeNode) get(label string) treeValue {
	if n == nil {
		return treeValue{}
	}
	if i := slices.IndexFunc(n.fields, func(f treeField) bool { return f.label == label }); i >= 0 {
		return n.fields[i].values[0]
	}
	return treeValue{}
}

// number is a field's; what is not there or no number is -1, which nothing has that is asked for.
func (n *treeNode) number(label string) int {
	i, err := strconv.Atoi(n.get(label).word)
	if err != nil {
		return -1
	}
	return i
}

func (v treeValue) tag() string {
	if v.node == nil {
		return ""
	}
	return v.node.tag
}
