package classify

import (
	"regexp"
	"strings"
	"unicode"

	"github.com/sallyport/sallyport/internal/mask"
)

// kind is a kind of data: how a proposal calls and masks it, and how it is recognised.
type kind struct {
	class    string
	mask     string // a mask of package mask
	detector string // of package mask; empty: only the name tells
	strict   bool   // what the detector does not find is not of this kind, whatever the name says
	types    string // categories of pg_type.typcategory under which the name counts
	name     *regexp.Regexp
}

// number is how columns of a kind end when there are several of them.
const number = `(_?(no|nr|num|number))?(_?\d+)?$`

// kinds in the order in which a name is tried: the first that matches counts.
var kinds = []kind{
	{"email", "email", mask.DetectMail, true, "S", regexp.MustCompile(`(^|_)e?_?mail(_?addr(ess)?)?(es|s)?` + number)},
	{"card", "card", mask.DetectCard, true, "SN", regexp.MustCompile(`(^|_)(((credit|debit|payment|bank)_?)?card_?(no|nr|num|number)|pan|cc_?(no|nr|num|number)?|credit_?card)(_?\d+)?$`)},
	{"iban", "partial:4-4", mask.DetectIBAN, true, "S", regexp.MustCompile(`(^|_)iban` + number)},
	{"ssn", "last4", mask.DetectSSN, false, "SN", regexp.MustCompile(`(^|_)(ssn|social_?security)` + number)},
	{"phone", "partial:3-2", mask.DetectPhone, false, "SN", regexp.MustCompile(`(^|_)(phone|mobile|cell_?phone|telephone|tel|fax|msisdn)s?` + number)},
	{"secret", "full", mask.DetectSecret, false, "SU", regexp.MustCompile(`(^|_)(pass(word|wd|phrase)|pwd|secret|(api|private|secret|access)_?key|(access|refresh|auth|bearer|session|reset)_?token|otp|cvv|cvc)(_?(hash|digest|salt|enc(rypted)?))?$`)},
	{"birth_date", "date:year", "", false, "SD", regexp.MustCompile(`(^|_)(birth_?(day|date)|date_?of_?birth|dob)$`)},
	{"identity_number", "last4", "", false, "SN", regexp.MustCompile(`(^|_)(passport|national_?id|tax_?id|tin|driver_?s?_?licen[cs]e)` + number)},
	{"person_name", "partial:1-0", "", false, "S", regexp.MustCompile(`(^|_)((first|last|middle|given|family|full|maiden|legal)_?name|surname)$`)},
	{"postal_address", "full", "", false, "S", regexp.MustCompile(`(^|_)((street|postal|home|mailing|billing|shipping)_?addr(ess)?|street(_?name)?|addr(ess)?_?(line)?)(_?\d)?$`)},
	{"ip_address", "full", "", false, "SI", regexp.MustCompile(`(^|_)(ip|ip_?addr(ess)?|remote_?addr(ess)?)$`)},
	{"income", "null", "", false, "SN", regexp.MustCompile(`(^|_)(salary|wage|income|compensation|net_?worth)$`)},
}

// notPostal are addresses that are not where a person lives.
var notPostal = regexp.MustCompile(`(^|_)(ip|mac|web|url|host|http|memory|wallet|contract|remote|net)_?addr(ess)?(_?\d)?$`)

// byName finds the kind that a column's name tells.
func byName(c Column) *kind {
	name := snake(c.Name)
	for i := range kinds {
		k := &kinds[i]
		if k.name.MatchString(name) && strings.Contains(k.types, c.category) && (k.class != "postal_address" || !notPostal.MatchString(name)) {
			return k
		}
	}
	return nil
}

// snake makes words of a name comparable: customerEmail, CustomerEmail, "customer email" and customer-email are customer_email.
func snake(name string) string {
	var b strings.Builder
	lower := false // the rune before was a small letter or a digit
	for _, r := range name {
		switch {
		case !unicode.IsLetter(r) && !unicode.IsDigit(r):
			b.WriteByte('_')
			lower = false
			continue
		case unicode.IsUpper(r) && lower:
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
		lower = !unicode.IsUpper(r)
	}
	return b.String()
}
