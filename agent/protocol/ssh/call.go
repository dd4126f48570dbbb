package ssh

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"

	"github.com/sallyport/sallyport/internal/access"
)

// systemDirs are where the system's programs are: one of them is known by its name alone.
var systemDirs = []string{"/bin", "/usr/bin", "/sbin", "/usr/sbin"}

// harmless are the variables that a command may be started with: they change how it shows things, not what it does.
var harmless = regexp.MustCompile(`^(LANG|LANGUAGE|LC_[A-Z]+|TZ|TERM|COLUMNS|LINES|NO_COLOR|DEBIAN_FRONTEND)$`)

// shows says whether a variable changes no more than how a command shows things. In some encodings a byte of a letter is a shell's backslash.
func shows(name, value string) bool {
	encodes := name == "LANG" || strings.HasPrefix(name, "LC_")
	return harmless.MatchString(name) && (!encodes || localeValue.MatchString(value))
}

// computing are the words of shells that compute what stands in brackets, and run what they find in it, quoted or not.
var computing = []string{"printf", "test", "[", "wait", "exit", "break", "continue", "umask", "cd"}

// computed says whether one of these would run something that its argument holds.
func computed(name string, args []word) bool {
	if !slices.Contains(computing, name) {
		return false
	}
	for i, a := range args {
		switch {
		case name == "printf" && i == 0 && (!a.known || strings.HasPrefix(a.text, "-") && a.text != "--"):
			return true // printf -v 'x[$(rm y)]'
		case name != "printf" && (a.split || a.glob), name != "printf" && !a.known && i+1 < len(args) && !args[i+1].known:
			return true // test $(echo -v …), or test "$(…)" "$(…)"
		case !a.known:
		case strings.Contains(a.text, "[") && strings.ContainsAny(a.text, "$`"):
			return true
		case strings.HasPrefix(name, "t") || name == "[":
			if a.text == "-v" || a.text == "-R" {
				return true
			}
		case name == "wait" && strings.HasPrefix(a.text, "-"):
			return true
		}
	}
	return false
}

// call reads one simple command.
func (w *walker) call(c *syntax.CallExpr) {
	for _, a := range c.Assigns {
		v := word{known: true}
		if a.Value != nil {
			if v = w.word(a.Value); !v.known {
				w.unsure("a variable's value is computed")
			}
		}
		if a.Name == nil || !shows(a.Name.Value, v.text) || a.Append || a.Index != nil || a.Array != nil {
			w.unsure("it sets a variable")
		}
	}
	if len(c.Args) == 0 {
		if len(c.Assigns) > 0 {
			w.unsure("it sets a variable")
		}
		return
	}
	args := make([]word, len(c.Args))
	for i, a := range c.Args {
		args[i] = w.word(a)
	}
	w.start(args)
}

// start says what a program with arguments does.
func (w *walker) start(args []word) {
	w.commands++
	name, ok := w.program(args[0])
	if !ok {
		w.shape = append(w.shape, "?")
		w.unsure("which program runs is computed")
		return
	}
	w.shape = append(w.shape, shape(name, args[1:]))
	w.programs = append(w.programs, name)
	if !slices.Contains(idle, name) {
		w.touch(access.Execute, access.KindProgram, name)
	}
	if strings.Contains(name, "/") {
		w.strange(name)
		return
	}
	if computed(name, args[1:]) {
		w.unsure("a shell may run what an argument of " + name + " holds")
	}
	if f, ok := special()[name]; ok {
		f(w, name, args[1:])
		return
	}
	if p, ok := plainPrograms[name]; ok {
		w.operands(p, name, args[1:])
		return
	}
	w.strange(name)
}

// idle are the shell's own words that start nothing and touch nothing. A line of nothing else is the program true.
var idle = []string{":", "true", "false", "cd", "exit", "break", "continue", "wait", "umask"}

// strange is a program of which the room knows the name alone: whoever permits "unknown" on it permits whatever it does.
func (w *walker) strange(name string) {
	w.touch(access.Unknown, access.KindProgram, name)
}

