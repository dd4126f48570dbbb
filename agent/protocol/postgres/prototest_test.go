package postgres_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/protocol/postgres"
	"github.com/sallyport/sallyport/agent/protocol/postgres/pgtest"
	"github.com/sallyport/sallyport/agent/protocol/prototest"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/secret"
)

// fixture is the room with the tests' server behind it.
func fixture(t *testing.T) prototest.Fixture {
	srv := pgtest.Start(t)
	return prototest.Fixture{
		Room:  func() protocol.Protocol { return postgres.New(postgres.Config{}) },
		Login: protocol.Login{User: srv.User, Password: secret.New(srv.Password), Database: srv.Database, Peer: protocol.Peer{Mode: "disable"}},
		Dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", srv.Addr)
		},
		Classes: []access.Class{{Name: "email", Columns: []string{"*.customers.email"}, Mask: "email"},
			{Name: "card", Columns: []string{"*.customers.card_number"}, Mask: "card"}},
		Protected: "ada@example.com",
		Seen: func(text string) bool {
			b, err := os.ReadFile(srv.LogFile)
			if err != nil {
				t.Error(err)
			}
			return strings.Contains(string(b), text)
		},
		Wire: wire{database: srv.Database},
	}
}

func TestPromises(t *testing.T) { prototest.Run(t, fixture(t)) }

func TestPromisesFailOnMutants(t *testing.T) { prototest.RunMutants(t, fixture(t)) }

// wire is the client's side, through pgproto3.
type wire struct{ database string }

func encoded(ms ...pgproto3.FrontendMessage) (b []byte) {
	for _, m := range ms {
		var err error
		if b, err = m.Encode(b); err != nil {
			panic(err)
		}
	}
	return b
}

func query(format string, args ...any) []byte {
	return encoded(&pgproto3.Query{String: fmt.Sprintf(format, args...)})
}

func (w wire) Greeting() []byte {
	return encoded(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersionNumber, Parameters: map[string]string{"user": "alice", "database": w.database}})
}

// upTo is the length of the messages up to the first of a kind, once that is whole.
func upTo(b []byte, kind byte) (n int, ok bool) {
	for len(b)-n >= 5 {
		tag, size := b[n], 1+int(binary.BigEndian.Uint32(b[n+1:]))
		if len(b)-n < size {
			return 0, false
		}
		if n += size; tag == kind {
			return n, true
		}
	}
	return 0, false
}

func (wire) Ready(b []byte) (int, bool)  { return upTo(b, 'Z') }
func (wire) Answer(b []byte) (int, bool) { return upTo(b, 'Z') }

func (wire) Run(mark string) []byte { return query("select '%s' as mark", mark) }

func (wire) Succeeded(answer []byte) bool {
	_, refused := find(answer, 'E')
	_, complete := find(answer, 'C')
	return complete && !refused
}

// find is the body of the first message of a kind.
func find(b []byte, kind byte) ([]byte, bool) {
	for len(b) >= 5 {
		size := 1 + int(binary.BigEndian.Uint32(b[1:]))
		if size < 5 || size > len(b) {
			return nil, false
		}
		if b[0] == kind {
			return b[5:size], true
		}
		b = b[size:]
	}
	return nil, false
}

func (wire) Refused(answer []byte) (string, bool) {
	body, ok := find(answer, 'E')
	if !ok {
		return "", false
	}
	var e pgproto3.ErrorResponse
	if err := e.Decode(body); err != nil {
		return "", false
	}
	return e.Detail, e.Severity != "" && len(e.Code) == 5
}

func (wire) Reveal() []byte { return query("select id, email from customers order by id") }

func (w wire) Leaks() map[string][]byte {
	leaks := map[string][]byte{}
	for name, sql := range map[string]string{
		"an expression":       "select 'x' || email from customers",
		"a cast error":        "select email::int from customers",
		"a function's error":  "select to_date(email, 'YYYY') from customers",
		"a subquery":          "select s.e from (select email as e from customers) s",
		"a CTE":               "with s as (select * from customers) select * from s",
		"a view":              "select email from contacts",
		"a whole row":         "select c from customers c",
		"a row as JSON":       "select to_jsonb(c) from customers c",
		"an aggregate":        "select string_agg(email, ',') from customers",
		"a union":             "select email from customers union select 'x'",
		"an alias of another": "select name, email as name from customers",
		"COPY":                "copy customers to stdout",
		"COPY of a query":     "copy (select email from customers) to stdout",
		"a cursor":            "begin; declare c cursor for select email from customers; fetch all from c",
		"RETURNING":           "update customers set name = email where id = 1 returning name",
		"a failing row":       "insert into customers select 9, null, email, card_number from customers where id = 1",
		"a duplicate key":     "create temp table u (e text unique); insert into u select email from customers; insert into u select email from customers",
		"a notice":            "do $$ begin raise notice '%', (select email from customers where id = 1); end $$",
		"an error of DO":      "do $$ begin raise exception '%', (select email from customers where id = 1); end $$",
		"a notification":      "select pg_notify('c', email) from customers",
		"a prepared one":      "prepare p as select email from customers; execute p",
		"statistics":          "select most_common_vals from pg_stats where tablename = 'customers'",
		"EXPLAIN":             "explain (analyze, verbose) select * from customers where email = (select email from customers where id = 1)",
		"query_to_xml":        "select query_to_xml('select email from customers', true, false, '')",
		"a table of another":  "create table leak as select email as e from customers; select e from leak",
		"a setting":           "select set_config('application_name', email, false) from customers where id = 1",
		"several statements":  "select 1; select email || '' from customers",
	} {
		leaks[name] = query("%s", sql)
	}
	text, binaryFormat := []int16(nil), []int16{1}
	for name, format := range map[string][]int16{"the extended protocol": text, "the binary format": binaryFormat} {
		leaks[name] = encoded(&pgproto3.Parse{Query: "select email from customers"}, &pgproto3.Bind{ResultFormatCodes: format},
			&pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}, &pgproto3.Sync{})
	}
	return leaks
}

func (wire) Slow(mark string) []byte { return query("select pg_sleep(60) /* %s */", mark) }

func (wire) Unknown(mark string) []byte {
	b := append([]byte{'!'}, binary.BigEndian.AppendUint32(nil, uint32(4+len(mark)))...)
	return append(b, mark...)
}

func (wire) Oversized() []byte { return []byte{'Q', 0x3f, 0xff, 0xff, 0xff} }
