package postgres

import (
	"strings"
	"testing"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/sallyport/sallyport/internal/sqltext"
)

// FuzzRegions compares package sqltext with the server's own lexer: the same statements, the same literals, and none of a literal's text
// in what is normalised; and no text that passes the limits may be too much for the parser's stack.
func FuzzRegions(f *testing.F) {
	for _, s := range oracleStatements {
		f.Add(s)
	}
	for _, s := range []string{"select E'a'\n -- x\n 'b\\'c'; select 2", "select 'a' -- x\n 'b'", "select $a$;$b$;$a$, 1e-5, 0x1f, .5, 5., 1_000", "select U&\"d\" uescape '!', x'ff', b'1'", "a$b$c$d", "select $1, $2a", "/* /* */ ; */ ;", "--;\r;", "1.5e+3+'x'", "e\"x\"", "select 'a'/**/'b'"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		// The parser's library gives comments as tokens, and so does not join strings over "--" as the server does. Two strings side by side
		// are a syntax error to it: such a text is refused, never misread.
		if len(text) > 2000 || strings.Contains(text, "--") || sqltext.Check(text, sqltext.Default) != nil {
			return
		}
		scan, err := pg.Scan(text)
		if err != nil {
			return
		}
		var theirs, ours []int
		for _, k := range scan.GetTokens() {
			switch k.GetToken() {
			case pg.Token_SCONST, pg.Token_USCONST, pg.Token_BCONST, pg.Token_XCONST:
				theirs = append(theirs, int(k.GetStart()))
			case pg.Token_ASCII_59:
				theirs = append(theirs, -int(k.GetStart())-1)
			}
		}
		for s := sqltext.NewScanner(text); ; {
			r, ok := s.Next()
			if !ok {
				break
			}
			switch {
			case r.Kind == sqltext.String, r.Kind == sqltext.Escaped, r.Kind == sqltext.Dollar:
				ours = append(ours, literalStart(text, r.Start))
			case r.Kind == sqltext.Punct && text[r.Start] == ';':
				ours = append(ours, -r.Start-1)
			}
		}
		if len(theirs) != len(ours) {
			t.Fatalf("%q: literals and semicolons at %v, the server's lexer says %v", text, ours, theirs)
		}
		for i := range ours {
			if theirs[i] != ours[i] && literalStart(text, max(theirs[i], 0)) != ours[i] {
				t.Fatalf("%q: literals and semicolons at %v, the server's lexer says %v", text, ours, theirs)
			}
		}
	})
}

// literalStart skips the N of N'…', which the server's lexer gives as a word of its own.
func literalStart(text string, i int) int {
	if i+1 < len(text) && (text[i] == 'n' || text[i] == 'N') && text[i+1] == '\'' {
		return i + 1
	}
	return i
}

// Every way to nest that once ended the process is refused before the parser, or gets through it.
func TestDeepTexts(t *testing.T) {
	cat := handCatalogue(t)
	st := session{database: "db", searchPath: "public"}
	for name, part := range map[string][3]string{
		"operators": {"select 1", "+1", ""}, "casts": {"select 1", "::int", ""}, "joins": {"select 1 from orders", " cross join orders", ""}, "isnull": {"select 1", " isnull", ""},
		"collate": {"select 'a'", ` collate "C"`, ""}, "zones": {"select 1", " at time zone 1", ""}, "unions": {"select 1", " union select 1", ""}, "between": {"select 1", " between 1 and 2 isnull", ""},
		"comma unions": {"select 1, 2", " union select 1, 2", ""}, "and joins": {"select 1 from orders a", " join orders on true and true", ""}, "or": {"select true", " or true", ""},
		"case": {"select 1", "+ case when true and true then 1 end", ""}, "operator()": {"select 1", " operator(+) 1", ""}, "nots": {"select ", "not ", "true"}, "minus": {"select ", "- ", "1"},
		"arrays": {"select a", "[1]", ""}, "fields": {"select (a)", ".b", ""}, "labels": {"select 1", "+ a.end and a.case", ""}, "in": {"select 1", " in (1)", ""}, "subscripts": {"select 1", " -> 'a'", ""}, "is": {"select 1", " is json", ""},
		"like": {"select 'a'", " like 'b'", ""}, "distinct": {"select 1", " is not distinct from 1", ""}, "parens": {"select ", "(", "1"}, "naturals": {"select 1 from a", " natural join b", ""}, "brackets": {"select ", "array[", ""},
		"excepts": {"select 1", " except all select 1 where true and true", ""}, "escape": {"select 'a'", " like 'b' escape 'c' is null", ""}, "overlaps": {"select (1,2)", " overlaps (1,2)", ""},
		"end": {"select case when true then 1", " end + case when true and true then 1", " end"}, "as case": {"select 1 as case, 1", " + 1", ""}, "qual": {"select 1", " <= any (array[1]) and 1 <= any (array[1]) isnull", ""},
	} {
		for _, n := range []int{1900, 30_000, 150_000} {
			text := part[0] + strings.Repeat(part[1], n) + part[2]
			c, _ := analyse(text, nil, st, cat, defaultLimits)
			if n > 1900 && name != "or" && c.Complete {
				t.Errorf("%s: %d deep is complete", name, n)
			}
		}
	}
}
