package mask

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport/sallyport/internal/secret"
)

// idleMACs is how many keyed hashes are kept: as many goroutines mask without allocating.
const idleMACs = 8

// prf is HMAC-SHA256 under a key of one mask's own, so that what one mask shows tells nothing about another's.
type prf struct {
	macs chan *mac // idle
	key  []byte
}

// mac is a keyed hash and where its sum goes.
type mac struct {
	hash.Hash
	sum [sha256.Size]byte
}

func newPRF(label string, key secret.Secret) *prf {
	h := hmac.New(sha256.New, []byte(key.Reveal()))
	h.Write([]byte("sallyport mask " + label))
	return &prf{macs: make(chan *mac, idleMACs), key: h.Sum(nil)}
}

// String keeps fmt from printing the key.
func (p *prf) String() string { return "[secret]" }

// of is the function's value for v.
func (p *prf) of(v []byte) [sha256.Size]byte {
	var m *mac
	select {
	case m = <-p.macs:
		m.Reset()
	default:
		m = &mac{Hash: hmac.New(sha256.New, p.key)}
	}
	m.Write(v)
	m.Sum(m.sum[:0])
	sum := m.sum
	select {
	case p.macs <- m:
	default:
	}
	return sum
}

// appendHash appends 64 bits of HMAC-SHA256: enough to join on, too few to carry anything else.
func (m Masker) appendHash(dst, v []byte) []byte {
	if m.prf == nil {
		return append(dst, Hidden...)
	}
	sum := m.prf.of(v)
	return hex.AppendEncode(append(dst, "h:"...), sum[:8])
}

// number is v's place in 0…2^bits−1, for columns of numbers and identifiers.
func (m Masker) number(v []byte) (high, low uint64) {
	sum := m.prf.of(v)
	return binary.BigEndian.Uint64(sum[:]), binary.BigEndian.Uint64(sum[8:])
}

// longestFormat is the longest value that keeps its format, in bytes.
const longestFormat = 1024

// appendFormat replaces every digit and every letter by another of its kind: which one follows from the whole value and its place, so
// that no part of a value shows anything of its own. Separators stay, and of an address the top-level domain; of the number of a
// card the check digit is right, and the first digit, which names the network, stays.
func (m Masker) appendFormat(dst, v []byte) []byte {
	if m.prf == nil || len(v) > longestFormat || !utf8.Valid(v) {
		return append(dst, Hidden...)
	}
	keep := len(v) // from here on as it is
	if _, dot := address(v); dot >= 0 {
		keep = dot
	}
	card := cardDigits(v) > 0 && luhnSum(v)%10 == 0
	s := stream{p: m.prf, block: m.prf.of(v)}
	at, last, changed := len(dst), -1, false
	for i := 0; i < keep; {
		r, n := utf8.DecodeRune(v[i:])
		switch {
		case digit(v[i]):
			if card && last < 0 {
				dst = append(dst, v[i])
			} else {
				dst, changed = append(dst, '0'+s.next()%10), true
			}
			last = len(dst) - 1
		case unicode.IsUpper(r):
			dst, changed = append(dst, 'A'+s.next()%26), true
		case unicode.IsLetter(r), unicode.IsMark(r):
			dst, changed = append(dst, 'a'+s.next()%26), true
		case unicode.IsNumber(r), r == utf8.RuneError, !unicode.IsPrint(r):
			dst, changed = append(dst, '*'), true
		default:
			dst = append(dst, v[i:i+n]...)
		}
		i += n
	}
	if !changed { // nothing but separators: they may be all there is to know
		return append(dst[:at], Hidden...)
	}
	if card {
		checkDigit(dst[at:], last-at)
	}
	return append(dst, v[keep:]...)
}

// stream is as many bytes as a value needs.
type stream struct {
	p     *prf
	block [sha256.Size]byte
	seed  []byte
	used  int
}

func (s *stream) next() byte {
	if s.used == len(s.block) {
		s.seed = append(s.seed[:0], s.block[:]...)
		s.block, s.used = s.p.of(s.seed), 0
	}
	b := s.block[s.used]
	s.used++
	return b
}

// luhnSum is the sum over the digits among v that a right check digit makes divisible by ten (ISO/IEC 7812-1, annex B).
func luhnSum(v []byte) (sum int) {
	double := false
	for i := len(v) - 1; i >= 0; i-- {
		if !digit(v[i]) {
			continue
		}
		d := int(v[i] - '0')
		if double {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum, double = sum+d, !double
	}
	return sum
}

// checkDigit sets the last digit of v, at last, so that the sum is divisible by ten.
func checkDigit(v []byte, last int) {
	v[last] = '0'
	v[last] = '0' + byte((10-luhnSum(v)%10)%10)
}
