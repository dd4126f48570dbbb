package ssh

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
)

// plainLines are command lines of which anything may be made that a shell understands. None does harm, and none reaches beyond its directory.
var plainLines = []string{
	"cat a", "cat ./a b", "cat <a", "head -n 1 a", "tail -n1 a", "wc -l a", "wc < a", "sort a", "sort -o b a", "uniq a", "cut -c1 a", "tr a b < a", "grep x a", "grep -c x a b", "ls", "ls -la d", "echo hi",
	"printf '%s' x", "true", "false", "pwd", "id", "id -u", "uname -a", "date", "sleep 0", "basename /x/y", "dirname /x/y", "touch new", "touch a", "cp a c", "cp -r d e", "mv b c", "rm -f a", "rm -rf d", "rmdir nothing",
	"mkdir m", "mkdir -p m/n", "tee o < a", "tee -a b < a", "dd if=a of=z status=none", "sed -n 1p a", "sed s/x/y/ a", "sed -i s/x/y/ a", "sed 1eid a", "sed 's/x/id/e' a", "sed 'w o' a", "sed -f prog a", "awk 1 a",
	"awk 'BEGIN{system(\"id\")}'", "awk '{print > \"o\"}' a", "awk '{\"id\"|getline}1' a", "awk -f prog a", "find . -name a", "find d -type f", "find . -name a -exec cat {} +", "find . -name a -exec id ;",
	"find . -name a -exec id \\;", "find d -delete", "find . -name a -fprint o", "xargs < list", "xargs cat < list", "xargs -I{} sh -c 'cat {}' < list", "xargs -a list id", "env", "env cat a", "env X=1 cat a", "env -S 'cat a'",
	"env -i PATH=/bin:/usr/bin id", "env -u X id", "env -C d cat f", "nice cat a", "nice -n 5 id", "timeout 5 cat a", "timeout -s KILL 5 id", "nohup cat a", "setsid cat a", "setsid -w id", "stdbuf -o0 cat a", "ionice id", "taskset 1 id",
	"chrt -o 0 id", "flock a id", "flock a -c id", "sh -c 'cat a'", "sh -c 'id;cat a'", "bash -c 'id'", "bash -c id", "dash -c id", "sh script", "bash script", "./script", "~/script", "\"$HOME/script\"", "$HOME/script", ". ./script",
	"source ./script", "sh < script", "sh -s < script", "echo id | sh", "printf id | bash", "sh -c \"sh -c 'id'\"", "sh -ec id", "sh -xc id", "sh -c id x y", "$(echo cat) a", "`echo id`", "eval 'cat a'", "eval id", "eval \"$(echo id)\"",
	"command cat a", "command -v id", "command -p id", "exec cat a", "exec -a ls id", "builtin echo x", "test -f a", "[ -f a ]", "[ -f a ] && id", "[[ -f a ]] && id", "tar cf t a", "tar cf t --checkpoint=1 --checkpoint-action=exec=id a",
	"tar cf /dev/null -I id a", "python3 -c 'import os; os.system(\"id\")'", "perl -e 'system(\"id\")'", "perl -pe1 a", "sort --compress-program=./script -S 1k a", "sort --files0-from=list", "cd d && cat f", "cd d; cat f", "cd d", "cd nothing; cat a",
	"cd nothing || id", "X=cat; $X a", "X=1 id", "X=1", "export P=id; $P", "PATH=. script", "PATH=.:$PATH script", "f() { id; }; f", "function g { id; }; g", "alias q=id\nq", "trap id EXIT", "trap 'touch o' 0", "trap - EXIT", "time id", "time -p id",
	"! id", "coproc id", "cat <(id)", "exec 3<a", "cat a > o", "cat a >> b", "cat a >| o", "cat a 2>o", "cat a 2>&1 >o", "cat a &> o", "cat a >& o", "> o", ": > a", ":", "cat 0<a", "cat 3<a <&3", "cat <>a", "cat <<E\nx $(id)\nE\n", "cat <<'E'\n$(id)\nE\n",
	"cat <<-E\n\tx `id`\n\tE\n", "cat <<< x", "cat <<< $(id)", "sh <<E\nid\nE\n", "IFS=,; x=id,; $x", "BASH_ENV=./script bash -c true", "ENV=./script sh -c true", "LD_PRELOAD=x id", "GIT_PAGER=id git version", "git version",
	"git -c alias.q='!id' q", "which id", "type id", "hash id", "let 1", "((1)) && id", "echo ${X:-$(id)}", "echo ${X:=$(touch o)}", "echo $((1+$(id -u)))", "echo \"$(id)\"", "echo \"`id`\"", "echo '$(id)'", "echo \\$(id)", "echo $(cat a)",
	"c\\at a", "'cat' a", "\"cat\" a", "ca''t a", "c\"a\"t a", "cat${IFS}a", "{cat,a}", "$'id'", "$'\\x69d'", "\\id", "/bin/cat a", "/usr/bin/cat a", "/usr/bin/../bin/cat a", "/usr/bin/./cat a", "d/../script", "$PWD/script", "busybox cat a", "su -c id",
	"runuser -u root id", "setpriv id", "script -qc id /dev/null", "unshare id", "/usr/bin/time id", "install a i", "ln -s a l", "ln a l", "ln -sf /etc/hosts l; cat l", "split a", "truncate -s 0 a", "chmod 600 a", "ed -s a", "diff a b", "cmp a b", "comm a b",
	"paste a b", "nl a", "tac a", "rev a", "fold a", "od a", "base64 a", "md5sum a", "sha256sum a", "stat a", "du d", "df .", "readlink -f a", "realpath a", "file a", "seq 3", "yes | head -n 1", "expr 1 + 1", "bc < empty", "printf 'a\\nb\\n' | xargs -n1 echo",
	"set -- id; \"$@\"", "set -- id; $1", "set -x; id", "readonly X=id; $X", "local x", "declare -x P=id; $P", "unset PATH; id", "PATH=; id", "hash -p ./script id; id", "enable -n echo; echo x", "mapfile -t x < a; echo $x", "read x < a; echo $x",
	"while read x; do echo $x; done < a", "printf -v x id; $x", "id;", "id &", "id & wait", "id\n\nid", "id # not cat a", "id '#' a", "id#x", "cat a;id", "cat a&&id", "cat a||id", "cat a|cat", "cat a|&cat", "(id)", "(cd d && cat f)", "{ id; }", "{ id;}",
	"if id; then cat a; else cat b; fi", "if false; then id; elif true; then cat a; fi", "while false; do id; done", "until id; do id; done", "for i in 1 2; do id; done", "for i in a b; do cat $i; done", "for((;;)); do id; break; done", "case x in x) id;; esac",
	"select i in a; do id; break; done < empty", "[ $(id -u) = 0 ]", "[ a = b ] || id", "test a -nt b", "test -n \"$(id)\"", "echo a{b,c}", "echo *", "cat ?", "cat [a]", "ls d/*", "cat d/?", "rm -f [ab]", "touch {p,q}", "cat ~+/a", "cd; cat a", "cd -; id", "cd ~ && cat a",
	"pushd d; cat f", "env sh -c id", "env - id", "nice nice id", "nice env timeout 5 sh -c id", "timeout 5 sh -c 'cat a > o'", "sh -c 'cat \"$1\"' _ a", "sh -c '$0' id", "sh -c '\"$@\"' _ id", "xargs -0 -a list", "xargs --arg-file=list", "logger -s x", "exit", "exit 3; id",
	"return; id", "kill -0 $$; id", "ulimit -c 0; id", "umask 022; touch o", "times", "wait; id", "exec > o; id", "exec 2>&1; id", "shopt -s expand_aliases; alias z=id; z", "bash -O extglob -c id", "bash --norc -c id", "bash -lc id", "sh -lc id", "bash --rcfile script -ic id",
	"bash --init-file script -c id", "less a", "more a", "vi -es -c '!id' -c q a", "man -P id x", "zcat -f a", "gzip -k a", "gunzip -c a", "cpio -o < list", "strings a", "iconv a", "column a", "hexdump a", "xxd a", "jq . a", "lsof -v", "ps", "w", "free", "uptime", "hostname", "whoami", "groups", "tty",
}

