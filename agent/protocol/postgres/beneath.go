package postgres

import (
	"fmt"
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/mask"
)

// A value that is computed with cannot be masked on its way out. What can be done is to mask it beneath the computation: where a SELECT
// names a table with columns of a class, a second text names a query in its place that reads those columns through their masks.
//
//	SELECT id FROM customers WHERE email LIKE 'a%'
//	SELECT id FROM (SELECT "id", (CASE WHEN … END)::text AS "email" FROM customers) AS "customers" WHERE email LIKE 'a%'
//
// Nothing but the name of the table is exchanged, at the place where the parser met it, so that everything else means what it meant. Where
// that cannot be sure (see rigid), or a mask is keyed and its key must not reach the target, there is no second text and the use is
// denied as before. Policy chooses the text: the first where all classes of such uses are revealed, the second where none is.

// splice is a table in FROM that a query may stand for.
type splice struct {
	rv *pg.RangeVar
	e  *entry
}

// spliceable notes an entry of FROM that names a table with classes.
func (a *analysis) spliceable(rv *pg.RangeVar, e *entry) {
	if e.rel == nil || e.rel.view() || !slices.ContainsFunc(e.rel.columns, func(c column) bool { return len(c.classes) > 0 }) {
		return
	}
	if a.depth > 0 || !rv.GetInh() || len(e.rename) > 0 || rv.GetCatalogname() != "" {
		return
	}
	e.spliced = true
	if slices.ContainsFunc(a.splices, func(s splice) bool { return s.rv == rv }) {
		return // ORDER BY 1 walks what it means once more
	}
	a.splices = append(a.splices, splice{rv, e})
}

// stiff notes why no query may stand for a table in this text.
func (a *analysis) stiff(why string) { a.rigid = orElse(a.rigid, why) }

// beneath makes the second text, and marks the uses that it masks.
func (a *analysis) beneath(c *access.Command, statements int) {
	if a.why != "" || a.refused != nil || statements != 1 || a.verbs[0] != "SELECT" || a.rigid != "" || a.locks || len(a.splices) == 0 {
		return
	}
	if slices.ContainsFunc(c.Touches, func(t access.Touch) bool { return t.Effect != access.Read && t.Effect != access.Execute }) {
		return
	}
	derived := map[string]bool{} // by ClassUse.On
	for _, u := range c.Classes {
		if u.Derived {
			if a.fixed[classKey{u.Class, u.On}] {
				return
			}
			derived[u.On] = true
		}
	}
	if len(derived) == 0 {
		return
	}
	text, ok := a.spliced(c.Text, derived)
	if !ok {
		return
	}
	uses := slices.Clone(c.Classes)
	for i := range uses {
		uses[i].Beneath = uses[i].Derived
	}
	c.Classes, c.Masked = uses, text
}

// spliced exchanges the tables, from the last to the first, so that the places of those before it stay.
func (a *analysis) spliced(text string, derived map[string]bool) (string, bool) {
	slices.SortFunc(a.splices, func(x, y splice) int { return int(y.rv.GetLocation() - x.rv.GetLocation()) })
	for _, s := range a.splices {
		list, masked, ok := a.maskedList(s.e.rel, derived)
		if !ok {
			return "", false
		}
		if !masked {
			continue
		}
		at := int(s.rv.GetLocation())
		end, ok := nameEnd(text, at, s.rv)
		if !ok {
			return "", false
		}
		with := "(SELECT " + list + " FROM " + text[at:end] + ")"
		if s.rv.GetAlias() == nil {
			with += " AS " + quoted(s.rv.GetRelname())
		}
		text = text[:at] + with + text[end:]
	}
	return text, len(text) <= defaultLimits.text
}

