package ssh

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"mvdan.cc/sh/v3/syntax"

	"github.com/sallyport/sallyport/internal/access"
)

// shell is what gives a command line its meaning.
type shell struct {
	user string // that the agent logs in as
	home string // its home directory, absolute; empty where the host does not tell
	cwd  string // where relative paths start; empty where it is not known
	work *int   // what reading has cost so far; nil: it is not counted
}

// spend counts what is read, over all that a line holds: lines in lines are read again and again.
func (s shell) spend(n int) bool {
	if s.work != nil {
		*s.work += n
	}
	return s.work == nil || *s.work <= maxWork
}

const (
	// maxTouches bounds what is reported of one command; policy takes at most twice as many.
	maxTouches = 512
	// maxNesting bounds commands in commands: sh -c 'sh -c …'.
	maxNesting = 8
	// maxDepth bounds brackets of the grammar, so that reading a line cannot use up the stack.
	maxDepth = 200
	// maxWork bounds reading, in bytes parsed and statements looked at: loops and lines in lines double it with every level.
	maxWork = 32 * maxCommand
)

// analyse says what a command line does. It is pure, takes any bytes, and never calls complete what it could not read.
func analyse(text string, sh shell) access.Command {
	cmd := access.Command{Verb: "EXEC", Text: text, State: access.State{Role: sh.user}}
	switch {
	case strings.IndexByte(text, 0) >= 0:
		cmd.Normalised, cmd.Complete = "?", true
		cmd.Refused = &access.Refusal{Rule: "ssh.malformed", Hint: "a command line holds no zero byte"}
		return cmd
	case strings.TrimSpace(text) == "":
		cmd.Normalised, cmd.Complete = "", true
		cmd.Refused = &access.Refusal{Rule: "ssh.empty-command", Hint: "there is nothing to run"}
		return cmd
	}
	sh.work = new(int)
	f := read(text, sh, 0)
	if text[0] == '-' || text[0] == '+' {
		f.why = "the shell takes it for an option of its own"
	}
	cmd.Touches, cmd.Complete, cmd.Why = f.touches, f.why == "", f.why
	if cmd.Complete && len(cmd.Touches) == 0 {
		cmd.Touches = []access.Touch{{Effect: access.Execute, Resource: access.Resource{Kind: access.KindProgram, Name: "true"}}}
	}
	cmd.Facts = access.Facts{Functions: f.programs, Statement: f.commands, Deletes: f.deletes}
	cmd.Normalised = strings.Join(f.shape, "; ")
	if f.refused != nil {
		cmd.Refused = f.refused
	}
	return cmd
}

// facts is what was learnt of a line.
type facts struct {
	touches  []access.Touch
	programs []string // sorted
	shape    []string // one for each command: its program and options, words out
	commands int
	deletes  bool
	why      string // what was not understood; empty: everything was
	refused  *access.Refusal
}

// read reads a line twice, as a POSIX shell and as bash would: what these take for different things is not understood.
func read(text string, sh shell, nesting int) facts {
	if why := readable(text); why != "" {
		return facts{why: why, shape: []string{"?"}}
	}
	if !sh.spend(2 * len(text)) {
		return facts{why: tooDeep, shape: []string{"?"}}
	}
	as := func(v syntax.LangVariant) (f facts) {
		defer func() {
			if recover() != nil { // which could only be a fault of the library
				f = facts{why: "the parser failed on it", shape: []string{"?"}}
			}
		}()
		file, err := syntax.NewParser(syntax.Variant(v)).Parse(strings.NewReader(text), "")
		if err != nil {
			return facts{why: "it is not a command line of a POSIX shell", shape: []string{"?"}}
		}
		w := &walker{sh: sh, cwd: sh.cwd, nesting: nesting}
		w.stmts(file.Stmts)
		return w.facts()
	}
	bash, posix := as(syntax.LangBash), as(syntax.LangPOSIX)
	if bash.why != "" {
		return bash
	}
	if !reflect.DeepEqual(posix, bash) {
		bash.why = "shells differ in how they read it"
	}
	return bash
}

