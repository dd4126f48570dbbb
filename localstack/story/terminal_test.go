package story

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/localstack/sshserver"
)

const terminalPolicy = `@id("connect") permit (principal in Group::"engineers", action == Action::"connect", resource == Target::"web");
@id("terminal") permit (principal in Group::"engineers", action in [Action::"connect", Action::"unknown"], resource == Program::"web/terminal");
`

// terminal is an ssh client with a terminal, whose keyboard is a pipe.
type terminal struct {
	t     *testing.T
	cmd   *exec.Cmd
	keys  io.WriteCloser
	shown lockedBuffer
	ended chan error
}

// ssh opens a terminal on the target through plain ssh.
func (w *world) ssh(t *testing.T) *terminal {
	t.Helper()
	options, code, err := w.cli(t.Context(), "", "config", "ssh")
	if err != nil || code != 0 {
		t.Fatalf("config ssh: exit %d, %v: %s", code, err, options)
	}
	file := filepath.Join(w.dir, "ssh_config")
	if err := os.WriteFile(file, []byte(options), 0o600); err != nil {
		t.Fatal(err)
	}
	x := &terminal{t: t, cmd: exec.Command("ssh", "-F", file, "-tt", "web.sallyport"), ended: make(chan error, 1)}
	x.cmd.Env, x.cmd.Stdout, x.cmd.Stderr = w.env(), &x.shown, &x.shown
	if x.keys, err = x.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { x.ended <- x.cmd.Wait() }()
	t.Cleanup(func() { _ = x.cmd.Process.Kill() })
	return x
}

