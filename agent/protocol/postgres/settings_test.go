package postgres

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
)

// TLS up to the room in every way in which a client can ask for it, and channel binding to the room's own certificate.
func TestClientTLS(t *testing.T) {
	h := openHouse(t, newScript(nil), func(s *protocol.Session) { s.Verifier = verifier(t, "endpoint") })
	plain := strings.ReplaceAll(h.dsn(""), "sslmode=disable", "")
	for _, more := range []string{
		"sslmode=prefer", "sslmode=require", "sslmode=require sslnegotiation=direct", "sslmode=require channel_binding=require",
		"sslmode=require channel_binding=disable", "sslmode=require sslnegotiation=direct channel_binding=require max_protocol_version=3.2",
		"sslmode=disable", "sslmode=disable max_protocol_version=3.2",
	} {
		t.Run(more, func(t *testing.T) {
			c, err := pgx.Connect(t.Context(), plain+more)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(context.Background())
			if _, secured := c.PgConn().Conn().(*tls.Conn); secured == strings.Contains(more, "sslmode=disable") {
				t.Errorf("TLS: %v", secured)
			}
			if n := len(c.PgConn().SecretKey()); n != 4 && !strings.Contains(more, "3.2") || n != 32 && strings.Contains(more, "3.2") {
				t.Errorf("a cancel key of %d bytes", n)
			}
			done := make(chan error, 1)
			go func() {
				_, err := c.Exec(context.Background(), "select pg_sleep(60)")
				done <- err
			}()
			eventually(t, "query runs", func() bool {
				r := h.srv.Exec(t, "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep(60)%'")
				return string(r[0].Rows[0][0]) == "1"
			})
			if err := c.PgConn().CancelRequest(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-done; codeOf(err) != "57014" {
				t.Fatalf("cancel: %v", err)
			}
		})
	}
	if out, err := h.psqlAt(strings.ReplaceAll(h.dsn(""), "sslmode=disable", "sslmode=require channel_binding=require"), "-c", "select 'in'"); err != nil || !strings.Contains(out, "in") {
		t.Errorf("psql: %v %s", err, out)
	}
	wrong, err := pgconn.ParseConfig(strings.ReplaceAll(plain, "password=endpoint", "password=wrong") + " sslmode=require channel_binding=require")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pgconn.ConnectConfig(t.Context(), wrong); codeOf(err) != "28P01" || !strings.Contains(err.Error(), `password authentication failed for user "alice"`) {
		t.Errorf("a wrong password: %v", err)
	}
}

// Direct TLS has to name its protocol, and bytes behind a request for TLS are never taken for what follows inside it.
func TestClientTLSMisused(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	raw, err := net.Dial("tcp", h.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	secured := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test's own server
	defer secured.Close()
	_ = secured.SetDeadline(time.Now().Add(10 * time.Second))
	answer := make([]byte, 200)
	n, _ := secured.Read(answer)
	if !bytes.Contains(answer[:n], []byte("ALPN")) {
		t.Errorf("without ALPN: %q", answer[:n])
	}
	c := dialRaw(t, h)
	msg := binary.BigEndian.AppendUint32(be32(8), codeSSL)
	c.write(t, append(msg, startupPacket(version3, "user", "alice")...))
	rest := make([]byte, 4096)
	got := 0
	for got < len(rest) {
		n, err := c.conn.Read(rest[got:])
		got += n
		if err != nil {
			break
		}
	}
	if got == 0 || rest[0] != 'S' || bytes.ContainsRune(rest[:got], 'Z') {
		t.Errorf("injected startup: %q", rest[:got])
	}
	c = dialRaw(t, h)
	c.write(t, binary.BigEndian.AppendUint32(be32(8), codeGSS))
	if _, err := c.conn.Read(rest[:1]); err != nil || rest[0] != 'N' {
		t.Errorf("GSS: %q %v", rest[0], err)
	}
	c.startup(t)
}

func (h *house) psqlAt(dsn string, args ...string) (string, error) {
	return h.psql(append([]string{"-d", dsn}, args...)...)
}

func TestStartupParameters(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	c := h.connect("search_path=pg_catalog options='-c statement_timeout=12345 --work-mem=7MB -capplication_name=a\\\\ b'")
	var path, timeout, mem, name string
	if err := c.QueryRow(t.Context(), "select current_setting('search_path'), current_setting('statement_timeout'), current_setting('work_mem'), current_setting('application_name')").
		Scan(&path, &timeout, &mem, &name); err != nil || path != "pg_catalog" || timeout != "12345ms" || mem != "7MB" || name != "a b" {
		t.Errorf("%q %q %q %q %v", path, timeout, mem, name, err)
	}
	for _, more := range []string{"options='-c role=postgres'", "options='-c session_preload_libraries=x'", "options='-e'", "options='-c user=x'", "role=postgres", "replication=database",
		"options='--client-encoding=latin1'", "options='-c'", "options='-c x'"} {
		if _, err := pgx.Connect(t.Context(), h.dsn(more)); codeOf(err) != "42501" {
			t.Errorf("%s: %v", more, err)
		}
	}
}

// A client from the future is told what there is, before anything else.
func TestNegotiation(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	c := dialRaw(t, h)
	c.write(t, startupPacket(3<<16|9999, "user", "alice", "_pq_.test_protocol_negotiation", ""))
	tag, body := c.read(t)
	if tag != 'v' || binary.BigEndian.Uint32(body) != 3<<16|2 || !bytes.Contains(body, []byte("_pq_.test_protocol_negotiation\x00")) {
		t.Errorf("%c %q", tag, body)
	}
	c.until(t, 'Z')
}

// withSettings opens a house whose target has settings.
func withSettings(t *testing.T, s Settings, setup func(*protocol.Session)) *house {
	t.Helper()
	return openHouseOf(t, newScript(nil), Config{Targets: map[access.TargetName]Settings{"app": s}}, setup)
}

func TestSeveralHosts(t *testing.T) {
	nobody := func(s *protocol.Session) {
		s.Dial = func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:1")
		}
	}
	h := withSettings(t, Settings{Attributes: "read-write"}, nobody)
	if _, err := pgx.Connect(t.Context(), h.dsn("")); codeOf(err) != "08001" {
		t.Errorf("nobody: %v", err)
	}
	h = withSettings(t, Settings{Attributes: "read-write", Hosts: []Host{{Address: h.srv.Addr}}}, nobody)
	c := h.connect("")
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(context.Background(), "select pg_sleep(62)")
		done <- err
	}()
	eventually(t, "query runs", func() bool {
		r := h.srv.Exec(t, "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep(62)%'")
		return string(r[0].Rows[0][0]) == "1"
	})
	if err := c.PgConn().CancelRequest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; codeOf(err) != "57014" {
		t.Fatalf("a cancel goes to the host that the session is on: %v", err)
	}
	h = withSettings(t, Settings{Attributes: "standby"}, nil)
	if _, err := pgx.Connect(t.Context(), h.dsn("")); codeOf(err) != "08001" {
		t.Errorf("no standby: %v", err)
	}
}

