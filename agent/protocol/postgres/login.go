package postgres

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
)

var errTarget = errors.New("connection to the target lost")

// targetKey is what a cancel request to the target needs.
type targetKey struct {
	host   string // as hosts names it
	pid    uint32
	secret []byte
	tls    *tls.Config
	direct bool
	dial   func(ctx context.Context) (net.Conn, error) // to the host that the session is on
}

// login dials the target and logs in with the agent's credential. What goes wrong is told to the client without the target's
// own words, which may name addresses and users.
func (l *link) login(ctx context.Context, st *startup) (status byte, err error) {
	ctx, stop := context.WithTimeout(ctx, orDefault(l.set.Login, loginWait))
	defer stop()
	cfg, err := l.config(st)
	if err != nil {
		return 0, fmt.Errorf("login: %w", err)
	}
	pg, err := connectTo(ctx, cfg)
	if err != nil {
		return 0, l.loginFailed(ctx, st, err)
	}
	// Where a write of the login took long, pgconn reads ahead in a goroutine of its own, which would take what the target says to the room.
	if err := pg.SyncConn(ctx); err != nil {
		return 0, errors.Join(fmt.Errorf("login: %w: %w", errTarget, err), pg.Close(ctx))
	}
	h, err := pg.Hijack()
	if err != nil {
		return 0, errors.Join(fmt.Errorf("login: %w", err), pg.Close(ctx))
	}
	l.conn = h.Conn
	if h.Frontend.ReadBufferLen() != 0 || h.TxStatus != statusIdle {
		return 0, fmt.Errorf("login: %w", errOutOfStep)
	}
	l.statuses = h.ParameterStatuses
	for name, value := range h.ParameterStatuses {
		if !l.steady(name, value, "") {
			return 0, fmt.Errorf("login: the target reports %s=%q, which the room pins", name, value)
		}
	}
	if h.ParameterStatuses["client_encoding"] == "" || h.ParameterStatuses["standard_conforming_strings"] == "" {
		return 0, fmt.Errorf("login: the target does not report what the room pins")
	}
	l.role = h.ParameterStatuses["session_authorization"]
	if cancelShort+len(h.SecretKey) > cancelLong {
		return 0, refuseTarget(stateNoAuth, l.s.Target, "it gave a cancel key of %d bytes", len(h.SecretKey))
	}
	l.key.pid, l.key.secret = h.PID, h.SecretKey
	l.pid = h.PID
	l.ours = make([]byte, 4)
	if st.minor >= 2 {
		l.ours = make([]byte, 32)
	}
	if _, err := rand.Read(l.ours); err != nil {
		return 0, fmt.Errorf("login: cancel key: %w", err)
	}
	return h.TxStatus, nil
}

// loginFailed logs what the target said and tells the client what it may know.
func (l *link) loginFailed(ctx context.Context, st *startup, err error) error {
	l.s.Log.Error("login to target failed", "session", l.s.ID, "target", l.s.Target, "error", err)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	if known := (*startError)(nil); errors.As(err, &known) {
		return known
	}
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
		switch pgErr.Code {
		case "3D000":
			return refuseStart("3D000", "ask which databases the target has", "database %q does not exist", st.database)
		case "53300", "57P03":
			return refuseStart(pgErr.Code, "try again later", "the target takes no more connections now")
		case "22023", "22007", "42704":
			return refuseStart(pgErr.Code, "connect without it", "the target does not take a startup parameter's value")
		}
		return refuseStart(stateNoAuth, "the agent's log has the reason", "the gate could not log in to target %q", l.s.Target)
	}
	switch network, remote := (net.Error)(nil), (*net.OpError)(nil); {
	case errors.Is(err, errAttributes):
		return refuseTarget(stateUnreachable, l.s.Target, "no host of it is %s, as its target_session_attrs demand", l.set.Attributes)
	case errors.As(err, &remote) && remote.Op == "remote error": // TLS 1.3 is through before the target has seen a certificate
		return refuseTarget(stateUnreachable, l.s.Target, reasonEnded)
	case errors.Is(err, errUnreached), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, context.DeadlineExceeded), errors.As(err, &network):
		return refuseStart(stateUnreachable, "the agent's log has the reason", "the gate cannot reach target %q", l.s.Target)
	}
	return refuseTarget(stateNoAuth, l.s.Target, "it did not prove itself, or did not keep to the protocol")
}

