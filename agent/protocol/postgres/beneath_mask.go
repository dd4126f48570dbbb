package postgres

import (
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/internal/mask"
)

// maskExpr masks a column as the frames of results are masked: NULL stays NULL, what a mask does not recognise is hidden. The operators and
// functions are the server's own.
func (a *analysis) maskExpr(c *column) (string, bool) {
	spec := a.cat.classes[c.classes[0]].Mask
	if c.computed || len(c.classes) > 1 {
		spec = mask.Full
	}
	if c.typ == "" || mask.Keyed(spec) {
		return "", false
	}
	col, name, arg := quoted(c.name), spec, ""
	if n, rest, has := strings.Cut(spec, ":"); has {
		name, arg = n, rest
	}
	if name == mask.Null {
		return "NULL::" + sqlType(c), true
	}
	shown := constantOf(c)
	switch {
	case name == mask.Date && c.category == 'D':
		shown = fmt.Sprintf("CASE WHEN pg_catalog.isfinite(%[1]s) AND %[1]s OPERATOR(pg_catalog.>=) '0001-01-01'::%[2]s AND %[1]s OPERATOR(pg_catalog.<) '10000-01-01'::%[2]s"+
			" THEN pg_catalog.date_trunc('%[3]s', %[1]s)::%[2]s ELSE '1970-01-01 00:00:00+00'::%[2]s END", col, sqlType(c), arg)
	case c.category != 'S':
	case name == mask.Constant:
		shown = constantText(arg)
	case name == mask.Email:
		shown = textMask(col, 320, emailForm, "pg_catalog.left(%[1]s, 1) OPERATOR(pg_catalog.||) '***@***' OPERATOR(pg_catalog.||) pg_catalog.substring(%[1]s, '[.][A-Za-z]+$')")
	case name == mask.Card:
		shown = textMask(col, 40, cardForm, "'************' OPERATOR(pg_catalog.||) pg_catalog.right(pg_catalog.translate(%[1]s, ' -', ''), 4)")
	case name == mask.Last4, name == mask.Partial:
		first, last := 0, 4
		if name == mask.Partial {
			if _, err := fmt.Sscanf(arg, "%d-%d", &first, &last); err != nil {
				return "", false
			}
		}
		form := fmt.Sprintf("^.{%d}.{4,}.{%d}$", first, last)
		shown = textMask(col, 1<<30, form, fmt.Sprintf("pg_catalog.left(%%[1]s, %d) OPERATOR(pg_catalog.||) '****' OPERATOR(pg_catalog.||) pg_catalog.right(%%[1]s, %d)", first, last))
	default:
		shown = literal(mask.Hidden)
	}
	return fmt.Sprintf("(CASE WHEN %s IS NOT NULL THEN %s END)::%s", col, shown, sqlType(c)), true
}

const (
	// Printable ASCII alone, one @, a top-level domain of letters; see mask.Email.
	emailForm = `^[A-Za-z0-9][!#-+./-:=?A-~-]*@[!#-+./-:=?A-~-]+[.][A-Za-z]{2,10}$`
	cardForm  = `^([ -]*[0-9]){12,19}[ -]*$`
)

// textMask shows what becomes of a text of a form, and of no more than so many bytes, and hides any other.
func textMask(col string, most int, form, shown string) string {
	text := col + "::pg_catalog.text"
	return fmt.Sprintf("CASE WHEN pg_catalog.octet_length(%[1]s) OPERATOR(pg_catalog.<=) %[2]d AND %[1]s OPERATOR(pg_catalog.~) %[3]s THEN %[4]s ELSE '****' END",
		text, most, literal(form), fmt.Sprintf(shown, text))
}

// constantText writes a constant so that a backslash is one whatever the session makes of backslashes.
func constantText(s string) string {
	if strings.Contains(s, `\`) {
		return "E" + literal(strings.ReplaceAll(s, `\`, `\\`))
	}
	return literal(s)
}

// sqlType names a column's type so that no search path makes it another: the catalogue has the schema with those that are not the server's, and
// the grammar knows some of the server's by words of its own.
func sqlType(c *column) string {
	for _, word := range []string{"bigint", "bit", "boolean", "character", "double precision", "integer", "interval", "numeric", "real", "smallint", "time", "timestamp"} {
		if rest, ok := strings.CutPrefix(c.typ, word); ok && (rest == "" || strings.IndexByte(" ([", rest[0]) >= 0) {
			return c.typ
		}
	}
	if strings.Contains(c.typ, ".") {
		return c.typ
	}
	return "pg_catalog." + c.typ
}

// constantOf is what a column shows that is no text: see mask.Shape.
func constantOf(c *column) string {
	base, _, _ := strings.Cut(c.typ, "(")
	switch {
	case c.category == 'N' && base != "money":
		return "0"
	case c.category == 'B':
		return "false"
	case base == "date", strings.HasPrefix(base, "timestamp"):
		return "'1970-01-01 00:00:00+00'"
	case strings.HasPrefix(base, "time"):
		return "'00:00:00+00'"
	case base == "uuid":
		return "'00000000-0000-0000-0000-000000000000'"
	case base == "json", base == "jsonb":
		return `'"****"'`
	case base == "bytea":
		return "''"
	}
	return "NULL"
}
