package postgres

import (
	"context"
	"net"
	"strconv"
	"testing"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/localstack/pgserver"
)

// What the room asks beside a Query leaves no transaction open: on every server a statement is committed by itself, also where the client goes
// right after it. (On version 18, extended messages before a Query begin a transaction that only a Sync ends.)
func TestAQueryIsCommittedByItself(t *testing.T) {
	for _, version := range []int{16, 17, 18} {
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
			if _, err := srv.Exec(t.Context(), "create table kept (id int)"); err != nil {
				t.Fatal(err)
			}
			h := openHouse(t, newScript(map[string]ruling{}), func(s *protocol.Session) {
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
			r, err := srv.Exec(t.Context(), "select count(*) from kept")
			if err != nil || string(r[0].Rows[0][0]) != "6" {
				t.Errorf("%s rows of 6, %v", r[0].Rows[0][0], err)
			}
		})
	}
}
