package ssh

import (
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/access"
)

// wrappers are programs that start another one: their own options, and operands before it.
var wrappers = map[string]struct {
	program
	operands int
}{
	"command": {program{flags: "p"}, 0}, "builtin": {program{}, 0}, "exec": {program{}, 0}, "nohup": {program{}, 0}, "busybox": {program{}, 0}, "toybox": {program{}, 0},
	"setsid": {program{flags: "cfw"}, 0}, "nice": {program{flags: "0123456789", valued: "n", long: "adjustment"}, 0}, "stdbuf": {program{valued: "ioe"}, 0},
	"ionice": {program{flags: "t", valued: "cn"}, 0}, "timeout": {program{flags: "v", valued: "ks", long: "foreground preserve-status kill-after signal verbose"}, 1},
	"env":  {program{flags: "i", valued: "u", long: "ignore-environment unset"}, 0},
	"sudo": {program{flags: "nEHbk", valued: "ugp", long: "non-interactive user group"}, 0}, "doas": {program{flags: "n", valued: "u"}, 0},
	"xargs": {program{flags: "0rtx", valued: "ILnPsdE", long: "null no-run-if-empty max-args max-procs"}, 0},
}

// wrapped is what a wrapper starts; ok is false where its own options are not known.
func wrapped(name string, args []word) (rest []word, ok bool) {
	p := wrappers[name]
	at := 0
	for at < len(args) && args[at].known && strings.HasPrefix(args[at].text, "-") && args[at].text != "-" && !args[at].tilde {
		if args[at].text == "--" {
			at++
			break
		}
		if strings.HasPrefix(args[at].text, "--") {
			long, _, valued := strings.Cut(args[at].text[2:], "=")
			if !slices.Contains(strings.Fields(p.long), long) || !valued && slices.Contains([]string{"user", "group", "unset", "kill-after", "signal", "adjustment", "max-args", "max-procs"}, long) {
				return nil, false
			}
			at++
			continue
		}
		_, next, good := cluster(p.program, args[at].text[1:])
		if !good {
			return nil, false
		}
		at++
		if next {
			if at < len(args) && !args[at].known {
				return nil, false // several words may take its place
			}
			at++
		}
	}
	for range p.operands {
		if at < len(args) && !args[at].known {
			return nil, false
		}
		at++
	}
	if at > len(args) {
		return nil, true
	}
	return args[at:], true
}

// odd is a program that starts another one by words that are not known.
func (w *walker) odd(name string, args []word) {
	if slices.ContainsFunc(args, func(a word) bool { return !a.known }) {
		w.unsure("an argument of " + name + " is computed")
	}
	w.strange(name)
}

// away is a program that another one starts where the home may be another than the line's own.
func (w *walker) away(args []word) {
	args = slices.Clone(args)
	for i, a := range args {
		if a.tilde && w.sh.home != "" {
			args[i].text, args[i].tilde = w.sh.home+a.text, false
		}
	}
	home := w.sh.home
	w.sh.home = ""
	w.inner(args)
	w.sh.home = home
}

func (w *walker) wrapper(name string, args []word) {
	rest, ok := wrapped(name, args)
	if !ok || len(rest) == 0 {
		w.odd(name, args)
		return
	}
	options := len(rest) < len(args)
	if name == "env" {
		for len(rest) > 0 && strings.Contains(rest[0].text, "=") {
			key, value, _ := strings.Cut(rest[0].text, "=")
			if !rest[0].known || rest[0].tilde || !shows(key, value) {
				w.unsure("it sets a variable")
			}
			rest = rest[1:]
		}
		if len(rest) == 0 {
			w.strange(name) // it shows the environment
		}
	}
	switch {
	case name == "command" || name == "builtin":
		w.startAny(rest)
	case name == "env" && options: // -i and -u take the home away
		w.away(rest)
	default:
		w.inner(rest)
	}
}

// startAny is for what the shell itself starts, which may move it.
func (w *walker) startAny(rest []word) {
	if len(rest) > 0 {
		w.start(rest)
	}
}

func (w *walker) sudo(name string, args []word) {
	w.touch(access.Grant, access.KindProgram, name)
	rest, ok := wrapped(name, args)
	if !ok || len(rest) == 0 || strings.Contains(rest[0].text, "=") {
		w.odd(name, args)
		return
	}
	w.away(rest)
}

func (w *walker) su(name string, args []word) {
	w.touch(access.Grant, access.KindProgram, name)
	for i, a := range args {
		if a.known && (a.text == "-c" || a.text == "--command") && i+1 < len(args) && args[i+1].known && !args[i+1].tilde {
			w.nested(args[i+1].text, shell{user: w.sh.user, work: w.sh.work})
		}
	}
	w.unsure("it starts another user's shell")
}