const tooDeep = "it nests too deep"

// readable says what keeps a text from being looked at at all.
func readable(text string) string {
	if !utf8.ValidString(text) {
		return "it is not UTF-8"
	}
	if strings.Contains(text, "\\\n") && strings.Contains(text, "#") {
		return "where a comment ends is doubtful" // for shells at its newline, for the parser behind a backslash that is before that
	}
	if n := len(text) - len(strings.TrimRight(text, "\\")); n&1 == 1 {
		return "it ends in a backslash" // which shells keep
	}
	depth := 0
	for i := range len(text) {
		switch c := text[i]; {
		case c < ' ' && c != '\t' && c != '\n', c == 0x7f:
			return "it holds control characters"
		case c == '(' || c == '{' || c == '`' || c == '[':
			if depth++; depth > maxDepth {
				return tooDeep
			}
		}
	}
	if n := strings.Count(text, "if ") + strings.Count(text, "while ") + strings.Count(text, "until ") + strings.Count(text, "case ") + strings.Count(text, "for "); n > maxDepth {
		return tooDeep
	}
	return ""
}

// walker gathers facts along one line.
type walker struct {
	sh      shell
	cwd     string // where relative paths start; empty: not known
	nesting int
	loops   int // around what is being read

	touches  []access.Touch
	programs []string
	shape    []string
	commands int
	deletes  bool
	why      string
	refused  *access.Refusal
}

func (w *walker) facts() facts {
	slices.Sort(w.programs)
	return facts{touches: w.touches, programs: slices.Compact(w.programs), shape: w.shape, commands: w.commands, deletes: w.deletes, why: w.why, refused: w.refused}
}

// unsure keeps the first reason.
func (w *walker) unsure(why string) {
	if w.why == "" {
		w.why = why
	}
}

func (w *walker) touch(e access.Effect, kind access.ResourceKind, name string) {
	t := access.Touch{Effect: e, Resource: access.Resource{Kind: kind, Name: name}}
	if slices.ContainsFunc(w.touches, func(o access.Touch) bool {
		return o.Effect == e && o.Resource.Kind == kind && o.Resource.Name == name
	}) {
		return
	}
	if len(w.touches) >= maxTouches {
		w.unsure("it touches too much")
		return
	}
	w.touches = append(w.touches, t)
}

// stmts reads a list: where one command moves and may fail, the next ones start who knows where.
func (w *walker) stmts(list []*syntax.Stmt) {
	for _, s := range list {
		before := w.cwd
		w.stmt(s)
		if w.cwd != before && !surely(s) {
			w.cwd = ""
		}
	}
}

// surely says whether a statement is cd … || exit: what follows it runs where it leads, or not at all.
func surely(s *syntax.Stmt) bool {
	either, ok := s.Cmd.(*syntax.BinaryCmd)
	return ok && !s.Background && !s.Negated && !s.Coprocess && !s.Disown && len(s.Redirs) == 0 && either.Op == syntax.OrStmt &&
		starts(either.X, "cd") && exits(either.Y)
}

// exits says whether a statement is exit, with a number or nothing: with more, some shells complain and go on.
func exits(s *syntax.Stmt) bool {
	if !starts(s, "exit") {
		return false
	}
	args := s.Cmd.(*syntax.CallExpr).Args
	return len(args) == 1 || len(args) == 2 && exitStatus.MatchString(args[1].Lit())
}

var exitStatus = regexp.MustCompile(`^[0-9]{1,3}$`)

// starts says whether a statement is one simple command of that name, spelt plainly.
func starts(s *syntax.Stmt, name string) bool {
	c, ok := s.Cmd.(*syntax.CallExpr)
	return ok && !s.Background && !s.Negated && !s.Coprocess && !s.Disown && len(s.Redirs) == 0 && len(c.Assigns) == 0 && len(c.Args) > 0 && c.Args[0].Lit() == name
}

// apart reads commands that run in a shell of their own: they move nobody else.
func (w *walker) apart(list ...*syntax.Stmt) {
	before := w.cwd
	w.stmts(list)
	w.cwd = before
}