func TestTimeouts(t *testing.T) {
	for want, in := range map[string]struct {
		s   Settings
		sql string
	}{
		"57P05": {Settings{Idle: 100 * time.Millisecond}, "select 1"},
		"25P03": {Settings{Idle: time.Hour, IdleInTransaction: 100 * time.Millisecond}, "begin"},
	} {
		h := withSettings(t, in.s, nil)
		c := dialRaw(t, h)
		c.startup(t)
		c.write(t, appendQuery(nil, "select pg_sleep(0.3)"))
		c.until(t, 'Z')
		c.write(t, appendQuery(nil, in.sql))
		c.until(t, 'Z')
		if got := c.all(t, 'E'); !bytes.Contains(got, []byte(want)) {
			t.Errorf("%s: %q", want, got)
		}
		c.eof(t)
	}
	h := withSettings(t, Settings{Statement: 100 * time.Millisecond}, nil)
	if _, err := h.connect("").Exec(t.Context(), "select pg_sleep(30)"); codeOf(err) != "57014" || !strings.Contains(err.Error(), "statement timeout") {
		t.Errorf("statement: %v", err)
	}
	stop, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stop.Close()
	h = withSettings(t, Settings{Login: 100 * time.Millisecond}, func(s *protocol.Session) {
		s.Dial = func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", stop.Addr().String())
		}
	})
	if _, err := pgx.Connect(t.Context(), h.dsn("")); codeOf(err) != "08001" {
		t.Errorf("login: %v", err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for _, s := range []Settings{{Attributes: "any"}, {Attributes: "prefer-standby"}, {Auth: []string{"md5"}}, {Protocol: "3.2"}, {}} {
		if err := s.Check(false); err != nil {
			t.Errorf("%+v: %v", s, err)
		}
	}
	for _, s := range []Settings{{Attributes: "best"}, {Auth: []string{"password"}}, {Auth: []string{"gss"}}, {ChannelBinding: "require"}, {ChannelBinding: "x"}, {DirectTLS: true},
		{CertFile: "c", KeyFile: "k"}, {KeyFile: "k"}, {Protocol: "2.0"}, {Idle: -1}, {Login: 25 * time.Hour}} {
		if err := s.Check(false); err == nil {
			t.Errorf("%+v passes", s)
		}
	}
}

// Sessions on the same database share a snapshot of its catalogue, until somebody changes a definition; those with temporary tables do not.
func TestSharedSnapshots(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	catalogue := func(c *pgx.Conn) *catalogue {
		t.Helper()
		if err := c.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.room.mu.Lock()
		defer h.room.mu.Unlock()
		return h.room.live[c.PgConn().PID()][0].cat
	}
	first, second := catalogue(h.connect("")), catalogue(h.connect(""))
	if first != second {
		t.Error("two sessions, two snapshots")
	}
	h.srv.Exec(t, "create table if not exists shared_once (a int); drop table shared_once; create or replace view shared_view as select 1 as a")
	if catalogue(h.connect("")) == first {
		t.Error("a snapshot outlives what it is of")
	}
}

// A plan does not tell how long values are, in any format or protocol.
func TestExplainTellsNoWidth(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	for _, mode := range modes() {
		c := h.connect(mode)
		for _, sql := range []string{"explain select * from customers", "explain (format json) select * from customers", "explain (format xml) select * from customers",
			"explain (format yaml) select * from customers", "explain (analyze) select id from customers"} {
			rows, err := c.Query(t.Context(), sql)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for rows.Next() {
				line := string(rows.RawValues()[0])
				for _, found := range widths.FindAllString(line, -1) {
					if n++; !strings.HasSuffix(found, "0") || strings.HasSuffix(found, "00") || found[len(found)-2] >= '0' && found[len(found)-2] <= '9' {
						t.Errorf("%s: %s", sql, found)
					}
				}
			}
			if rows.Close(); rows.Err() != nil || n == 0 {
				t.Errorf("%s %s: %v, %d widths", mode, sql, rows.Err(), n)
			}
		}
	}
}

func FuzzPlan(f *testing.F) {
	f.Add([]byte("\x00\x01\x00\x00\x00\x09width=123"))
	f.Fuzz(func(t *testing.T, body []byte) {
		msg, at := frame(nil, 'D')
		msg = seal(append(msg, body...), at)
		out, err := withoutWidths(nil, msg)
		if err == nil && int(binary.BigEndian.Uint32(out[1:])) != len(out)-1 {
			t.Fatalf("%q", out)
		}
	})
}

func FuzzOptions(f *testing.F) {
	f.Add("-c a=b --c-d=e\\\\ f")
	f.Fuzz(func(t *testing.T, s string) {
		st := &startup{settings: map[string]string{}}
		if st.setOptions(s) == nil && (st.user != "" || st.database != "" || len(st.options) > 0) {
			t.Fatalf("options are no startup packet: %q", s)
		}
	})
}

func FuzzFunctionCall(f *testing.F) {
	f.Add([]byte("\x00\x00\x05\x75\x00\x00\x00\x01\x00\x00\x00\x02-7\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := cursor{b: b}
		if _, params, ok := functionArguments(&c); ok {
			n := 12
			for _, p := range params {
				n += len(p.Value)
			}
			if n > len(b)+4 {
				t.Fatalf("%d bytes of arguments out of %d", n, len(b))
			}
		}
	})
}
