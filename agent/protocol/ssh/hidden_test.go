package ssh

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// hidden are lines that do more than their words say: each must be seen for what it does, or is not let through as understood.
var hidden = []struct {
	line   string
	effect access.Effect
	path   string
}{
	// Builtins of bash compute what is in brackets, and run what they find there.
	{"printf -v 'a[$(rm -rf /srv/data)]' %s x", access.Write, "/srv/data"},
	{"printf \"$(echo -v)\" 'a[$(rm -rf /srv/data)]' x", access.Write, "/srv/data"},
	{"printf '%d' 'a[$(rm -rf /srv/data)]'", access.Write, "/srv/data"},
	{"test -v 'a[$(rm -rf /srv/data)]'", access.Write, "/srv/data"},
	{"[ -v 'a[$(rm -rf /srv/data)]' ]", access.Write, "/srv/data"},
	{"[ 'a[$(rm -rf /srv/data)]' -eq 0 ]", access.Write, "/srv/data"},
	{"[ 'a[`rm -rf /srv/data`]' -eq 0 ]", access.Write, "/srv/data"},
	{"wait -n -p 'a[$(rm -rf /srv/data)]'", access.Write, "/srv/data"},
	{"command printf -v 'a[$(rm -rf /srv/data)]' x", access.Write, "/srv/data"},
	{"test $(echo -v 'a[$(reboot)]')", access.Execute, "reboot"},
	{"test \"$(echo -v)\" \"$(cat /srv/x)\"", access.Execute, "reboot"},
	{"[ $(cat /srv/x) = y ]", access.Execute, "reboot"},
	{"wait $(echo -p 'a[$(reboot)]')", access.Execute, "reboot"},
	// What takes the place of an option's value may be several words.
	{"nice -n $(echo 1 rm -rf /srv/data) ls", access.Write, "/srv/data"},
	{"timeout $(echo 1 rm -rf /srv/data) ls", access.Write, "/srv/data"},
	{"env -u $(echo X rm -rf /srv/data) ls", access.Write, "/srv/data"},
	{"sudo -u $(echo root rm -rf /srv/data) ls", access.Write, "/srv/data"},
	{"timeout * ls", access.Write, "/srv/data"},
	// A tilde belongs to the word, wherever it is read.
	{"sh -c ~/bin/ls", access.Execute, "/home/deploy/bin/ls"},
	{"eval ~/bin/ls", access.Execute, "/home/deploy/bin/ls"},
	{"dd of=~/.ssh/authorized_keys", access.Write, "/home/deploy/.ssh/authorized_keys"},
	{"dd if=~/.ssh/id_rsa", access.Read, "/home/deploy/.ssh/id_rsa"},
	{"dd if=''~/.ssh/id_rsa", access.Read, "/home/deploy/.ssh/id_rsa"},
	{"cat a=~/x", access.Read, "/home/deploy/a=/home/deploy/x"},
	{"cat a=b:~/x", access.Read, "/home/deploy/a=b:/home/deploy/x"},
	// Where the home is another.
	{"sudo sh -c 'cat ~/x'", access.Read, "/root/x"},
	{"sudo -u bob sh -c 'cat \"$HOME/x\"'", access.Read, "/home/bob/x"},
	{"env -i sh -c 'cat \"$HOME/etc/shadow\"'", access.Read, "/etc/shadow"},
	{"env -u HOME sh -c 'cat \"$HOME/etc/shadow\"'", access.Read, "/etc/shadow"},
	{"env -i sh -c 'cd; cat x'", access.Read, "/nowhere"},
	// Where cd leads.
	{"cd /srv && cd -PL && cat x", access.Read, "/home/deploy/x"},
	{"cd /srv && cd -e && cat x", access.Read, "/home/deploy/x"},
	{"cd /srv && true | cd /etc && cat shadow", access.Read, "/etc/shadow"},
	{"true | cd /etc; cat shadow", access.Read, "/etc/shadow"},
	// Options by their long names, or in values.
	{"cp --archive /etc /tmp/x", access.Read, "/etc/*"},
	{"grep -d recurse root /etc", access.Read, "/etc/*"},
	{"grep -drecurse root /etc", access.Read, "/etc/*"},
	{"ln --symbolic etc/shadow /x", access.Read, "/etc/shadow"},
	{"sh -c -- 'rm -rf /srv/data'", access.Write, "/srv/data"},
	{"bash -c +x 'rm -rf /srv/data'", access.Write, "/srv/data"},
	{"eval -- rm -rf /srv/data", access.Write, "/srv/data"},
	{"sort -o /tmp/x -o /etc/passwd y", access.Write, "/etc/passwd"},
	{"sed -ii 1d /srv/x", access.Write, "/srv/xi"},
	{"rmdir -p /srv/a/b", access.Write, "/srv/a"},
	// Files that are named in other ways.
	{"strings @/etc/shadow", access.Read, "/etc/shadow"},
	{"diff /etc /tmp/shadow", access.Read, "/etc/shadow"},
	{"diff -N /etc /tmp", access.Read, "/etc/*"},
	{"zcat /srv/private", access.Read, "/srv/private.gz"},
	{"git-upload-pack '~/r.git'", access.Read, "/home/deploy/r.git"},
	{"git-upload-pack '~bob/r.git'", access.Read, "/home/bob/r.git"},
	{"git-upload-pack /srv/r", access.Read, "/srv/r.git/*"},
	{"cat /proc/1/root/etc/shadow", access.Read, "/etc/shadow"},
	{"cat /proc/thread-self/root/etc/shadow", access.Read, "/etc/shadow"},
	{"cd /proc/1/cwd && cat x", access.Read, "/x"},
	{"cat /proc/12/fd/3", access.Read, "/x"},
	// A shell's own options in place of a line.
	{"-s", access.Write, "/srv/data"},
	{"--rcfile=/tmp/x", access.Write, "/srv/data"},
	// Encodings in which a byte of a letter is a backslash.
	{"LC_ALL=zh_CN.GBK sh -c 'ls'", access.Write, "/srv/data"},
	{"env LC_ALL=zh_CN.GBK sh -c 'ls'", access.Write, "/srv/data"},
}

