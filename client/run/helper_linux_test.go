package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sallyport/sallyport/client/endpoint"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/tunnel"
)

// The test binary is also the programs of the tests: real processes, started as `BINARY helper NAME ARGS…`.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "helper" {
		os.Exit(helper(os.Args[2], os.Args[3:]))
	}
	// Runs that are killed leave their sockets; a short path, because sockets need one.
	tmp, err := os.MkdirTemp("/tmp", "r")
	if err == nil {
		err = os.Setenv("TMPDIR", tmp)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(tmp)
		os.Exit(code)
	}))
}

func helper(name string, args []string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	switch name {
	case "run": // NAME [--as USER] ARGV…: a run; inside another, one that delegates through it
		return helperRun(ctx, args)
	case "ask": // SOCK: who speaks for me?
		fmt.Println(ask(ctx, args[0]))
	case "knock": // PATH: what does an endpoint say?
		fmt.Println(knock(args[0]))
	case "orphan": // OUT PATH…: wait until the parent has gone, then ask and knock
		parent := os.Getppid()
		write(args[0]+".ready", fmt.Sprint(parent))
		for os.Getppid() == parent {
			time.Sleep(5 * time.Millisecond)
		}
		var out strings.Builder
		for _, p := range args[1:] {
			if strings.HasSuffix(p, "actor.sock") {
				fmt.Fprintln(&out, ask(ctx, p))
			} else {
				fmt.Fprintln(&out, knock(p))
			}
		}
		write(args[0], out.String())
	case "reaper": // ARGV…: adopts whoever loses its parent below it, as init systems and some shells do
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			fmt.Println(err)
			return 1
		}
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		_ = cmd.Run()
		_, _ = io.Copy(io.Discard, os.Stdin) // stays until told
	case "signals": // says when it is ready, and which signal it got
		got := make(chan os.Signal, 1)
		signal.Notify(got, syscall.SIGTERM, syscall.SIGINT)
		fmt.Println("ready")
		fmt.Println(<-got)
	}
	return 0
}

func write(path, text string) {
	_ = os.WriteFile(path+".new", []byte(text), 0o600)
	_ = os.Rename(path+".new", path)
}

func ask(ctx context.Context, sock string) string {
	e, err := Enter(ctx, sock)
	if err != nil {
		return "closed"
	}
	defer e.Close()
	h, err := e.Hello(ctx)
	if err != nil {
		return told(err)
	}
	return h.Lineage.Chain()
}

func told(err error) string {
	if e := (*api.Error)(nil); errors.As(err, &e) {
		return e.Code + ": " + e.Message
	}
	return ended(err)
}

// ended tells a socket whose owner died while the caller was in its queue, which is closed as well, from anything else that went wrong.
func ended(err error) string {
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return "closed"
	}
	return "broken: " + err.Error()
}

