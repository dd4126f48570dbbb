package ssh

import (
	"testing"

	"github.com/sallyport/sallyport/internal/access"
)

// removals are ways to write "rm -rf /srv/data".
var removals = []string{
	"rm -rf /srv/data", "rm -fr /srv/data", "rm -r -f /srv/data", "rm --recursive --force /srv/data", "/bin/rm -rf /srv/data", "/usr/bin/rm -rf /srv/data", "rm -rf -- /srv/data",
	"rm -rf /srv/data/", "rm -rf //srv//data", "rm -rf /srv/./data", "rm -rf /srv/x/../data", "r''m -rf /srv/data", "r\"\"m -rf /srv/data", "\\rm -rf /srv/data", "r\\m -rf /srv/data",
	"'rm' '-rf' '/srv/data'", "rm -rf /srv/da'ta'", "rm -rf \"/srv/data\"", "rm\t-rf\t/srv/data", "rm -rf \\\n/srv/data", "true;rm -rf /srv/data", "true && rm -rf /srv/data", "false || rm -rf /srv/data",
	"true | rm -rf /srv/data", "(rm -rf /srv/data)", "{ rm -rf /srv/data; }", "true\nrm -rf /srv/data", "rm -rf /srv/data &", "! rm -rf /srv/data", "if true; then rm -rf /srv/data; fi",
	"while true; do rm -rf /srv/data; done", "cd /srv && rm -rf data", "cd / && cd srv && rm -rf ./data", "sh -c 'rm -rf /srv/data'", "bash -c \"rm -rf /srv/data\"", "sh -c \"sh -c 'rm -rf /srv/data'\"",
	"sh -ec 'rm -rf /srv/data'", "eval 'rm -rf /srv/data'", "eval rm -rf /srv/data", "env rm -rf /srv/data", "env -i rm -rf /srv/data", "nice rm -rf /srv/data", "nohup rm -rf /srv/data &", "timeout 5 rm -rf /srv/data",
	"command rm -rf /srv/data", "exec rm -rf /srv/data", "sudo rm -rf /srv/data", "sudo -u root rm -rf /srv/data", "busybox rm -rf /srv/data", "setsid rm -rf /srv/data", "stdbuf -o0 rm -rf /srv/data",
	"echo $(rm -rf /srv/data)", "echo `rm -rf /srv/data`", "echo \"$(rm -rf /srv/data)\"", "cat <<E\n$(rm -rf /srv/data)\nE", "X=$(rm -rf /srv/data)", "X=rm; $X -rf /srv/data", "rm${IFS}-rf${IFS}/srv/data",
	"{rm,-rf,/srv/data}", "$'rm' -rf /srv/data", "$(echo rm) -rf /srv/data", "echo cm0gLXJmIC9zcnYvZGF0YQ== | base64 -d | sh", "echo 'rm -rf /srv/data' | sh", "sh <<< 'rm -rf /srv/data'", "sh <<E\nrm -rf /srv/data\nE",
	"printf 'rm -rf /srv/data' | bash -s", "find /srv/data -delete", "find /srv/data -exec rm -rf {} +", "find /srv -name data | xargs rm -rf", "echo /srv/data | xargs rm -rf", "python3 -c 'import shutil; shutil.rmtree(\"/srv/data\")'",
	"perl -e 'system(\"rm -rf /srv/data\")'", "awk 'BEGIN{system(\"rm -rf /srv/data\")}'", "vim -c ':!rm -rf /srv/data' -c q", "f(){ rm -rf /srv/data; }; f", "alias ls='rm -rf /srv/data'; ls", "trap 'rm -rf /srv/data' EXIT",
	"rm -rf /srv/dat?", "rm -rf /srv/*", "rm -rf /srv/[d]ata", "rm -rf ~/../../srv/data", "rsync -a --delete /tmp/empty/ /srv/data/", "mv /srv/data /tmp/gone", "tar --remove-files -cf /dev/null /srv/data", "su -c 'rm -rf /srv/data'",
	". /tmp/x", "source /tmp/x", "sh /tmp/x", "/tmp/x", "script -c 'rm -rf /srv/data'", "watch rm -rf /srv/data", "git -c core.pager='rm -rf /srv/data' log", "ssh localhost rm -rf /srv/data", "make -f /tmp/x", "at now < /tmp/x",
	"case x in x) rm -rf /srv/data;; esac", "for i in 1; do rm -rf /srv/data; done", "cat <(rm -rf /srv/data)", "coproc rm -rf /srv/data", "time rm -rf /srv/data", "((a[$(rm -rf /srv/data)]))", "[[ -n $(rm -rf /srv/data) ]]",
}

