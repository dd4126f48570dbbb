package postgres

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
)

func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// edit exchanges text[at:end].
type edit struct {
	at, end int
	with    string
}

// applied makes the edits, from the last to the first, so that the places of those before it stay.
func applied(text string, edits []edit) (string, bool) {
	slices.SortFunc(edits, func(x, y edit) int { return y.at - x.at })
	last := len(text)
	for i, e := range edits {
		if i > 0 && e == edits[i-1] {
			continue // ORDER BY 1 walks what it means once more
		}
		if e.at < 0 || e.at > e.end || e.end > last {
			return "", false
		}
		text, last = text[:e.at]+e.with+text[e.end:], e.at
	}
	return text, true
}

// placeOf is where the name of a table stands, with what belongs to it, and what comes in its place.
func placeOf(text string, s splice, list string) (edit, bool) {
	at := int(s.rv.GetLocation())
	end, ok := nameEnd(text, at, s.rv)
	if !ok {
		return edit{}, false
	}
	name, next := text[at:end], skipBlank(text, end)
	if s.copy {
		if !strings.EqualFold(strings.TrimSpace(text[:at]), "copy") {
			return edit{}, false
		}
		if next < len(text) && text[next] == '(' {
			end, ok = listEnd(text, next)
		}
		return edit{at, end, "(SELECT " + list + " FROM ONLY " + name + ")"}, ok
	}
	switch {
	case next < len(text) && strings.ContainsRune(".(&'", rune(text[next])):
		return edit{}, false
	case next < len(text) && text[next] == '*':
		name, end = name+" *", next+1
	case !s.rv.GetInh():
		only, ok := wordBefore(text, at, "only")
		if !ok {
			return edit{}, false
		}
		at, name = only, "ONLY "+name
	}
	with := "(SELECT " + list + " FROM " + name + ")"
	if s.rv.GetAlias() == nil {
		with += " AS " + quoted(s.rv.GetRelname())
	}
	if table, ok := wordBefore(text, at, "table"); ok {
		at, with = table, "SELECT * FROM "+with
	}
	return edit{at, end, with}, true
}

// wordBefore is where a word begins that stands right before at, with white space between.
func wordBefore(text string, at int, word string) (int, bool) {
	end := len(strings.TrimRight(text[:at], blanks))
	begin := end - len(word)
	if begin < 0 || end == at && text[at] != '"' || !strings.EqualFold(text[begin:end], word) || begin > 0 && nameByte(text[begin-1]) {
		return 0, false
	}
	return begin, true
}

// schemaOf is what a reference to a column says before the name of the table.
func schemaOf(text string, l longName) (edit, bool) {
	at := int(l.ref.GetLocation())
	end := at
	for i := range l.parts {
		name, next := identifier(text, end)
		if name == "" || name != l.ref.GetFields()[i].GetString_().GetSval() || next >= len(text) || text[next] != '.' {
			return edit{}, false
		}
		end = next + 1
	}
	if name, _ := identifier(text, end); name != l.e.name {
		return edit{}, false
	}
	return edit{at, end, ""}, true
}

// nameEnd is where the name of a table ends that begins at at. It is not found where the name is written in a way that this does not read.
func nameEnd(text string, at int, rv *pg.RangeVar) (end int, ok bool) {
	var want []string
	for _, part := range []string{rv.GetCatalogname(), rv.GetSchemaname(), rv.GetRelname()} {
		if part != "" {
			want = append(want, part)
		}
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
	return at, true
}

// listEnd is behind a list of names in brackets.
func listEnd(text string, at int) (end int, ok bool) {
	for at++; ; at++ {
		name, next := identifier(text, skipBlank(text, at))
		if at = skipBlank(text, next); name == "" || at >= len(text) {
			return 0, false
		}
		switch text[at] {
		case ')':
			return at + 1, true
		case ',':
		default:
			return 0, false
		}
	}
}

const blanks = " \t\n\r\f\v"

// skipBlank passes white space and comments, as the server's scanner does.
func skipBlank(text string, at int) int {
	for at < len(text) {
		switch {
		case strings.IndexByte(blanks, text[at]) >= 0:
			at++
		case strings.HasPrefix(text[at:], "--"):
			n := strings.IndexAny(text[at:], "\n\r")
			if n < 0 {
				return len(text)
			}
			at += n
		case strings.HasPrefix(text[at:], "/*"):
			depth := 0
			for at < len(text) {
				switch {
				case strings.HasPrefix(text[at:], "/*"):
					depth, at = depth+1, at+2
				case strings.HasPrefix(text[at:], "*/"):
					depth, at = depth-1, at+2
				default:
					at++
				}
				if depth == 0 {
					break
				}
			}
		default:
			return at
		}
	}
	return at
}

func nameByte(b byte) bool {
	return b == '_' || b == '$' || b >= '0' && b <= '9' || b|0x20 >= 'a' && b|0x20 <= 'z' || b >= 0x80
}

// identifier reads a name as the server's scanner does, of ASCII alone where it is not quoted; next is behind it.
func identifier(text string, at int) (name string, next int) {
	if at >= len(text) {
		return "", at
	}
	if text[at] != '"' {
		end := at
		for end < len(text) && nameByte(text[end]) {
			if text[end] >= 0x80 {
				return "", at
			}
			end++
		}
		if end < len(text) && (text[end] == '&' || text[end] == '\'') { // U&"…"
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
