package mask

// word looks at the word that begins at i, of which begins said that it may.
func (f *Finder) word(b []byte, i, floor int, final bool) match {
	if digit(b[i]) {
		if !f.numbers {
			return match{}
		}
		return f.number(b, i, floor, final)
	}
	if f.use[ibans] != nil {
		if m := f.iban(b, i, final); m.v != no {
			return m
		}
	}
	if f.use[secrets] != nil {
		return f.secret(b, i, final)
	}
	return match{}
}

// ends says whether a number may end before i: not within a word, a longer number or an address.
func ends(b []byte, i int, final bool) verdict {
	if i >= len(b) {
		if final {
			return yes
		}
		return more
	}
	c := b[i]
	if wordByte(c) || c == '@' || c >= 0x80 {
		return no
	}
	if c != '-' && c != '.' {
		return yes
	}
	switch {
	case i+1 < len(b):
		if c == '-' && wordByte(b[i+1]) || digit(b[i+1]) {
			return no
		}
	case !final:
		return more
	}
	return yes
}

// reader takes a number apart. What is not there yet makes its verdict more, what is wrong no.
type reader struct {
	b      []byte
	i      int
	final  bool
	v      verdict
	digits int // so far
}

func read(b []byte, i int, final bool) reader { return reader{b: b, i: i, final: final, v: yes} }

// run takes from least to most digits, and as many as there are.
func (r *reader) run(least, most int) int {
	n := 0
	for r.v == yes && n < most && r.i < len(r.b) && digit(r.b[r.i]) {
		r.i++
		n++
	}
	r.digits += n
	switch {
	case r.v != yes:
	case r.i == len(r.b) && n < most && !r.final:
		r.v = more
	case n < least:
		r.v = no
	}
	return n
}

// peek is the next byte; 0 where there is none, which is short unless nothing follows.
func (r *reader) peek() byte {
	if r.v != yes {
		return 0
	}
	if r.i == len(r.b) {
		if !r.final {
			r.v = more
		}
		return 0
	}
	return r.b[r.i]
}

// one takes a byte that must be among these.
func (r *reader) one(of string) byte {
	c := r.peek()
	if r.v != yes {
		return 0
	}
	for i := range len(of) {
		if c == of[i] {
			r.i++
			return c
		}
	}
	r.v = no
	return 0
}

// done is what a number from at on comes to.
func (r *reader) done(at int, class *wanted) match {
	if r.v == yes {
		r.v = ends(r.b, r.i, r.final)
	}
	return match{v: r.v, at: at, end: r.i, class: class, likely: r.digits > 6}
}

// number looks at the digits at i. Most are none of these, which their length and what is beside them tell at once.
func (f *Finder) number(b []byte, i, floor int, final bool) match {
	if i > 1 && (b[i-1] == '.' || b[i-1] == '-') && wordByte(b[i-2]) {
		return match{} // within a longer number, a version, a UUID
	}
	end := i + 1
	for end < len(b) && end-i < 20 && digit(b[end]) {
		end++
	}
	next := byte(0)
	if end < len(b) {
		next = b[end]
	} else if !final {
		return match{v: more, at: i, likely: end-i > 6}
	}
	m := match{}
	switch n := end - i; {
	case n >= 13 && n <= 19, n == 4 && (next == ' ' || next == '-'):
		m = f.card(b, i, final)
	case n == 3 && (next == '-' || next == '.' || next == ')'):
		if m = f.ssn(b, i, final); m.v == no {
			m = f.american(b, i, floor, final)
		}
	case n == 1 && b[i] == '1':
		m = f.american(b, i, floor, final)
	}
	if m.v == no && i > floor && b[i-1] == '+' {
		m = f.abroad(b, i, floor, final)
	}
	return m
}

func (f *Finder) ssn(b []byte, i int, final bool) match {
	if f.use[ssns] == nil {
		return match{}
	}
	r := read(b, i, final)
	r.run(3, 3)
	r.one("-")
	r.run(2, 2)
	r.one("-")
	r.run(4, 4)
	m := r.done(i, f.use[ssns])
	if m.v == yes {
		area, group, serial := string(b[i:i+3]), string(b[i+4:i+6]), string(b[i+7:i+11])
		if area == "000" || area == "666" || area[0] == '9' || group == "00" || serial == "0000" { // never given out
			return match{}
		}
	}
	return m
}

// abroad is a number with its country code.
func (f *Finder) abroad(b []byte, i, floor int, final bool) match {
	if f.use[phones] == nil || i > floor+1 && i > 1 && (wordByte(b[i-2]) || b[i-2] == '+') || b[i] == '0' {
		return match{}
	}
	r := read(b, i, final)
	longest := r.run(1, 16)
	end := r.i
	for r.v == yes && r.digits < 15 {
		back := r
		if !r.gap() {
			r = back
			break
		}
		n := r.run(1, 16)
		if r.v == no || r.v == yes && n == 1 && b[r.i-2] != '(' {
			r = back
			break
		}
		longest, end = max(longest, n), r.i
	}
	if r.v == yes {
		r.i = end
		if r.digits < 8 || r.digits > 15 || longest == r.digits && r.digits < 9 {
			return match{}
		}
	}
	return r.done(i-1, f.use[phones])
}

