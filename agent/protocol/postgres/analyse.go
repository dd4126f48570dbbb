package postgres

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/sqltext"
)

// analyse turns one message's text into one command: what it touches, which classes of data take part, and whether all of it
// was understood. It is pure but for the cache in cat, total, and never panics. The slices of what it returns are shared with
// the cache: nobody may change them.
func analyse(text string, params []access.Param, st session, cat *catalogue, lim limits) (access.Command, plan) {
	var f *facts
	if cat == nil || len(text) > lim.text {
		f = study(text, st, cat, lim)
	} else {
		key := factKey{text, st.database, st.role, st.searchPath, st.loose}
		if f = cat.facts.get(key); f == nil {
			f = study(text, st, cat, lim)
			if !f.uncached {
				cat.facts.put(key, f)
			}
		}
	}
	c := f.command
	c.Params = params
	c.Facts.InTxn = st.inTxn
	return c, f.plan
}

// facts is what is remembered of a text in a state.
type facts struct {
	command  access.Command
	plan     plan
	uncached bool // they depend on what the target said just now
}

// study does what analyse remembers. A panic in here is a defect; its command is not understood, and so refused.
func study(text string, st session, cat *catalogue, lim limits) (f *facts) {
	defer func() {
		if r := recover(); r != nil {
			f = &facts{command: blank(text, st)}
			f.command.Why = "the statement broke the analyser"
			f.atLarge(cat)
		}
	}()
	f = examine(text, st, cat, lim)
	f.atLarge(cat)
	return f
}

// atLarge counts every class as used where not all of a text was understood: what policy may let run all the same could read them anywhere.
func (f *facts) atLarge(cat *catalogue) {
	if f.command.Complete || f.command.Refused != nil || cat == nil {
		return
	}
	uses := slices.Clone(f.command.Classes)
	for _, u := range cat.atLarge {
		if !slices.ContainsFunc(uses, func(o access.ClassUse) bool { return o.Class == u.Class && o.Derived }) {
			uses = append(uses, u)
		}
	}
	f.command.Classes, f.command.Masked = uses, ""
}

func blank(text string, st session) access.Command {
	return access.Command{
		Verb: "UNKNOWN", Text: text, Normalised: sqltext.Normalise(text),
		State:   access.State{Database: st.database, Role: st.role, SearchPath: st.searchPath},
		Touches: []access.Touch{{Effect: access.Unknown, Resource: access.Resource{Kind: access.KindDatabase, Name: st.database}}},
	}
}

func examine(text string, st session, cat *catalogue, lim limits) *facts {
	f := &facts{command: blank(text, st)}
	c := &f.command
	if err := sqltext.Check(text, sqltext.Limits{
		Bytes: lim.text, Tokens: lim.tokens, Statements: lim.tokens, Depth: lim.depth, Chain: sqltext.Default.Chain,
	}); err != nil {
		c.Refused = &access.Refusal{Rule: "postgres.limits", Hint: "the text is too large or too deep: " + err.Error()}
		if errors.Is(err, sqltext.ErrEncoding) {
			c.Refused = &access.Refusal{Rule: "postgres.encoding", Hint: "the text must be valid UTF-8"}
		}
		c.Why = err.Error()
		return f
	}
	if cat == nil {
		c.Why = "there is no catalogue"
		return f
	}
	done, busy := cat.analysing(text)
	if busy != nil {
		c.Refused, c.Why, f.uncached = busy, "it was not looked at", true
		return f
	}
	defer done()
	tree, err := cat.parse(text)
	if err != nil {
		c.Why = "the text does not parse"
		if errors.Is(err, errParserEnded) {
			c.Why = "the parser ended over the text"
			f.uncached = true
		}
		return f
	}
	a := newAnalysis(st, cat)
	statements := make([]string, 0, len(tree.GetStmts()))
	for _, s := range tree.GetStmts() {
		a.next(s)
		statements = append(statements, textOf(text, s))
	}
	a.plan.relies = a.reliance(statements)
	a.finish(f, len(tree.GetStmts()))
	return f
}

// textOf is what a message's text has of one statement.
func textOf(text string, s *pg.RawStmt) string {
	from, n := int(s.GetStmtLocation()), int(s.GetStmtLen())
	if n == 0 {
		n = len(text) - from
	}
	if from < 0 || n < 0 || from+n > len(text) {
		return ""
	}
	return text[from : from+n]
}

