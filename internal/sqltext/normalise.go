package sqltext

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxNormalised bounds what Normalise returns, in bytes: an event is a line of a log, the exact text is kept elsewhere.
const MaxNormalised = 8 << 10

// Normalise writes text on one line with every literal as '?' and without comments. It does not parse, so it works on any
// text; where the quoting looks broken, all from the first doubtful literal on becomes one '?'. Words that follow PASSWORD
// are left out too. Placeholders ($1), identifiers and keywords stay.
func Normalise(text string) string {
	n := normaliser{text: text}
	n.out.Grow(min(len(text), MaxNormalised) + 8)
	cut := brokenFrom(text)
	for s := NewScanner(text); ; {
		r, ok := s.Next()
		if !ok {
			break
		}
		if cut >= 0 && r.Start >= cut {
			n.put("?")
			break
		}
		n.region(r)
		if n.out.Len() > MaxNormalised {
			return strings.ToValidUTF8(n.out.String()[:MaxNormalised], "") + " …"
		}
	}
	return n.out.String()
}

// brokenFrom returns the offset of the first literal that may have ended where its author did not mean it to, or -1: one
// that the text's end cuts, or one that a word, number or string abuts, as in 'it's or, for want of an E, 'O\'Brien'.
func brokenFrom(text string) int {
	first, last := -1, Region{}
	for s := NewScanner(text); ; {
		r, ok := s.Next()
		if !ok {
			return -1
		}
		lit := literal(r.Kind) && r.Kind != Number || r.Kind == Identifier
		abuts := lastIsString(last) && (r.Kind == Word || r.Kind == Number || lit)
		if lit && first < 0 {
			first = r.Start
		}
		if r.Open || abuts {
			if first < 0 {
				return r.Start
			}
			return first
		}
		last = r
	}
}

func lastIsString(r Region) bool { return r.Kind == String || r.Kind == Escaped || r.Kind == Dollar }

func literal(k Kind) bool { return k == String || k == Escaped || k == Dollar || k == Number }

type normaliser struct {
	text   string
	out    strings.Builder
	gap    bool // white space or a comment was passed
	secret bool // the last word was PASSWORD
}

func (n *normaliser) region(r Region) {
	t := n.text[r.Start:r.End]
	switch {
	case r.Kind == Space || r.Kind == Comment:
		n.gap = n.out.Len() > 0
	case literal(r.Kind):
		n.put("?")
		n.secret = false
	case r.Kind == Word:
		switch {
		case n.secret && (strings.EqualFold(t, "to") || strings.EqualFold(t, "by")):
			n.put(t)
		case n.secret && !follows(t):
			n.put("?")
			n.secret = false
		default:
			n.put(t)
			n.secret = isSecretWord(t)
		}
	case r.Kind == Identifier:
		if n.secret || !plainName(t) {
			t = `"?"`
		}
		n.put(t)
		n.secret = false
	default:
		if t[0] < 0x20 || t[0] == 0x7f {
			t = "?"
		}
		n.put(t)
		n.secret = n.secret && (t == "=" || t == ":")
	}
}

// follows says that a word may follow a column that is called password, and is no password itself.
func follows(w string) bool {
	switch strings.ToLower(w) {
	case "null", "from", "as", "is", "in", "and", "or", "not", "asc", "desc", "like", "ilike", "between", "text", "varchar", "character",
		"bytea", "where", "order", "group", "union", "then", "else", "end", "using", "on", "type", "set", "drop", "default":
		return true
	}
	return false
}

func isSecretWord(w string) bool {
	w = strings.ToLower(w)
	return strings.HasSuffix(w, "password") || strings.HasSuffix(w, "passwd") || strings.HasSuffix(w, "secret") || w == "identified"
}

func (n *normaliser) put(s string) {
	if n.gap {
		n.out.WriteByte(' ')
		n.gap = false
	}
	n.out.WriteString(clean(s))
}

// plainName says whether a quoted identifier looks like a name and not like a value that somebody quoted the wrong way.
func plainName(t string) bool {
	t = strings.TrimPrefix(strings.TrimPrefix(t, "U&"), "u&")
	if len(t) < 3 || len(t) > 65 {
		return false
	}
	for _, r := range t[1 : len(t)-1] {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' && r != '$' && r != ' ' && r != '-' {
			return false
		}
	}
	return true
}

// clean keeps terminal and log control sequences out: names may hold any character.
func clean(s string) string {
	ok := true
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] >= 0x7f {
			ok = false
			break
		}
	}
	if ok {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