// joints make lines of lines.
var joints = []func(a, b string) string{
	func(a, b string) string { return a + "; " + b },
	func(a, b string) string { return a + " && " + b },
	func(a, b string) string { return a + " || " + b },
	func(a, b string) string { return a + " | " + b },
	func(a, b string) string { return a + "\n" + b },
	func(a, b string) string { return a + " & " + b },
	func(a, b string) string { return "(" + a + "); " + b },
	func(a, b string) string { return "{ " + a + "; }; " + b },
	func(a, b string) string { return "if " + a + "; then " + b + "; fi" },
	func(a, b string) string { return "if ! " + a + "\nthen " + b + "\nfi" },
	func(a, b string) string { return "while " + a + "; do " + b + "; break; done" },
	func(a, b string) string { return "for x in 1; do " + a + "; " + b + "; done" },
	func(a, b string) string { return "sh -c " + single(a) + "; " + b },
	func(a, b string) string { return "bash -c " + single(a+"; "+b) },
	func(a, b string) string { return "env sh -c " + single(a) + " && " + b },
	func(a, b string) string { return "timeout 5 sh -c " + single(a+"|"+b) },
	func(a, b string) string { return "echo $(" + a + "); " + b },
	func(a, b string) string { return "echo \"$(" + a + ")\" | " + b },
	func(a, b string) string { return "eval " + single(a) + "; " + b },
	func(a, b string) string { return "cd d && " + a + "; " + b },
	func(a, b string) string { return "(cd d; " + a + "); " + b },
	func(a, b string) string { return a + " > o; " + b },
	func(a, b string) string { return "! " + a + "; " + b },
	func(a, b string) string { return a + " 2>/dev/null && " + b + " < a" },
	func(a, b string) string { return "case x in *) " + a + ";; esac; " + b },
	func(a, b string) string { return "f() { " + a + "; }; f; " + b },
	func(a, b string) string { return a + " # " + b },
	func(a, b string) string { return "nice " + a + "; nohup " + b },
	func(a, b string) string { return "command " + a + "; exec " + b },
	func(a, b string) string { return "xargs " + a + " < list; " + b },
	func(a, b string) string { return "find . -name a -exec " + a + " {} +; " + b },
	func(a, b string) string { return "X=" + single(a) + "; $X; " + b },
}

