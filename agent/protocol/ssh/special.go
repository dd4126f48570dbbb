package ssh

import (
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/sallyport/sallyport/internal/access"
)

// special are the programs that need more than a table. It is a function, because some of them start others by it.
func special() map[string]func(w *walker, name string, args []word) {
	specialOnce.Do(func() { specialTable = makeSpecial() })
	return specialTable
}

var (
	specialOnce  sync.Once
	specialTable map[string]func(w *walker, name string, args []word)
)

func makeSpecial() map[string]func(w *walker, name string, args []word) {
	m := map[string]func(w *walker, name string, args []word){
		"cd": (*walker).cd, "test": (*walker).test, "[": (*walker).test, "find": (*walker).find, "sort": (*walker).sort, "uniq": (*walker).uniq,
		"cp": (*walker).copies, "mv": (*walker).copies, "ln": (*walker).link, "dd": (*walker).dd, "date": (*walker).date, "hostname": (*walker).hostname,
		"sed": (*walker).sed, "getent": (*walker).getent, "command": (*walker).wrapper, "builtin": (*walker).wrapper, "exec": (*walker).wrapper,
		"nice": (*walker).wrapper, "nohup": (*walker).wrapper, "setsid": (*walker).wrapper, "stdbuf": (*walker).wrapper, "ionice": (*walker).wrapper,
		"timeout": (*walker).wrapper, "env": (*walker).wrapper, "busybox": (*walker).wrapper, "toybox": (*walker).wrapper,
		"sudo": (*walker).sudo, "doas": (*walker).sudo, "su": (*walker).su, "xargs": (*walker).xargs, "eval": (*walker).eval,
		"scp": (*walker).scp, "rsync": (*walker).rsync, "git-upload-pack": (*walker).git, "git-upload-archive": (*walker).git,
		"git-receive-pack": (*walker).git, "sftp-server": (*walker).sftpServer, "internal-sftp": (*walker).sftpServer,
		"exit": (*walker).nothing, "break": (*walker).nothing, "continue": (*walker).nothing, "wait": (*walker).nothing, "umask": (*walker).nothing,
	}
	for _, n := range []string{"sh", "bash", "dash", "ksh", "mksh", "zsh", "ash", "rbash"} {
		m[n] = (*walker).shell
	}
	for _, n := range []string{"python", "python2", "python3", "perl", "ruby", "node", "nodejs", "deno", "bun", "php", "lua", "tclsh", "expect", "awk", "gawk", "mawk", "nawk",
		"jshell", "Rscript", "osascript", "pwsh", "ed", "ex", "vi", "vim", "view", "nvim", "emacs", "nano", "gdb", "csh", "tcsh", "fish", "bc", "make", "sqlite3", "psql", "mysql"} {
		m[n] = (*walker).interpreter
	}
	for _, n := range []string{".", "source", "alias", "unalias", "set", "shopt", "trap", "enable", "hash", "ulimit", "read", "mapfile", "readarray", "let", "unset",
		"export", "readonly", "declare", "typeset", "local", "getopts", "shift", "return", "bind", "complete", "fc", "history", "coproc", "times", "time", "pushd", "popd", "dirs", "logout", "suspend", "disown", "jobs", "bg", "fg"} {
		m[n] = func(w *walker, name string, _ []word) { w.unsure("it changes the shell itself with " + name) }
	}
	for _, n := range []string{"curl", "wget", "ssh", "sftp", "nc", "ncat", "netcat", "socat", "telnet", "ftp", "ping", "dig", "host", "nslookup", "traceroute"} {
		m[n] = (*walker).network
	}
	return m
}

func (w *walker) nothing(string, []word) {}

func (w *walker) cd(_ string, args []word) {
	for len(args) > 0 && args[0].known && (args[0].text == "-L" || args[0].text == "-P" || args[0].text == "--") && !args[0].tilde {
		args = args[1:]
	}
	switch {
	case len(args) == 0:
		w.cwd = w.sh.home
	case len(args) > 1 || !args[0].known || args[0].text == "-" && !args[0].tilde:
		w.unsure("where cd leads is computed")
		w.cwd = ""
	default:
		p, ok := w.path(args[0])
		if !ok {
			w.unsure("where cd leads is not known")
			p = ""
		}
		w.cwd = p
	}
}

