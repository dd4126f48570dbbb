package story

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// Database is somebody's PostgreSQL on loopback, and the policy that guards it; empty is the pack guarded-postgres.
type Database struct{ Host, Port, Name, User, Password, Policy string }

// Front puts the embedded system, as its own programs, before a database, with alice of the engineers logged in and an endpoint open. It returns the
// endpoint's DSN. Stop ends and removes everything but the database.
func Front(ctx context.Context, c Config, d Database) (dsn string, stop func() error, err error) {
	dir, err := os.MkdirTemp("", "sallyport-front-")
	if err != nil {
		return "", nil, err
	}
	w := &world{c: c, dir: dir, bin: filepath.Join(dir, "bin"), data: filepath.Join(dir, "data"), home: filepath.Join(dir, "alice"), system: &dev{}}
	if d.Policy != "" {
		w.system = &dev{more: []string{"--policy", d.Policy}}
	}
	dsn, end, err := w.front(ctx, d)
	if err != nil {
		return "", nil, errors.Join(err, w.Close())
	}
	return dsn, func() error { end(); return w.Close() }, nil
}

func (w *world) front(ctx context.Context, d Database) (dsn string, end func(), err error) {
	if err := os.Mkdir(w.bin, 0o755); err != nil {
		return "", nil, err
	}
	for _, p := range []string{"sallyport", "sallyport-agent", "sallyport-relay"} {
		if err := copyProgram(filepath.Join(w.c.Bin, p), filepath.Join(w.bin, p)); err != nil {
			return "", nil, fmt.Errorf("%w (run `make build`)", err)
		}
	}
	secret := filepath.Join(w.dir, "app.password")
	if err := os.WriteFile(secret, []byte(d.Password+"\n"), 0o600); err != nil {
		return "", nil, err
	}
	yaml := fmt.Sprintf("targets:\n  app:\n    protocol: postgres\n    address: %s\n    database: %s\n    user: %s\n    password: {file: %s}\n    tls: {mode: disable}\n",
		net.JoinHostPort(d.Host, d.Port), d.Name, d.User, secret)
	if err := os.WriteFile(filepath.Join(w.dir, "targets.yaml"), []byte(yaml), 0o600); err != nil {
		return "", nil, err
	}
	if err := w.start(ctx); err != nil {
		return "", nil, err
	}
	if err := w.loginByToken(ctx, "alice", "engineers"); err != nil {
		return "", nil, err
	}
	return w.connect(ctx)
}
