package classify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/mask"
	"github.com/sallyport/sallyport/internal/secret"
)

// Bounds of a scan.
const (
	MaxRows   = 10000
	maxTables = 20000
	// maxRow is the longest row that is read, in bytes; a table with a longer one is judged by its names.
	maxRow = 32 << 20
	// maxLook is how much of one value is looked into, in bytes.
	maxLook = 64 << 10
)

// Config says what to scan.
type Config struct {
	DSN     string                           // of the local endpoint, or of any PostgreSQL
	Rows    int                              // of each table, 1 to MaxRows
	Schemas []string                         // only these; empty: all but the system's
	Known   []access.Class                   // columns that these name are left alone
	Look    func(done, of int, table string) // called before each table; may be nil
	Notice  func(message string)             // what the gate or the server says beside, such as that a question is held; may be nil
}

// RefusedError is the gate's or the server's refusal of the connection or of the catalogue, without which there is no scan.
type RefusedError struct{ Message, Hint string }

func (e *RefusedError) Error() string { return e.Message }

// Column is a column of a table.
type Column struct {
	Schema string `json:"schema"`
	Table  string `json:"table"`
	Name   string `json:"column"`
	Type   string `json:"type"`

	category string // pg_type.typcategory of its base type; of an array, its elements'
	array    bool
}

// String is the column as policies name it.
func (c Column) String() string { return c.Schema + "." + c.Table + "." + c.Name }

// table is what one question of the scan is about.
type table struct {
	schema, name string
	kind         string  // pg_class.relkind
	rows         float64 // as the server estimates, negative where it does not know
	columns      []Column
}

func (t table) String() string { return t.schema + "." + t.name }

// Scan reads the catalogue and a sample of each table, as the ordinary client that it is: each question is decided, recorded and masked like
// any other. A table whose sample is refused is judged by its names, and the refusal is in the report.
func Scan(ctx context.Context, c Config) (*Report, error) {
	if c.DSN == "" || c.Rows < 1 || c.Rows > MaxRows {
		return nil, fmt.Errorf("classify: want a connection and 1 to %d rows", MaxRows)
	}
	s := &scan{Config: c, report: &Report{Proposals: []Finding{}, Seldom: []Finding{}, Doubtful: []Finding{}, Refused: []Refusal{}}, finder: newFinder()}
	defer s.close()
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	tables, err := s.tables(ctx)
	if err != nil {
		return nil, fmt.Errorf("classify: read the catalogue: %w", refused(err))
	}
	for i, t := range tables {
		if c.Look != nil {
			c.Look(i, len(tables), t.String())
		}
		if err := s.table(ctx, t); err != nil {
			return nil, fmt.Errorf("classify: %s: %w", t, err)
		}
	}
	s.report.Tables = len(tables)
	return s.report, nil
}

type scan struct {
	Config
	conn   *pgconn.PgConn // a table whose answer breaks it costs a new one
	finder *mask.Finder
	report *Report
}

// newFinder finds values of every kind that has a detector; classes of its own carry the detectors' names.
func newFinder() *mask.Finder {
	var classes []access.Class
	for _, d := range mask.Detectors {
		classes = append(classes, access.Class{Name: d, Detector: d, Mask: "full"})
	}
	return mask.NewFinder(classes, secret.Secret{})
}

func (s *scan) open(ctx context.Context) (err error) {
	if s.conn != nil && !s.conn.IsClosed() {
		return nil
	}
	c, err := pgconn.ParseConfig(s.DSN)
	if err != nil {
		return fmt.Errorf("classify: %w", err)
	}
	c.RuntimeParams["application_name"] = "sallyport classify"
	c.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if s.Notice != nil {
			s.Notice(n.Message)
		}
	}
	if s.conn, err = pgconn.ConnectConfig(ctx, c); err != nil {
		return fmt.Errorf("classify: %w", refused(err))
	}
	s.conn.Frontend().SetMaxBodyLen(maxRow)
	return nil
}

func refused(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return &RefusedError{e.Message, e.Hint}
	}
	return err
}

func (s *scan) close() {
	if s.conn != nil {
		_ = s.conn.Close(context.Background()) // nothing of it is needed any more
	}
}

