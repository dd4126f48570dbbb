package postgres

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Cursors and prepared statements keep the second text at the target. What steps through them or runs them is decided on the client's own.
func TestBeneathUnderAName(t *testing.T) {
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeCacheStatement} {
		t.Run(mode.String(), func(t *testing.T) {
			g := newScript(map[string]ruling{"revealed": {bare: []string{"email", "card"}}})
			g.strict = true
			h := openHouse(t, g, nil)
			h.srv.Seed(t)
			c := h.connect("")
			ctx := t.Context()
			all := func(sql string) (string, error) {
				if strings.Contains(sql, "$1") {
					_, err := c.PgConn().Exec(ctx, sql).ReadAll()
					return "", err
				}
				rows, err := c.Query(ctx, sql, mode)
				if err != nil {
					return "", err
				}
				got, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (string, error) {
					v, err := r.Values()
					var s []string
					for _, x := range v {
						s = append(s, toString(x))
					}
					return strings.Join(s, ","), err
				})
				return strings.Join(got, ";"), err
			}
			must := func(sql, want string) {
				t.Helper()
				if got, err := all(sql); err != nil || got != want {
					t.Errorf("%s: %q, %v\n want %q", sql, got, err, want)
				}
			}
			denied := func(sql string) {
				t.Helper()
				if got, err := all(sql); codeOf(err) != stateDenied {
					t.Errorf("%s: %q, %v", sql, got, err)
				}
			}
			must("prepare p as select upper(email), card_number from customers where email like $1 order by id", "")
			must("execute p('a%')", "A***@***.COM,************1111")
			must("execute p('%example%')", "")
			if r := g.outcome(t, "execute p('a%')"); !r.Beneath {
				t.Errorf("the outcome does not tell which text ran: %+v", r)
			}
			must("begin", "")
			must("declare k scroll cursor with hold for select lower(email), name from customers order by id", "")
			must("fetch 1 from k", "a***@***.com,Ada Lovelace")
			must("fetch next k", "g***@***.org,Grace Hopper")
			must("move backward 2 in k", "")
			must("commit", "")
			must("fetch all from k", "a***@***.com,Ada Lovelace;g***@***.org,Grace Hopper;e***@***.net,Edsger Dijkstra")
			must("close k", "")
			must("declare v cursor with hold for select email from contacts where email like 'a%'", "")
			must("fetch 1 from v", "a***@***.com")
			denied("explain execute p('a%')")
			denied("create table x as execute p('a%')")

			// What was made by who may see the data is not for who may not.
			must("prepare q as select lower(email) as revealed from customers order by id limit 1", "")
			denied("execute q")
			must("execute q /* revealed */", "ada@example.com")
			must("declare r cursor with hold for select lower(email) as revealed from customers order by id limit 1", "")
			denied("fetch r")
			must("close r", "")
			// And the other way round the text is that of the masks.
			must("execute p('a%') /* revealed */", "A***@***.COM,4111111111111111")
			if mode == pgx.QueryExecModeSimpleProtocol {
				must("begin; declare m cursor for select upper(email) from customers order by id; select upper(name) from customers where id = 1", "")
				denied("fetch 1 from m; fetch 1 from m")
				must("rollback; begin; declare m cursor for select upper(email) from customers order by id", "")
				must("fetch 1 from m", "A***@***.COM")
				must("rollback", "")
			}
		})
	}
}

func toString(v any) string {
	s, _ := v.(string)
	return s
}

// A table that has come to be protected since is not in the text that the target keeps.
func TestBeneathUnderAnOldName(t *testing.T) {
	b := beneathBench(t)
	first := "prepare p as select upper(email) from customers"
	c, _ := b.facts(first)
	kept := c.Masked
	b.st.prepared = func(string) (string, bool) { return kept, true }
	b.st.first = func(second string) (string, bool) { return first, second == kept }
	if c, _ := b.facts("execute p"); !passes(c) || c.Masked != "execute p" || c.State.Prepared != kept {
		t.Errorf("%s %q", say(c), c.Masked)
	}
	kept = strings.Replace(kept, "***@***", "***@**", 1)
	if c, _ := b.facts("execute p"); passes(c) || c.Masked != "" {
		t.Errorf("another mask: %s %q", say(c), c.Masked)
	}
	kept = first // made while the table was not protected
	if c, _ := b.facts("execute p"); passes(c) || c.Masked != "" {
		t.Errorf("no mask: %s %q", say(c), c.Masked)
	}
	f := &front{}
	for i := range maxFirsts + 1 {
		c.Verb, c.Text, c.Masked = "PREPARE SELECT", "t", strings.Repeat("m", i+1)
		f.remember(c)
	}
	if len(f.firsts) != 1 {
		t.Errorf("%d texts are kept", len(f.firsts))
	}
}
