package sqltext

import "strings"

// Kind says what a region of text is.
type Kind uint8

// Kinds of region. The lexical rules are those of PostgreSQL's scan.l with standard_conforming_strings on.
const (
	Space      Kind = iota
	Comment         // -- to the end of the line, or /* nested */
	Word            // an unquoted identifier or keyword
	Identifier      // "quoted", also U&"quoted"
	String          // 'plain', N'', B'', X'', U&''
	Escaped         // E'with \ escapes'
	Dollar          // $tag$ … $tag$
	Number          //
	Param           // $1
	Punct           // one byte of anything else
)

// Region is text[Start:End]. Open says that the text ended before the region did.
type Region struct {
	Kind       Kind
	Start, End int
	Open       bool
}

// Scanner walks the regions of a text in order; they cover every byte of it once.
type Scanner struct {
	text string
	pos  int
}

// NewScanner makes a Scanner of text.
func NewScanner(text string) *Scanner { return &Scanner{text: text} }

// Next returns the next region; ok is false at the end.
func (s *Scanner) Next() (r Region, ok bool) {
	if s.pos >= len(s.text) {
		return Region{}, false
	}
	start := s.pos
	kind, end, open := s.region(start)
	s.pos = end
	return Region{Kind: kind, Start: start, End: end, Open: open}, true
}

func (s *Scanner) region(i int) (Kind, int, bool) {
	t := s.text
	c := t[i]
	switch {
	case isSpace(c):
		for i++; i < len(t) && isSpace(t[i]); i++ {
		}
		return Space, i, false
	case c == '-' && at(t, i+1) == '-':
		return Comment, lineEnd(t, i), false
	case c == '/' && at(t, i+1) == '*':
		end, open := blockComment(t, i)
		return Comment, end, open
	case c == '\'':
		end, open := quoted(t, i, plain)
		return String, end, open
	case c == '"':
		end, open := doubleQuoted(t, i)
		return Identifier, end, open
	case c == '$':
		return dollar(t, i)
	case isDigit(c), c == '.' && isDigit(at(t, i+1)):
		return Number, number(t, i), false
	case isIdentStart(c):
		return word(t, i)
	}
	return Punct, i + 1, false
}

// word reads an identifier, or the literal that its prefix announces.
func word(t string, i int) (Kind, int, bool) {
	c, next := t[i]|0x20, at(t, i+1)
	switch {
	case c == 'e' && next == '\'':
		end, open := quoted(t, i+1, escapes)
		return Escaped, end, open
	case (c == 'b' || c == 'x') && next == '\'':
		end, open := quoted(t, i+1, bits)
		return String, end, open
	case c == 'n' && next == '\'':
		end, open := quoted(t, i+1, plain)
		return String, end, open
	case c == 'u' && next == '&' && at(t, i+2) == '\'':
		end, open := quoted(t, i+2, plain)
		return String, end, open
	case c == 'u' && next == '&' && at(t, i+2) == '"':
		end, open := doubleQuoted(t, i+2)
		return Identifier, end, open
	}
	for i++; i < len(t) && isIdentPart(t[i]); i++ {
	}
	return Word, i, false
}

// quoting says what a string may hold between its quotes.
type quoting uint8

const (
	plain   quoting = iota // a doubled quote
	escapes                // that and backslashes
	bits                   // neither: a second quote starts the next string
)

// quoted reads a string whose opening quote is at i, with the parts that a line break joins to it: they are lexed the way
// the first part is, so that E'a' ⏎ 'b\'c' is one string.
func quoted(t string, i int, rule quoting) (end int, open bool) {
	for {
		i++
		for ; i < len(t) && t[i] != '\''; i++ {
			if rule == escapes && t[i] == '\\' {
				i++
			}
		}
		if i >= len(t) {
			return len(t), true
		}
		i++
		if at(t, i) == '\'' && rule != bits { // a doubled quote
			continue
		}
		next, ok := continued(t, i)
		if !ok {
			return i, false
		}
		i = next
	}
}

// continued says whether white space with a line break, then a quote, follows the closing quote before i; next is that
// quote. Comments to the end of a line count as white space here, block comments do not.
func continued(t string, i int) (next int, ok bool) {
	broke := false
	for i < len(t) {
		switch {
		case t[i] == '\n' || t[i] == '\r':
			broke = true
			i++
		case isSpace(t[i]):
			i++
		case t[i] == '-' && at(t, i+1) == '-':
			i = lineEnd(t, i)
		default:
			return i, broke && t[i] == '\''
		}
	}
	return i, false
}

func doubleQuoted(t string, i int) (end int, open bool) {
	for i++; i < len(t); i++ {
		if t[i] != '"' {
			continue
		}
		if at(t, i+1) != '"' {
			return i + 1, false
		}
		i++
	}
	return len(t), true
}

func dollar(t string, i int) (Kind, int, bool) {
	j := i + 1
	if isDigit(at(t, j)) {
		for ; j < len(t) && isDigit(t[j]); j++ {
		}
		return Param, j, false
	}
	if isTagStart(at(t, j)) {
		for j++; j < len(t) && (isTagStart(t[j]) || isDigit(t[j])); j++ {
		}
	}
	if at(t, j) != '$' {
		return Punct, i + 1, false
	}
	tag := t[i : j+1]
	if k := strings.Index(t[j+1:], tag); k >= 0 {
		return Dollar, j + 1 + k + len(tag), false
	}
	return Dollar, len(t), true
}

// number takes what may belong to a number and a little more ("1e5", "0x1f", "1_000"): a literal is never cut short.
func number(t string, i int) int {
	for i++; i < len(t); i++ {
		c := t[i]
		sign := (c == '+' || c == '-') && t[i-1]|0x20 == 'e' && isDigit(at(t, i+1)) && !isHex(t, i)
		if !sign && c != '.' && !isDigit(c) && !isIdentStart(c) {
			break
		}
	}
	return i
}

// isHex says whether the number that holds byte i started with 0x: there 'e' is a digit and a sign after it an operator.
func isHex(t string, i int) bool {
	j := i - 1
	for j > 0 && (isDigit(t[j-1]) || isIdentStart(t[j-1])) {
		j--
	}
	return at(t, j) == '0' && at(t, j+1)|0x20 == 'x'
}

func blockComment(t string, i int) (end int, open bool) {
	depth := 0
	for i < len(t) {
		switch {
		case t[i] == '/' && at(t, i+1) == '*':
			depth++
			i += 2
		case t[i] == '*' && at(t, i+1) == '/':
			depth--
			i += 2
			if depth == 0 {
				return i, false
			}
		default:
			i++
		}
	}
	return len(t), true
}

func lineEnd(t string, i int) int {
	if n := strings.IndexAny(t[i:], "\r\n"); n >= 0 {
		return i + n
	}
	return len(t)
}

func at(t string, i int) byte {
	if i < len(t) {
		return t[i]
	}
	return 0
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isTagStart(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c >= 0x80
}
func isIdentStart(c byte) bool { return isTagStart(c) }
func isIdentPart(c byte) bool  { return isTagStart(c) || isDigit(c) || c == '$' }