func single(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// twists change how a line is written.
var twists = []func(s string, r *rand.Rand) string{
	func(s string, _ *rand.Rand) string { return s },
	func(s string, _ *rand.Rand) string { return s },
	func(s string, _ *rand.Rand) string { return s },
	func(s string, _ *rand.Rand) string { return "  " + s + "  " },
	func(s string, _ *rand.Rand) string { return strings.ReplaceAll(s, " ", "\t") },
	func(s string, _ *rand.Rand) string { return strings.ReplaceAll(s, " ", " \\\n") },
	func(s string, r *rand.Rand) string { return insert(s, "''", r) },
	func(s string, r *rand.Rand) string { return insert(s, `""`, r) },
	func(s string, r *rand.Rand) string { return insert(s, `\`, r) },
	func(s string, r *rand.Rand) string { return insert(s, "\\\n", r) },
	func(s string, r *rand.Rand) string { return insert(s, "$", r) },
	func(s string, r *rand.Rand) string { return insert(s, "'", r) },
	func(s string, r *rand.Rand) string { return insert(s, "`", r) },
	func(s string, r *rand.Rand) string { return insert(s, "\r", r) },
	func(s string, r *rand.Rand) string { return insert(s, "\u00a0", r) },
	func(s string, r *rand.Rand) string { return insert(s, "!", r) },
	func(s string, r *rand.Rand) string { return insert(s, "~", r) },
	func(s string, r *rand.Rand) string { return insert(s, "#", r) },
	func(s string, r *rand.Rand) string { return insert(s, ";", r) },
	func(s string, r *rand.Rand) string { return insert(s, "\n", r) },
}

func insert(s, what string, r *rand.Rand) string {
	i := r.IntN(len(s) + 1)
	return s[:i] + what + s[i:]
}

func randomLine(r *rand.Rand) string {
	line := plainLines[r.IntN(len(plainLines))]
	for range r.IntN(3) {
		other := plainLines[r.IntN(len(plainLines))]
		if r.IntN(2) == 0 {
			line, other = other, line
		}
		line = joints[r.IntN(len(joints))](line, other)
	}
	return twists[r.IntN(len(twists))](line, r)
}

// programs resolves a program that facts named to the files that it may be.
func programs(name, cwd string) []string {
	path := name
	if !strings.Contains(name, "/") {
		found, err := exec.LookPath(name)
		if err != nil {
			return nil
		}
		path = found
	} else if !filepath.IsAbs(path) {
		path = filepath.Join(cwd, path)
	}
	all := []string{path}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		all = append(all, real)
	}
	return all
}

// is says whether an execution is one of a program's: its file, or a script's interpreter with the script.
func (e execution) is(name, cwd string) bool {
	files := programs(name, cwd)
	if slices.Contains(files, e.Exe) {
		return true
	}
	return slices.ContainsFunc(e.Argv[:min(len(e.Argv), 3)], func(a string) bool {
		if !filepath.IsAbs(a) {
			a = filepath.Join(cwd, a)
		}
		return slices.Contains(files, filepath.Clean(a))
	})
}

// systemScripts are programs of the system that are scripts, and what these start.
var systemScripts = map[string][]string{"/usr/bin/zcat": {"gzip"}, "/bin/zcat": {"gzip"}}

// broken says what a command line did that its facts, which claim to be complete, do not say; empty where that is nothing.
func broken(c access.Command, got traced, dir string) string {
	if !c.Complete || c.Refused != nil {
		return ""
	}
	named, unknown := []string{"true", "false"}, []string(nil) // these two do nothing, also where they are programs
	for _, t := range c.Touches {
		switch {
		case t.Effect == access.Unknown && programs(t.Resource.Name, dir) == nil:
			return "" // nobody claims to know what that is
		case t.Effect == access.Unknown:
			unknown = append(unknown, t.Resource.Name)
		case t.Resource.Kind == access.KindProgram:
			named = append(named, t.Resource.Name)
		}
	}
	answers := func(i int) bool { // an unknown program answers for whatever comes of it
		return slices.ContainsFunc(unknown, func(name string) bool { return got.Executions[i].is(name, dir) })
	}
	for i, e := range got.Executions {
		if i == 0 { // the login shell
			continue
		}
		if around := got.Executions[e.Around[len(e.Around)-1]]; slices.ContainsFunc(around.Argv, func(a string) bool { return slices.Contains(systemScripts[a], filepath.Base(e.Exe)) }) {
			continue
		}
		if !slices.ContainsFunc(named, func(name string) bool { return e.is(name, dir) }) && !slices.ContainsFunc(e.Around, answers) {
			return fmt.Sprintf("it started %s %q", e.Exe, e.Argv)
		}
	}
	if slices.ContainsFunc(got.Executions, func(e execution) bool {
		return slices.ContainsFunc(unknown, func(n string) bool { return e.is(n, dir) })
	}) {
		return ""
	}
	for _, path := range got.Changed {
		if !slices.ContainsFunc(c.Touches, func(t access.Touch) bool { return t.Effect == access.Write && covers(t.Resource.Name, path) }) {
			return "it changed " + path
		}
	}
	return ""
}

// covers says whether a touch takes a path in. What is made below a directory that is written is part of it.
func covers(touch, path string) bool {
	if strings.HasPrefix(touch, path+"/") && strings.HasPrefix(filepath.Base(path), "m") {
		return true // what mkdir -p makes on its way
	}
	return touch == path || strings.HasSuffix(touch, "/*") && strings.HasPrefix(path, strings.TrimSuffix(touch, "*"))
}

const (
	oracleLines = 2000
	oracleSeed  = 7
)

// What a shell really starts and changes is what the facts say, wherever these claim to be complete.
func TestRealShells(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(oracleSeed, oracleSeed)) //nolint:gosec // the same lines every time
	lines := slices.Clone(plainLines)
	for len(lines) < oracleLines {
		lines = append(lines, randomLine(r))
	}
	checkLines(t, dir, lines, 4)
}

// checkLines traces lines, and wants at least one of so many to claim to be complete: facts that claim nothing are never wrong.
func checkLines(t *testing.T, dir string, lines []string, oneOf int) {
	t.Helper()
	sh := shell{user: "deploy", home: dir, cwd: dir}
	var traceable, shells []string
	for i, text := range lines {
		if strings.IndexByte(text, 0) >= 0 {
			continue
		}
		traceable = append(traceable, text)
		shells = append(shells, []string{"/bin/sh", "/bin/bash"}[i%2])
	}
	complete, started, wrong, slow := 0, 0, 0, 0
	for i, got := range trace(t, dir, shells, traceable) {
		c := analyse(traceable[i], sh)
		if got.TimedOut {
			slow++
		}
		if c.Complete && c.Refused == nil {
			complete++
			started += len(got.Executions) - 1
		}
		if why := broken(c, got, dir); why != "" {
			if wrong++; wrong <= 20 {
				t.Errorf("%s -c %q: %s; facts: %v", shells[i], traceable[i], why, told(c))
			}
		}
	}
	if complete*oneOf < len(traceable) || started == 0 || slow*50 > len(traceable) {
		t.Errorf("the oracle says little: of %d lines %d claim to be complete, these started %d programs, %d lines did not end", len(traceable), complete, started, slow)
	}
	t.Logf("%d lines, %d complete, %d programs started by these, %d wrong, %d cut off", len(traceable), complete, started, wrong, slow)
}

// The oracle itself finds what is not said.
func TestRealShellsAreSeen(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{"id", "echo $(id)", "sh -c 'cat a > o'", "./script", "rm -f a", "env id"}
	shells := slices.Repeat([]string{"/bin/sh"}, len(lines))
	blind := access.Command{Complete: true, Touches: []access.Touch{{Effect: access.Execute, Resource: access.Resource{Kind: access.KindProgram, Name: "env"}}}}
	for i, got := range trace(t, dir, shells, lines) {
		if broken(blind, got, dir) == "" {
			t.Errorf("%q passes for one that does nothing", lines[i])
		}
		if why := broken(analyse(lines[i], shell{user: "deploy", home: dir, cwd: dir}), got, dir); why != "" {
			t.Errorf("%q: %s", lines[i], why)
		}
	}
	if os.Getenv(traceEnv) != "" {
		t.Fatal("the tracer runs tests")
	}
}
