package ssh

import (
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
	case len(args) > 1 || !args[0].known || strings.HasPrefix(args[0].text, "-") && !args[0].tilde:
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