// fileTests are the operators of test on a file; binaryTests have one on each side.
var (
	fileTests   = strings.Fields("-a -b -c -d -e -f -g -G -h -k -L -N -O -p -r -s -S -u -w -x")
	binaryTests = strings.Fields("-nt -ot -ef")
)

func (w *walker) test(_ string, args []word) {
	for i, a := range args {
		if !a.known {
			if a.glob {
				w.unsure("an argument is computed")
			}
			continue
		}
		if i > 0 && args[i-1].known && (slices.Contains(fileTests, args[i-1].text) || slices.Contains(binaryTests, args[i-1].text)) && a.text != "]" {
			w.file(access.Read, a)
		}
		if i+1 < len(args) && args[i+1].known && slices.Contains(binaryTests, args[i+1].text) {
			w.file(access.Read, a)
		}
	}
	for i, a := range args {
		if !a.known && i > 0 && args[i-1].known && slices.Contains(fileTests, args[i-1].text) {
			w.unsure("which file it means is computed")
		}
	}
}

var (
	findPlain  = strings.Fields("-print -print0 -ls -empty -prune -o -a -or -and -not ! ( ) , -xdev -mount -depth -d -follow -daystart -readable -writable -executable -true -false -quit -nouser -nogroup")
	findValued = strings.Fields("-name -iname -path -ipath -wholename -regex -iregex -regextype -type -xtype -size -mtime -atime -ctime -mmin -amin -cmin -user -group -uid -gid -perm -maxdepth -mindepth -links -inum -printf -fstype")
)

func (w *walker) find(name string, args []word) {
	var roots []word
	for len(args) > 0 && args[0].known && !args[0].tilde && slices.Contains([]string{"-H", "-L", "-P"}, args[0].text) {
		args = args[1:]
	}
	for len(args) > 0 && (!args[0].known || args[0].tilde || !strings.HasPrefix(args[0].text, "-") && args[0].text != "(" && args[0].text != "!") {
		roots, args = append(roots, args[0]), args[1:]
	}
	if len(roots) == 0 {
		roots = []word{{text: ".", known: true}}
	}
	for _, r := range roots {
		w.tree(access.Read, r)
	}
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case !a.known:
			w.unsure("an argument of find is computed")
		case slices.Contains(findPlain, a.text):
		case slices.Contains(findValued, a.text):
			if i++; i < len(args) && !args[i].known {
				w.unsure("an argument of find is computed")
			}
		case a.text == "-newer":
			if i++; i < len(args) {
				w.file(access.Read, args[i])
			}
		case a.text == "-delete":
			w.deletes = true
			for _, r := range roots {
				w.tree(access.Write, r)
			}
		case slices.Contains([]string{"-exec", "-execdir", "-ok", "-okdir"}, a.text):
			end := i + 1
			for end < len(args) && (!args[end].known || args[end].text != ";" && args[end].text != "+") {
				end++
			}
			w.unsure("what find runs depends on what it finds")
			w.inner(found(args[i+1 : min(end, len(args))]))
			i = end
		default:
			w.strange(name)
		}
	}
}

// found makes find's placeholder what it is: not known.
func found(args []word) []word {
	out := slices.Clone(args)
	for i := range out {
		if strings.Contains(out[i].text, "{}") {
			out[i].known = false
		}
	}
	return out
}

// inner is a program that another one starts: it moves nobody.
func (w *walker) inner(args []word) {
	if len(args) == 0 {
		return
	}
	before := w.cwd
	w.start(args)
	w.cwd = before
}

var sortOptions = program{flags: "bdfghinMRrsuVzcCm", valued: "ktSo", long: "reverse unique numeric-sort key field-separator human-numeric-sort version-sort stable"}

func (w *walker) sort(name string, args []word) {
	files, opts, ok := split(sortOptions, args)
	if !ok {
		w.strange(name)
		return
	}
	for _, f := range files {
		if !f.known || f.text != "-" {
			w.file(access.Read, f)
		}
	}
	if strings.Contains(opts, "o") {
		w.output(name, args, "o")
	}
}

