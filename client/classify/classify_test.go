package classify

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/localstack/pgserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNames(t *testing.T) {
	for _, c := range []struct{ name, category, want string }{
		{"email", "S", "email"}, {"e_mail", "S", "email"}, {"customerEmail", "S", "email"}, {"EMAIL_ADDRESS", "S", "email"}, {"email2", "S", "email"}, {"mail", "S", "email"},
		{"email_verified", "B", ""}, {"email_template", "S", ""}, {"mailing_list", "S", ""}, {"mail_id", "N", ""}, {"email", "N", ""},
		{"card_number", "S", "card"}, {"cardNo", "N", "card"}, {"pan", "S", "card"}, {"credit_card", "S", "card"}, {"company", "S", ""}, {"discard_no", "S", ""}, {"card_id", "N", ""},
		{"iban", "S", "iban"}, {"iban_no", "S", "iban"}, {"caliban", "S", ""},
		{"ssn", "S", "ssn"}, {"social_security_number", "N", "ssn"}, {"session", "S", ""},
		{"phone", "S", "phone"}, {"mobile_no", "S", "phone"}, {"Phone Number", "S", "phone"}, {"tel", "S", "phone"}, {"phone_type", "S", ""}, {"hotel", "S", ""},
		{"password_hash", "S", "secret"}, {"apiKey", "S", "secret"}, {"refresh_token", "S", "secret"}, {"client_secret", "U", "secret"}, {"password_changed_at", "D", ""}, {"compass", "S", ""},
		{"dob", "D", "birth_date"}, {"date_of_birth", "S", "birth_date"}, {"birthday", "D", "birth_date"}, {"birthplace", "S", ""},
		{"passport_no", "S", "identity_number"}, {"tax_id", "S", "identity_number"},
		{"first_name", "S", "person_name"}, {"lastName", "S", "person_name"}, {"surname", "S", "person_name"}, {"name", "S", ""}, {"file_name", "S", ""}, {"username", "S", ""},
		{"street", "S", "postal_address"}, {"address", "S", "postal_address"}, {"address_line1", "S", "postal_address"}, {"billing_address", "S", "postal_address"},
		{"mac_address", "S", ""}, {"ip_address", "S", "ip_address"}, {"remote_addr", "I", "ip_address"}, {"clip", "S", ""},
		{"salary", "N", "income"}, {"", "S", ""}, {"___", "S", ""}, {"\xff", "S", ""},
	} {
		got := ""
		if k := byName(Column{Name: c.name, category: c.category}); k != nil {
			got = k.class
		}
		if got != c.want {
			t.Errorf("%q of category %s: %q, want %q", c.name, c.category, got, c.want)
		}
	}
}

// schema has what a scan must find, what it must leave alone, and names that try to leave their place.
const schema = `
CREATE TABLE customers (id bigint PRIMARY KEY, first_name text, contact text, email text, card numeric, ref bigint, born date, dob date, notes text, verified_email boolean);
INSERT INTO customers SELECT i, 'Ann', 'user' || i || '@example.org', 'someone' || i || '@example.com', 4242424242424242, 1000000000000000 + i, now(), now(),
  CASE WHEN i % 10 = 0 THEN 'call back at +49 30 901820' ELSE 'nothing to say' END, true FROM generate_series(1, 60) i;
CREATE DOMAIN address_of_mail AS text;
CREATE SCHEMA sales;
CREATE TABLE sales."odd ""name" ("Ship To" address_of_mail, tags text[], doc jsonb, "line
break: x" text);
INSERT INTO sales."odd ""name" SELECT 'a' || i || '@example.net', ARRAY['x', 'b@example.net'], '{"iban": "DE89370400440532013000"}', 'c' || i || '@example.net' FROM generate_series(1, 12) i;
CREATE TABLE sales.templates (email text);
INSERT INTO sales.templates SELECT 'Dear customer' FROM generate_series(1, 20);
CREATE TABLE sales.mixed (code bigint);
INSERT INTO sales.mixed SELECT CASE WHEN i % 10 < 6 THEN 4242424242424242 ELSE i END FROM generate_series(1, 20) i;
CREATE TABLE sales.empty (email text, "user" text);
CREATE TABLE sales.masked AS SELECT 'a***@***.com' AS email FROM generate_series(1, 20);
CREATE TABLE events (at timestamptz, mail text) PARTITION BY RANGE (at);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2030-01-01');
INSERT INTO events VALUES ('2021-01-01', 'p@example.org');
CREATE VIEW mails AS SELECT email FROM customers;
CREATE TABLE big AS SELECT i, CASE WHEN i > 19000 THEN 'late' || i || '@example.org' ELSE 'u' || i || '@example.org' END AS login FROM generate_series(1, 20000) i;
ANALYZE big;
CREATE TABLE hidden (email text, body text);
INSERT INTO hidden VALUES ('x@example.org', 'x@example.org');
CREATE ROLE reader LOGIN PASSWORD 'reader-password';
GRANT USAGE ON SCHEMA sales TO reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public, sales TO reader;
REVOKE SELECT ON hidden FROM reader;`

