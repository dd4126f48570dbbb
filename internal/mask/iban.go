package mask

// ibanLength is how long an IBAN is in each country of the registry of ISO 13616 (release 99).
var ibanLength = map[string]int{
	"AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29, "BY": 28, "CH": 21, "CR": 22,
	"CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22,
	"GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30,
	"KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20,
	"MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22,
	"RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26,
	"UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}

// iban looks at the word at i: whole, or in fours with a blank between.
func (f *Finder) iban(b []byte, i int, final bool) match {
	undecided := match{v: more, at: i}
	if final {
		undecided.v = no
	}
	if i+1 >= len(b) {
		return undecided
	}
	length := ibanLength[string(b[i:i+2])]
	if length == 0 {
		return match{}
	}
	n, rest := 0, 0 // bytes of it so far, and the remainder by 97 of what has gone by
	grouped := false
	j := i
	for ; n < length; j++ {
		if j == len(b) {
			undecided.likely = n > 8
			return undecided
		}
		c := b[j]
		if c == ' ' && n > 0 && n&3 == 0 && (grouped || n == 4) && b[j-1] != ' ' {
			grouped = true
			continue
		}
		if grouped && n&3 == 0 && b[j-1] != ' ' || n > 1 && n < 4 && !digit(c) {
			return match{}
		}
		switch {
		case digit(c):
			if n > 3 {
				rest = (rest*10 + int(c-'0')) % 97
			}
		case c >= 'A' && c <= 'Z':
			if n > 3 {
				rest = (rest*100 + int(c-'A') + 10) % 97
			}
		default:
			return match{}
		}
		n++
	}
	for _, c := range b[i : i+4] { // the country and the check digits come last
		if digit(c) {
			rest = (rest*10 + int(c-'0')) % 97
		} else {
			rest = (rest*100 + int(c-'A') + 10) % 97
		}
	}
	if rest != 1 {
		return match{}
	}
	return match{v: ends(b, j, final), at: i, end: j, class: f.use[ibans], likely: true}
}
