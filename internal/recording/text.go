package recording

import (
	"slices"
	"strconv"
	"strings"
)

// Bounds of a text: what a page shows is its end.
const (
	maxTextLines   = 2000
	maxTextColumns = 1000
)

// Text is a terminal's output as lines, for pages and logs: what was written over on a line is gone, everything that draws elsewhere is
// left out. It is not a screen: a full-screen program reads as what it sent, line by line. The zero Text is empty.
type Text struct {
	s     scanner
	lines [][]rune // the newest; once there are maxTextLines, a ring
	first int      // the oldest of the ring
	line  []rune
	col   int
	cut   bool
}

// Write takes a piece of output.
func (t *Text) Write(text string) { t.s.feed(text, t.token) }

// Cut says whether there were more lines than are kept.
func (t *Text) Cut() bool { return t.cut }

// String is the lines so far. It holds no control characters but newlines.
func (t *Text) String() string {
	var b strings.Builder
	for i := range t.lines {
		b.WriteString(trimmed(t.lines[(t.first+i)%len(t.lines)]))
		b.WriteByte('\n')
	}
	b.WriteString(trimmed(t.line))
	return b.String()
}

func trimmed(line []rune) string { return strings.TrimRight(string(line), " ") }

func (t *Text) token(k token) {
	switch {
	case k.kind == tokenText:
		t.put(k.r)
	case k.kind == tokenControl:
		t.control(k.r)
	case k.kind == tokenEscape && (k.r == 'E' || k.r == 'c') && k.inter == "":
		t.feed()
	case k.kind == tokenCSI && k.prefix == 0 && k.inter == "":
		t.csi(k)
	}
}

func (t *Text) put(r rune) {
	if t.col >= maxTextColumns {
		t.feed()
	}
	if n := t.col + 1 - len(t.line); n > 0 {
		t.line = append(t.line, blanks[:n]...)
	}
	t.line[t.col] = r
	t.col++
}

func (t *Text) control(r rune) {
	switch r {
	case '\n', '\v', '\f':
		t.feed()
	case '\r':
		t.col = 0
	case '\b':
		t.col = max(t.col-1, 0)
	case '\t':
		t.col = min((t.col/8+1)*8, maxTextColumns-1)
	}
}

// csi does what stays on a line; a jump to another one begins a new one.
func (t *Text) csi(k token) {
	n, err := strconv.Atoi(k.params)
	if err != nil || n < 0 {
		n = 0
	}
	n = min(n, maxTextColumns-1)
	switch k.r {
	case 'C', 'a':
		t.col = min(t.col+max(n, 1), maxTextColumns-1)
	case 'D':
		t.col = max(t.col-max(n, 1), 0)
	case 'G', '`':
		t.col = max(n-1, 0)
	case 'K':
		t.erase(n)
	case 'P':
		if t.col < len(t.line) {
			t.line = slices.Delete(t.line, t.col, min(t.col+max(n, 1), len(t.line)))
		}
	case 'A', 'B', 'E', 'F', 'H', 'd', 'f':
		if len(t.line) > 0 {
			t.feed()
		}
	}
}

func (t *Text) erase(how int) {
	switch {
	case how == 0 && t.col < len(t.line):
		t.line = t.line[:t.col]
	case how == 1:
		for i := range min(t.col+1, len(t.line)) {
			t.line[i] = ' '
		}
	case how == 2:
		t.line = t.line[:0]
	}
}

// blanks is a line of them.
var blanks = slices.Repeat([]rune{' '}, maxTextColumns)

// feed begins a line. Whoever writes millions of them pays for each, not for all that are kept: that one's place is the next one's.
func (t *Text) feed() {
	t.col = 0
	if len(t.lines) < maxTextLines {
		t.lines = append(t.lines, t.line)
		t.line = nil
		return
	}
	t.lines[t.first], t.line = t.line, t.lines[t.first][:0]
	t.first, t.cut = (t.first+1)%maxTextLines, true
}
