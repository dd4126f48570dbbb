package story

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Stay keeps the demo's system up until ctx ends, with alice logged in and an endpoint to try.
func Stay(ctx context.Context, c Config) (err error) {
	w, err := newWorld(ctx, c, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := w.start(ctx); err != nil {
		return err
	}
	if err := w.loginByToken(ctx, "alice", "engineers"); err != nil {
		return err
	}
	dsn, stop, err := w.connect(ctx)
	if err != nil {
		return err
	}
	defer stop()
	env := filepath.Join(w.dir, "env")
	if err := w.writeEnv(env); err != nil {
		return err
	}
	browser := ""
	if c, ok := w.system.(*cloud); ok {
		command, err := c.system.Browser()
		if err != nil {
			return err
		}
		browser = "  browser   " + command + "\n            # the only one that reaches it: names and certificates are of this run; as root, --no-sandbox\n"
	}
	_, _ = fmt.Fprintf(c.Out, `Sallyport is up, in front of a throw-away PostgreSQL. Ctrl-C stops it and removes everything.

  psql '%s'

  source %s          # its programs, addresses and alice's login; on a local AWS also an operator's credentials there
  sallyport psql app -- -c 'select * from customers'              # masked
  sallyport psql app -- -c 'delete from orders'                   # refused
  sallyport psql app -- -c 'update accounts set balance = 1 where id = 1'   # held: open the link, sign in as rita
  sallyport connect app                                           # another DSN like the one above, for any PostgreSQL client
  sallyport run --actor coder --purpose "try it" --allow 'read:app/*' --target app -- psql

  console   %s   (rita reviews: password %s; adam audits: password %s)
%s  data      %s
  policy    sallyport policy init DIR --pack guarded-postgres
`, dsn, env, w.file.Console, w.file.Users["rita"], w.file.Users["adam"], browser, w.data)
	<-ctx.Done()
	_, _ = fmt.Fprintln(c.Out, "\nstopping")
	return nil
}

// writeEnv writes what a shell needs to use the system.
func (w *world) writeEnv(file string) error {
	env := append([]string{"SALLYPORT_HOME=" + w.home, "SALLYPORT_URL=" + w.file.Broker}, w.reach...)
	path := w.bin
	if c, ok := w.system.(*cloud); ok {
		more, bin := c.system.OperatorEnv()
		env, path = append(env, more...), path+":"+bin
	}
	var b strings.Builder
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		_, _ = fmt.Fprintf(&b, "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
	_, _ = fmt.Fprintf(&b, "export PATH='%s':\"$PATH\"\n", path)
	return os.WriteFile(file, []byte(b.String()), 0o600)
}

func (w *world) idToken(ctx context.Context, user string, groups ...string) (string, error) {
	if c, ok := w.system.(*cloud); ok {
		return c.system.IDToken(user)
	}
	args := []string{"dev", "id-token", "--dir", w.data, "--user", user}
	for _, g := range groups {
		args = append(args, "--group", g)
	}
	raw, code, err := w.cli(ctx, "", args...)
	if err != nil || code != 0 {
		return "", fmt.Errorf("id-token: exit %d, %w: %s", code, err, raw)
	}
	return raw, nil
}

// loginByToken logs a user in as a script would.
func (w *world) loginByToken(ctx context.Context, user string, groups ...string) error {
	raw, err := w.idToken(ctx, user, groups...)
	if err != nil {
		return err
	}
	out, code, err := w.cli(ctx, raw, "login", "--id-token-file", "-")
	if err != nil || code != 0 {
		return fmt.Errorf("login: exit %d, %w: %s", code, err, out)
	}
	if _, err := os.Stat(w.home); err != nil {
		return fmt.Errorf("login left no state in %s: %w", filepath.Base(w.home), err)
	}
	return nil
}
