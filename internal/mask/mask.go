package mask

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sallyport/sallyport/internal/secret"
)

// Masks, as a class names them: a name, for some followed by a colon and what it needs.
const (
	Email    = "email"    // a***@***.com: the first character, and the top-level domain
	Card     = "card"     // ************4242: the last four digits of 12 to 19
	Last4    = "last4"    // ****6789: the last four characters of at least eight
	Partial  = "partial"  // partial:2-3 shows the first two and the last three characters where at least four are hidden
	Full     = "full"     // ****
	Null     = "null"     // NULL where the room has it, else ****
	Constant = "constant" // constant:TEXT: the text, at most 64 printable bytes
	Date     = "date"     // date:year, date:month or date:day: a date or time cut to the beginning of that
	Hash     = "hash"     // h:0123456789abcdef: keyed, so that equal values stay equal and nobody can guess
	Format   = "format"   // keyed: every digit and letter becomes another, equal values stay equal, a card's check digit is right
)

// Kinds says what Check takes, in words for a refusal.
const Kinds = "email, card, last4, partial:FIRST-LAST, full, null, constant:TEXT, date:year|month|day, hash, format"

// Hidden is what a value becomes of which nothing may show.
const Hidden = "****"

// Growth is the most bytes by which a masked value can be longer than the value.
const Growth = maxConstant

// LeastKey is the shortest key of a keyed mask, in bytes.
const LeastKey = 16

const (
	maxConstant = 64
	maxShown    = 16 // characters of partial's either side
)

type kind uint8

const (
	kindFull kind = iota
	kindEmail
	kindCard
	kindPartial
	kindNull
	kindConstant
	kindDate
	kindHash
	kindFormat
)

// Masker masks values of one class. The zero Masker shows nothing. It is safe for concurrent use.
type Masker struct {
	kind        kind
	first, last int    // kindPartial
	text        string // kindConstant
	cut         cut    // kindDate
	prf         *prf   // kindHash, kindFormat
}

// Check says whether a class may name this mask.
func Check(spec string) error {
	_, err := parse(spec)
	return err
}

// Keyed says that a mask shows **** without a key.
func Keyed(spec string) bool {
	m, err := parse(spec)
	return err == nil && (m.kind == kindHash || m.kind == kindFormat)
}

// New makes the masker of a specification. One that is not known is an error, and so is a keyed one without a key of at least 16
// bytes: without, the hash of an e-mail address is undone by guessing. The masker beside an error shows nothing.
func New(spec string, key secret.Secret) (Masker, error) {
	m, err := parse(spec)
	if err != nil {
		return Masker{}, err
	}
	if m.kind == kindHash || m.kind == kindFormat {
		if len(key.Reveal()) < LeastKey {
			return Masker{}, fmt.Errorf("mask %q: want a key of at least %d bytes", spec, LeastKey)
		}
		m.prf = newPRF(spec, key)
	}
	return m, nil
}

func parse(spec string) (Masker, error) {
	name, arg, has := strings.Cut(spec, ":")
	m, ok := Masker{}, !has
	switch name {
	case Email:
		m.kind = kindEmail
	case Card:
		m.kind = kindCard
	case Last4:
		m.kind, m.last = kindPartial, 4
	case Full:
	case Null:
		m.kind = kindNull
	case Hash:
		m.kind = kindHash
	case Format:
		m.kind = kindFormat
	case Partial:
		m.kind = kindPartial
		m.first, m.last, ok = shownEnds(arg)
	case Constant:
		m.kind, m.text = kindConstant, arg
		ok = has && len(arg) <= maxConstant && printable(arg)
	case Date:
		m.kind = kindDate
		m.cut, ok = cuts[arg]
	default:
		ok = false
	}
	if !ok {
		return Masker{}, fmt.Errorf("mask %q: want one of %s", spec, Kinds)
	}
	return m, nil
}

