package ssh

import (
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
)

var deploy = shell{user: "deploy", home: "/home/deploy", cwd: "/home/deploy"}

// told writes what a command does as a test can: "read:/etc/hosts", "execute:cat".
func told(c access.Command) []string {
	var out []string
	for _, t := range c.Touches {
		out = append(out, string(t.Effect)+":"+t.Resource.Name)
	}
	slices.Sort(out)
	return out
}

var wantedFacts = map[string]string{
	"exit 5":                                               "execute:true",
	"uptime":                                               "execute:uptime",
	"cat /etc/hosts":                                       "execute:cat read:/etc/hosts",
	"/bin/cat -n /etc/hosts notes":                         "execute:cat read:/etc/hosts read:/home/deploy/notes",
	"cat ~/x \"$HOME/y\"":                                  "execute:cat read:/home/deploy/x read:/home/deploy/y",
	"c'a't /etc/h\\osts":                                   "execute:cat read:/etc/hosts",
	"cd /srv/app && tail -n 5 log/a.log":                   "execute:tail read:/srv/app/log/a.log",
	"cd /srv || exit\ncat x":                               "execute:cat read:/srv/x",
	"cd '/srv/a b' || exit 1; cat x":                       "execute:cat read:/srv/a b/x",
	"cd /srv || exit & cat y":                              "execute:cat read:/home/deploy/y",
	"(cd /srv); cat x":                                     "execute:cat read:/home/deploy/x",
	"cat /etc/hosts | grep -i x > /tmp/o":                  "execute:cat execute:grep read:/etc/hosts write:/tmp/o",
	"rm -rf /srv/x":                                        "execute:rm write:/srv/x write:/srv/x/*",
	"rm --recursive /srv/x":                                "execute:rm write:/srv/x write:/srv/x/*",
	"sudo -n rm /srv/x":                                    "execute:rm execute:sudo grant:sudo write:/srv/x",
	"sh -c 'rm /srv/x'":                                    "execute:rm execute:sh write:/srv/x",
	"env -i nice -n 5 rm /srv/x":                           "execute:env execute:nice execute:rm write:/srv/x",
	"timeout 5 cat /etc/hosts 2>/dev/null":                 "execute:cat execute:timeout read:/etc/hosts",
	"cp -r /etc /tmp/e":                                    "execute:cp read:/etc read:/etc/* write:/tmp/e write:/tmp/e/* write:/tmp/e/etc write:/tmp/e/etc/*",
	"find /srv -name '*.go'":                               "execute:find read:/srv read:/srv/*",
	"find /srv -delete":                                    "execute:find read:/srv read:/srv/* write:/srv write:/srv/*",
	"echo \"$(cat /etc/hosts)\"":                           "execute:cat execute:echo read:/etc/hosts",
	"[ -f /etc/hosts ] && echo yes":                        "execute:[ execute:echo read:/etc/hosts",
	"if test -d /srv; then ls /srv; fi":                    "execute:ls execute:test read:/srv",
	"scp -r -t /srv/in":                                    "execute:scp transfer:/srv/in transfer:/srv/in/* write:/srv/in write:/srv/in/*",
	"scp -f -- /etc/hosts":                                 "execute:scp read:/etc/hosts transfer:/etc/hosts",
	"rsync --server --sender -logDtpre.iLsfxCIvu . /srv/a": "execute:rsync read:/srv/a read:/srv/a/* transfer:/srv/a transfer:/srv/a/*",
	"rsync --server -logDtpre.iLsfxCIvu . b":               "execute:rsync transfer:/home/deploy/b transfer:/home/deploy/b/* write:/home/deploy/b write:/home/deploy/b/*",
	"git-upload-pack '/srv/r.git'":                         "execute:git-upload-pack read:/srv/r.git read:/srv/r.git/* transfer:/srv/r.git transfer:/srv/r.git/*",
	"git-receive-pack 'r.git'":                             "execute:git-receive-pack transfer:/home/deploy/r.git transfer:/home/deploy/r.git/* write:/home/deploy/r.git write:/home/deploy/r.git/*",
	"sort -o /srv/out /etc/hosts":                          "execute:sort read:/etc/hosts write:/srv/out",
	"dd if=/dev/zero of=/srv/z bs=1 count=1":               "execute:dd write:/srv/z",
	"sed -n '1,5p' /etc/hosts":                             "execute:sed read:/etc/hosts",
	"sed -i s/a/b/ /srv/x":                                 "execute:sed read:/srv/x write:/srv/x",
	"systemctl restart nginx":                              "execute:systemctl unknown:systemctl",
	"/srv/app/bin/deploy --now":                            "execute:/srv/app/bin/deploy unknown:/srv/app/bin/deploy",
	"curl https://example.com/x":                           "execute:curl transfer:example.com unknown:curl",
	"cat <<E\nhello\nE":                                    "execute:cat",
	"LANG=C ls /srv":                                       "execute:ls read:/srv",
}

