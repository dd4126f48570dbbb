package mask

import (
	"slices"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/secret"
)

// Names of detectors: what kind of value a class recognises in text that nobody classified.
const (
	DetectMail   = "mail"   // an address with a domain of at least two labels (RFC 5321)
	DetectCard   = "card"   // 13 to 19 digits of a known network with a right check digit (ISO/IEC 7812), plain or grouped
	DetectIBAN   = "iban"   // of a known country, with its length and right check digits (ISO 13616), plain or in fours
	DetectSSN    = "ssn"    // of the U.S. Social Security Administration, with its dashes
	DetectPhone  = "phone"  // with a plus and its country code (E.164), or grouped as in North America
	DetectSecret = "secret" // a token of a well-known shape: secrets.go lists them
)

// Shortest is the shortest value that a detector finds, in bytes.
const Shortest = 6

// Detectors are the names that a class may give.
var Detectors = []string{DetectMail, DetectCard, DetectIBAN, DetectSSN, DetectPhone, DetectSecret}

// detector is an index into Detectors.
type detector uint8

const (
	mails detector = iota
	cards
	ibans
	ssns
	phones
	secrets
	detectorCount
)

// Finder finds and masks the values of classes that have a detector. It is immutable, and safe for concurrent use.
type Finder struct {
	pairs   [1 << 10]uint64 // a bit for every two bytes with which a value may begin, mail addresses apart
	use     [detectorCount]*wanted
	numbers bool // cards, ssns or phones
}

// wanted is a class that has a detector.
type wanted struct {
	kind   detector
	class  string
	masker Masker
}

// NewFinder finds what the classes' detectors name; classes without a detector take no part, and of several with the same the first counts. A
// detector that is not known finds nothing (policy.Load refuses it); a mask that is not known, or keyed without a key, shows nothing.
func NewFinder(classes []access.Class, key secret.Secret) *Finder {
	f := &Finder{}
	for _, c := range classes {
		d := slices.Index(Detectors, c.Detector)
		if d < 0 || f.use[d] != nil {
			continue
		}
		m, err := New(c.Mask, key)
		if err != nil {
			m = Masker{}
		}
		f.use[d] = &wanted{kind: detector(d), class: c.Name, masker: m}
	}
	if f.numbers = f.use[cards] != nil || f.use[ssns] != nil || f.use[phones] != nil; f.numbers {
		for a := byte('0'); a <= '9'; a++ {
			for _, b := range []byte("0123456789 -.(/") {
				f.pair(a, b)
			}
		}
	}
	if f.use[ibans] != nil {
		for country := range ibanLength {
			f.pair(country[0], country[1])
		}
	}
	if f.use[secrets] != nil {
		for _, s := range shapes {
			f.pair(s.prefix[0], s.prefix[1])
		}
	}
	return f
}

func (f *Finder) pair(a, b byte) { f.pairs[int(a)<<2|int(b>>6)] |= 1 << (b & 63) }

func (f *Finder) begins(a, b byte) bool { return f.pairs[int(a)<<2|int(b>>6)]>>(b&63)&1 != 0 }

// Detect masks, without a key, what the classes' detectors find in one value. Where that is nothing, it returns v itself and no counts.
func Detect(classes []access.Class, v []byte) (masked []byte, counts map[string]int64) {
	counts = map[string]int64{}
	masked, found := NewFinder(classes, secret.Secret{}).Append(nil, v, counts)
	if !found {
		return v, nil
	}
	return masked, counts
}

// Append appends v with everything masked that was found in it, and counts it by class. Where nothing was found it appends nothing and
// says so. Where dst has room and v holds nothing to mask, it does not allocate.
func (f *Finder) Append(dst, v []byte, counts map[string]int64) (out []byte, found bool) {
	c := cursor{fresh: -1}
	shown := 0 // of v, already in dst
	for {
		m := f.scan(v, &c, true)
		if m.v != yes {
			break
		}
		found = true
		dst = m.hide(append(dst, v[shown:m.at]...), v)
		counts[m.class.class]++
		shown = c.pass(&m, v)
	}
	if !found {
		return dst, false
	}
	return append(dst, v[shown:]...), true
}

// hide appends what is shown in place of a match. A value that is too long to be looked at as a whole shows nothing.
func (m *match) hide(dst, b []byte) []byte {
	if m.open != nil {
		return append(dst, Hidden...)
	}
	return m.class.masker.Append(dst, b[m.at:m.end])
}