// output reports the file that an option of one letter names.
func (w *walker) output(name string, args []word, letter string) {
	for i, a := range args {
		switch at := strings.Index(a.text, letter); {
		case a.known && a.text == "-"+letter && i+1 < len(args):
			w.file(access.Write, args[i+1])
			return
		case a.known && strings.HasPrefix(a.text, "-"+letter):
			w.file(access.Write, word{text: a.text[2:], known: true})
			return
		case a.known && strings.HasPrefix(a.text, "-") && at > 0:
			w.strange(name) // inside a cluster
			return
		}
	}
}

func (w *walker) uniq(name string, args []word) {
	files, _, ok := split(program{flags: "cdDiuz", valued: "fsw", long: "count repeated unique ignore-case"}, args)
	if !ok || len(files) > 2 {
		w.strange(name)
		return
	}
	for i, f := range files {
		if f.known && f.text == "-" {
			continue
		}
		w.file([]access.Effect{access.Read, access.Write}[i], f)
	}
}

func (w *walker) copies(name string, args []word) {
	p := program{flags: "adfiHlLnpPrRsTuvx", long: "archive force interactive no-clobber recursive verbose update preserve no-target-directory"}
	if name == "mv" {
		p = program{flags: "finTuv", long: "force interactive no-clobber verbose update no-target-directory"}
	}
	files, opts, ok := split(p, args)
	if !ok || len(files) < 2 {
		w.strange(name)
		return
	}
	to := files[len(files)-1]
	whole := name == "mv" || strings.ContainsAny(opts, "arR")
	on := w.file
	if whole {
		on = w.tree
	}
	if strings.ContainsAny(opts, "lsH") || strings.Contains(opts, "d") {
		w.strange(name) // links
	}
	for _, f := range files[:len(files)-1] {
		on(access.Read, f)
		if name == "mv" {
			on(access.Write, f)
			w.deletes = true
		}
		w.into(on, f, to)
	}
	on(access.Write, to)
}

// into reports what is written if the destination is a directory.
func (w *walker) into(on func(access.Effect, word), f, to word) {
	if from, ok := w.path(f); ok && to.known {
		to.text = strings.TrimSuffix(to.text, "/") + "/" + path.Base(from)
		on(access.Write, to)
	}
}

// link: whoever may make a link to a file may reach it by another name from then on. So it counts as reading and writing what it leads to.
func (w *walker) link(name string, args []word) {
	files, opts, ok := split(program{flags: "fnsTvr", long: "symbolic force no-dereference verbose relative"}, args)
	if !ok || len(files) < 2 {
		w.strange(name)
		return
	}
	to := files[len(files)-1]
	for _, f := range files[:len(files)-1] {
		if strings.Contains(opts, "s") && f.known && !f.tilde && !strings.HasPrefix(f.text, "/") {
			w.unsure("a relative link starts from where it lies")
		}
		w.tree(access.Read, f)
		w.tree(access.Write, f)
		w.into(w.file, f, to)
	}
	w.file(access.Write, to)
}

var ddPlain = strings.Fields("bs cbs ibs obs count skip seek iseek oseek conv iflag oflag status")

func (w *walker) dd(name string, args []word) {
	for _, a := range args {
		key, value, ok := strings.Cut(a.text, "=")
		switch {
		case !a.known || !ok:
			w.unsure("an argument of dd is computed")
		case key == "if":
			w.file(access.Read, word{text: value, known: true})
		case key == "of":
			w.file(access.Write, word{text: value, known: true})
		case !slices.Contains(ddPlain, key):
			w.strange(name)
		}
	}
}

func (w *walker) date(name string, args []word) {
	files, opts, ok := split(program{flags: "uRI", valued: "d", long: "utc date iso-8601 rfc-3339 universal"}, args)
	if !ok || len(files) > 1 || len(files) == 1 && !strings.HasPrefix(files[0].text, "+") {
		w.strange(name) // it may set the clock
		return
	}
	_ = opts
}

func (w *walker) hostname(name string, args []word) {
	files, _, ok := split(program{flags: "AadfiIsy", long: "fqdn short all-ip-addresses"}, args)
	if !ok || len(files) > 0 {
		w.strange(name) // it may set the name
	}
}

