package story

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/localstack/child"
	"github.com/sallyport/sallyport/localstack/embedded"
	"github.com/sallyport/sallyport/localstack/pgserver"
	"github.com/sallyport/sallyport/policies"
)

// lane is one way to the database, and the processes on it that are neither the client's nor the database's.
type lane struct {
	name, dsn string
	processes []process
}

type process struct {
	name string
	pid  int
}

// system starts `sallyport dev`, with the agent or with another program in its place, and an endpoint.
func (b *bench) system(ctx context.Context, agent, policyDir string) (lane, error) {
	name, program := "whole gate", filepath.Join(b.w.bin, "sallyport-agent")
	if agent != "" {
		name, program = "whole path, gate answers locally", filepath.Join(b.w.c.Bin, "bench", agent)
	}
	dir, err := os.MkdirTemp(b.w.dir, "system-")
	if err != nil {
		return lane{}, err
	}
	w := &world{system: &dev{more: []string{"--policy", policyDir}}, c: b.w.c, dir: dir, bin: filepath.Join(dir, "bin"), data: filepath.Join(dir, "data"), home: filepath.Join(dir, "alice")}
	if err := os.MkdirAll(w.bin, 0o700); err != nil {
		return lane{}, err
	}
	for _, f := range [][2]string{
		{filepath.Join(b.w.bin, "sallyport"), filepath.Join(w.bin, "sallyport")},
		{program, filepath.Join(w.bin, "sallyport-agent")},
		{filepath.Join(b.w.dir, "targets.yaml"), filepath.Join(w.dir, "targets.yaml")},
	} {
		if err := copyProgram(f[0], f[1]); err != nil {
			return lane{}, fmt.Errorf("%w (run `make bench`)", err)
		}
	}
	b.close = append(b.close, w.system.stop)
	began := time.Now()
	if err := w.start(ctx); err != nil {
		return lane{}, err
	}
	b.ready = time.Since(began)
	if err := w.loginByToken(ctx, "alice", "engineers"); err != nil {
		return lane{}, err
	}
	dsn, endpoint, stop, err := w.endpoint(ctx)
	if err != nil {
		return lane{}, err
	}
	b.close = append(b.close, func() error { stop(); return nil })
	if agent == "" {
		b.w.data, b.w.file = w.data, w.file // the last one's disk and relay are like the others'
	}
	return lane{name, dsn, []process{{"endpoint", endpoint}, {"broker + relay", w.file.PID}, {"agent", w.file.Agent}}}, nil
}

// connect runs `sallyport connect app` and returns its DSN.
func (w *world) connect(ctx context.Context) (dsn string, stop func(), err error) {
	dsn, _, stop, err = w.endpoint(ctx)
	return dsn, stop, err
}

// endpoint is connect, and says which process it is.
func (w *world) endpoint(ctx context.Context) (dsn string, pid int, stop func(), err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(w.bin, "sallyport"), "connect", "app", "-o", "json")
	cmd.Env, cmd.Stderr = w.env(), os.Stderr
	r, err := cmd.StdoutPipe()
	if err != nil {
		return "", 0, nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", 0, nil, err
	}
	stop = func() { _ = cmd.Process.Signal(os.Interrupt); _ = cmd.Wait() } // its exit code says nothing here
	b := make([]byte, 4096)
	n, err := r.Read(b)
	if err != nil {
		stop()
		return "", 0, nil, fmt.Errorf("sallyport connect: %w", err)
	}
	var c struct {
		DSN string `json:"dsn"`
	}
	for !strings.Contains(string(b[:n]), "}") && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	if err := parse(string(b[:n]), &c); err != nil {
		stop()
		return "", 0, nil, err
	}
	return c.DSN, cmd.Process.Pid, stop, nil
}

// straight starts the room alone, which clients reach without a tunnel and which decides in its own process.
func (b *bench) straight(ctx context.Context, policyDir string) (lane, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(b.w.c.Bin, "bench", "benchagent"), "straight",
		net.JoinHostPort(b.w.pg.Host, fmt.Sprint(b.w.pg.Port)), "shop", "app", filepath.Join(b.w.dir, "app.password"), policyDir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = child.Attr(syscall.SIGTERM)
	r, err := cmd.StdoutPipe()
	if err != nil {
		return lane{}, err
	}
	if err := cmd.Start(); err != nil {
		return lane{}, fmt.Errorf("%w (run `make bench`)", err)
	}
	b.close = append(b.close, func() error { _ = cmd.Process.Signal(syscall.SIGTERM); return cmd.Wait() })
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		return lane{}, fmt.Errorf("benchagent: %w", err)
	}
	address, err := net.ResolveTCPAddr("tcp", strings.TrimSpace(line))
	if err != nil {
		return lane{}, fmt.Errorf("benchagent: %w", err)
	}
	return lane{"straight to the agent, gate decides locally", b.w.dsn(address.Port), []process{{"agent", cmd.Process.Pid}}}, nil
}