// types types a line and waits for what it shows.
func (x *terminal) types(line, shows string) {
	x.t.Helper()
	if _, err := io.WriteString(x.keys, line+"\n"); err != nil {
		x.t.Fatal(err)
	}
	deadline := time.Now().Add(15 * time.Second)
	for !strings.Contains(x.shown.String(), shows) {
		if time.Now().After(deadline) {
			x.t.Fatalf("%q does not show %q: %s", line, shows, x.shown.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// over waits until the client has ended.
func (x *terminal) over(within time.Duration) {
	x.t.Helper()
	select {
	case <-x.ended:
	case <-time.After(within):
		x.t.Fatalf("the terminal does not end: %s", x.shown.String())
	}
}

func (w *world) newest(t *testing.T) api.SessionView {
	t.Helper()
	var all []api.SessionView
	var one api.SessionView
	w.json(t, &all, "sessions", "list")
	w.json(t, &one, "sessions", "show", string(all[0].ID))
	return one
}

func (w *world) json(t *testing.T, v any, args ...string) {
	t.Helper()
	out, code, err := w.cli(t.Context(), "", append(args, "-o", "json")...)
	if err != nil || code != 0 {
		t.Fatalf("%v: exit %d, %v: %s", args, code, err, out)
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		t.Fatal(err)
	}
}

// ended waits for a session's only recording to end, and says how.
func (w *world) ended(t *testing.T, id access.SessionID) api.RecordingView {
	t.Helper()
	var s api.SessionView
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		w.json(t, &s, "sessions", "show", string(id))
		if len(s.Recordings) == 1 && s.Recordings[0].Ended != "" {
			return s.Recordings[0]
		}
		if time.Now().After(deadline) {
			t.Fatalf("the recording does not end: %+v", s.Recordings)
		}
	}
}

// A terminal is recorded while it runs: watched, ended by hand, ended by a killed agent, replayed without what would reach beyond the
// screen, exported, and proven to be the original.
func TestARecordedTerminal(t *testing.T) {
	bin, err := filepath.Abs("../../bin")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(err)
	w, err := newWorld(t.Context(), Config{Bin: bin, Out: t.Output()}, "")
	must(err)
	defer func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}()
	srv, err := sshserver.Start(sshserver.Config{})
	must(err)
	defer func() {
		if err := srv.Stop(); err != nil {
			t.Error(err)
		}
	}()
	must(os.WriteFile(filepath.Join(w.dir, "host.key"), []byte(srv.Key), 0o600))
	must(os.WriteFile(filepath.Join(w.dir, "targets.yaml"), fmt.Appendf(nil, `targets:
  web:
    protocol: ssh
    address: %s
    user: %s
    private_key: {file: %s}
    host_key: %s
    ssh: {shells: [terminal]}
`, srv.Addr, srv.User, filepath.Join(w.dir, "host.key"), srv.HostKey), 0o600))
	policy := filepath.Join(w.dir, "policy")
	must(os.Mkdir(policy, 0o700))
	must(os.WriteFile(filepath.Join(policy, "access.cedar"), []byte(terminalPolicy), 0o600))
	must(os.WriteFile(filepath.Join(policy, "targets.yaml"), []byte("targets:\n- name: web\n  protocol: ssh\n"), 0o600))
	d := w.system.(*dev)
	d.more = []string{"--policy", policy}
	must(w.start(t.Context()))
	must(w.loginByToken(t.Context(), "alice", "engineers"))

	first := w.ssh(t)
	first.types("echo $((40+2))-recorded", "42-recorded")
	s := w.newest(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watching := exec.CommandContext(ctx, filepath.Join(w.bin, "sallyport"), "sessions", "watch", string(s.ID))
	var watched lockedBuffer
	watching.Env, watching.Stdout, watching.Stderr = w.env(), &watched, &watched
	must(watching.Start())
	waitFor(t, func() bool { return strings.Contains(watched.String(), "42-recorded") })
	first.types(`printf '\033]52;c;QkFE\007'; echo $((50+5))-live`, "55-live")
	waitFor(t, func() bool { return strings.Contains(watched.String(), "55-live") })
	first.types("exit", "")
	first.over(20 * time.Second)
	must(watching.Wait())
	r := w.ended(t, s.ID)
	if r.Ended != api.ReasonComplete || r.Kind != api.RecordingCast {
		t.Errorf("%+v", r)
	}
	played, code, err := w.cli(t.Context(), "", "sessions", "replay", string(s.ID), "--speed", "1000", "--idle-limit", "10ms")
	if err != nil || code != 0 || !strings.Contains(played, "42-recorded") || !strings.Contains(played, "55-live") {
		t.Errorf("replay: exit %d, %v: %s", code, err, played)
	}
	if strings.Contains(played, "\x1b]52") || strings.Contains(watched.String(), "\x1b]52") {
		t.Error("the clipboard is within reach of a replay")
	}
	cast := filepath.Join(w.dir, "shell.cast")
	if out, code, err := w.cli(t.Context(), "", "sessions", "export", string(s.ID), "--cast", cast); err != nil || code != 0 {
		t.Errorf("export: exit %d, %v: %s", code, err, out)
	}
	if b, err := os.ReadFile(cast); err != nil || !strings.HasPrefix(string(b), `{"version":2,`) || !strings.Contains(string(b), "55-live") {
		t.Errorf("%v: %s", err, b)
	}
	if keep := os.Getenv("SALLYPORT_KEEP_CAST"); keep != "" {
		b, err := os.ReadFile(cast)
		must(err)
		must(os.WriteFile(keep, b, 0o600))
	}

	second := w.ssh(t)
	second.types("echo $((60+6))-second", "66-second")
	s2 := w.newest(t)
	begun := time.Now()
	if out, code, err := w.cli(t.Context(), "", "sessions", "end", string(s2.ID), "--reason", "that is enough"); err != nil || code != 0 {
		t.Errorf("end: exit %d, %v: %s", code, err, out)
	}
	second.over(5 * time.Second)
	t.Logf("a session was ended within %s", time.Since(begun).Round(time.Millisecond))
	if r := w.ended(t, s2.ID); r.Ended == api.ReasonInterrupted {
		t.Errorf("%+v", r)
	}

	third := w.ssh(t)
	third.types("echo $((70+7))-third", "77-third")
	s3 := w.newest(t)
	waitFor(t, func() bool { // a second or so, and it is kept
		out, _, err := w.cli(t.Context(), "", "sessions", "export", string(s3.ID), "--cast", "-")
		return err == nil && strings.Contains(out, "77-third")
	})
	must(syscall.Kill(w.file.Agent, syscall.SIGKILL))
	<-d.exited // without its agent it ends, in order
	d.cmd = nil
	third.over(20 * time.Second)
	must(w.start(t.Context()))
	if r := w.ended(t, s3.ID); r.Ended != api.ReasonInterrupted {
		t.Errorf("%+v", r)
	}
	if out, _, err := w.cli(t.Context(), "", "sessions", "replay", string(s3.ID), "--speed", "1000", "--idle-limit", "10ms"); err != nil || !strings.Contains(out, "77-third") {
		t.Errorf("what was kept before the agent was killed: %v: %s", err, out)
	}
	must(w.system.stop())
	out, code, err := w.cli(t.Context(), "", "audit", "verify", "--dir", w.data)
	if err != nil || code != 0 || !strings.Contains(out, "3 recordings are the originals, 3 of them to their end") {
		t.Errorf("audit verify: exit %d, %v: %s", code, err, out)
	}
	chunks, err := filepath.Glob(filepath.Join(w.data, "evidence", "recordings", string(s.ID), "*", "000000"))
	if err != nil || len(chunks) != 1 {
		t.Fatalf("%q, %v", chunks, err)
	}
	b, err := os.ReadFile(chunks[0])
	must(err)
	b[len(b)/2] ^= 1
	must(os.WriteFile(chunks[0], b, 0o600))
	if out, code, err = w.cli(t.Context(), "", "audit", "verify", "--dir", w.data); err != nil || code != audit.CodeRecording || !strings.Contains(out, "chunk 0 was altered") {
		t.Errorf("one byte changed: exit %d, %v: %s", code, err, out)
	}
}