func knock(path string) string {
	c, err := net.Dial("unix", path)
	if err != nil {
		return "closed"
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	b, err := io.ReadAll(io.LimitReader(c, 1000))
	if err != nil {
		return ended(err)
	}
	return string(b)
}

func helperRun(ctx context.Context, args []string) int {
	name, argv := args[0], args[1:]
	c := Config{
		Protocols: map[string]endpoint.Protocol{"test": testProtocol{}}, Targets: []access.TargetName{"app"}, Env: os.Environ(),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Log: slog.New(slog.DiscardHandler),
	}
	if argv[0] == "--as" {
		u, err := LookupUser(argv[1])
		if err != nil {
			fmt.Println(told(err))
			return 1
		}
		c.User, argv = u, argv[2:]
	}
	c.Argv = argv
	me := access.Lineage{Principal: "alice", Path: []access.Node{{ID: "R", Name: "alice"}, {ID: "A", Name: name}}}
	if sock := os.Getenv(EnvSock); sock != "" {
		e, err := Enter(ctx, sock)
		if err == nil {
			defer e.Close()
			var t api.TokenResponse
			t, err = e.Delegate(ctx, broker.Delegation{Name: name, Capability: access.Everything(), KeyProof: "proof"})
			c.Around, me = e, t.Lineage
		}
		if err != nil {
			fmt.Println(told(err))
			return 1
		}
	}
	i := &fakeIdentity{me: me}
	c.Identity = i
	c.Reach = func(_ context.Context, t access.TargetName) (Target, error) {
		if t == "nowhere" {
			return Target{}, api.Because(api.ErrNotFound, "", "no target %q", t)
		}
		return Target{Name: t, Protocol: "test", Way: greeter{me.Chain()}}, nil
	}
	err := Run(ctx, c)
	if e := (*Exit)(nil); errors.As(err, &e) {
		return e.Code
	}
	if err != nil {
		fmt.Println(told(err))
		return 99
	}
	return 0
}

// fakeIdentity speaks without a broker: a child of alice → coder is alice → coder → child.
type fakeIdentity struct{ me access.Lineage }

func (f *fakeIdentity) Voice() Voice                  { return f }
func (f *fakeIdentity) Lineage() access.Lineage       { return f.me }
func (f *fakeIdentity) Capability() access.Capability { return access.Everything() }
func (f *fakeIdentity) URL() string                   { return "https://broker.invalid" }
func (f *fakeIdentity) Fresh(context.Context) error   { return nil }
func (f *fakeIdentity) Keep(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (f *fakeIdentity) Do(_ context.Context, method, path string, in, out any) error {
	if path == api.PathWhoami {
		b, err := json.Marshal(api.Whoami{Lineage: f.me})
		if err != nil {
			return err
		}
		return json.Unmarshal(b, out)
	}
	return api.Because(api.ErrDenied, "", "%s %s %v", method, path, in)
}

func (f *fakeIdentity) Delegate(_ context.Context, d broker.Delegation) (api.TokenResponse, error) {
	if d.Name == "greedy" {
		return api.TokenResponse{}, api.Because(api.ErrDenied, "ask for less", "more than the parent has")
	}
	l := f.me
	l.Path = append(append([]access.Node{}, l.Path...), access.Node{ID: access.ActorID(d.Name), Name: d.Name})
	return api.TokenResponse{AccessToken: "t", Lineage: l}, nil
}

// testProtocol talks plainly.
type testProtocol struct{}

func (testProtocol) Refuse(conn net.Conn, r endpoint.Refusal) error {
	_, err := io.WriteString(conn, "refused: "+r.Denied.Rule)
	return err
}
func (testProtocol) SocketFile() string            { return "t.sock" }
func (testProtocol) DSN(l endpoint.Local) string   { return l.Dir + "/t.sock" }
func (testProtocol) Env(l endpoint.Local) []string { return []string{"TESTHOST=" + l.Dir} }
func (testProtocol) Clears(name string) bool       { return name == "TESTHOST" || name == "TESTPASSWORD" }

// greeter is a way to a target that says who came, and ends.
type greeter struct{ who string }

func (g greeter) Open(context.Context, api.Client, *api.Verifier) (tunnel.Duplex, error) {
	near, far, err := duplex()
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(far, "hello "+g.who)
	return near, errors.Join(err, far.Close())
}

func duplex() (*net.UnixConn, *net.UnixConn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var c [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, nil, err
		}
		c[i] = conn.(*net.UnixConn)
	}
	return c[0], c[1], nil
}

// self is the test binary as a helper.
func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// output runs a helper to its end.
func output(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(self(t), append([]string{"helper"}, args...)...)
	cmd.Env = append(os.Environ(), "ME="+self(t))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if e := (*exec.ExitError)(nil); err != nil && !errors.As(err, &e) {
		t.Fatal(err)
	}
	return strings.TrimSpace(out.String()), cmd.ProcessState.ExitCode()
}

// eventually waits for a condition; the deadline only ends a test that fails.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}
