package postgres

import (
	"context"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/agent/protocol"
)

// PG-H3: where a field comes from is the server's word. One that denies that a masked column is what the command asked for ends the session.
func TestServerThatLiesAboutOrigins(t *testing.T) {
	const text = "select email from customers"
	h := openHouse(t, newScript(nil), nil)
	oid := func(table string) uint32 {
		n, err := strconv.ParseUint(string(h.srv.Exec(t, "select '"+table+"'::regclass::oid")[0].Rows[0][0]), 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(n)
	}
	num := func(column string) uint16 {
		n, err := strconv.ParseUint(string(h.srv.Exec(t, "select attnum from pg_attribute where attrelid = 'customers'::regclass and attname = '"+column+"'")[0].Rows[0][0]), 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		return uint16(n)
	}
	// What the room's lock and question get before the Query does.
	before := join(appendBare(nil, '1'), appendBare(nil, '3'), appendBare(nil, '1'), appendBare(nil, '2'), complete("SELECT 1"))
	row := join(dataRow("canary@example.com"), complete("SELECT 1"), appendReady(nil, 'I'))
	for name, tt := range map[string]struct {
		answer []byte
		tags   string
	}{
		"the truth":             {join(rowDescription(oid("customers"), num("email"), "email"), row), "TDCZ"},
		"from nowhere":          {join(rowDescription(0, 0, "email"), row), "E"},
		"another table":         {join(rowDescription(oid("orders"), 1, "email"), row), "E"},
		"another column":        {join(rowDescription(oid("customers"), num("name"), "email"), row), "E"},
		"described once more":   {join(rowDescription(oid("customers"), num("email"), "email"), rowDescription(0, 0, "email"), row), "TE"},
		"a second result":       {join(rowDescription(oid("customers"), num("email"), "email"), dataRow("x"), complete("SELECT 1"), rowDescription(0, 0, "email"), row), "TDCE"},
		"a row with more in it": {join(rowDescription(oid("customers"), num("email"), "email"), dataRow("x", "canary@example.com"), complete("SELECT 2"), appendReady(nil, 'I')), "TE"},
	} {
		t.Run(name, func(t *testing.T) {
			h := openHouse(t, newScript(nil), func(s *protocol.Session) {
				real := s.Dial
				s.Dial = func(ctx context.Context) (net.Conn, error) {
					c, err := real(ctx)
					return &turncoat{Conn: c, trigger: []byte(text), answer: join(before, tt.answer), turned: make(chan struct{})}, err
				}
			})
			c := dialRaw(t, h)
			c.startup(t)
			c.write(t, appendQuery(nil, text))
			tags := ""
			for !strings.HasSuffix(tags, "Z") {
				tag, body, err := c.tryRead()
				if err != nil {
					break
				}
				tags += string(tag)
				if strings.Contains(string(body), "canary") {
					t.Errorf("%c carries the canary: %q", tag, body)
				}
			}
			if tags != tt.tags {
				t.Errorf("client saw %q, want %q", tags, tt.tags)
			}
			_ = c.conn.Close()
			<-h.errs
		})
	}
}