func database(t *testing.T) (Config, *pgserver.Server) {
	t.Helper()
	s, err := pgserver.Start(t.Context(), pgserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	if _, err := s.Exec(t.Context(), schema); err != nil {
		t.Fatal(err)
	}
	dsn := fmt.Sprintf("host=%s port=%d user=reader password=reader-password dbname=%s sslmode=disable", s.Host, s.Port, s.Database)
	return Config{Rows: 100, DSN: dsn}, s
}

func TestScan(t *testing.T) {
	c, _ := database(t)
	var looked []string
	c.Look = func(_, _ int, table string) { looked = append(looked, table) }
	r, err := Scan(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range r.Proposals {
		got[f.String()] = f.Class + ", " + f.Why()
	}
	want := map[string]string{
		"public.big.login":                "email, 100 of 100 values",
		"public.customers.card":           "card, 60 of 60 values",
		"public.customers.contact":        "email, 60 of 60 values",
		"public.customers.dob":            "birth_date, by its name",
		"public.customers.email":          "email, by its name, and 60 of 60 values",
		"public.customers.first_name":     "person_name, by its name",
		"public.events.mail":              "email, by its name, and 1 of 1 values",
		"public.hidden.email":             "email, by its name",
		"sales.masked.email":              "email, by its name, and 20 values came masked",
		"sales.empty.email":               "email, by its name",
		"sales.odd \"name.Ship To":        "email, 12 of 12 values",
		"sales.odd \"name.doc":            "iban, 12 of 12 values",
		"sales.odd \"name.line\nbreak: x": "email, 12 of 12 values",
		"sales.odd \"name.tags":           "email, 12 of 12 values",
	}
	for name, w := range want {
		if got[name] != w {
			t.Errorf("%s: %q, want %q", name, got[name], w)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("proposed too: %v", got)
	}
	if len(r.Seldom) != 1 || r.Seldom[0].String() != "public.customers.notes" || r.Seldom[0].Found != 6 || r.Seldom[0].Detector != "phone" {
		t.Errorf("seldom: %+v", r.Seldom)
	}
	if len(r.Doubtful) != 1 || r.Doubtful[0].String() != "sales.templates.email" {
		t.Errorf("doubtful: %+v", r.Doubtful)
	}
	if len(r.Refused) != 1 || r.Refused[0].Table != "public.hidden" || !strings.Contains(r.Refused[0].Why, "permission denied") {
		t.Errorf("refused: %+v", r.Refused)
	}
	if len(looked) != r.Tables || slices.ContainsFunc(looked, func(s string) bool { return s == "public.events_1" || s == "public.mails" }) {
		t.Errorf("looked at %v, %d tables", looked, r.Tables)
	}
}

func TestScanLeavesAlone(t *testing.T) {
	c, _ := database(t)
	c.Schemas = []string{"sales"}
	c.Known = []access.Class{{Name: "email", Columns: []string{"sales.odd*.*"}}}
	r, err := Scan(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Proposals) != 2 || r.Proposals[0].String() != "sales.empty.email" || r.Known != 4 || r.Columns != 9 {
		t.Errorf("%+v", r)
	}
}

// An answer that is too long breaks the connection: the table is judged by its names, and the scan goes on.
func TestScanGoesOnAfterALongValue(t *testing.T) {
	c, s := database(t)
	if _, err := s.Exec(t.Context(), fmt.Sprintf(`CREATE TABLE along AS SELECT repeat('x', %d) AS email; GRANT SELECT ON along TO reader`, maxRow+1)); err != nil {
		t.Fatal(err)
	}
	r, err := Scan(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	refused := slices.ContainsFunc(r.Refused, func(r Refusal) bool { return r.Table == "public.along" })
	named := slices.ContainsFunc(r.Proposals, func(f Finding) bool { return f.String() == "public.along.email" && f.Why() == "by its name" })
	after := slices.ContainsFunc(r.Proposals, func(f Finding) bool { return f.String() == "public.customers.email" && f.Found == 60 })
	if !refused || !named || !after {
		t.Errorf("%+v", r)
	}
}

func TestScanRefuses(t *testing.T) {
	c, s := database(t)
	for _, c := range []Config{{}, {Rows: 1}, {DSN: c.DSN}, {DSN: c.DSN, Rows: MaxRows + 1}, {DSN: "port=x", Rows: 1}} {
		if r, err := Scan(t.Context(), c); err == nil || r != nil {
			t.Errorf("%+v: %v, %v", c, r, err)
		}
	}
	if _, err := s.Exec(t.Context(), "REVOKE SELECT ON pg_catalog.pg_class FROM PUBLIC"); err != nil {
		t.Fatal(err)
	}
	var refused *RefusedError
	if _, err := Scan(t.Context(), c); !errors.As(err, &refused) || !strings.Contains(refused.Message, "permission denied") {
		t.Errorf("without the catalogue: %v", err)
	}
	c.DSN = strings.Replace(c.DSN, "reader-password", "wrong", 1)
	if _, err := Scan(t.Context(), c); !errors.As(err, &refused) || !strings.Contains(refused.Message, "password") {
		t.Errorf("with a wrong password: %v", err)
	}
}

func TestMerge(t *testing.T) {
	find := func(table, column, class, mask, detector string) Finding {
		return Finding{Column: Column{Schema: "public", Table: table, Name: column, Type: "text"}, Class: class, Mask: mask, Detector: detector, Found: 3, Values: 4}
	}
	r := &Report{
		Proposals: []Finding{
			find("users", "mail", "email", "email", "mail"), find("users", "mail", "email", "email", "mail"), find("users", "tel\n- evil", "phone", "partial:3-2", "phone"),
			{Column: Column{Schema: "public", Table: "users", Name: "first_name", Type: "odd\n  - name: x"}, Class: "person_name", Mask: "partial:1-0", ByName: true},
		},
		Seldom:   []Finding{find("notes", "body", "iban", "partial:4-4", "iban")},
		Doubtful: []Finding{find("templates", "email", "email", "email", "mail")},
	}
	for _, name := range []string{"new", "existing", "empty"} {
		var before []byte
		if name != "new" {
			before = read(t, name+".yaml")
		}
		got, err := r.Merge(before)
		if err != nil {
			t.Fatal(err)
		}
		if want := read(t, name+".want.yaml"); string(got) != string(want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
		if again, err := r.Merge(got); err != nil || string(again) != string(got) {
			t.Errorf("%s, merged again:\n%s%v", name, again, err)
		}
	}
	if same, err := (&Report{}).Merge([]byte("classes:  [ ]")); err != nil || string(same) != "classes:  [ ]" {
		t.Errorf("%q, %v", same, err)
	}
	for _, bad := range []string{"- a", "classes: x", "classes: {a: b}", "a: [", "\x00"} {
		if _, err := r.Merge([]byte(bad)); err == nil {
			t.Errorf("%q: merged", bad)
		}
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