// catalogue lists columns of tables in the order of their tables. Partitions are read through the table that they are part of; views
// have no values of their own.
const catalogue = `SELECT n.nspname, c.relname, c.relkind, c.reltuples, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
  coalesce(e.typcategory, b.typcategory, t.typcategory), coalesce(b.typcategory, t.typcategory) = 'A'
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_type b ON b.oid = t.typbasetype AND t.typtype = 'd'
LEFT JOIN pg_catalog.pg_type e ON e.oid = coalesce(nullif(b.typelem, 0), t.typelem) AND coalesce(b.typcategory, t.typcategory) = 'A'
WHERE c.relkind IN ('r', 'p', 'm', 'f') AND NOT c.relispartition
  AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
ORDER BY n.nspname, c.relname, a.attnum`

func (s *scan) tables(ctx context.Context) ([]table, error) {
	var out []table
	rows := s.conn.Exec(ctx, catalogue)
	for rows.NextResult() {
		for r := rows.ResultReader(); r.NextRow(); {
			v := r.Values()
			if len(v) != 8 {
				return nil, errors.Join(fmt.Errorf("%d columns for 8", len(v)), rows.Close())
			}
			schema, name := string(v[0]), string(v[1])
			if len(s.Schemas) > 0 && !slices.Contains(s.Schemas, schema) {
				continue
			}
			if n := len(out); n == 0 || out[n-1].schema != schema || out[n-1].name != name {
				if n == maxTables {
					return nil, errors.Join(fmt.Errorf("more than %d tables: say which schemas", maxTables), rows.Close())
				}
				estimate, _ := strconv.ParseFloat(string(v[3]), 64)
				out = append(out, table{schema: schema, name: name, kind: string(v[2]), rows: estimate})
			}
			t := &out[len(out)-1]
			t.columns = append(t.columns, Column{Schema: schema, Table: name, Name: string(v[4]), Type: string(v[5]), category: string(v[6]), array: string(v[7]) == "t"})
		}
	}
	return out, rows.Close()
}

// table judges the columns of one table that no class names yet.
func (s *scan) table(ctx context.Context, t table) error {
	var look []*judged
	for _, c := range t.columns {
		s.report.Columns++
		if known(s.Known, c.String()) {
			s.report.Known++
			continue
		}
		j := &judged{Column: c, hits: map[string]int64{}, named: byName(c)}
		if c.legible() {
			look = append(look, j)
		} else {
			s.report.add(j)
		}
	}
	if len(look) > 0 {
		if err := s.sample(ctx, t, look); err != nil {
			return err
		}
	}
	for _, j := range look {
		s.report.add(j)
	}
	return nil
}

// legible says whether values may hold what a detector finds: text, JSON, XML, and whole numbers that may be cards.
func (c Column) legible() bool {
	switch c.Type {
	case "json", "jsonb", "xml":
		return true
	case "bigint", "numeric":
		return !c.array
	}
	return c.category == "S"
}

func known(classes []access.Class, column string) bool {
	return slices.ContainsFunc(classes, func(c access.Class) bool {
		return slices.ContainsFunc(c.Columns, func(p string) bool { return access.Match(p, column) })
	})
}

// sample reads some rows of a table. What the gate or the server refuses is told in the report; only a lost connection that does not
// come back is an error.
func (s *scan) sample(ctx context.Context, t table, look []*judged) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	rows := s.conn.Exec(ctx, t.question(look, s.Rows))
	for rows.NextResult() {
		for r := rows.ResultReader(); r.NextRow(); {
			s.report.Rows++
			for i, v := range r.Values() {
				if i < len(look) {
					look[i].see(s.finder, v)
				}
			}
		}
	}
	err := rows.Close()
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		s.report.Refused = append(s.report.Refused, refusal(t, err))
	}
	return nil
}

// sampled is how many times the wanted rows a table must hold, as the server estimates, before the sample is spread over it.
const sampled = 50

// question is the SELECT for a sample: of a large table blocks from everywhere, else the first rows.
func (t table) question(look []*judged, rows int) string {
	var b strings.Builder
	b.WriteString("SELECT ")
	for i, j := range look {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(pgx.Identifier{j.Name}.Sanitize())
	}
	b.WriteString(" FROM " + pgx.Identifier{t.schema, t.name}.Sanitize())
	if t.kind != "f" && t.rows > float64(rows*sampled) {
		fmt.Fprintf(&b, " TABLESAMPLE SYSTEM (%.6f)", 100*10*float64(rows)/t.rows)
	}
	return b.String() + " LIMIT " + strconv.Itoa(rows)
}

func refusal(t table, err error) Refusal {
	r := Refusal{Table: t.String(), Why: err.Error()}
	if e, ok := errors.AsType[*RefusedError](refused(err)); ok {
		r.Why, r.Hint = e.Message, e.Hint
	}
	return r
}