// analysis gathers the facts of one text.
type analysis struct {
	cat       *catalogue
	st        session
	path      []string
	touches   map[touchKey]*touched
	order     []touchKey
	classes   map[classKey]*access.ClassUse
	calls     []string
	verbs     []string
	plan      plan
	seen      map[any]struct{} // syntax nodes that the walk accounted for; the net compares
	reached   map[reachKey]struct{}
	refused   *access.Refusal
	why       string
	noWhere   bool // an UPDATE or DELETE has no WHERE that names a column
	deletes   bool
	spent     int
	locks     bool
	splices   []splice          // tables in FROM that a query may stand for: see beneath
	fixed     map[classKey]bool // uses that are not all of such tables
	triggered bool              // what is called is called by a trigger, a check or the like
	rigid     string            // why no query may stand for any
	longNames []longName        // references that say a schema
	proven    []access.ClassUse // what a second text masks that stands behind the name of EXECUTE or FETCH
	unaliased []*entry          // tables of FROM that go by their own names
	// Of tables, those of the columns that every table has which take part.
	hiddenColumns map[*relation][]string
	dry           bool // EXPLAIN without ANALYZE: what would be written is only read
	limit         int64

	entered  map[*routine]bool // functions that were looked into, and whether for what they give back
	depth    int               // of functions and prepared statements around what is looked at
	changing int               // statements in it that change rows, at any depth
	made     *pg.RangeVar      // the table or sequence that the statement makes
	uncached bool
	renames  bool                    // prepared statements or cursors come or go
	prepares bool                    // the only statement is a PREPARE
	text     string                  // of what EXECUTE and FETCH run
	alone    map[*pg.FuncCall]bool   // calls with nothing beside them that could look names up
	chosen   map[*pg.FuncCall]string // settings whose name is the one row that the query picks
	relied   relied
}

func newAnalysis(st session, cat *catalogue) *analysis {
	return &analysis{
		cat: cat, st: st, path: cat.path(st), touches: map[touchKey]*touched{}, classes: map[classKey]*access.ClassUse{},
		seen: map[any]struct{}{}, reached: map[reachKey]struct{}{}, entered: map[*routine]bool{}, fixed: map[classKey]bool{},
		relied: relied{path: st.searchPath, role: st.role},
	}
}

// next analyses one statement. Names are resolved against a snapshot: after a statement that changes the catalogue, nothing
// that follows in the same message can be.
func (a *analysis) next(s *pg.RawStmt) {
	if a.plan.changesCatalogue || a.plan.mayDrift {
		a.incomplete("a statement follows one that may change what names mean, in the same message")
	}
	a.dry = false
	a.verbs = append(a.verbs, a.statement(s.GetStmt()))
	a.net(s)
}

func (a *analysis) finish(f *facts, statements int) {
	c := &f.command
	if slices.ContainsFunc(a.order, func(k touchKey) bool { return k.effect == access.Define || k.effect == access.Grant }) {
		a.ownCalls(a.cat.onDefine)
	}
	c.Touches = a.sortedTouches()
	if len(c.Touches) == 0 && a.why == "" {
		// An empty text, which drivers ping with, or a statement that reads nothing, such as SELECT 1.
		c.Touches = []access.Touch{{Effect: access.Read, Resource: access.Resource{Kind: access.KindDatabase, Name: a.st.database}}}
	}
	if len(c.Touches) > maxTouches {
		a.incomplete("it touches %d resources, more than %d", len(c.Touches), maxTouches)
		c.Touches = c.Touches[:maxTouches]
	}
	c.Classes = a.sortedClasses()
	switch statements {
	case 0:
		c.Verb = "EMPTY"
	case 1:
		c.Verb = a.verbs[0]
	default:
		c.Verb = "MULTI"
		a.limit = 0
	}
	slices.Sort(a.calls)
	c.Facts = access.Facts{HasWhere: !a.noWhere, Functions: a.calls, RowLimit: a.limit, Statement: statements, Locks: a.locks, Deletes: a.deletes}
	c.Refused, c.Why, c.Complete = a.refused, a.why, a.why == ""
	c.Prepare = a.prepares && statements == 1
	c.State.Prepared = a.text
	f.uncached = a.uncached
	if !c.Complete {
		c.Touches = append(c.Touches, access.Touch{Effect: access.Unknown, Resource: access.Resource{Kind: access.KindDatabase, Name: a.st.database}})
	}
	a.beneath(c)
	a.plan.statements, a.plan.renames = statements, a.renames
	switch a.verbs = append(a.verbs, ""); strings.TrimPrefix(a.verbs[0], "EXECUTE ") {
	case "INSERT", "UPDATE", "DELETE", "MERGE":
		a.plan.counted = a.changing == 1
	}
	f.plan = a.plan
}

// incomplete says why not all of the text is understood. The first reason stays.
func (a *analysis) incomplete(format string, args ...any) {
	if a.why == "" {
		a.why = fmt.Sprintf(format, args...)
	}
}

// refuse is the room's own no, whatever policy says. The first stays.
func (a *analysis) refuse(rule, hint string) {
	if a.refused == nil {
		a.refused = &access.Refusal{Rule: rule, Hint: hint}
	}
}

// maxWork bounds the analysis of one text in steps, each the look at one node, name or column. A person's statement takes hundreds, an
// ORM's thousands; a text written to be slow (every star in a wide join, every ORDER BY number) would take billions.
const maxWork = 2_000_000

// spend says whether n more steps may be taken.
func (a *analysis) spend(n int) bool {
	if a.spent += n; a.spent > maxWork {
		a.incomplete("it takes too long to understand")
		return false
	}
	return true
}

func (a *analysis) see(n any) { a.seen[n] = struct{}{} }