var (
	errUnreached  = errors.New("no connection to the target")
	errAttributes = errors.New("not a host of that kind")
)

// dialling marks the context of a login. pgconn dials of its own accord, too, to cancel on a connection that broke; the room does that itself.
type dialling struct{}

func connectTo(ctx context.Context, cfg *pgconn.Config) (*pgconn.PgConn, error) {
	return pgconn.ConnectConfig(context.WithValue(ctx, dialling{}, true), cfg)
}

// config is complete in itself: nothing of the environment (PGHOST, a password file) may choose where the agent logs in.
func (l *link) config(st *startup) (*pgconn.Config, error) {
	cfg, err := pgconn.ParseConfig("host=target port=5432 user=u dbname=d sslmode=disable connect_timeout=20")
	if err != nil {
		return nil, err
	}
	tlsConfig, err := tlsOf(l.s.Login.Peer)
	if err != nil {
		return nil, err
	}
	secured := tlsConfig != nil
	if secured && l.set.DirectTLS {
		tlsConfig.NextProtos = []string{alpn}
	}
	if secured && l.set.CertFile != "" {
		shown, err := tls.LoadX509KeyPair(l.set.CertFile, l.set.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		tlsConfig.Certificates = []tls.Certificate{shown}
	}
	cfg.User, cfg.Password, cfg.Database = l.s.Login.User, l.s.Login.Password.Reveal(), st.database
	cfg.TLSConfig, cfg.Fallbacks = nil, nil // DialFunc secures the connection, as it does that of a cancel
	cfg.ValidateConnect, cfg.AfterConnect, cfg.AfterNetConnect, cfg.OAuthTokenProvider = l.set.validate(), nil, nil, nil
	cfg.KerberosSpn, cfg.KerberosSrvName = "", ""
	cfg.MinProtocolVersion, cfg.MaxProtocolVersion = "3.0", orDefault(l.set.Protocol, "3.0")
	cfg.ChannelBinding, cfg.RequireAuth = orDefault(l.set.ChannelBinding, "prefer"), strings.Join(l.set.auth(secured), ",")
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(&challenges{r: r, target: l.s.Target, allowed: l.set.auth(secured), bound: cfg.ChannelBinding == "require"}, w)
	}
	cfg.MaxProtocolMessageBodyLen = maxHeld
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	dials := l.hosts(cfg, tlsConfig)
	cfg.DialFunc = func(ctx context.Context, _, addr string) (net.Conn, error) {
		to := dials[addr]
		if to.dial == nil || ctx.Value(dialling{}) == nil {
			return nil, fmt.Errorf("%q is no host of the target", addr)
		}
		l.key = targetKey{host: addr, tls: to.tls, direct: l.set.DirectTLS, dial: to.dial} // of the last one dialled: the one that the login ends on
		return l.reach(ctx, &l.key)
	}
	cfg.RuntimeParams = map[string]string{"client_encoding": orDefault(st.encoding, "UTF8"), "standard_conforming_strings": "on"}
	for name, value := range st.settings {
		cfg.RuntimeParams[name] = value
	}
	if _, asked := cfg.RuntimeParams["statement_timeout"]; l.set.Statement > 0 && !asked {
		cfg.RuntimeParams["statement_timeout"] = strconv.FormatInt(l.set.Statement.Milliseconds(), 10)
	}
	return cfg, nil
}

// reach makes a connection on which a login may begin.
func (l *link) reach(ctx context.Context, to *targetKey) (net.Conn, error) {
	c, err := to.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreached, err)
	}
	if to.tls == nil && !loopback(c) {
		return nil, errors.Join(fmt.Errorf("%w: TLS mode disable is for loopback and unix sockets only", errUnreached), c.Close())
	}
	secured, err := to.secure(ctx, c)
	if err != nil {
		return nil, errors.Join(unproven(l.s.Target, err), c.Close())
	}
	return secured, nil
}

