package ssh

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func (h *house) sftp(batch string) result {
	h.t.Helper()
	return execute(h.t, strings.NewReader(batch), "sftp", append(append(h.options(), "-b", "-"), "x@127.0.0.1")...)
}

func TestSFTP(t *testing.T) {
	t.Parallel()
	h := open(t, server(t))
	dir := t.TempDir()
	content := strings.Repeat("0123456789abcdef", 20000)
	local := filepath.Join(dir, "local")
	if err := os.WriteFile(local, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	far, back := filepath.Join(dir, "far"), filepath.Join(dir, "back")
	r := h.sftp("put " + local + " " + far + "\nget " + far + " " + back + "\nmkdir " + dir + "/d\nrename " + far + " " + dir + "/d/far\nls -l " + dir + "/d\nrm " + dir + "/d/far\nrmdir " + dir + "/d\n")
	if b, err := os.ReadFile(back); r.code != 0 || err != nil || string(b) != content {
		t.Fatalf("got %+v, %v", r, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "d")); err == nil {
		t.Error("the directory is still there")
	}
	sum := sha256.Sum256([]byte(content))
	want := "320000 sha256:" + hex.EncodeToString(sum[:])
	eventually(t, "outcomes", func() bool {
		tags := ""
		for _, o := range h.outcomes() {
			tags += o.Result.Tag + "\n"
		}
		return strings.Contains(tags, "wrote "+want) && strings.Contains(tags, "read "+want)
	})
	for verb, n := range map[string]int{"SFTP": 1, "SFTP OPEN READ": 1, "SFTP OPEN WRITE": 1, "SFTP MKDIR": 1, "SFTP RENAME": 1, "SFTP REMOVE": 1, "SFTP RMDIR": 1} {
		if got := h.asked(verb); len(got) != n {
			t.Errorf("%s: %d decisions, want %d", verb, len(got), n)
		}
	}
}

// What is to be kept, and cannot be, is not carried.
func TestOnlySFTPIsKept(t *testing.T) {
	t.Parallel()
	h := open(t, server(t)).allow(Settings{Forward: true})
	dir := t.TempDir()
	name := filepath.Join(dir, "keepme")
	if err := os.WriteFile(name, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := execute(t, nil, "scp", append(append(h.options(), "-O"), "x@127.0.0.1:"+name, filepath.Join(dir, "old"))...)
	if old.code == 0 || !strings.Contains(old.err, "ssh.recording") {
		t.Errorf("scp -O: %+v", old)
	}
	if r := execute(t, nil, "scp", append(h.options(), "x@127.0.0.1:"+name, filepath.Join(dir, "new"))...); r.code != 0 {
		t.Errorf("scp: %+v", r)
	}
	if got := h.tape(); got == nil || string(got.Bytes()) != "content" {
		t.Errorf("kept %+v", got)
	}
	if conn, err := h.dial().Dial("unix", dir+"/keepme.sock"); err == nil || !strings.Contains(err.Error(), "ssh.recording") {
		t.Errorf("a forwarded channel that is to be kept: %v, %v", conn, err)
	}
}

func TestSFTPDeniesOneRequest(t *testing.T) {
	t.Parallel()
	h := open(t, server(t))
	dir := t.TempDir()
	for _, name := range []string{"good", "denyme"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A link to what is denied is denied as well: decided is what it leads to.
	if err := os.Symlink("denyme", filepath.Join(dir, "innocent")); err != nil {
		t.Fatal(err)
	}
	r := h.sftp("-get " + dir + "/denyme " + dir + "/1\n-get " + dir + "/innocent " + dir + "/2\n-rm " + dir + "/x/../denyme\nget " + dir + "/good " + dir + "/3\n")
	if r.code != 0 || !strings.Contains(r.err, "no-denyme") || !strings.Contains(r.err, "ermission denied") {
		t.Errorf("got %+v", r)
	}
	for name, want := range map[string]bool{"1": false, "2": false, "3": true, "denyme": true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCopies(t *testing.T) {
	t.Parallel()
	h := open(t, server(t))
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tree/sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"tree/a", "tree/sub/b"} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, how := range map[string][]string{"scp over sftp": {"-s"}, "scp of old": {"-O"}} {
		to := filepath.Join(dir, strings.ReplaceAll(name, " ", ""))
		r := execute(t, nil, "scp", append(append(h.options(), how...), "-r", filepath.Join(dir, "tree"), "x@127.0.0.1:"+to)...)
		if b, err := os.ReadFile(filepath.Join(to, "sub/b")); r.code != 0 || err != nil || string(b) != "tree/sub/b" {
			t.Errorf("%s, up: %+v, %v", name, r, err)
		}
		r = execute(t, nil, "scp", append(append(h.options(), how...), "x@127.0.0.1:"+to+"/a", to+"-back")...)
		if b, err := os.ReadFile(to + "-back"); r.code != 0 || err != nil || string(b) != "tree/a" {
			t.Errorf("%s, down: %+v, %v", name, r, err)
		}
	}
	shell := "ssh " + strings.Join(h.options(), " ")
	if r := execute(t, nil, "rsync", "-a", "-e", shell, filepath.Join(dir, "tree")+"/", "x@127.0.0.1:"+dir+"/synced/"); r.code != 0 {
		t.Errorf("rsync: %+v", r)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "synced/sub/b")); err != nil || string(b) != "tree/sub/b" {
		t.Errorf("rsync: %q, %v", b, err)
	}
	for _, c := range h.asked("EXEC") {
		if !c.Complete {
			t.Errorf("%q is not understood: %s", c.Text, c.Why)
		}
	}
}

func TestGit(t *testing.T) {
	h := open(t, server(t))
	dir := t.TempDir()
	t.Setenv("GIT_SSH_COMMAND", "ssh "+strings.Join(h.options(), " "))
	for _, args := range [][]string{
		{"init", "-q", "--bare", dir + "/far.git"}, {"clone", "-q", "ssh://x@127.0.0.1" + dir + "/far.git", dir + "/near"},
		{"-C", dir + "/near", "-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-q", "--allow-empty", "-m", "first"},
		{"-C", dir + "/near", "push", "-q", "origin", "HEAD:main"}, {"clone", "-q", "-b", "main", "ssh://x@127.0.0.1" + dir + "/far.git", dir + "/again"},
	} {
		if r := execute(t, nil, "git", args...); r.code != 0 {
			t.Fatalf("git %q: %+v", args, r)
		}
	}
	var push bool
	for _, c := range h.asked("EXEC") {
		push = push || strings.HasPrefix(c.Text, "git-receive-pack")
		if !c.Complete {
			t.Errorf("%q is not understood: %s", c.Text, c.Why)
		}
	}
	if !push {
		t.Error("the push was not asked for")
	}
}

// Rows of the corpus of tricks that have no test of their own elsewhere.
func TestCorpus(t *testing.T) {
	t.Parallel()
	srv := server(t)
	t.Run("SS-02 sftp where it is not permitted", func(t *testing.T) {
		h := open(t, srv)
		h.broker.forbid("subsystem sftp")
		if r := h.sftp("ls /\n"); r.code == 0 || !strings.Contains(r.err, "forbidden") {
			t.Errorf("got %+v", r)
		}
	})
	t.Run("SS-02 another subsystem", func(t *testing.T) {
		h := open(t, srv)
		if r := h.ssh(nil, "-s", "netconf"); r.code == 0 {
			t.Errorf("got %+v", r)
		}
		eventually(t, "receipt", func() bool { return len(h.asked("SUBSYSTEM")) == 1 })
	})
	t.Run("SS-04 nested SSH", func(t *testing.T) {
		h := open(t, srv)
		if r := h.ssh(nil, "-W", srv.Addr); r.code == 0 || !strings.Contains(r.err, "not forwarded") {
			t.Errorf("got %+v", r)
		}
	})
	t.Run("SS-05 listening, agents, X11", func(t *testing.T) {
		h := open(t, srv)
		if r := h.ssh(nil, "-R", "0:127.0.0.1:1", "-A", "-X", "echo still here"); r.out != "still here\n" || !strings.Contains(r.err, "forwarding") {
			t.Errorf("got %+v", r)
		}
		eventually(t, "receipt", func() bool { return len(h.asked("FORWARD")) == 1 })
	})
	t.Run("SS-08 a terminal", func(t *testing.T) {
		h := open(t, srv)
		if r := h.ssh(nil, "-tt", "tty"); r.code != 255 || !strings.Contains(r.err, "PTY allocation request failed") {
			t.Errorf("got %+v", r)
		}
		eventually(t, "receipt", func() bool { return len(h.asked("PTY")) == 1 })
	})
}
