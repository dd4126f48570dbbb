package mask

import "bytes"

// local says whether a byte may be in the local part of a mail address. Of what RFC 5321 allows, what separates in text is left out.
func local(c byte) bool {
	return alnum(c) || c >= 0x80 || c == '.' || c == '_' || c == '-' || c == '+' || c == '%' || c == '\''
}

func host(c byte) bool { return alnum(c) || c >= 0x80 || c == '.' || c == '-' }

// units are what systemd calls getty@tty1.service and the like, which no domain ends in.
var units = [][]byte{[]byte("service"), []byte("socket"), []byte("timer"), []byte("mount"), []byte("automount"), []byte("slice"), []byte("scope"), []byte("device"), []byte("swap"), []byte("path")}

// mail looks at the @ at i.
func (f *Finder) mail(b []byte, i, floor int, final bool) match {
	at := i
	for at > floor && i-at < maxLocal && local(b[at-1]) {
		at--
	}
	for at < i && (b[at] == '.' || b[at] == '-' || b[at] == '\'') {
		at++
	}
	if at == i {
		return match{}
	}
	end := i + 1
	for end < len(b) && end-i <= maxHost && host(b[end]) {
		end++
	}
	if end == len(b) && !final {
		return match{v: more, at: at, likely: true}
	}
	end = domain(b, i+1, end)
	if end < 0 || bytes.Equal(b[at:i], []byte("git")) { // git@host: how everybody logs in there
		return match{}
	}
	return match{v: yes, at: at, end: end, class: f.use[mails]}
}

// domain is the end of the longest domain of at least two labels at the beginning of b[from:to], whose last label is letters; -1 is none.
func domain(b []byte, from, to int) int {
	best := -1
	for label, n := from, 0; label < to; n++ {
		end := label
		for end < to && b[end] != '.' {
			end++
		}
		if end == label || b[label] == '-' {
			break
		}
		last := label
		if bytes.HasPrefix(b[label:end], []byte("xn--")) {
			last = end
		}
		for last < end && (letter(b[last]) || b[last] >= 0x80) {
			last++
		}
		if n > 0 && last-label >= 2 && last-label <= 63 && (last == end || b[last] == '-') && !unit(b[label:last]) {
			best = last
		}
		label = end + 1
	}
	return best
}

func unit(label []byte) bool {
	for _, u := range units {
		if bytes.Equal(label, u) {
			return true
		}
	}
	return false
}