// hosts gives the target's own address and the further ones names that pgconn can tell apart, and says how each is reached.
func (l *link) hosts(cfg *pgconn.Config, first *tls.Config) map[string]targetKey {
	dials := map[string]targetKey{"target:5432": {tls: first, dial: l.s.Dial}}
	for i, h := range l.set.Hosts {
		name := "target" + strconv.Itoa(i+1)
		var secured *tls.Config
		if first != nil {
			secured = first.Clone()
			secured.ServerName = h.ServerName
		}
		cfg.Fallbacks = append(cfg.Fallbacks, &pgconn.FallbackConfig{Host: name, Port: 5432})
		dials[name+":5432"] = targetKey{tls: secured, dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{Timeout: hostWait}).DialContext(ctx, "tcp", h.Address)
		}}
	}
	if at, ok := dials[l.at]; ok {
		cfg.Host, cfg.Fallbacks = strings.TrimSuffix(l.at, ":5432"), nil
		return map[string]targetKey{l.at: at}
	}
	return dials
}

// hostWait is how long one of several hosts may take to answer a connection: the next one is waiting.
const hostWait = 5 * time.Second

// loopback says whether the other end is on this machine.
func loopback(c net.Conn) bool {
	switch a := c.RemoteAddr().(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	}
	return false
}

// tlsOf turns the agent's configuration into how the target must prove itself. The zero TLS is an error.
func tlsOf(t protocol.Peer) (*tls.Config, error) {
	switch t.Mode {
	case "disable":
		return nil, nil
	case "verify-full":
		cfg := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
		if t.ServerName == "" {
			return nil, errors.New("TLS mode verify-full needs a server name")
		}
		if t.CAFile != "" {
			pem, err := os.ReadFile(t.CAFile)
			if err != nil {
				return nil, fmt.Errorf("TLS: %w", err)
			}
			cfg.RootCAs = x509.NewCertPool()
			if !cfg.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("TLS: no certificate in %s", t.CAFile)
			}
		}
		return cfg, nil
	case "pin":
		if len(t.Pin) != sha256.Size {
			return nil, fmt.Errorf("TLS: pin of %d bytes, want %d", len(t.Pin), sha256.Size)
		}
		return &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12,
			InsecureSkipVerify: true, //nolint:gosec // the key itself is pinned instead, below
			VerifyConnection:   pinned(t.Pin)}, nil
	}
	return nil, fmt.Errorf("TLS mode %q: want disable, verify-full or pin", t.Mode)
}

// pinned accepts exactly one public key, whoever signed for it.
func pinned(pin []byte) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return errPin
		}
		sum := sha256.Sum256(cs.PeerCertificates[0].RawSubjectPublicKeyInfo)
		if subtle.ConstantTimeCompare(sum[:], pin) != 1 {
			return errPin
		}
		return nil
	}
}

var (
	errPin   = errors.New("target's key is not the pinned one")
	errNoTLS = errors.New("target refuses TLS")
)

const reasonEnded = "it ended TLS: it may not take the certificate that the agent shows, or not begin in this way"

// unproven tells the client in what way TLS with the target failed, and the log why.
func unproven(target access.TargetName, err error) error {
	reason := "TLS with it failed"
	switch wrong, remote := (*tls.CertificateVerificationError)(nil), (*net.OpError)(nil); {
	case errors.Is(err, errNoTLS):
		reason = "it refuses TLS, which the agent's configuration demands"
	case errors.Is(err, errPin), errors.As(err, &wrong):
		reason = "it did not prove to be what the agent's configuration names"
	case errors.As(err, &remote) && remote.Op == "remote error":
		reason = reasonEnded
	}
	return fmt.Errorf("%w: %w", refuseTarget(stateUnreachable, target, "%s", reason), err)
}

// secure starts TLS on a new connection to the target, where the session has it: for a login, and as libpq does for a cancel request, so
// that its key is not sent in the clear.
func (k *targetKey) secure(ctx context.Context, c net.Conn) (net.Conn, error) {
	if k.tls == nil {
		return c, nil
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
	defer stop()
	if k.direct {
		secured := tls.Client(c, k.tls)
		return secured, secured.HandshakeContext(ctx)
	}
	var msg [8]byte
	binary.BigEndian.PutUint32(msg[:], 8)
	binary.BigEndian.PutUint32(msg[4:], codeSSL)
	if _, err := c.Write(msg[:]); err != nil {
		return nil, err
	}
	var answer [1]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return nil, err
	}
	if answer[0] != 'S' {
		return nil, errNoTLS
	}
	secured := tls.Client(c, k.tls)
	return secured, secured.HandshakeContext(ctx)
}