func (w *walker) xargs(name string, args []word) {
	w.unsure("what xargs runs comes from its input")
	rest, ok := wrapped(name, args)
	if !ok {
		w.odd(name, args)
		return
	}
	w.inner(append(slices.Clone(rest), word{}))
}

func (w *walker) eval(_ string, args []word) {
	texts := make([]string, len(args))
	for i, a := range args {
		if !a.known || a.tilde || i == 0 && strings.HasPrefix(a.text, "-") {
			w.unsure("it runs a command line that is computed")
			return
		}
		texts[i] = a.text
	}
	w.nested(strings.Join(texts, " "), shell{user: w.sh.user, home: w.sh.home, cwd: w.cwd, work: w.sh.work})
	w.cwd = ""
}

// nested reads a command line inside a command line.
func (w *walker) nested(text string, sh shell) {
	if w.nesting >= maxNesting {
		w.unsure(tooDeep)
		return
	}
	f := read(text, sh, w.nesting+1)
	for _, t := range f.touches {
		w.touch(t.Effect, t.Resource.Kind, t.Resource.Name)
	}
	w.programs = append(w.programs, f.programs...)
	w.shape = append(w.shape, f.shape...)
	w.commands += f.commands
	w.deletes = w.deletes || f.deletes
	if f.why != "" {
		w.unsure(f.why)
	}
	if f.refused != nil {
		w.refused = f.refused
	}
}

// shellFlags are the options of shells that change nothing about what a line means.
var shellFlags = regexp.MustCompile(`^-[euxl]*c?[eux]*$`)

func (w *walker) shell(name string, args []word) {
	for i, a := range args {
		switch {
		case !a.known:
			w.unsure("an argument of " + name + " is computed")
			return
		case a.text == "-o" || strings.HasPrefix(a.text, "+") || strings.HasPrefix(a.text, "--"):
			w.unsure("an option of " + name + " is not looked into")
			return
		case strings.HasPrefix(a.text, "-"):
			if !shellFlags.MatchString(a.text) || a.text == "-" {
				w.unsure("an option of " + name + " is not looked into")
				return
			}
			if !strings.Contains(a.text, "c") {
				continue
			}
			rest := args[i+1:]
			for len(rest) > 0 && rest[0].known && rest[0].text != "-" && shellFlags.MatchString(rest[0].text) {
				rest = rest[1:] // sh -c -e LINE
			}
			if len(rest) == 0 || !rest[0].known || rest[0].tilde || strings.HasPrefix(rest[0].text, "-") || strings.HasPrefix(rest[0].text, "+") {
				w.unsure("the line that " + name + " runs is computed")
				return
			}
			if name == "zsh" || strings.Contains(a.text, "l") {
				w.unsure("it is read by another shell, or after files that are not looked into")
			}
			w.nested(rest[0].text, shell{user: w.sh.user, home: w.sh.home, cwd: w.cwd, work: w.sh.work})
			return
		default:
			w.script(name, a)
			return
		}
	}
	w.unsure(name + " runs what it reads from its input")
}

// script is a program in a file, in whatever language.
func (w *walker) script(name string, a word) {
	w.file(access.Read, a)
	if p, ok := w.path(a); ok {
		w.programs = append(w.programs, p)
		w.touch(access.Execute, access.KindProgram, p)
		w.touch(access.Unknown, access.KindProgram, p)
		return
	}
	w.unsure("the program that " + name + " runs is computed")
}

func (w *walker) interpreter(name string, args []word) {
	if len(args) > 0 && args[0].known && !strings.HasPrefix(args[0].text, "-") && args[0].text != "" && !slices.Contains([]string{"awk", "gawk", "mawk", "nawk"}, name) {
		w.script(name, args[0])
		w.strange(name)
		return
	}
	w.unsure(name + " runs code that is not looked into")
}

// network reports where a program connects to, as far as it says; what else it does is not known.
func (w *walker) network(name string, args []word) {
	w.strange(name)
	for _, a := range args {
		if !a.known {
			w.unsure("where it connects to is computed")
			continue
		}
		if u, err := url.Parse(a.text); err == nil && u.Host != "" {
			w.touch(access.Transfer, access.KindAddress, short(u.Host))
		} else if name != "curl" && name != "wget" && !strings.HasPrefix(a.text, "-") && hostish.MatchString(a.text) {
			w.touch(access.Transfer, access.KindAddress, short(a.text))
		}
	}
}

var hostish = regexp.MustCompile(`^([a-zA-Z0-9._-]+@)?[a-zA-Z0-9.-]+\.[a-zA-Z0-9.-]+$`)