// readings are ways to read /etc/shadow.
var readings = []string{
	"cat /etc/shadow", "cat </etc/shadow", "cat 0</etc/shadow", "head -c 9999 /etc/shadow", "tail -n +1 /etc/shadow", "less /etc/shadow", "more /etc/shadow", "grep . /etc/shadow", "grep '' /etc/shadow", "grep -f /etc/shadow x",
	"sed -n p /etc/shadow", "awk 1 /etc/shadow", "cut -c1- /etc/shadow", "sort /etc/shadow", "uniq /etc/shadow", "tac /etc/shadow", "rev /etc/shadow", "nl /etc/shadow", "od -c /etc/shadow", "xxd /etc/shadow", "hexdump -C /etc/shadow",
	"strings /etc/shadow", "base64 /etc/shadow", "dd if=/etc/shadow", "cp /etc/shadow /tmp/x", "mv /etc/shadow /tmp/x", "ln -s /etc/shadow /tmp/x", "ln /etc/shadow /tmp/x", "scp -f /etc/shadow", "scp -f /etc", "rsync --server --sender -e.L . /etc/",
	"tar cf - /etc/shadow", "zcat -f /etc/shadow", "diff /etc/shadow /dev/null", "paste /etc/shadow", "tr a a < /etc/shadow", "wc /etc/shadow", "cd /etc && cat shadow", "cat /etc/./shadow", "cat /etc//shadow", "cat /etc/x/../shadow", "cat /etc/shad\\ow",
	"cat /etc/'shadow'", "c\"a\"t /etc/shadow", "cat /etc/sh*", "cat /etc/sh?dow", "cat /etc/{shadow,x}", "cat $'/etc/shadow'", "F=/etc/shadow; cat $F", "cat ${HOME%%/*}/etc/shadow", "getent shadow", "getent shadow root", "sudo cat /etc/shadow",
	"sh -c 'cat /etc/shadow'", "eval cat /etc/shadow", "xargs -a /etc/shadow echo", "while read l; do echo $l; done < /etc/shadow", "echo \"$(</etc/shadow)\"", "echo $(cat /etc/shadow)", "mapfile < /etc/shadow", "python3 -c 'print(open(\"/etc/shadow\").read())'",
	"perl -pe1 /etc/shadow", "ruby -e 'puts File.read(\"/etc/shadow\")'", "vim /etc/shadow", "ed /etc/shadow", "find /etc -name shadow -exec cat {} ;", "grep -r root /etc", "cat /proc/self/root/etc/shadow", "cat /dev/fd/3 3</etc/shadow", "curl file:///etc/shadow",
	"busybox cat /etc/shadow", "env cat /etc/shadow", "timeout 1 cat /etc/shadow", "split /etc/shadow /tmp/x", "install /etc/shadow /tmp/x", "openssl enc -in /etc/shadow", "sort --files0-from=/etc/shadow", "date -f /etc/shadow", "bash /etc/shadow", "tee < /etc/shadow",
	"passwd -S -a", "unshadow /etc/passwd /etc/shadow", "cmp /etc/shadow /dev/zero", "column /etc/shadow", "expand /etc/shadow", "fold /etc/shadow", "cat ~root/../etc/shadow", "jq -R . /etc/shadow", "git diff --no-index /dev/null /etc/shadow",
}

func TestSpellings(t *testing.T) {
	if recognised(analyse("rm -rf /srv/other", deploy), access.Write, "/srv/data") || recognised(analyse("cat /etc/hosts", deploy), access.Read, "/etc/shadow") {
		t.Fatal("everything counts as recognised")
	}
	for _, text := range removals {
		if c := analyse(text, deploy); !recognised(c, access.Write, "/srv/data") {
			t.Errorf("%q passes: %v", text, told(c))
		}
	}
	for _, text := range readings {
		if c := analyse(text, deploy); !recognised(c, access.Read, "/etc/shadow") {
			t.Errorf("%q passes: %v", text, told(c))
		}
	}
}

// The corpus has single lines, too.
func TestCorpusLines(t *testing.T) {
	for _, text := range []string{"ls;rm /srv/data", "ls$(rm /srv/data)", "ls${IFS}x", "ls\nrm /srv/data", "base64 -d x|sh", "find / -exec rm /srv/data ;", "vim -c ':! rm'", "python -c x"} {
		if c := analyse(text, deploy); !recognised(c, access.Write, "/srv/data") {
			t.Errorf("SS-07 %q passes: %v", text, told(c))
		}
	}
}
