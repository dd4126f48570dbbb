package ssh

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/access"
)

// program says which options a program may have so that its operands are all that it touches. Anything else makes it a strange one. Options are those
// of GNU coreutils 9, grep 3.8, findutils 4.9 and procps 4; BusyBox has fewer.
type program struct {
	flags  string        // of one letter, without a value
	valued string        // of one letter, with a value that names no file
	long   string        // with or without a value that names no file, separated by spaces
	on     access.Effect // on each operand; empty: operands are no files
	least  int           // operands before the files: grep's pattern
	tree   string        // options of one letter that take everything below an operand in; "*": always
	must   bool          // without an operand it reads or writes the current directory
	free   bool          // operands are text whose value does not matter
}

// plainPrograms are those whose operands are all files, or all none.
var plainPrograms = map[string]program{
	"true": {free: true}, "false": {free: true}, ":": {free: true}, "pwd": {flags: "LP"}, "whoami": {}, "id": {flags: "agGnruz"}, "groups": {},
	"uname": {flags: "asnrvmpio"}, "arch": {}, "nproc": {long: "all ignore"}, "uptime": {flags: "ps"}, "tty": {flags: "s"},
	"free": {flags: "bkmghtwl", valued: "sc"}, "sleep": {}, "echo": {free: true, flags: "neE"}, "printf": {free: true, flags: ""},
	"basename": {free: true, flags: "az", valued: "s"}, "dirname": {free: true, flags: "z"}, "seq": {flags: "w", valued: "fs"},
	"ps": {flags: "AaefFHlLmNTuxwyZcjMV", valued: "oCGgpqstuUO", long: "sort no-headers headers forest pid ppid user"},
	"df": {flags: "ahHiklPTvB", long: "total output human-readable local", on: access.Read}, "who": {flags: "abdHlmpqrstTuw"}, "w": {flags: "hsuf"},
	"cat":       {flags: "AbeEnstTuv", on: access.Read},
	"tac":       {flags: "br", valued: "s", on: access.Read},
	"nl":        {flags: "p", valued: "bdfhilnsvw", on: access.Read},
	"head":      {flags: "qvz0123456789", valued: "nc", long: "lines bytes quiet silent verbose", on: access.Read},
	"tail":      {flags: "fFqvz0123456789", valued: "ncs", long: "lines bytes follow quiet silent verbose retry", on: access.Read},
	"wc":        {flags: "cmlLw", long: "bytes chars lines words", on: access.Read},
	"ls":        {flags: "aAbBcCdfFgGhHiklLmnNopqQrstuUvxXZ1", valued: "wTI", long: "all almost-all human-readable color full-time time-style sort", on: access.Read, tree: "R", must: true},
	"stat":      {flags: "Lft", valued: "c", long: "format printf dereference terse", on: access.Read},
	"du":        {flags: "0abcDHhklLmsSxP", valued: "dBt", long: "max-depth human-readable summarize total bytes all", on: access.Read, tree: "*", must: true},
	"readlink":  {flags: "femnqsvz", on: access.Read},
	"realpath":  {flags: "emLPqsz", on: access.Read},
	"md5sum":    {flags: "btz", long: "binary text tag zero", on: access.Read},
	"sha1sum":   {flags: "btz", long: "binary text tag zero", on: access.Read},
	"sha256sum": {flags: "btz", long: "binary text tag zero", on: access.Read},
	"sha512sum": {flags: "btz", long: "binary text tag zero", on: access.Read},
	"cksum":     {on: access.Read}, "rev": {on: access.Read},
	"od":      {flags: "abcdfiloshxvw", valued: "AjNStw", on: access.Read},
	"hexdump": {flags: "bcCdovx", valued: "nsL", on: access.Read},
	"strings": {flags: "a", valued: "nte", on: access.Read},
	"cut":     {flags: "nsz", valued: "bcdf", long: "bytes characters delimiter fields complement output-delimiter only-delimited", on: access.Read},
	"paste":   {flags: "sz", valued: "d", on: access.Read},
	"comm":    {flags: "123z", on: access.Read},
	"cmp":     {flags: "bls", valued: "in", on: access.Read},
	"diff":    {flags: "abBcdeEiInNpqsStTuwyZ", valued: "CUW", long: "brief unified context color side-by-side", on: access.Read, tree: "*"}, // of a directory every file, or the one of the other's name
	"base64":  {flags: "di", valued: "w", long: "decode wrap", on: access.Read},
	"zcat":    {flags: "fqv", on: access.Read},
	"column":  {flags: "ntx", valued: "cNos", on: access.Read},
	"tr":      {flags: "cCdst", free: true}, "fold": {flags: "bs", valued: "w", on: access.Read}, "expand": {flags: "i", valued: "t", on: access.Read},
	"grep": grep, "egrep": grep, "fgrep": grep,
	"rmdir":    {flags: "v", long: "ignore-fail-on-non-empty verbose", on: access.Write},
	"mkdir":    {flags: "pv", valued: "m", long: "parents verbose mode", on: access.Write},
	"touch":    {flags: "acfhm", valued: "dt", long: "no-create date time", on: access.Write},
	"tee":      {flags: "aip", long: "append", on: access.Write},
	"truncate": {flags: "co", valued: "s", long: "size no-create", on: access.Write},
	"unlink":   {on: access.Write},
	"shred":    {flags: "fuvxz", valued: "ns", on: access.Write},
	"chmod":    {flags: "cfvR", long: "recursive verbose changes silent quiet", on: access.Write, least: 1, tree: "R"},
	"chown":    {flags: "cfhvRHLP", long: "recursive verbose changes no-dereference silent quiet", on: access.Write, least: 1, tree: "R"},
	"chgrp":    {flags: "cfhvRHLP", long: "recursive verbose changes no-dereference silent quiet", on: access.Write, least: 1, tree: "R"},
	"rm":       {flags: "dfiIrRv", long: "force recursive verbose dir interactive one-file-system no-preserve-root preserve-root", on: access.Write, tree: "rR"},
}

