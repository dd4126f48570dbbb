package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// TestResult is one case of tests/*.yaml.
type TestResult struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Name string `json:"name"`
	// Failures say what differs from what the case wants; none means that it passed.
	Failures []string `json:"failures,omitempty"`
	Verdict  Verdict  `json:"verdict"`
}

// testCase is one case, read.
type testCase struct {
	file    string
	at      place
	name    string
	request Request
	connect bool
	want    caseWant
}

type caseFile struct {
	Cases []struct {
		Name    string       `yaml:"name"`
		As      caseWho      `yaml:"as"`
		Target  string       `yaml:"target"`
		Agent   string       `yaml:"agent"`
		At      time.Time    `yaml:"at"`
		Connect bool         `yaml:"connect"`
		Command *caseCommand `yaml:"command"`
		// Approved are holds that a claimed approval lifts.
		Approved []string `yaml:"approved"`
		Want     caseWant `yaml:"want"`
	} `yaml:"cases"`
}

type caseWho struct {
	User       string   `yaml:"user"`
	Groups     []string `yaml:"groups"`
	Actors     []string `yaml:"actors"` // below the login, outermost first
	Purpose    string   `yaml:"purpose"`
	Assurance  string   `yaml:"assurance"`
	LoggedIn   string   `yaml:"logged_in"` // how long ago, a duration
	Capability []string `yaml:"capability"`
}

type caseCommand struct {
	Verb       string       `yaml:"verb"`
	Touches    []caseTouch  `yaml:"touches"`
	Classes    []caseClass  `yaml:"classes"`
	Facts      caseFacts    `yaml:"facts"`
	State      caseState    `yaml:"state"`
	Incomplete string       `yaml:"incomplete"` // why, where the room did not understand all of it
	Prepare    bool         `yaml:"prepare"`
	Refused    *caseRefusal `yaml:"refused"`
}

type caseTouch struct {
	Effect  string   `yaml:"effect"`
	Kind    string   `yaml:"kind"`
	Name    string   `yaml:"name"`
	Columns []string `yaml:"columns"`
}

type caseClass struct {
	Class   string `yaml:"class"`
	On      string `yaml:"on"`
	Derived bool   `yaml:"derived"`
	Beneath bool   `yaml:"beneath"`
	How     string `yaml:"how"`
}

type caseFacts struct {
	HasWhere   bool     `yaml:"has_where"`
	Functions  []string `yaml:"functions"`
	RowLimit   int64    `yaml:"row_limit"`
	InTxn      bool     `yaml:"in_txn"`
	Statements int      `yaml:"statements"`
	Deletes    bool     `yaml:"deletes"`
	Locks      bool     `yaml:"locks"`
}

type caseState struct {
	Database   string `yaml:"database"`
	Role       string `yaml:"role"`
	SearchPath string `yaml:"search_path"`
}

type caseRefusal struct {
	Rule string `yaml:"rule"`
	Hint string `yaml:"hint"`
}

type caseWant struct {
	Outcome string   `yaml:"outcome"`
	Rule    string   `yaml:"rule"`
	Hold    string   `yaml:"hold"`
	Mask    []string `yaml:"mask"`
	Record  *bool    `yaml:"record"`
	Rows    *int64   `yaml:"rows"`
	Code    string   `yaml:"code"`
}

var (
	assurances = map[string]access.Assurance{"": access.Exchanged, "inherited": access.Inherited, "declared": access.Declared,
		"exchanged": access.Exchanged, "attested": access.Attested, "isolated": access.Isolated}
	kinds = []access.ResourceKind{access.KindDatabase, access.KindTable, access.KindFunction, access.KindSetting, access.KindHost,
		access.KindProgram, access.KindPath, access.KindAddress}
	// noon is when cases happen that do not say when: a Wednesday.
	noon = time.Date(2026, 1, 7, 12, 0, 0, 0, time.UTC)
)