func (w *walker) stmt(s *syntax.Stmt) {
	if !w.sh.spend(1) {
		w.unsure(tooDeep)
		return
	}
	if s.Coprocess || s.Disown {
		w.unsure("it starts a coprocess")
	}
	before := w.cwd
	for _, r := range s.Redirs {
		w.redirect(r)
	}
	switch c := s.Cmd.(type) {
	case nil: // a redirection alone
	case *syntax.CallExpr:
		w.call(c)
	case *syntax.BinaryCmd:
		w.binary(c)
	case *syntax.Subshell:
		w.apart(c.Stmts...)
	case *syntax.Block:
		w.stmts(c.Stmts)
	case *syntax.IfClause:
		w.branch(c)
	case *syntax.WhileClause:
		w.loop(c)
	case *syntax.TimeClause:
		w.unsure("time is a word of some shells only")
		if c.Stmt != nil {
			w.stmt(c.Stmt)
		}
	case *syntax.ForClause:
		w.unsure("it runs in a loop over a variable")
		w.cwd = ""
		w.stmts(c.Do)
	case *syntax.CaseClause:
		w.unsure("what case does is not looked into")
		for _, item := range c.Items {
			w.apart(item.Stmts...)
		}
	case *syntax.FuncDecl:
		w.unsure("it defines a function")
		w.apart(c.Body)
	default:
		w.unsure("it uses more than simple commands, pipes and lists")
		w.inside(c)
	}
	if s.Background {
		w.cwd = before
	}
}

// maxLoops bounds loops in loops: each is looked at twice.
const maxLoops = 4

func (w *walker) loop(c *syntax.WhileClause) {
	w.loops++
	defer func() { w.loops-- }()
	if w.loops > maxLoops {
		w.unsure(tooDeep)
		return
	}
	w.cwd = w.still(append(slices.Clone(c.Cond), c.Do...))
	w.stmts(c.Cond)
	w.stmts(c.Do)
}

// still is the directory at the start of a loop's body, which is not known if the body moves.
func (w *walker) still(list []*syntax.Stmt) string {
	probe := &walker{sh: w.sh, cwd: w.cwd, nesting: w.nesting, loops: w.loops}
	probe.stmts(list)
	if probe.cwd != w.cwd {
		return ""
	}
	return w.cwd
}

func (w *walker) branch(c *syntax.IfClause) {
	before := w.cwd
	w.stmts(c.Cond)
	cond := w.cwd
	w.stmts(c.Then)
	moved := w.cwd != before || cond != before
	if c.Else != nil {
		if w.cwd = cond; len(c.Else.Cond) > 0 {
			w.branch(c.Else)
		} else {
			w.stmts(c.Else.Then)
		}
		moved = moved || w.cwd != before
	}
	if moved {
		w.cwd = ""
	}
}

func (w *walker) binary(c *syntax.BinaryCmd) {
	before := w.cwd
	switch c.Op {
	case syntax.AndStmt:
		w.stmt(c.X)
		w.stmt(c.Y)
	case syntax.OrStmt:
		w.stmt(c.X)
		if starts(c.X, "cd") && exits(c.Y) {
			w.stmt(c.Y)
			return // see surely
		}
		if w.cwd != before {
			w.cwd = ""
		}
		middle := w.cwd
		w.stmt(c.Y)
		if w.cwd != middle {
			w.cwd = ""
		}
	case syntax.Pipe:
		w.apart(c.X)
		if w.stmt(c.Y); w.cwd != before {
			w.cwd = "" // in some shells the last one of a pipe moves those behind it
		}
	default:
		w.unsure("it uses a pipe that only some shells have")
		w.apart(c.X)
		w.apart(c.Y)
	}
}

// inside gathers the programs of whatever is not read.
func (w *walker) inside(n syntax.Node) {
	w.cwd = ""
	syntax.Walk(n, func(n syntax.Node) bool {
		if c, ok := n.(*syntax.CallExpr); ok {
			w.call(c)
			return false
		}
		return true
	})
}