func TestFacts(t *testing.T) {
	for text, want := range wantedFacts {
		c := analyse(text, deploy)
		if got := strings.Join(told(c), " "); got != want || !c.Complete {
			t.Errorf("%q:\n got %s (complete %v: %s)\nwant %s", text, got, c.Complete, c.Why, want)
		}
		if c.Normalised == "" || strings.Contains(c.Normalised, "/etc") {
			t.Errorf("%q: normalised as %q", text, c.Normalised)
		}
	}
}

// recognised says whether a command is seen for what it is, or is not let through as understood.
func recognised(c access.Command, e access.Effect, path string) bool {
	if !c.Complete || c.Refused != nil {
		return true
	}
	for _, t := range c.Touches {
		if t.Effect == access.Unknown || t.Effect == e && overlaps(t.Resource.Name, path) || t.Effect == e && t.Resource.Name == path {
			return true
		}
	}
	return false
}

func TestIncomplete(t *testing.T) {
	for _, text := range []string{
		"$X", "`echo rm` x", "$(echo rm) x", "eval \"$X\"", "rm $X", "cat *", "cat /etc/sh?dow", "cat {a,b}", "cat /etc/[s]hadow", "cat ~root/x",
		"echo cm0gLXJm | base64 -d | sh", "sh", "bash -s", "bash < /tmp/x", "sh <<E\nrm x\nE", "X=rm; $X x", "f() { rm x; }; f", "alias a=rm", "cd /x; cat y",
		"cd $X && cat y", "cat <(rm x)", "cat $'\\x2f'etc", "for f in a b; do rm $f; done", "case x in x) rm y;; esac", "python3 -c 'x'", "perl -e x", "awk 'x'", "xargs rm",
		"find / -exec rm {} ;", "trap 'rm x' EXIT", "exec 3<>/dev/tcp/h/1", "cat /a/../b", "! cd /srv || exit; cat y", "cd /srv || exit 1 2; cat y", "cd /srv || exit x; cat y", "cd /srv || true; cat y", "cd /srv && true || exit; cat y", "echo $SECRET", "echo /etc/*", "PATH=/tmp ls", "IFS=x", ". ./x", "source x", "x=1",
		"ls &> /tmp/o", "a |& b", "time ls", "((1))", "[[ -f x ]]", "echo ${X:-$(rm x)}", "coproc ls", "export X=1", "pushd /x; cat y", "while cd /x; do cat y; done",
		strings.Repeat("while true; do ", 150) + "ls" + strings.Repeat("; done", 150), "su -c 'rm x'", "rm\rx", "rm\x01", "rm 'x", "cat /a/b/../c",
	} {
		if c := analyse(text, deploy); c.Complete {
			t.Errorf("%q passes for understood: %v", text, told(c))
		} else if c.Why == "" {
			t.Errorf("%q: no reason", text)
		}
	}
}

func TestStrange(t *testing.T) {
	for _, text := range []string{
		"rm --files0-from=x", "tail --pid=1 /x", "sort --compress-program=sh x", "env", "env LANG=C", "date -s 12:00", "hostname x", "sed -n 'w /etc/x' y", "sed -e p x", "find / -fprint x", "tar xf /x",
		"rsync --server -slogDtpr . x", "rsync a host:b", "scp a host:b", "git-shell x", "cp -t /etc x y", "install x y", "grep -f /etc/shadow x", "getent initgroups x", "man ls", "less /etc/shadow",
	} {
		c := analyse(text, deploy)
		if !slices.ContainsFunc(c.Touches, func(t access.Touch) bool { return t.Effect == access.Unknown }) && c.Complete {
			t.Errorf("%q passes for known: %v", text, told(c))
		}
	}
}

func TestRefused(t *testing.T) {
	for text, rule := range map[string]string{"": "ssh.empty-command", " \n": "ssh.empty-command", "a\x00b": "ssh.malformed", "/usr/lib/openssh/sftp-server": "",
		"internal-sftp": "ssh.sftp-server", "sh -c internal-sftp": "ssh.sftp-server"} {
		c := analyse(text, deploy)
		if rule != "" && (c.Refused == nil || c.Refused.Rule != rule) {
			t.Errorf("%q: refused by %+v, want %s", text, c.Refused, rule)
		}
	}
}

func TestWithoutHome(t *testing.T) {
	for _, text := range []string{"cat x", "cat ~/x", "cat \"$HOME/x\"", "cd && cat x", "ls"} {
		if c := analyse(text, shell{user: "deploy"}); c.Complete {
			t.Errorf("%q passes for understood: %v", text, told(c))
		}
	}
	if c := analyse("cat /etc/hosts", shell{user: "deploy"}); !c.Complete {
		t.Errorf("an absolute path needs no home: %s", c.Why)
	}
}