// gap takes what is between two groups of digits: one byte, or a bracket and a blank. False is none.
func (r *reader) gap() bool {
	switch c := r.peek(); c {
	case ' ', '-', '.', '/':
		if r.i++; r.peek() == '(' {
			r.i++
		}
	case '(':
		r.i++
	case ')':
		if r.i++; r.peek() == ' ' || r.peek() == '-' {
			r.i++
		}
	default:
		return r.v == more
	}
	if c := r.peek(); r.v == yes && !digit(c) {
		return false
	}
	return true
}

// american is 415-555-0100, 415.555.0100, (415) 555-0100 or 1-415-555-0100: area and exchange begin with 2 to 9.
func (f *Finder) american(b []byte, i, floor int, final bool) match {
	if f.use[phones] == nil {
		return match{}
	}
	r, at := read(b, i, final), i
	bracket := i > floor && b[i-1] == '('
	if bracket {
		at--
	}
	if !bracket && b[i] == '1' {
		r.i++
		if r.one(" -.") == ' ' && r.peek() != '(' && r.v == yes {
			return match{}
		}
		if r.peek() == '(' {
			r.i++
			bracket = true
		}
	}
	area := r.peek()
	r.run(3, 3)
	sep := byte('-')
	if bracket {
		if r.one(")"); r.peek() == ' ' || r.peek() == '-' {
			r.i++
		}
	} else {
		sep = r.one("-.")
	}
	exchange := r.peek()
	r.run(3, 3)
	if r.v == yes && (area < '2' || exchange < '2') {
		return match{}
	}
	r.one(string(rune(sep)))
	r.run(4, 4)
	return r.done(at, f.use[phones])
}

// card is one run of digits, or groups of 4-4-4-4, 4-4-4-4-3, 4-6-5 and 4-6-4 with one kind of separator.
func (f *Finder) card(b []byte, i int, final bool) match {
	if f.use[cards] == nil || b[i] < '2' || b[i] > '6' {
		return match{}
	}
	r := read(b, i, final)
	first := r.run(4, 20)
	if first != 4 || r.v != yes {
		m := r.done(i, f.use[cards])
		if m.v == yes && !cardNumber(b[i:m.end]) {
			return match{}
		}
		return m
	}
	sep := string(rune(r.one(" -")))
	ways := afterFour
	if second := r.run(4, 6); second == 6 {
		ways = afterSix
	} else if r.v == yes && second != 4 {
		return match{}
	}
	if r.v != yes {
		return r.done(i, f.use[cards])
	}
	for _, groups := range ways {
		w := r
		for _, n := range groups {
			w.one(sep)
			w.run(n, n)
		}
		m := w.done(i, f.use[cards])
		if m.v == more || m.v == yes && cardNumber(b[i:m.end]) {
			return m
		}
	}
	return match{}
}

// What may follow the first two groups of a card number.
var (
	afterFour = [][]int{{4, 4}, {4, 4, 3}}
	afterSix  = [][]int{{5}, {4}}
)

// cardNumber says whether digits, whatever separates them, are of a network that gives out numbers of that length, with a right check digit.
func cardNumber(b []byte) bool {
	var d [20]byte
	n := 0
	for _, c := range b {
		if digit(c) {
			if n == len(d) {
				return false
			}
			d[n] = c - '0'
			n++
		}
	}
	if n < 13 || n > 19 {
		return false
	}
	two := int(d[0])*10 + int(d[1])
	four := two*100 + int(d[2])*10 + int(d[3])
	ok := false
	switch {
	case d[0] == 4:
		ok = n == 13 || n == 16 || n == 19
	case two >= 51 && two <= 55, four >= 2221 && four <= 2720:
		ok = n == 16
	case two == 34, two == 37:
		ok = n == 15
	case two == 30, two == 36, two == 38, two == 39:
		ok = n == 14 || n == 16 || n == 19
	case two == 35, two == 62, two == 64, two == 65, two == 60, two == 81:
		ok = n >= 16
	case two == 50, two >= 56 && two <= 69: // Maestro
		ok = true
	}
	return ok && luhn(d[:n])
}

func luhn(d []byte) bool {
	sum := 0
	for i := range d {
		v := int(d[len(d)-1-i])
		if i&1 == 1 {
			if v *= 2; v > 9 {
				v -= 9
			}
		}
		sum += v
	}
	return sum%10 == 0
}
