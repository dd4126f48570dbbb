package ssh

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/access"
)

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
		case a.known && strings.HasPrefix(a.text, "-"+letter):
			w.file(access.Write, word{text: a.text[2:], known: true})
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
	if !ok || strings.Contains(opts, "e") || len(files) == 0 || !files[0].known || files[0].tilde || !sedScript.MatchString(files[0].text) {
		w.strange(name)
		return
	}
	for _, a := range args {
		if a.known && strings.HasPrefix(a.text, "-") && strings.Contains(a.text, "i") && strings.Index(a.text, "i") != len(a.text)-1 {
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
