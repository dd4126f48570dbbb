package mask

import (
	"encoding/binary"
	"math/bits"
)

// Limits of what is one value. A stream holds back what may be the beginning of one, and so no more than their largest and a little.
const (
	maxValue = 512      // bytes that a masker is shown; of what is longer nothing shows
	maxLocal = 64       // of a mail address before the @: RFC 5321, section 4.5.3.1.1
	maxHost  = 255      // behind it: section 4.5.3.1.2
	maxToken = 1 << 10  // of what comes before it is certain that a token is one
	maxKey   = 64 << 10 // between the lines that begin and end a private key
	maxStyle = 32       // of a terminal's escape sequence
	behind   = 8        // bytes before a place that are looked at to judge it
)

// verdict on what may be a value. The zero verdict is that it is none.
type verdict uint8

const (
	no   verdict = iota
	more         // the bytes that there are do not tell
	yes
)

// match is what was found at a place: b[at:end] is the value.
type match struct {
	v       verdict
	at, end int
	class   *wanted
	likely  bool     // of more: what is there already hardly comes about otherwise
	open    *charset // of yes: the value goes on, as long as these bytes do
	key     bool     // of yes: it goes on until the line that ends a private key
}

// cursor is where a scan is.
type cursor struct {
	pos   int      // everything before it is done with
	floor int      // no value begins before it: there the last one ended, or an escape sequence
	fresh int      // a word may begin there, whatever is before it: there an escape sequence ended; -1 is nowhere
	open  *charset // what the value goes on with whose mask is shown already
	key   bool     // it is a private key
	taken int      // bytes of that key
	line  int      // how much of the line that ends it has gone by
}

// marks are the places of eight bytes, as the high bit of each, where something may begin.
type marks struct {
	word, at, escape, slash uint64
}

const (
	ones = 0x0101010101010101
	high = 0x80 * ones
	low  = high - ones
)

// classify looks at eight bytes at once. Every sum stays below 0x100 in its byte, because y's bytes are below 0x80.
func classify(x uint64) marks {
	y := x & low
	fold := y | 0x20*ones
	word := (fold+(0x80-'a')*ones)&^(fold+(0x80-'z'-1)*ones) | (y+(0x80-'0')*ones)&^(y+(0x80-'9'-1)*ones) | ^(y ^ '_'*ones + low)
	ascii := ^x & high
	return marks{
		word:   word & ascii,
		at:     ^((y ^ '@'*ones) + low) & ascii,
		escape: ^((y ^ 0x1b*ones) + low) & ascii,
		slash:  ^((y ^ '\\'*ones) + low) & ascii,
	}
}

// scan finds the next match from c on. Where there is none, or not yet, its at is the first byte that may belong to one; what comes before
// is done with. final says that nothing follows b. It looks at everything in its order and no further than it must, so that the bytes
// alone, and not where they were cut, make what it finds.
func (f *Finder) scan(b []byte, c *cursor, final bool) match {
	for i := c.pos; i < len(b); {
		var prev, prevSlash uint64 // of the two bytes before i
		if i > 0 && i != c.fresh && wordByte(b[i-1]) {
			prev = 0x80
		}
		if i > 0 && b[i-1] == '\\' {
			prevSlash = 0x80 << 8
		}
		if i > 1 && b[i-2] == '\\' {
			prevSlash |= 0x80
		}
		next, m, done := f.walk(b, i, prev, prevSlash, c, final)
		if m.v == more {
			m.at = f.before(b, m.at, c)
		}
		if done {
			return m
		}
		i = next
	}
	return match{at: f.before(b, len(b), c)}
}

