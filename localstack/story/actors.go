package story

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// login plays a person's browser against the identity provider's login form; the CLI waits on its loopback redirect.
func (p *player) login(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "sallyport"), "login", "--no-browser")
	cmd.Env = p.env()
	var said strings.Builder
	r, wr := io.Pipe()
	cmd.Stdout, cmd.Stderr = wr, wr
	if err := cmd.Start(); err != nil {
		return err
	}
	link := make(chan string, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(r); lines.Scan(); {
			said.WriteString(lines.Text() + "\n")
			if i := strings.Index(lines.Text(), "http://"); i >= 0 && strings.Contains(lines.Text(), "code_challenge") {
				link <- strings.Fields(lines.Text()[i:])[0]
			}
		}
	}()
	b, err := p.browser()
	if err == nil {
		select {
		case l := <-link:
			if err = contains(l, "code_challenge_method=S256", "nonce=", "state="); err == nil {
				_, err = b.signIn(ctx, l, "alice", p.file.Users["alice"])
			}
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	err = errors.Join(err, cmd.Wait(), wr.Close())
	<-read
	if err != nil {
		return fmt.Errorf("login: %w: %s", err, said.String())
	}
	out, code, err := p.cli(ctx, "", "whoami", "-o", "json")
	if err != nil || code != 0 {
		return fmt.Errorf("whoami: exit %d, %w: %s", code, err, out)
	}
	if err := contains(out, `"alice"`, `"engineers"`); err != nil {
		return err
	}
	p.ok("discovery, authorization code with PKCE (S256), state, nonce; `sallyport whoami` says alice of engineers")
	out, code, err = p.cli(ctx, "", "psql", "nosuch", "--", "-c", "select 1")
	if err != nil {
		return err
	}
	if err := check(code != 0, "an unknown target to be refused: %s", out); err != nil {
		return err
	}
	p.ok("a target that does not exist is refused: %s", firstLine(out))
	return nil
}

func firstLine(s string) string { s, _, _ = strings.Cut(strings.TrimSpace(s), "\n"); return s }

// runArgs are the arguments of `sallyport run`.
func (p *player) runArgs(actor, purpose string, allow []string, hands string) []string {
	args := []string{"run", "--actor", actor, "--purpose", purpose, "--target", "app"}
	for _, a := range allow {
		args = append(args, "--allow", a)
	}
	return append(args, "--", filepath.Join(p.bin, "demo"), "hands", hands)
}

func quoteAll(args []string) string {
	q := make([]string, len(args))
	for i, a := range args {
		q[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.Join(q, " ")
}

// actors starts coder under alice and, inside coder, tester under coder.
func (p *player) actors(ctx context.Context) error {
	room := filepath.Join(p.dir, "actors")
	if err := os.Mkdir(room, 0o711); err != nil {
		return err
	}
	if p.child != nil {
		uid, err1 := strconv.Atoi(p.child.Uid)
		gid, err2 := strconv.Atoi(p.child.Gid)
		if err := errors.Join(err1, err2, os.Chown(room, uid, gid)); err != nil {
			return err
		}
	}
	p.coder, p.tester = filepath.Join(room, "coder"), filepath.Join(room, "tester")
	// alice's own hands, so that coder's run is a child of a plain process of hers.
	args := p.runArgs("coder", "fix ticket 4711", []string{"read,write:app/public.*", "read:app/*"}, p.coder)
	if p.child != nil {
		args = append(args[:1:1], append([]string{"--as-user", p.child.Username}, args[1:]...)...)
	}
	var err error
	if p.coderRun, err = p.startRun(ctx, args); err != nil {
		return err
	}
	if err := p.waitSocket(p.coder, p.coderRun); err != nil {
		return fmt.Errorf("coder: %w", err)
	}
	who, code, err := p.in(p.coder, "sallyport whoami")
	if err != nil || code != 0 {
		return fmt.Errorf("coder's whoami: exit %d, %w: %s", code, err, who)
	}
	if err := contains(who, "alice", "coder"); err != nil {
		return err
	}
	p.show(who)
	// More than the parent has is refused, and nothing is started.
	out, code, err := p.in(p.coder, "sallyport run --actor greedy --purpose x --allow 'define:app/*' --target app -- echo started")
	if err != nil {
		return err
	}
	if err := errors.Join(check(code == 4, "exit code 4 for asking for more than the parent has, got %d: %s", code, out), absent(out, "started")); err != nil {
		return err
	}
	p.ok("coder asks for a child that may define tables, which coder itself may not: %s", firstLine(out))
	if p.testerRun, err = start(p.coder, strings.Join(p.reach, " ")+" sallyport "+quoteAll(p.runArgs("tester", "run the tests", []string{"read,write:app/public.orders", "read:app/*"}, p.tester))); err != nil {
		return err
	}
	if err := p.waitSocket(p.tester, p.testerRun); err != nil {
		return fmt.Errorf("tester: %w", err)
	}
	if who, code, err = p.in(p.tester, "sallyport whoami"); err != nil || code != 0 {
		return fmt.Errorf("tester's whoami: exit %d, %w: %s", code, err, who)
	}
	if err := contains(who, "alice", "coder", "tester"); err != nil {
		return err
	}
	p.show(who)
	return p.apart()
}

// apart shows that tester cannot speak as coder, though it can see coder's socket.
func (p *player) apart() error {
	env, _, err := p.in(p.coder, `echo "$SALLYPORT_SOCK|$PGHOST|$PGPORT"`)
	if err != nil {
		return err
	}
	parts := strings.Split(strings.TrimSpace(env), "|")
	if err := check(len(parts) == 3 && parts[0] != "" && parts[1] != "", "coder's environment to name its socket and endpoint, got %q", env); err != nil {
		return err
	}
	out, code, err := p.in(p.tester, fmt.Sprintf("PGHOST=%s PGPORT=%s psql -c 'select 1'", parts[1], parts[2]))
	if err != nil {
		return err
	}
	if err := check(code != 0, "tester to be refused at coder's endpoint: %s", out); err != nil {
		return err
	}
	p.ok("tester at coder's endpoint is refused: %s", firstLine(out))
	if p.child == nil {
		p.say("   --  this process may not change users: isolation from a hostile process of the same user is not shown")
		return nil
	}
	p.ok("coder and tester run as user %s; their keys stay in processes that they cannot look into", p.child.Username)
	return nil
}

// startRun starts `sallyport run` as alice, through hands of our own so that jobs are alike.
func (p *player) startRun(ctx context.Context, args []string) (*job, error) {
	socket := filepath.Join(p.dir, "driver")
	go func() { _ = serveOne(ctx, socket, p.env()) }() // ends with its one connection
	deadline := time.Now().Add(limit)
	for {
		if j, err := start(socket, "exec sallyport "+quoteAll(args)); err == nil {
			return j, nil
		} else if time.Now().After(deadline) {
			return nil, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// waitSocket waits until an actor's hands answer.
func (p *player) waitSocket(socket string, run *job) error {
	deadline := time.Now().Add(limit)
	for {
		if j, err := start(socket, "true"); err == nil {
			_, _, err = j.wait(limit)
			j.stop()
			return err
		}
		select {
		case <-run.done:
			return errors.New("sallyport run ended: " + run.output())
		default:
		}
		if time.Now().After(deadline) {
			return errors.New("did not start: " + run.output())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// parse reads -o json output.
func parse(out string, v any) error {
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("%w in %s", err, out)
	}
	return nil
}
