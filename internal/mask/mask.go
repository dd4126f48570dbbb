package mask

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"unicode/utf8"
)

// Names that New knows. "hash" needs a key: see NewHash.
const (
	Email = "email" // a***@***.com: the first character, and the top-level domain
	Card  = "card"  // ************4242: the last four digits of 12 to 19
	Last4 = "last4" // ****6789: the last four characters of at least eight
	Full  = "full"  // ****
	Hash  = "hash"  // h:0123456789abcdef: equal values stay equal under one key
)

// Hidden is what a value becomes of which nothing may show.
const Hidden = "****"

// Growth is the most bytes by which a masked value can be longer than the value.
const Growth = 32

type kind uint8

const (
	kindFull kind = iota
	kindEmail
	kindCard
	kindLast4
	kindHash
)

// idleMACs is how many keyed hashes are kept: as many goroutines mask without allocating.
const idleMACs = 8

// Masker masks values of one class. The zero Masker shows nothing. It is safe for concurrent use.
type Masker struct {
	kind kind
	macs chan hash.Hash // keyed and idle; nil but for kindHash
	make func() hash.Hash
}

// New finds a masker by name. An unknown name is an error, and so is "hash", which needs a key.
func New(name string) (Masker, error) {
	switch name {
	case Email:
		return Masker{kind: kindEmail}, nil
	case Card:
		return Masker{kind: kindCard}, nil
	case Last4:
		return Masker{kind: kindLast4}, nil
	case Full:
		return Masker{}, nil
	case Hash:
		return Masker{}, fmt.Errorf("masker %q: needs a key", name)
	}
	return Masker{}, fmt.Errorf("masker %q: want one of email, card, last4, full, hash", name)
}

// NewHash makes the masker that keeps equal values equal. The key must be at least 16 bytes: without one, a hash of an
// e-mail address is undone by guessing.
func NewHash(key []byte) (Masker, error) {
	if len(key) < 16 {
		return Masker{}, fmt.Errorf("masker %q: key of %d bytes, want at least 16", Hash, len(key))
	}
	key = append([]byte(nil), key...)
	return Masker{kind: kindHash, macs: make(chan hash.Hash, idleMACs), make: func() hash.Hash { return hmac.New(sha256.New, key) }}, nil
}

// Append appends the masked form of v, at most Growth bytes longer than v, to dst. It does not allocate where dst has room
// for that.
func (m Masker) Append(dst, v []byte) []byte {
	switch m.kind {
	case kindEmail:
		return appendEmail(dst, v)
	case kindCard:
		return appendCard(dst, v)
	case kindLast4:
		return appendLast4(dst, v)
	case kindHash:
		return m.appendHash(dst, v)
	}
	return append(dst, Hidden...)
}

// appendEmail keeps the first character and the top-level domain of what looks like one plain address.
func appendEmail(dst, v []byte) []byte {
	if len(v) > 320 { // RFC 5321: 64 + 1 + 255
		return append(dst, Hidden...)
	}
	at, dot := -1, -1
	for i, c := range v {
		switch {
		case c == '@' && at < 0:
			at = i
		case c == '.':
			dot = i
		case c <= ' ', c == '@', c == '"', c == '<', c == '>', c == ',', c == ';', c >= 0x7f:
			return append(dst, Hidden...)
		}
	}
	if at < 1 || dot < at+2 || !alnum(v[0]) {
		return append(dst, Hidden...)
	}
	tld := v[dot+1:]
	if len(tld) < 2 || len(tld) > 10 {
		return append(dst, Hidden...)
	}
	for _, c := range tld {
		if !letter(c) {
			return append(dst, Hidden...)
		}
	}
	dst = append(dst, v[0])
	dst = append(dst, "***@***."...)
	return append(dst, tld...)
}

// appendCard keeps the last four digits of 12 to 19 digits, grouped by blanks or dashes or not at all.
func appendCard(dst, v []byte) []byte {
	if len(v) > 40 {
		return append(dst, Hidden...)
	}
	var last [4]byte
	n := 0
	for _, c := range v {
		switch {
		case c >= '0' && c <= '9':
			last[n&3] = c
			n++
		case c == ' ', c == '-':
		default:
			return append(dst, Hidden...)
		}
	}
	if n < 12 || n > 19 { // ISO/IEC 7812: at most 19; shorter than 12 is no card
		return append(dst, Hidden...)
	}
	dst = append(dst, "************"...)
	for i := range 4 {
		dst = append(dst, last[(n+i)&3])
	}
	return dst
}

// appendLast4 keeps the last four characters where at least as many are hidden.
func appendLast4(dst, v []byte) []byte {
	if utf8.RuneCount(v) < 8 || !utf8.Valid(v) {
		return append(dst, Hidden...)
	}
	cut := len(v)
	for range 4 {
		_, n := utf8.DecodeLastRune(v[:cut])
		cut -= n
	}
	dst = append(dst, Hidden...)
	return append(dst, v[cut:]...)
}

// appendHash appends 64 bits of HMAC-SHA256: enough to join on, too few to carry anything else.
func (m Masker) appendHash(dst, v []byte) []byte {
	if m.make == nil {
		return append(dst, Hidden...)
	}
	var h hash.Hash
	select {
	case h = <-m.macs:
		h.Reset()
	default:
		h = m.make()
	}
	h.Write(v)
	start := len(dst)
	dst = h.Sum(append(dst, "h:"...))
	select {
	case m.macs <- h:
	default:
	}
	var sum [8]byte
	copy(sum[:], dst[start+2:])
	return hex.AppendEncode(dst[:start+2], sum[:])
}

func letter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

func alnum(c byte) bool { return letter(c) || c >= '0' && c <= '9' }