var grep = program{flags: "abcEFGHhiIlLnoqsTuvwxyzZP0123456789", valued: "ABCme", on: access.Read, least: 1, tree: "rR",
	long: "ignore-case invert-match count line-number no-filename with-filename files-with-matches only-matching quiet color colour extended-regexp fixed-strings perl-regexp word-regexp line-regexp after-context before-context context max-count include exclude exclude-dir recursive"}

// deleters remove what they name.
var deleters = []string{"rm", "rmdir", "unlink", "shred", "truncate"}

// operands reads the options of a plain program and reports an effect on each of its files.
func (w *walker) operands(p program, name string, args []word) {
	files, opts, ok := split(p, args)
	if !ok {
		if slices.ContainsFunc(args, func(a word) bool { return !a.known }) {
			w.unsure("an argument is computed")
		}
		w.strange(name)
		return
	}
	if slices.Contains(deleters, name) {
		w.deletes = true
	}
	if p.free {
		if slices.ContainsFunc(args, func(a word) bool { return a.glob }) {
			w.unsure("names of files are matched")
		}
		return
	}
	least := p.least
	if least > 0 && name != "chmod" && name != "chown" && name != "chgrp" && strings.ContainsAny(opts, "e") {
		least = 0 // the pattern was an option
	}
	if len(files) < least {
		return // it only complains
	}
	if p.on == "" {
		if slices.ContainsFunc(files, func(f word) bool { return !f.known }) {
			w.unsure("an argument is computed")
		}
		if len(files) > 0 && name != "sleep" && name != "seq" && name != "ps" && name != "id" && name != "groups" && name != "uname" && name != "printf" {
			w.strange(name)
		}
		return
	}
	for _, f := range files[:least] {
		if !f.known {
			w.unsure("an argument is computed")
		}
	}
	files = files[least:]
	whole := p.tree == "*" || p.tree != "" && strings.ContainsAny(opts, p.tree)
	if len(files) == 0 && (p.must || whole && p.on == access.Read) {
		files = []word{{text: ".", known: true}}
	}
	for _, f := range files {
		switch {
		case name == "strings" && strings.HasPrefix(f.text, "@"), name == "zcat" && !strings.HasSuffix(f.text, ".gz"):
			w.strange(name) // a file of more arguments; one that is there by another name
		case f.known && f.text == "-" && !f.tilde && p.on == access.Read:
		case whole:
			w.tree(p.on, f)
		default:
			w.file(p.on, f)
		}
	}
}

// recursion is the letter of long options that mean the same.
var recursion = map[string]string{"recursive": "r", "regexp": "e", "archive": "a", "symbolic": "s"}

// split parts options from operands as getopt_long does, and refuses options that the program is not known to have. opts are the letters that were given.
func split(p program, args []word) (operands []word, opts string, ok bool) {
	for i := 0; i < len(args); i++ {
		a := args[i]
		if !a.known {
			if p.free {
				continue
			}
			operands = append(operands, a)
			if !a.glob {
				return nil, "", false // it may be an option
			}
			continue
		}
		switch {
		case a.tilde || a.text == "-" || !strings.HasPrefix(a.text, "-"):
			operands = append(operands, a)
		case a.text == "--":
			return append(operands, args[i+1:]...), opts, true
		case strings.HasPrefix(a.text, "--"):
			name, _, _ := strings.Cut(a.text[2:], "=")
			if p.free && name == "" {
				continue
			}
			if name == "" || !slices.Contains(strings.Fields(p.long), name) {
				return nil, "", p.free
			}
			if r, ok := recursion[name]; ok {
				opts += r + strings.ToUpper(r)
			}
		default:
			letters, takesNext, good := cluster(p, a.text[1:])
			if !good {
				if p.free {
					continue
				}
				return nil, "", false
			}
			opts += letters
			if takesNext {
				if i++; i >= len(args) {
					return operands, opts, true
				}
				if !args[i].known {
					return nil, "", false
				}
			}
		}
	}
	return operands, opts, true
}

// cluster reads options of one letter: -rfn5, or -n 5.
func cluster(p program, s string) (letters string, takesNext, ok bool) {
	for i := range len(s) {
		c := s[i : i+1]
		letters += c
		switch {
		case strings.Contains(p.valued, c):
			return letters, i+1 == len(s), true
		case !strings.Contains(p.flags, c):
			return "", false, false
		}
	}
	return letters, false, true
}