func shownEnds(arg string) (first, last int, ok bool) {
	a, b, _ := strings.Cut(arg, "-")
	first, err1 := strconv.Atoi(a)
	last, err2 := strconv.Atoi(b)
	return first, last, err1 == nil && err2 == nil && first >= 0 && last >= 0 && first <= maxShown && last <= maxShown
}

func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}

// Append appends the masked form of v, at most Growth bytes longer than v, to dst. It does not allocate where dst has room
// for that.
func (m Masker) Append(dst, v []byte) []byte {
	switch m.kind {
	case kindEmail:
		return appendEmail(dst, v)
	case kindCard:
		return appendCard(dst, v)
	case kindPartial:
		return m.appendPartial(dst, v)
	case kindConstant:
		return append(dst, m.text...)
	case kindDate:
		return m.appendDate(dst, v)
	case kindHash:
		return m.appendHash(dst, v)
	case kindFormat:
		return m.appendFormat(dst, v)
	}
	return append(dst, Hidden...)
}

// appendEmail keeps the first character and the top-level domain of what looks like one plain address.
func appendEmail(dst, v []byte) []byte {
	_, dot := address(v)
	if dot < 0 {
		return append(dst, Hidden...)
	}
	dst = append(dst, v[0])
	dst = append(dst, "***@***"...)
	return append(dst, v[dot:]...)
}

// address finds the at and the last dot of one plain address; the dot is -1 where v is none.
func address(v []byte) (at, dot int) {
	at, dot = -1, -1
	if len(v) > 320 { // RFC 5321: 64 + 1 + 255
		return -1, -1
	}
	for i, c := range v {
		switch {
		case c == '@' && at < 0:
			at = i
		case c == '.':
			dot = i
		case c <= ' ', c == '@', c == '"', c == '<', c == '>', c == ',', c == ';', c >= 0x7f:
			return -1, -1
		}
	}
	if at < 1 || dot < at+2 || !alnum(v[0]) || len(v)-dot < 3 || len(v)-dot > 11 {
		return -1, -1
	}
	for _, c := range v[dot+1:] {
		if !letter(c) {
			return -1, -1
		}
	}
	return at, dot
}

// appendCard keeps the last four digits of 12 to 19 digits, grouped by blanks or dashes or not at all.
func appendCard(dst, v []byte) []byte {
	n := cardDigits(v)
	if n == 0 {
		return append(dst, Hidden...)
	}
	var last [4]byte
	i := 0
	for _, c := range v {
		if digit(c) {
			last[i&3] = c
			i++
		}
	}
	dst = append(dst, "************"...)
	for i := range 4 {
		dst = append(dst, last[(n+i)&3])
	}
	return dst
}

// cardDigits counts the digits of what looks like the number of a card; 0 where v does not.
func cardDigits(v []byte) int {
	if len(v) > 40 {
		return 0
	}
	n := 0
	for _, c := range v {
		switch {
		case digit(c):
			n++
		case c == ' ', c == '-':
		default:
			return 0
		}
	}
	if n < 12 || n > 19 { // ISO/IEC 7812: at most 19; shorter than 12 is no card
		return 0
	}
	return n
}

// leastHidden is how many characters partial hides, or it shows none.
const leastHidden = 4

// appendPartial keeps the first and the last characters where enough are hidden between them.
func (m Masker) appendPartial(dst, v []byte) []byte {
	if utf8.RuneCount(v) < m.first+m.last+leastHidden || !utf8.Valid(v) {
		return append(dst, Hidden...)
	}
	from, cut := 0, len(v)
	for range m.first {
		_, n := utf8.DecodeRune(v[from:])
		from += n
	}
	for range m.last {
		_, n := utf8.DecodeLastRune(v[:cut])
		cut -= n
	}
	dst = append(dst, v[:from]...)
	dst = append(dst, Hidden...)
	return append(dst, v[cut:]...)
}

func letter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

func alnum(c byte) bool { return letter(c) || digit(c) }
