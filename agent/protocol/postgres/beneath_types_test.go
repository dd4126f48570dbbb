package postgres

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Drivers read masked values as the types that the columns have, in text and in binary, whether they were masked as they passed or beneath. An
// unprotected column beside them comes as it is.
func TestDriversReadMaskedTypes(t *testing.T) {
	makeVault(t)
	h := vault(t, 0)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeCacheStatement, pgx.QueryExecModeDescribeExec} {
		for name, from := range map[string]string{"plain": "people order by id", "beneath": "people p where email like 'a%' and email not like '%canary%' order by id", "a subquery": "(select * from people offset 0) v order by id"} {
			t.Run(fmt.Sprint(mode, " ", name), func(t *testing.T) {
				c := h.connect("dbname=vault")
				var id, salary int
				var who, email string
				var born time.Time
				var seen time.Time
				var key [16]byte
				var doc json.RawMessage
				var tags pgtype.FlatArray[string]
				var state *string
				var pic []byte
				var rate pgtype.Numeric
				err := c.QueryRow(t.Context(), "select id, name, email, salary, born, seen, key, doc, tags, state, pic, rate from "+from+" limit 1", mode).
					Scan(&id, &who, &email, &salary, &born, &seen, &key, &doc, &tags, &state, &pic, &rate)
				if err != nil {
					t.Fatal(err)
				}
				if id != 1 || who != "Ada" {
					t.Errorf("what nobody protects: %d %q", id, who)
				}
				if !strings.HasPrefix(email, "a***@***.") || salary != 0 || born.Year() != 1970 || seen.Year() != 1970 || key != [16]byte{} || string(doc) != `"****"` || tags != nil || len(pic) != 0 || rate.Int.Int64() != 0 {
					t.Errorf("masked: %q %d %s %s %x %s %v %v %x %v", email, salary, born, seen, key, doc, tags, state, pic, rate)
				}
			})
		}
	}
}
