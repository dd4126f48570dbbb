package recording

import (
	"slices"
	"strings"
)

// What a program sends to a terminal, cut into pieces after ECMA-48 and xterm's control sequences
// (https://invisible-island.net/xterm/ctlseqs/ctlseqs.html).
type token struct {
	kind   tokenKind
	r      rune   // text, control: the character; escape and csi: the final one
	prefix byte   // csi: one of <=>? or 0
	params string // csi: digits, ';' and ':'
	inter  string // escape and csi: intermediates
}

type tokenKind uint8

const (
	tokenText tokenKind = iota
	tokenControl
	tokenEscape
	tokenCSI
)

// Bounds of one sequence. A string (title, clipboard, graphics) that does not end is given up, so that what follows it is seen.
const (
	maxSequence = 128
	maxString   = 64 << 10
)

type scanState uint8

const (
	inGround scanState = iota
	inEscape
	inCSI
	inString
	inStringEscape
)

// scanner keeps its place between pieces of output. Strings are dropped here: there is none that draws.
type scanner struct {
	state scanState
	seq   token
	bad   bool // of the sequence: not one that we read
	n     int
}

func (s *scanner) feed(text string, each func(token)) {
	for _, r := range text {
		s.rune(r, each)
	}
}

func (s *scanner) begin(state scanState) { s.state, s.seq, s.bad, s.n = state, token{}, false, 0 }

func (s *scanner) rune(r rune, each func(token)) {
	s.n++
	switch r {
	case 0x18, 0x1a: // CAN and SUB end every sequence
		s.state = inGround
		return
	case 0x1b:
		if s.state == inString {
			s.state = inStringEscape
			return
		}
		s.begin(inEscape)
		return
	}
	switch s.state {
	case inString, inStringEscape:
		s.string(r, each)
	case inEscape:
		s.escape(r, each)
	case inCSI:
		s.csi(r, each)
	default:
		s.ground(r, each)
	}
}

func (s *scanner) ground(r rune, each func(token)) {
	switch {
	case r == 0x9b:
		s.begin(inCSI)
	case r == 0x90 || r == 0x98 || r >= 0x9d && r <= 0x9f:
		s.begin(inString)
	case r >= 0x80 && r < 0xa0, r == 0x7f:
	case r < 0x20:
		each(token{kind: tokenControl, r: r})
	default:
		each(token{kind: tokenText, r: r})
	}
}

func (s *scanner) string(r rune, each func(token)) {
	switch {
	case s.state == inStringEscape && r != '\\': // ESC ends a string whatever follows; what follows is a sequence of its own
		s.begin(inEscape)
		s.escape(r, each)
	case s.state == inStringEscape, r == 0x07, r == 0x9c, s.n > maxString:
		s.state = inGround
	}
}

func (s *scanner) escape(r rune, each func(token)) {
	switch {
	case r < 0x20:
		each(token{kind: tokenControl, r: r}) // done at once, within the sequence
	case s.seq.inter == "" && r == '[':
		s.begin(inCSI)
	case s.seq.inter == "" && strings.ContainsRune("]PX^_", r):
		s.begin(inString)
	case r < 0x30:
		s.intermediate(r)
	case r < 0x7f:
		s.seq.kind, s.seq.r, s.state = tokenEscape, r, inGround
		if !s.bad {
			each(s.seq)
		}
	default:
		s.state = inGround
	}
}

func (s *scanner) csi(r rune, each func(token)) {
	switch {
	case r < 0x20:
		each(token{kind: tokenControl, r: r})
	case r < 0x30:
		s.intermediate(r)
	case r >= '<' && r <= '?':
		s.bad = s.bad || s.seq.prefix != 0 || s.seq.params != "" || s.seq.inter != ""
		s.seq.prefix = byte(r)
	case r < 0x40:
		if s.bad = s.bad || s.seq.inter != "" || len(s.seq.params) >= maxSequence; !s.bad {
			s.seq.params += string(r)
		}
	case r < 0x7f:
		s.seq.kind, s.seq.r, s.state = tokenCSI, r, inGround
		if !s.bad {
			each(s.seq)
		}
	default:
		s.state = inGround
	}
}

func (s *scanner) intermediate(r rune) {
	if s.bad = s.bad || len(s.seq.inter) >= 2; !s.bad {
		s.seq.inter += string(r)
	}
}

// Filter lets through what draws: text, colours, the cursor's movements, erasing, the other screen. It drops everything by which output
// could reach beyond the screen: titles, the clipboard, links, reports that the terminal would type as an answer, modes of keyboard and
// mouse, printing, resizing. The zero Filter is at the beginning.
type Filter struct{ s scanner }

// drawing are the finals of control sequences without prefix and intermediates that draw.
const drawing = "@ABCDEFGHIJKLMPSTXZ`abdefmrsu"

// modes of the screen (DECSET and DECRST) that draw: origin, wrap, blinking, cursor, the other screen with and without its cursor.
var modes = []string{"6", "7", "12", "25", "47", "1047", "1048", "1049"}

// Safe is what of a piece of output may go to a terminal. Sequences may be cut anywhere between pieces.
func (f *Filter) Safe(text string) string {
	var b strings.Builder
	f.s.feed(text, func(t token) {
		switch t.kind {
		case tokenText:
			b.WriteRune(t.r)
		case tokenControl:
			if strings.ContainsRune("\n\r\t\b\v\f\x0e\x0f", t.r) {
				b.WriteRune(t.r)
			}
		case tokenEscape:
			b.WriteString(safeEscape(t))
		case tokenCSI:
			if safeCSI(t) {
				b.WriteString("\x1b[")
				if t.prefix != 0 {
					b.WriteByte(t.prefix)
				}
				b.WriteString(t.params)
				b.WriteRune(t.r)
			}
		}
	})
	return b.String()
}

// Reset is what a terminal is sent after a recording, however it ended: colours, character set, scrolling, cursor, first screen.
const Reset = "\x1b[0m\x1b(B\x0f\x1b[r\x1b[?25h\x1b[?7h\x1b[?1049l"

func safeEscape(t token) string {
	switch {
	case t.inter == "" && strings.ContainsRune("78DEM", t.r):
		return "\x1b" + string(t.r)
	case t.inter == "" && t.r == 'c': // a full reset would also change how the terminal is set up
		return "\x1b[0m\x1b[r\x1b[H\x1b[2J"
	case (t.inter == "(" || t.inter == ")") && strings.ContainsRune("0AB", t.r):
		return "\x1b" + t.inter + string(t.r)
	}
	return ""
}

func safeCSI(t token) bool {
	if t.inter != "" || long(t.params) {
		return false
	}
	if t.prefix == '?' && (t.r == 'h' || t.r == 'l') {
		for m := range strings.SplitSeq(t.params, ";") {
			if !slices.Contains(modes, m) {
				return false
			}
		}
		return true
	}
	if t.prefix == 0 && (t.r == 'h' || t.r == 'l') {
		return t.params == "4"
	}
	return t.prefix == 0 && strings.ContainsRune(drawing, t.r)
}

// long says whether a number has more digits than a screen can mean: some sequences are done as often as they say.
func long(params string) bool {
	n := 0
	for _, r := range params {
		if n++; r == ';' || r == ':' {
			n = 0
		}
		if n > 4 {
			return true
		}
	}
	return false
}