// sedScript are scripts that only choose lines, or replace in one plain way: others may write files and run programs.
var sedScript = regexp.MustCompile(`^([0-9]+|\$|[0-9]+,([0-9]+|\$))?[pdq=]$|^(s/[^/\\\n]*/[^/\\\n]*/[gIp0-9]*|s\|[^|\\\n]*\|[^|\\\n]*\|[gIp0-9]*|/[^/\\\n]*/[pd])$`)

func (w *walker) sed(name string, args []word) {
	files, opts, ok := split(program{flags: "nErsuzi", valued: "e", long: "quiet silent regexp-extended"}, args)
	if !ok || strings.Contains(opts, "e") || len(files) == 0 || !files[0].known || !sedScript.MatchString(files[0].text) {
		w.strange(name)
		return
	}
	for _, a := range args {
		if a.known && strings.HasPrefix(a.text, "-") && strings.Contains(a.text, "i") && a.text != "-i" && !strings.HasSuffix(a.text, "i") {
			w.strange(name) // what follows -i is a suffix of a second file
		}
	}
	for _, f := range files[1:] {
		w.file(access.Read, f)
		if strings.Contains(opts, "i") {
			w.file(access.Write, f)
		}
	}
}

var databases = map[string]string{"passwd": "/etc/passwd", "group": "/etc/group", "shadow": "/etc/shadow", "gshadow": "/etc/gshadow", "hosts": "/etc/hosts", "services": "/etc/services"}

func (w *walker) getent(name string, args []word) {
	if len(args) == 0 || !args[0].known || databases[args[0].text] == "" {
		w.strange(name)
		return
	}
	w.file(access.Read, word{text: databases[args[0].text], known: true})
}

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
			at++
		}
	}
	at += p.operands
	if at > len(args) {
		return nil, true
	}
	return args[at:], true
}

func (w *walker) wrapper(name string, args []word) {
	rest, ok := wrapped(name, args)
	if !ok || len(rest) == 0 {
		w.strange(name)
		return
	}
	if name == "env" {
		for len(rest) > 0 && strings.Contains(rest[0].text, "=") {
			key, _, _ := strings.Cut(rest[0].text, "=")
			if !rest[0].known || !harmless.MatchString(key) {
				w.unsure("it sets a variable")
			}
			rest = rest[1:]
		}
		if len(rest) == 0 {
			w.strange(name) // it shows the environment
		}
	}
	if name == "command" || name == "builtin" {
		w.startAny(rest)
		return
	}
	w.inner(rest)
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
		w.strange(name)
		return
	}
	w.inner(rest)
}

func (w *walker) su(name string, args []word) {
	w.touch(access.Grant, access.KindProgram, name)
	for i, a := range args {
		if a.known && (a.text == "-c" || a.text == "--command") && i+1 < len(args) && args[i+1].known {
			w.nested(args[i+1].text, shell{user: w.sh.user})
		}
	}
	w.unsure("it starts another user's shell")
}

func (w *walker) xargs(name string, args []word) {
	w.unsure("what xargs runs comes from its input")
	rest, ok := wrapped(name, args)
	if !ok {
		w.strange(name)
		return
	}
	w.inner(append(slices.Clone(rest), word{}))
}

func (w *walker) eval(_ string, args []word) {
	texts := make([]string, len(args))
	for i, a := range args {
		if !a.known {
			w.unsure("it runs a command line that is computed")
			return
		}
		texts[i] = a.text
	}
	w.nested(strings.Join(texts, " "), shell{user: w.sh.user, home: w.sh.home, cwd: w.cwd})
	w.cwd = ""
}

// nested reads a command line inside a command line.
func (w *walker) nested(text string, sh shell) {
	if w.nesting >= maxNesting {
		w.unsure("it nests too deep")
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
			if len(rest) == 0 || !rest[0].known {
				w.unsure("the line that " + name + " runs is computed")
				return
			}
			if name == "zsh" || strings.Contains(a.text, "l") {
				w.unsure("it is read by another shell, or after files that are not looked into")
			}
			w.nested(rest[0].text, shell{user: w.sh.user, home: w.sh.home, cwd: w.cwd})
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
