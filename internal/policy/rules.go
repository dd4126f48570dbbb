package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"github.com/sallyport/sallyport/internal/access"
)

// rule is one policy with what its annotations say.
type rule struct {
	id     string
	permit bool
	hold   string // of a forbid: the hold that lifts it
	hint   string
	record bool  // of a permit: what it permits is recorded in full
	rows   int64 // of a permit: at most so many rows are delivered or changed; 0: any number
	order  int   // of reading: reasons come in this order
	file   string
	at     place
	policy *cedar.Policy

	actions   []types.String  // that its scope names; nil for all
	principal types.EntityUID // that its scope names; zero for all
	resource  types.EntityUID
}

// effect is the word for reasons and explanations.
func (r *rule) effect() string {
	switch {
	case r.permit:
		return "permit"
	case r.hold != "":
		return "hold"
	}
	return "forbid"
}

// Types of entity and the actions that are not effects.
const (
	typeAction    = types.EntityType("Action")
	typeActor     = types.EntityType("Actor")
	typeUser      = types.EntityType("User")
	typeGroup     = types.EntityType("Group")
	typeLabel     = types.EntityType("Label")
	typeTarget    = types.EntityType("Target")
	typeDatabase  = types.EntityType("Database")
	typeTable     = types.EntityType("Table")
	typeColumn    = types.EntityType("Column")
	typeFunction  = types.EntityType("Function")
	typeSetting   = types.EntityType("Setting")
	typeHost      = types.EntityType("Host")
	typeProgram   = types.EntityType("Program")
	typePath      = types.EntityType("Path")
	typeAddress   = types.EntityType("Address")
	typeDataClass = types.EntityType("DataClass")

	actionReveal = types.String("reveal")

	// recordContent is what @record may ask for.
	recordContent = "content"
)

var (
	ruleID      = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	perAction   = regexp.MustCompile(` for Action::"[a-z]+"`)
	annotations = []types.AnnotationKey{"id", "hold", "hint", "record", "rows"}
	builtin     = []string{RuleDefaultDeny, RuleCapability, RuleIncomplete, RuleNoTouches, RuleTooMany, RuleUnknownTarget, RuleUnknownKind,
		RuleNoLineage, RuleSeveralHolds, RulePolicyError}
)

// policies reads one .cedar file.
func (l *loader) policies(f file) {
	if at, wrong := readable(f.Body, maxNesting); wrong != "" {
		l.errorf(f.Name, at, "%s", wrong)
		return
	}
	list, err := cedar.NewPolicyListFromBytes(f.Name, []byte(f.Body))
	if err != nil {
		at, message := split(cedarPlace, err.Error())
		l.errorf(f.Name, at, "%s", strings.TrimPrefix(message, "parser error: "))
		return
	}
	for _, p := range list {
		at := place{p.Position().Line, p.Position().Column}
		r := &rule{permit: p.Effect() == cedar.Permit, order: len(l.bundle.rules), file: f.Name, at: at, policy: p}
		l.annotate(r)
		l.scope(r)
		l.literals(r)
		l.bundle.rules = append(l.bundle.rules, r)
	}
}

func (l *loader) annotate(r *rule) {
	given := r.policy.Annotations()
	for key := range given {
		if !slices.Contains(annotations, key) {
			l.errorf(r.file, r.at, "annotation @%s is not one of @id, @hold, @hint, @record, @rows", key)
		}
	}
	r.id, r.hold, r.hint = string(given["id"]), string(given["hold"]), string(given["hint"])
	switch other := l.byID[r.id]; {
	case r.id == "":
		l.errorf(r.file, r.at, `a policy without @id("name")`)
	case !ruleID.MatchString(r.id):
		l.errorf(r.file, r.at, "@id %q: want 1 to 63 of a-z, 0-9, '.', '_' and '-'", r.id)
	case slices.Contains(builtin, r.id):
		l.errorf(r.file, r.at, "@id %q is the name of a built-in rule", r.id)
	case other != nil:
		l.errorf(r.file, r.at, "@id %q is there twice, first at %s:%d", r.id, other.file, other.at.line)
	default:
		l.byID[r.id] = r
	}
	if _, ok := given["hint"]; ok && (r.hint == "" || !printable(r.hint, 300)) {
		l.errorf(r.file, r.at, "@hint: want 1 to 300 printable bytes")
	}
	if what, ok := given["record"]; ok {
		if r.record = true; string(what) != recordContent {
			l.errorf(r.file, r.at, "@record %q: want %q", string(what), recordContent)
		}
		if !r.permit {
			l.errorf(r.file, r.at, "@record on a forbid: only what is permitted can be recorded")
		}
	}
	if most, ok := given["rows"]; ok {
		var err error
		if r.rows, err = strconv.ParseInt(string(most), 10, 64); err != nil || r.rows < 1 {
			l.errorf(r.file, r.at, "@rows %q: want a number from 1", string(most))
		}
		if !r.permit {
			l.errorf(r.file, r.at, "@rows on a forbid: only what is permitted can be bounded")
		}
	}
	if _, ok := given["hold"]; !ok {
		return
	}
	if r.permit {
		l.errorf(r.file, r.at, "@hold on a permit: only a forbid can be held")
	}
	if _, ok := l.bundle.Hold(r.hold); !ok {
		l.errorf(r.file, r.at, "@hold %q is not in %s", r.hold, fileHolds)
	}
	delete(l.holdAt, r.hold)
}

