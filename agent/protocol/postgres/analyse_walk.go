package postgres

import (
	"reflect"
	"strings"
	"sync"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// The syntax tree is walked by the shape of its Go types, so that no field of any node can be forgotten: what the analyser has
// no rule for is met all the same, and makes the command incomplete.

// shape lists the fields of a node type that may hold nodes.
type shape struct {
	fields []int
	kinds  []reflect.Kind
}

var shapes sync.Map // reflect.Type → *shape

func shapeOf(t reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := &shape{}
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		k := f.Type.Kind()
		isNode := k == reflect.Pointer && f.Type.Elem().Kind() == reflect.Struct ||
			k == reflect.Slice && f.Type.Elem().Kind() == reflect.Pointer || k == reflect.Interface
		if isNode {
			s.fields, s.kinds = append(s.fields, i), append(s.kinds, k)
		}
	}
	shapes.Store(t, s)
	return s
}

// children calls f with each node that n, a pointer to a node type, holds directly.
func children(n any, f func(child any)) {
	v := reflect.ValueOf(n)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return
	}
	v = v.Elem()
	s := shapeOf(v.Type())
	for i, field := range s.fields {
		fv := v.Field(field)
		switch s.kinds[i] {
		case reflect.Slice:
			for j := range fv.Len() {
				f(fv.Index(j).Interface())
			}
		default:
			if fv.IsNil() {
				continue
			}
			if s.kinds[i] == reflect.Interface { // a oneof: a pointer to a struct of one field
				if fv = fv.Elem().Elem().Field(0); fv.Kind() != reflect.Pointer {
					continue // a scalar
				}
				if fv.IsNil() {
					continue
				}
			}
			f(fv.Interface())
		}
	}
}

// unwrap returns what a Node holds, or nil.
func unwrap(n *pg.Node) any {
	var inner any
	if n == nil {
		return nil
	}
	children(n, func(c any) { inner = c })
	return inner
}

// net walks a whole statement once more and compares: each node that names a relation or a column, calls a function or is a query of
// its own must have been seen by the rules. It is what makes a forgotten field of the grammar a refusal and not a hole.
func (a *analysis) net(n any) {
	switch n.(type) {
	case *pg.RangeVar, *pg.ColumnRef, *pg.FuncCall, *pg.SelectStmt, *pg.InsertStmt, *pg.UpdateStmt, *pg.DeleteStmt, *pg.MergeStmt,
		*pg.SubLink, *pg.CommonTableExpr, *pg.CopyStmt, *pg.A_Indirection, *pg.CurrentOfExpr:
		if _, ok := a.seen[n]; !ok {
			a.incomplete("a %s stands where it is not understood", kindOf(n))
			return
		}
	}
	children(n, a.net)
}

// kindOf names a node's kind for people.
func kindOf(n any) string {
	if n == nil {
		return "nothing"
	}
	t := reflect.TypeOf(n)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return strings.TrimPrefix(t.Name(), "Node_")
}