func (l *loader) testCases(f file) {
	var in caseFile
	d, ok := decodeYAML(&l.findings, f.Name, []byte(f.Body), &in)
	if !ok || !l.bounded(d, len(in.Cases), "cases") {
		return
	}
	seen := map[string]bool{}
	for i, c := range in.Cases {
		wrong := func(path []any, format string, args ...any) {
			l.errorf(f.Name, d.at(append([]any{"cases", i}, path...)...), format, args...)
		}
		if c.Name == "" || seen[c.Name] || !printable(c.Name, 200) {
			wrong([]any{"name"}, "name %q: want a printable one that no other case of the file has", c.Name)
		}
		seen[c.Name] = true
		if (c.Command == nil) != c.Connect {
			wrong(nil, "want either a command or connect: true")
		}
		if _, ok := l.bundle.Target(access.TargetName(c.Target)); !ok {
			wrong([]any{"target"}, "target %q is not in %s", c.Target, fileTargets)
		}
		for n, h := range c.Approved {
			if _, ok := l.bundle.Hold(h); !ok {
				wrong([]any{"approved", n}, "hold %q is not in %s", h, fileHolds)
			}
		}
		t := testCase{file: f.Name, at: d.at("cases", i), name: c.Name, connect: c.Connect, want: c.Want}
		t.request = Request{Target: access.TargetName(c.Target), Agent: access.AgentName(c.Agent), Approved: c.Approved, Now: c.At}
		if c.At.IsZero() {
			t.request.Now = noon
		}
		c.Want.check(wrong)
		c.As.request(&t.request, wrong)
		if c.Command != nil {
			t.request.Command = c.Command.command(wrong)
		}
		l.bundle.cases = append(l.bundle.cases, t)
	}
}

// wrongs reports a problem at a path below the case.
type wrongs func(path []any, format string, args ...any)

func (w caseWant) check(wrong wrongs) {
	var o access.Outcome
	if err := o.UnmarshalText([]byte(w.Outcome)); err != nil {
		wrong([]any{"want", "outcome"}, "%v", err)
	}
	if w.Hold != "" && o != access.Hold {
		wrong([]any{"want", "hold"}, "a hold belongs to outcome hold")
	}
	if len(w.Mask) > 0 && o != access.Allow {
		wrong([]any{"want", "mask"}, "masks belong to outcome allow")
	}
	if w.Rows != nil && (o != access.Allow || *w.Rows < 0) {
		wrong([]any{"want", "rows"}, "rows belong to outcome allow, and are a number from 0, which is any")
	}
	if w.Record != nil && o != access.Allow {
		wrong([]any{"want", "record"}, "recording belongs to outcome allow")
	}
}

func (w caseWho) request(r *Request, wrong wrongs) {
	if w.User == "" {
		wrong([]any{"as", "user"}, "nobody asks: name a user")
	}
	assurance, ok := assurances[w.Assurance]
	if !ok {
		wrong([]any{"as", "assurance"}, "assurance %q is not one of inherited, declared, exchanged, attested, isolated", w.Assurance)
	}
	r.Lineage = access.Lineage{Principal: w.User, Groups: w.Groups, Assurance: assurance, AuthTime: r.Now,
		Path: []access.Node{{ID: "login", Name: w.User}}}
	if w.LoggedIn != "" {
		ago, err := time.ParseDuration(w.LoggedIn)
		if err != nil || ago < 0 {
			wrong([]any{"as", "logged_in"}, "logged_in %q: want how long ago, like 2h", w.LoggedIn)
		}
		r.Lineage.AuthTime = r.Now.Add(-ago)
	}
	for i, name := range w.Actors {
		if err := access.CheckName("actor", name); err != nil {
			wrong([]any{"as", "actors", i}, "%v", err)
		}
		r.Lineage.Path = append(r.Lineage.Path, access.Node{ID: access.ActorID(fmt.Sprintf("actor-%d", i+1)), Name: name})
	}
	r.Lineage.Path[len(r.Lineage.Path)-1].Purpose = w.Purpose
	if len(r.Lineage.Path) > maxPath {
		wrong([]any{"as", "actors"}, "over %d actors", maxPath-1)
	}
	r.Capability = access.Everything()
	if w.Capability == nil {
		return
	}
	r.Capability = nil
	for i, s := range w.Capability {
		g, err := access.ParseGrantlet(s)
		if err != nil {
			wrong([]any{"as", "capability", i}, "%v", err)
		}
		r.Capability = append(r.Capability, g)
	}
}

