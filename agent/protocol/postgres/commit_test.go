package postgres

import (
	"context"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/localstack/pgserver"
)

// What the room asks beside a Query leaves no transaction open: on every server a statement is committed by itself, also where the client goes
// right after it. (On version 18, extended messages before a Query begin a transaction that only a Sync ends.)
func TestAQueryIsCommittedByItself(t *testing.T) {
	for _, version := range []int{15, 16, 17, 18} {
		t.Run(strconv.Itoa(version), func(t *testing.T) {
			srv, err := pgserver.Start(t.Context(), pgserver.Config{Version: version, Parameters: map[string]string{"shared_buffers": "16MB"}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := srv.Stop(); err != nil {
					t.Error(err)
				}
			})
			if _, err := srv.Exec(t.Context(), "create table kept (id int); create table late (id int primary key deferrable initially deferred)"); err != nil {
				t.Fatal(err)
			}
			g := newScript(map[string]ruling{})
			h := openHouse(t, g, func(s *protocol.Session) {
				s.Login.User, s.Login.Password, s.Login.Database = srv.User, secret.New(srv.Password), srv.Database
				s.Dial = func(ctx context.Context) (net.Conn, error) {
					var d net.Dialer
					return d.DialContext(ctx, "tcp", net.JoinHostPort(srv.Host, strconv.Itoa(srv.Port)))
				}
			})
			for _, mode := range []string{"simple_protocol", "exec", "cache_statement"} {
				conn := h.connect("default_query_exec_mode=" + mode)
				for range 2 {
					if _, err := conn.Exec(t.Context(), "insert into kept values ($1)", 1); err != nil {
						t.Fatal(err)
					}
					if got := conn.PgConn().TxStatus(); got != 'I' {
						t.Errorf("%s: the transaction's status is %q", mode, got)
					}
				}
				if err := conn.PgConn().Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			// What only the end of the transaction tells is the command's own error: nothing says before that it was done.
			conn := h.connect("")
			for _, sql := range []string{"insert into late values (1)", "insert into late values (1) /*twice*/"} {
				results, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
				twice := strings.Contains(sql, "twice")
				if done := len(results) == 1 && results[0].CommandTag.String() != ""; done == twice || (codeOf(err) == "23505") != twice {
					t.Errorf("%s: %+v, %v", sql, results, err)
				}
			}
			if got := g.outcome(t, "/*twice*/"); got.Status != access.StatusError || got.Error != "23505" {
				t.Errorf("recorded as %+v", got)
			}
			r, err := srv.Exec(t.Context(), "select count(*) from kept")
			if err != nil || string(r[0].Rows[0][0]) != "6" {
				t.Errorf("%s rows of 6, %v", r[0].Rows[0][0], err)
			}
		})
	}
}