// program is the name of the program that a word starts.
func (w *walker) program(a word) (string, bool) {
	if !a.known || a.text == "" && !a.tilde {
		return "", false
	}
	if !strings.Contains(a.text, "/") && !a.tilde {
		return a.text, true
	}
	p, ok := w.path(a)
	if !ok {
		return "", false
	}
	if dir, base := path.Split(p); slices.Contains(systemDirs, strings.TrimSuffix(dir, "/")) && base != "" {
		return base, true
	}
	return p, true
}

// path is the absolute name of what a word names.
func (w *walker) path(a word) (string, bool) {
	if !a.known {
		return "", false
	}
	p := a.text
	switch {
	case a.tilde:
		if w.sh.home == "" {
			w.unsure("the home directory is not known")
			return "", false
		}
		p = w.sh.home + p
	case p == "":
		return "", false
	case p[0] != '/':
		if w.cwd == "" {
			w.unsure("the directory that " + strconv.Quote(p) + " starts from is not known")
			return "", false
		}
		p = w.cwd + "/" + p
	}
	if climbs(p) {
		w.unsure("a path climbs with .. behind a name, which may be a link to somewhere else")
	}
	return path.Clean(p), true
}

// climbs says whether a path goes down and up again: where that leads depends on links.
func climbs(p string) bool {
	down := false
	for part := range strings.SplitSeq(p, "/") {
		switch part {
		case "", ".":
		case "..":
			if down {
				return true
			}
		default:
			down = true
		}
	}
	return false
}

// file reports an effect on the path that a word names.
func (w *walker) file(e access.Effect, a word) {
	p, ok := w.path(a)
	switch {
	case !ok:
		w.unsure("which file it means is computed")
	case p == "/dev/null", p == "/dev/zero" && e == access.Read:
	case strings.HasPrefix(p, "/dev/tcp/"), strings.HasPrefix(p, "/dev/udp/"):
		w.unsure("it opens a connection through the shell")
	case strings.HasPrefix(p, "/dev/fd/"), elsewhere.MatchString(p), p == "/dev/stdin", p == "/dev/stdout", p == "/dev/stderr":
		w.unsure("it names what is open already")
	default:
		w.touch(e, access.KindPath, p)
	}
}

// elsewhere are names that every Linux has for what lies somewhere else.
var elsewhere = regexp.MustCompile(`^/proc/(self|thread-self|[^/]+/(root|cwd|exe|fd|fdinfo|task|map_files|ns))(/|$)`)

// tree reports an effect on a path and everything below it.
func (w *walker) tree(e access.Effect, a word) {
	w.file(e, a)
	if p, ok := w.path(a); ok {
		w.touch(e, access.KindPath, strings.TrimSuffix(p, "/")+"/*")
	}
}

// redirect reads one redirection.
func (w *walker) redirect(r *syntax.Redirect) {
	if r.N != nil {
		if _, err := strconv.Atoi(r.N.Value); err != nil {
			w.unsure("it keeps a file open under a variable's name")
		}
	}
	if r.Hdoc != nil {
		w.word(r.Hdoc) // it is what a program reads: what that does with it is the program's own entry
		return
	}
	a := w.word(r.Word)
	switch r.Op {
	case syntax.RdrOut, syntax.AppOut, syntax.RdrClob:
		w.file(access.Write, a)
	case syntax.RdrIn:
		w.file(access.Read, a)
	case syntax.RdrInOut:
		w.file(access.Read, a)
		w.file(access.Write, a)
	case syntax.DplOut, syntax.DplIn:
		if _, err := strconv.Atoi(a.text); !a.known || err != nil && a.text != "-" {
			w.unsure("it redirects to a file by a form that only some shells have")
		}
	default:
		w.unsure("it redirects by a form that only some shells have")
	}
}

// option is the shape of one that is safe to show.
var option = regexp.MustCompile(`^-[A-Za-z0-9-]{1,24}$`)

// shape is a command with its words out.
func shape(name string, args []word) string {
	var b strings.Builder
	b.WriteString(printable(name))
	for i, a := range args {
		if i == 20 {
			b.WriteString(" …")
			break
		}
		if a.known && option.MatchString(a.text) {
			b.WriteString(" " + a.text)
		} else {
			b.WriteString(" ?")
		}
	}
	return b.String()
}