// scope takes the keys for the index out of a policy's scope, and refuses scopes that could never fit.
func (l *loader) scope(r *rule) {
	p := (*ast.Policy)(r.policy.AST())
	switch s := p.Principal.(type) {
	case ast.ScopeTypeEq:
		r.principal = s.Entity
		if s.Entity.Type != typeActor {
			l.errorf(r.file, r.at, "principal == %s can never hold: who asks is always an Actor; write principal in %s", s.Entity, s.Entity)
		}
	case ast.ScopeTypeIn:
		r.principal = s.Entity
	case ast.ScopeTypeIsIn:
		r.principal = s.Entity
	}
	switch s := p.Action.(type) {
	case ast.ScopeTypeEq:
		r.actions = []types.String{s.Entity.ID}
	case ast.ScopeTypeIn:
		r.actions = []types.String{s.Entity.ID}
	case ast.ScopeTypeInSet:
		r.actions = []types.String{}
		for _, e := range s.Entities {
			r.actions = append(r.actions, e.ID)
		}
	}
	if r.hold != "" && (slices.Equal(r.actions, []types.String{actionReveal}) || slices.Equal(r.actions, []types.String{types.String(access.Connect)})) {
		l.errorf(r.file, r.at, "@hold on %s: it is never asked for by itself, so nobody could approve it", r.actions[0])
	}
	switch s := p.Resource.(type) {
	case ast.ScopeTypeEq:
		r.resource = s.Entity
	case ast.ScopeTypeIn:
		r.resource = s.Entity
	case ast.ScopeTypeIsIn:
		r.resource = s.Entity
		l.column(r, s.Type == typeColumn)
	case ast.ScopeTypeIs:
		l.column(r, s.Type == typeColumn)
	}
	_, exact := p.Resource.(ast.ScopeTypeEq)
	l.column(r, r.resource.Type == typeColumn && (r.permit || !exact))
}

func (l *loader) column(r *rule, wrong bool) {
	if wrong {
		l.errorf(r.file, r.at, "a column is named only by a forbid with resource == Column::\"TARGET/schema.table.column\": permits are per table")
	}
}

// literals looks at every entity that a policy names: what does not exist would make a forbid that never fits.
func (l *loader) literals(r *rule) {
	p := (*ast.Policy)(r.policy.AST())
	for _, uid := range []types.EntityUID{r.principal, r.resource} {
		l.literal(r, uid)
	}
	if r.actions != nil {
		for _, a := range r.actions {
			l.literal(r, types.NewEntityUID(typeAction, a))
		}
	}
	for _, c := range p.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			if v, ok := n.(ast.NodeValue); ok {
				if uid, ok := v.Value.(types.EntityUID); ok {
					l.literal(r, uid)
				}
			}
			return true
		})
	}
}

func (l *loader) literal(r *rule, uid types.EntityUID) {
	var target string
	switch uid.Type {
	case typeAction:
		e := access.Effect(uid.ID)
		if !slices.Contains(access.Effects, e) && e != access.Unknown && uid.ID != actionReveal {
			l.errorf(r.file, r.at, "%s: want one of %v, unknown, reveal", uid, access.Effects)
		}
		return
	case typeDataClass:
		if !slices.ContainsFunc(l.bundle.Classes, func(c access.Class) bool { return c.Name == string(uid.ID) }) {
			l.errorf(r.file, r.at, "%s is not in %s", uid, fileClasses)
		}
		return
	case typeTarget:
		target = string(uid.ID)
	case typeDatabase, typeTable, typeColumn, typeFunction, typeSetting, typeHost, typeProgram, typePath, typeAddress:
		var name string
		target, name, _ = strings.Cut(string(uid.ID), "/")
		if least := map[types.EntityType]int{typeTable: 1, typeColumn: 2}[uid.Type]; name == "" || strings.Count(name, ".") < least {
			l.errorf(r.file, r.at, `%s: want TARGET/NAME, like Table::"app/public.orders" or Column::"app/public.orders.amount"`, uid)
			return
		}
	default: // users, groups and actors come from outside; an unknown type fails the type check
		return
	}
	if _, ok := l.bundle.Target(access.TargetName(target)); !ok {
		l.errorf(r.file, r.at, "%s: target %q is not in %s", uid, target, fileTargets)
	}
}

// typecheck holds a policy against the schema, so that an attribute that is not there is found before it denies everything.
func (l *loader) typecheck(v *validate.Validator, r *rule) {
	err := v.Policy("", (*ast.Policy)(r.policy.AST()))
	if err == nil {
		return
	}
	// One line for each action that is meant, in any order: each thing once.
	lines := strings.Split(perAction.ReplaceAllString(err.Error(), ""), "\n")
	slices.Sort(lines)
	l.errorf(r.file, r.at, "%s: %s", r.id, strings.Join(slices.Compact(lines), "; "))
}

// readable says whether brackets outside of strings and comments nest at most so deep, and what is wrong where. Block comments
// are refused (Cedar itself has none), so that this count and the parser's cannot differ.
func readable(body string, most int) (place, string) {
	depth, line, start := 0, 1, 0
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '\n':
			line, start = line+1, i+1
		case '(', '[', '{':
			if depth++; depth > most {
				return place{line, i - start + 1}, fmt.Sprintf("brackets nested deeper than %d", most)
			}
		case ')', ']', '}':
			depth--
		case '"':
			for i++; i < len(body) && body[i] != '"' && body[i] != '\n'; i++ {
				if body[i] == '\\' {
					i++
				}
			}
			if i < len(body) && body[i] == '\n' {
				i-- // not terminated: the parser will say so
			}
		case '/':
			if strings.HasPrefix(body[i:], "/*") {
				return place{line, i - start + 1}, "block comments are not read here: use //"
			}
			if strings.HasPrefix(body[i:], "//") {
				for i+1 < len(body) && body[i+1] != '\n' {
					i++
				}
			}
		}
	}
	return place{}, ""
}
