package ssh

import (
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/access"
)

// transferred reports files that go over the channel itself.
func (w *walker) transferred(e access.Effect, a word) {
	w.tree(e, a)
	w.tree(access.Transfer, a)
}

// scp is the far end of a copy where it says -t (to) or -f (from); otherwise it connects to somewhere else.
func (w *walker) scp(name string, args []word) {
	files, opts, ok := split(program{flags: "tfrpdvq"}, args)
	to, from := strings.Contains(opts, "t"), strings.Contains(opts, "f")
	if !ok || to == from || len(files) == 0 || to && len(files) > 1 {
		w.network(name, args)
		return
	}
	for _, f := range files {
		switch {
		case to: // into a directory, where there is one of that name
			w.transferred(access.Write, f)
		case strings.Contains(opts, "r"):
			w.transferred(access.Read, f)
		default: // scp gives no directory without -r
			w.file(access.Read, f)
			w.file(access.Transfer, f)
		}
	}
}

var (
	// rsyncFlags are the letters of one cluster; what follows the e is what the other side can do, and s would hide the paths.
	rsyncFlags = regexp.MustCompile(`^-[vlogDtprcuHAXSzxWnqbCRIkKLJOmydiUN]*(e[.0-9A-Za-z]*)?$`)
	rsyncLong  = strings.Fields("--delete --delete-before --delete-during --delete-after --delete-delay --delete-excluded --partial --inplace --append --numeric-ids --stats --sparse --existing --ignore-existing --size-only --checksum --no-implied-dirs --dirs --force --ignore-errors --prune-empty-dirs --omit-dir-times --no-r")
)

// rsync is the far end where it says --server.
func (w *walker) rsync(name string, args []word) {
	if len(args) == 0 || !args[0].known || args[0].text != "--server" {
		w.network(name, args)
		return
	}
	sender := false
	for i, a := range args[1:] {
		switch {
		case !a.known:
			w.unsure("an argument of rsync is computed")
			return
		case a.text == "--sender":
			sender = true
		case a.text == ".":
			if len(args[i+2:]) == 0 {
				w.strange(name)
			}
			for _, f := range args[i+2:] {
				if sender {
					w.transferred(access.Read, f)
				} else {
					w.transferred(access.Write, f)
				}
			}
			return
		case slices.Contains(rsyncLong, a.text):
			w.deletes = w.deletes || strings.HasPrefix(a.text, "--delete")
		case !rsyncFlags.MatchString(a.text):
			w.strange(name)
		}
	}
	w.strange(name)
}

// git is one of git's own far ends.
func (w *walker) git(name string, args []word) {
	files, _, ok := split(program{long: "strict timeout stateless-rpc advertise-refs"}, args)
	if !ok || len(files) != 1 {
		w.strange(name)
		return
	}
	e := access.Read
	if name == "git-receive-pack" {
		e = access.Write
	}
	to := files[0]
	if to.known && !to.tilde && strings.HasPrefix(to.text, "~") { // git itself puts a home in its place
		if to.text, to.tilde = to.text[1:], true; to.text != "" && to.text[0] != '/' {
			w.unsure("it names another user's home")
		}
	}
	w.transferred(e, to)
	if to.known && !strings.HasSuffix(to.text, ".git") { // which git tries as well
		to.text = strings.TrimRight(to.text, "/") + ".git"
		w.transferred(e, to)
	}
}

// sftpServer would carry files that nobody decides one by one.
func (w *walker) sftpServer(string, []word) {
	w.refused = &access.Refusal{Rule: "ssh.sftp-server", Hint: "ask for the subsystem sftp instead: there each file is decided by itself"}
}