func TestHidden(t *testing.T) {
	for _, h := range hidden {
		if c := analyse(h.line, deploy); !recognised(c, h.effect, h.path) {
			t.Errorf("%q: complete, and no %s of %s: %v", h.line, h.effect, h.path, told(c))
		}
	}
}

// A class that names files by a pattern is there in everything below a directory that may hold one.
func TestOverlaps(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"/home/*/.ssh/*", "/home/alice/*", true}, {"/home/*/.ssh/*", "/home/alice/.ssh/*", true}, {"/home/*/.ssh/*", "/*", true}, {"*/id_rsa", "/srv/*", true}, {"*.pem", "/srv/a/*", true},
		{"/etc/shadow", "/etc/*", true}, {"/etc/shadow", "/etc/shadow", true}, {"/etc/shadow", "/etc/shadow/*", false}, {"/etc/shadow", "/srv/*", false}, {"/home/*/.ssh/*", "/srv/*", false}, {"/etc/shadow", "/etc/hosts", false},
		{"/etc/sh*", "/etc/shadow.d/*", true},
	} {
		if got := overlaps(c.pattern, c.name); got != c.want {
			t.Errorf("%s in %s: %v", c.pattern, c.name, got)
		}
	}
}

// Reading a line takes time in its length, however its commands lie in each other.
func TestNestingIsBounded(t *testing.T) {
	line := "ls"
	for range 5 {
		for range 4 {
			line = "while (true) do (" + line + ") done"
		}
		line = "eval " + quote(line)
		if len(line) > maxCommand {
			t.Fatal("the test's line is too long")
		}
	}
	begun := time.Now()
	if c := analyse(line, deploy); c.Complete {
		t.Error("it was read")
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("took %s for %d bytes", took, len(line))
	}
}

// A statement that never ends is not read again and again.
func TestUnfinishedIsBounded(t *testing.T) {
	l := &lines{script: strings.NewReader("cat <<E\n" + strings.Repeat("\n", maxCommand-100))}
	begun := time.Now()
	_, err := l.statement()
	if took := time.Since(begun); err == nil || took > 2*time.Second {
		t.Errorf("took %s: %v", took, err)
	}
}