func (c *caseCommand) command(wrong wrongs) access.Command {
	out := access.Command{Verb: c.Verb, Complete: c.Incomplete == "", Why: c.Incomplete, Prepare: c.Prepare, State: access.State{Database: c.State.Database, Role: c.State.Role, SearchPath: c.State.SearchPath},
		Facts: access.Facts{HasWhere: c.Facts.HasWhere, Functions: c.Facts.Functions, RowLimit: c.Facts.RowLimit,
			InTxn: c.Facts.InTxn, Statement: max(c.Facts.Statements, 1), Deletes: c.Facts.Deletes, Locks: c.Facts.Locks}}
	if c.Refused != nil {
		out.Refused = &access.Refusal{Rule: c.Refused.Rule, Hint: c.Refused.Hint}
	}
	for i, t := range c.Touches {
		if e := access.Effect(t.Effect); e != access.Unknown && !slices.Contains(access.Effects, e) {
			wrong([]any{"command", "touches", i, "effect"}, "effect %q is not one of %v, unknown", t.Effect, access.Effects)
		}
		if !slices.Contains(kinds, access.ResourceKind(t.Kind)) {
			wrong([]any{"command", "touches", i, "kind"}, "kind %q is not one of %v", t.Kind, kinds)
		}
		out.Touches = append(out.Touches, access.Touch{Effect: access.Effect(t.Effect),
			Resource: access.Resource{Kind: access.ResourceKind(t.Kind), Name: t.Name, Columns: t.Columns}})
	}
	for _, u := range c.Classes {
		out.Classes = append(out.Classes, access.ClassUse(u))
	}
	return out
}

// Test runs the bundle's own cases.
func (b *Bundle) Test() []TestResult {
	out := make([]TestResult, 0, len(b.cases))
	for _, c := range b.cases {
		v := c.decide(b)
		out = append(out, TestResult{File: c.file, Line: c.at.line, Name: c.name, Verdict: v, Failures: c.want.differs(v)})
	}
	return out
}

// Case explains one of the bundle's cases by name.
func (b *Bundle) Case(name string) (Explanation, bool) {
	for _, c := range b.cases {
		if c.name == name && c.connect {
			return ExplainConnect(b, c.request), true
		}
		if c.name == name {
			return Explain(b, c.request), true
		}
	}
	return Explanation{}, false
}

func (c testCase) decide(b *Bundle) Verdict {
	if c.connect {
		return Connect(b, c.request)
	}
	return Decide(b, c.request)
}

// differs compares a verdict with what is wanted. Rule, code, rows and recording are compared where the case names them; masks always.
func (w caseWant) differs(v Verdict) []string {
	var out []string
	differ := func(what, got, want string) {
		if got != want {
			out = append(out, fmt.Sprintf("%s is %q, want %q", what, got, want))
		}
	}
	differ("outcome", v.Outcome.String(), w.Outcome)
	differ("hold", v.Hold, w.Hold)
	if w.Rule != "" {
		differ("rule", v.Rule, w.Rule)
	}
	if w.Code != "" {
		differ("code", v.Code, w.Code)
	}
	var masked []string
	recorded, rows := false, int64(0)
	for _, o := range v.Obligations {
		masked = append(masked, o.Classes...)
		rows = max(rows, o.Limit)
		recorded = recorded || o.Kind == access.ObligeRecord
	}
	if w.Rows != nil {
		differ("rows", strconv.FormatInt(rows, 10), strconv.FormatInt(*w.Rows, 10))
	}
	if w.Record != nil {
		differ("record", strconv.FormatBool(recorded), strconv.FormatBool(*w.Record))
	}
	differ("mask", strings.Join(masked, " "), strings.Join(slices.Sorted(slices.Values(w.Mask)), " "))
	return out
}
