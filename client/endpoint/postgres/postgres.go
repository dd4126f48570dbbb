// Package postgres is what a local endpoint knows of PostgreSQL: how its clients find a socket, and how to tell them that there
// is no connection. It refuses everything: what a client may do is decided by the agent's room.
package postgres

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/sallyport/sallyport/client/endpoint"
)

// Protocol is the endpoint's side of PostgreSQL.
type Protocol struct{}

var _ endpoint.Protocol = Protocol{}

// SQLSTATEs (PostgreSQL manual, appendix A).
const (
	stateDenied = "42501" // insufficient_privilege
	stateNoAuth = "28000" // invalid_authorization_specification
	stateBusy   = "53300" // too_many_connections
)

// socketPort is the port in the socket's file name; nothing listens on it.
const socketPort = 5432

// user is who clients say they are: the role on the target is the agent's business.
const user = "sallyport"

// maxRequests is how many times a client may ask for encryption before it must start: libpq asks for GSS, then for TLS.
const maxRequests = 2

// Refuse reads the startup message, answering N to requests for encryption, and ends with an ErrorResponse.
func (Protocol) Refuse(conn net.Conn, r endpoint.Refusal) error {
	b := pgproto3.NewBackend(conn, conn) // startup messages are at most 10,000 bytes there
	for range maxRequests + 1 {
		m, err := b.ReceiveStartupMessage()
		if err != nil {
			return fmt.Errorf("startup: %w", err)
		}
		switch m.(type) {
		case *pgproto3.SSLRequest, *pgproto3.GSSEncRequest:
			if _, err := conn.Write([]byte{'N'}); err != nil {
				return fmt.Errorf("startup: %w", err)
			}
			continue
		case *pgproto3.CancelRequest:
			return nil // it gets no answer, ever
		}
		b.Send(errorResponse(r))
		return b.Flush()
	}
	return errors.New("startup: too many requests for encryption")
}

func errorResponse(r endpoint.Refusal) *pgproto3.ErrorResponse {
	code := stateDenied
	switch {
	case r.Login:
		code = stateNoAuth
	case r.Denied.Code == "busy":
		code = stateBusy
	}
	return &pgproto3.ErrorResponse{
		Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: code, Message: r.Message, Detail: r.Denied.Detail(), Hint: r.Denied.Hint,
	}
}

// SocketFile is what libpq looks for in a directory given as host.
func (Protocol) SocketFile() string { return ".s.PGSQL." + strconv.Itoa(socketPort) }

// DSN names the loopback port where there is one, else the socket.
func (Protocol) DSN(l endpoint.Local) string {
	u := url.URL{Scheme: "postgresql", Path: "/" + l.Database, User: url.User(user)}
	if l.Port != 0 {
		// The leg to the endpoint stays on this machine; beyond it everything is TLS 1.3.
		u.Host = net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Port))
		u.User = url.UserPassword(user, l.Password.Reveal())
		u.RawQuery = "sslmode=disable"
		return u.String()
	}
	// libpq knows %20, not the '+' of forms.
	u.RawQuery = "host=" + strings.ReplaceAll(url.QueryEscape(l.Dir), "+", "%20") + "&port=" + strconv.Itoa(socketPort)
	return u.String()
}

// Env is libpq's, for the socket.
func (Protocol) Env(l endpoint.Local) []string {
	return []string{"PGHOST=" + l.Dir, "PGPORT=" + strconv.Itoa(socketPort), "PGUSER=" + user, "PGDATABASE=" + l.Database}
}

// clears are the variables of libpq that choose where to connect and as whom.
var clears = []string{
	"PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE",
	"PGSSLMODE", "PGSSLNEGOTIATION", "PGSSLCERT", "PGSSLKEY", "PGSSLROOTCERT", "PGREQUIRESSL", "PGREQUIREAUTH", "PGREQUIREPEER",
	"PGCHANNELBINDING", "PGGSSENCMODE", "PGKRBSRVNAME", "PGGSSLIB", "PGTARGETSESSIONATTRS", "PGLOADBALANCEHOSTS",
	"PGMINPROTOCOLVERSION", "PGMAXPROTOCOLVERSION",
}

// Clears says whether libpq would read the variable and be led elsewhere by it.
func (Protocol) Clears(name string) bool { return slices.Contains(clears, name) }