// walk scans from i on, up to the end or the end of an escape sequence, which it returns.
func (f *Finder) walk(b []byte, i int, prev, prevSlash uint64, c *cursor, final bool) (next int, m match, done bool) {
	for ; i < len(b); i += 8 {
		var x uint64
		if i+8 <= len(b) {
			x = binary.LittleEndian.Uint64(b[i:])
		} else {
			var last [8]byte
			copy(last[:], b[i:])
			x = binary.LittleEndian.Uint64(last[:])
		}
		k := classify(x)
		// A word begins behind what is no word, and behind an escape such as the \n of JSON.
		starts := k.word & (^(k.word<<8 | prev) | k.slash<<16 | prevSlash)
		prev, prevSlash = k.word>>56, k.slash>>48
		if f.use[mails] == nil {
			k.at = 0
		}
		for todo := starts | k.at | k.escape; todo != 0; todo &= todo - 1 {
			bit := bits.TrailingZeros64(todo)
			j := i + bit>>3
			switch mark := uint64(1) << bit; {
			case starts&mark != 0:
				if j+1 < len(b) {
					if !f.begins(b[j], b[j+1]) {
						continue
					}
				} else if final {
					continue
				}
				m = f.word(b, j, c.floor, final)
			case k.at&mark != 0:
				m = f.mail(b, j, c.floor, final)
			default:
				end, whole := style(b, j)
				if whole || final {
					c.fresh, c.floor = end, end
					return end, match{}, false
				}
				return 0, match{v: more, at: j}, true
			}
			if m.v != no {
				return 0, m, true
			}
		}
	}
	return len(b), match{}, false
}

// before is the first byte that, with what follows b[:i], may belong to one value with b[i]: the local part of a mail address, or the sign
// before a number.
func (f *Finder) before(b []byte, i int, c *cursor) int {
	least := max(c.floor, i-maxLocal)
	if f.use[phones] != nil && i > least && (b[i-1] == '+' || b[i-1] == '(') {
		i--
	}
	if f.use[mails] != nil {
		for i > least && local(b[i-1]) {
			i--
		}
	}
	return i
}

// pass goes on behind a match and what still belongs to it, and returns where that is.
func (c *cursor) pass(m *match, b []byte) int {
	c.pos, c.floor = m.end, m.end
	c.open, c.key, c.taken, c.line = m.open, m.key, 0, 0
	c.skip(b)
	return c.pos
}

const keyEnd = "-----END-----" // and what it ends, before the last five

// skip goes over what belongs to the value that is open, from pos on.
func (c *cursor) skip(b []byte) {
	i := c.pos
	for ; c.open != nil && i < len(b); i++ {
		if c.key && c.ends(b[i]) {
			c.open = nil
		} else if !c.open[b[i]] {
			c.open = nil
			break
		}
	}
	c.pos, c.floor = i, i
}

// ends says whether a byte is the last of a private key.
func (c *cursor) ends(b byte) bool {
	switch {
	case b == keyEnd[c.line]:
		c.line++
	case c.line == 5 && b == '-', c.line == 8 && b != '\n': // more dashes than five; the name of what ends
	case b == '-':
		c.line = 1
	default:
		c.line = 0
	}
	c.taken++
	return c.line == len(keyEnd) || c.taken == maxKey
}

// style is the end of an escape sequence that sets a terminal's colours and the like (ECMA-48, section 5.4): what follows it starts afresh.
func style(b []byte, i int) (end int, whole bool) {
	if i+1 >= len(b) {
		return len(b), false
	}
	if b[i+1] != '[' {
		return i + 1, true
	}
	for j := i + 2; j < len(b) && j < i+maxStyle; j++ {
		if b[j] >= 0x40 && b[j] <= 0x7e {
			return j + 1, true
		}
		if b[j] < 0x20 || b[j] > 0x3f {
			return i + 1, true
		}
	}
	return min(len(b), i+1), len(b) >= i+maxStyle
}

func wordByte(c byte) bool { return alnum(c) || c == '_' }

func digit(c byte) bool { return c >= '0' && c <= '9' }

// charset is a set of bytes.
type charset [256]bool

func setOf(ranges string) *charset {
	var s charset
	for i := 0; i < len(ranges); i++ {
		if i+2 < len(ranges) && ranges[i+1] == '-' {
			for c := int(ranges[i]); c <= int(ranges[i+2]); c++ {
				s[c] = true
			}
			i += 2
			continue
		}
		s[ranges[i]] = true
	}
	return &s
}