const bouncerName = "PgBouncer"

const bouncerINI = `[databases]
shop = host=127.0.0.1 port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %[3]s/users.txt
pool_mode = session
default_pool_size = %[4]d
max_client_conn = %[4]d
ignore_startup_parameters = extra_float_digits
client_tls_sslmode = require
client_tls_protocols = tlsv1.3
client_tls_cert_file = %[3]s/server.crt
client_tls_key_file = %[3]s/server.key
logfile = %[3]s/log
`

var errNoBouncer = errors.New("PgBouncer IS NOT INSTALLED: nothing below is compared with it (apt-get install pgbouncer)")

// bouncer starts PgBouncer in session mode.
func (b *bench) bouncer(ctx context.Context, certificate, key []byte) (lane, error) {
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer"
	}
	if _, err := os.Stat(program); err != nil {
		return lane{}, errNoBouncer
	}
	dir := filepath.Join(b.w.dir, "pgbouncer")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return lane{}, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := errors.Join(l.Close(), os.Mkdir(dir, 0o700)); err != nil {
		return lane{}, err
	}
	files := map[string][]byte{"server.crt": certificate, "server.key": key, "users.txt": fmt.Appendf(nil, "%q %q\n", "app", b.w.secret),
		"pgbouncer.ini": fmt.Appendf(nil, bouncerINI, b.w.pg.Port, port, dir, benchClient)}
	who, err := pgserver.Unprivileged() // it refuses to run as root
	if err != nil {
		return lane{}, err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return lane{}, err
		}
	}
	if who != nil {
		for _, name := range []string{"", "server.crt", "server.key", "users.txt", "pgbouncer.ini"} {
			if err := os.Chown(filepath.Join(dir, name), int(who.Uid), int(who.Gid)); err != nil {
				return lane{}, err
			}
		}
	}
	cmd := exec.CommandContext(ctx, program, "-q", filepath.Join(dir, "pgbouncer.ini"))
	cmd.SysProcAttr = child.Attr(syscall.SIGQUIT)
	cmd.SysProcAttr.Credential = who
	if err := cmd.Start(); err != nil {
		return lane{}, err
	}
	b.close = append(b.close, func() error { _ = cmd.Process.Kill(); _ = cmd.Wait(); return nil }) // it keeps nothing
	bouncer := lane{"PgBouncer, session mode", b.w.dsn(port), []process{{bouncerName, cmd.Process.Pid}}}
	for range 200 {
		c, err := pgconn.Connect(ctx, bouncer.dsn)
		if err == nil {
			return bouncer, c.Close(ctx)
		}
		time.Sleep(25 * time.Millisecond)
	}
	return lane{}, errors.New("PgBouncer does not answer")
}

// writePolicy makes a policy directory: the pack, and a thousand policies as a company has them, of which a few are about whoever asks. Looking
// adds classes that are found by their values.
func writePolicy(dir string, looking bool) error {
	pack, err := policies.Pack("guarded-postgres")
	if err != nil {
		return err
	}
	err = fs.WalkDir(pack, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if name == "README.md" || filepath.Dir(name) != "." {
			return nil
		}
		b, err := fs.ReadFile(pack, name)
		if err != nil {
			return err
		}
		if looking && name == "classes.yaml" {
			b = append(b, "  - {name: found-mail, mask: email, detector: mail}\n  - {name: found-card, mask: card, detector: card}\n  - {name: found-secret, mask: full, detector: secret}\n"...)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name), b, 0o644)
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "thousand.cedar"), []byte(thousand()), 0o644)
}

// thousand policies: for each of 250 tables and 20 groups a few.
func thousand() string {
	var s strings.Builder
	for i := range 250 {
		group := i % 20
		_, _ = fmt.Fprintf(&s, `@id("read-%[1]d") permit (principal in Group::"g%[2]d", action == Action::"read", resource == Table::"app/public.t%[1]d") when { context.delegation.depth < 4 };
@id("write-%[1]d") permit (principal in Group::"g%[2]d", action in [Action::"read", Action::"write"], resource == Table::"app/public.t%[1]d") when { context.facts.has_where };
@id("no-delete-%[1]d") forbid (principal, action == Action::"write", resource == Table::"app/public.t%[1]d") when { context.verb == "DELETE" };
@id("engineers-%[1]d") permit (principal in Group::"engineers", action == Action::"read", resource == Table::"app/bench.t%[1]d") when { context.facts.in_txn };
`, i, group)
	}
	return s.String()
}

// selfSigned is a certificate for this machine, in PEM.
func selfSigned() (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &private.PublicKey, private)
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), nil
}

// relayFiles is what a relay of its own needs.
func relayFiles(ctx context.Context, w *world) (string, error) {
	dir := filepath.Join(w.dir, "relay")
	return dir, embedded.RelayFiles(ctx, w.data, dir, w.file.Broker)
}