// maskedList is the select list of the query that stands for r: the columns that the statement uses, in r's order. masked says whether
// one of them is masked there.
func (a *analysis) maskedList(r *relation, derived map[string]bool) (list string, masked, ok bool) {
	t := a.touches[touchKey{access.Read, access.KindTable, r.display()}]
	if t == nil {
		return "", false, false
	}
	var items []string
	for i := range r.columns {
		c := &r.columns[i]
		if !t.all && !slices.Contains(t.columns, c.name) {
			continue
		}
		item := quoted(c.name)
		if len(c.classes) > 0 && derived[r.display()+"."+plainPart(c.name)] {
			expr, ok := a.maskExpr(c)
			if !ok {
				return "", false, false
			}
			item, masked = expr+" AS "+item, true
		}
		items = append(items, item)
	}
	return strings.Join(items, ", "), masked, true
}

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
		return "NULL::" + c.typ, true
	}
	shown := constantOf(c)
	switch {
	case name == mask.Date && c.category == 'D':
		shown = fmt.Sprintf("CASE WHEN pg_catalog.isfinite(%[1]s) AND %[1]s OPERATOR(pg_catalog.>=) '0001-01-01'::%[2]s AND %[1]s OPERATOR(pg_catalog.<) '10000-01-01'::%[2]s"+
			" THEN pg_catalog.date_trunc('%[3]s', %[1]s)::%[2]s ELSE '1970-01-01 00:00:00+00'::%[2]s END", col, c.typ, arg)
	case c.category != 'S':
	case name == mask.Constant:
		shown = literal(arg)
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
	return fmt.Sprintf("(CASE WHEN %s IS NOT NULL THEN %s END)::%s", col, shown, c.typ), true
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

func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// nameEnd is where the name of a table ends that begins at at. It is not found where the name is written in a way that this does not read,
// or something follows that belongs to it.
func nameEnd(text string, at int, rv *pg.RangeVar) (end int, ok bool) {
	want := []string{rv.GetRelname()}
	if rv.GetSchemaname() != "" {
		want = []string{rv.GetSchemaname(), rv.GetRelname()}
	}
	if at < 0 || at >= len(text) {
		return 0, false
	}
	for i, part := range want {
		if i > 0 {
			if at >= len(text) || text[at] != '.' {
				return 0, false
			}
			at++
		}
		name, next := identifier(text, at)
		if name != part {
			return 0, false
		}
		at = next
	}
	rest := strings.TrimLeft(text[at:], " \t\n\r\f\v")
	if rest != "" && strings.ContainsRune(".*(&'\"-/", rune(rest[0])) && at < len(text) {
		return 0, false
	}
	return at, true
}

// identifier reads a name as the server's scanner does, of ASCII alone where it is not quoted; next is behind it.
func identifier(text string, at int) (name string, next int) {
	if at >= len(text) {
		return "", at
	}
	if text[at] != '"' {
		end := at
		for end < len(text) && (text[end] == '_' || text[end] == '$' || text[end] >= '0' && text[end] <= '9' || text[end]|0x20 >= 'a' && text[end]|0x20 <= 'z') {
			end++
		}
		if end < len(text) && text[end] >= 0x80 {
			return "", at
		}
		return strings.ToLower(text[at:end]), end
	}
	var b strings.Builder
	for i := at + 1; i < len(text); i++ {
		if text[i] != '"' {
			b.WriteByte(text[i])
			continue
		}
		if i+1 < len(text) && text[i+1] == '"' {
			b.WriteByte('"')
			i++
			continue
		}
		return b.String(), i + 1
	}
	return "", at
}

// exchange puts the text that runs into Parse. What runs a statement must want the text that the target has.
func (it *item) exchange(r *running, c access.Command) *access.Denied {
	runs := ""
	if r.beneath {
		runs = c.Masked
	}
	switch {
	case it.tag == 'P':
		if it.made.masked = runs; runs != "" {
			it.msg = withText(it.msg, runs)
		}
	case it.portal != nil && it.portal.statement != nil && it.portal.statement.masked != runs:
		return &access.Denied{Code: access.CodeNotMaskable, Rule: "postgres.beneath", Command: r.permit.Command(), Retryable: true,
			Hint: "what you may see of its data is not what it was when the statement was prepared: prepare it again"}
	}
	return nil
}

// withText is a Parse message with another text.
func withText(msg []byte, text string) []byte {
	c := cursor{b: msg[header:]}
	name := c.text()
	c.text()
	out, at := frame(make([]byte, 0, len(msg)+len(text)), 'P')
	out = appendText(appendText(out, string(name)), text)
	return seal(append(out, c.b...), at)
}

// unplaced leaves out of an error where in the text it is: the client did not write that text.
func unplaced(msg []byte) []byte {
	out := append([]byte(nil), msg[:header]...)
	c := cursor{b: msg[header:]}
	for kind := c.byte(); kind != 0 && !c.bad; kind = c.byte() {
		v := c.text()
		if kind != 'P' && kind != 'p' && kind != 'q' {
			out = append(append(append(out, kind), v...), 0)
		}
	}
	return seal(append(out, 0), 0)
}
