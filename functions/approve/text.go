package approve

import (
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport/sallyport/internal/access"
)

// hidden says whether a character shows nothing of its own, or moves, turns around or changes what is beside it.
func hidden(r rune) bool {
	return !unicode.IsPrint(r) || r == unicode.ReplacementChar || r == '\u2800' ||
		unicode.In(r, unicode.M, unicode.Bidi_Control, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point)
}

// pieces cuts text into what can be shown as it is, and what is shown by its code: hidden characters, and bytes that are no
// character at all. Line breaks and tabs count as shown.
func pieces(s string, shown, code func(string)) {
	start := 0
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		name := ""
		switch {
		case r == '\n' || r == '\t':
		case r == utf8.RuneError && size == 1:
			name = fmt.Sprintf("byte %02X", s[i])
		case hidden(r):
			name = fmt.Sprintf("U+%04X", r)
		}
		if name != "" {
			shown(s[start:i])
			code(name)
			start = i + size
		}
		i += size
	}
	shown(s[start:])
}

// visible keeps text from being anything but text: nothing hides, moves or turns around what a person reads.
func visible(v any) string {
	s := fmt.Sprint(v)
	var b strings.Builder
	pieces(s, func(t string) { b.WriteString(t) }, func(name string) { b.WriteString("⟨" + name + "⟩") })
	return b.String()
}

// sentence is a message of package api, which starts in lower case, as a person's sentence.
func sentence(s string) string {
	r, size := utf8.DecodeRuneInString(s)
	return visible(string(unicode.ToUpper(r)) + s[size:])
}

// maxGlance is how many characters of a text a list shows.
const maxGlance = 240

// glance is the beginning of a text, for lists.
func glance(v any) string {
	s := fmt.Sprint(v)
	n := 0
	for i := range s {
		if n++; n > maxGlance {
			return visible(s[:i]) + " …"
		}
	}
	return visible(s)
}

// maxLines is how many lines get a number each. Longer texts are shown as they are: numbers would cost more than they help.
const maxLines = 2000

// statement is an exact text, ready to be read: every line numbered, so that none hides behind empty ones, every character that
// shows nothing replaced by its marked code, and every one outside ASCII marked, since some look like others.
type statement struct {
	HTML    template.HTML
	Lines   int
	Bytes   int
	Hidden  bool // some characters were replaced by their codes
	Foreign bool // some are outside ASCII
}

func exact(s string) statement {
	st := statement{Lines: strings.Count(strings.TrimSuffix(s, "\n"), "\n") + 1, Bytes: len(s)}
	var b strings.Builder
	numbered := st.Lines > 1 && st.Lines <= maxLines
	for line := range strings.Lines(s) {
		if numbered {
			b.WriteString(`<span class="ln">`)
		}
		pieces(line, func(t string) { st.shown(&b, t) }, func(name string) {
			st.Hidden = true
			b.WriteString(`<mark class="code">` + name + `</mark>`)
		})
		if numbered {
			b.WriteString(`</span>`)
		}
	}
	st.HTML = template.HTML(b.String()) //nolint:gosec // every part of s went through HTMLEscapeString
	return st
}

// shown writes text that can be shown, with runs of other scripts marked.
func (st *statement) shown(b *strings.Builder, t string) {
	for len(t) > 0 {
		n := strings.IndexFunc(t, func(r rune) bool { return r > unicode.MaxASCII })
		if n < 0 {
			n = len(t)
		}
		b.WriteString(template.HTMLEscapeString(t[:n]))
		if t = t[n:]; t == "" {
			return
		}
		if n = strings.IndexFunc(t, func(r rune) bool { return r <= unicode.MaxASCII }); n < 0 {
			n = len(t)
		}
		st.Foreign = true
		b.WriteString(`<span class="foreign">` + template.HTMLEscapeString(t[:n]) + `</span>`)
		t = t[n:]
	}
}

// param shows a bound value so that no two values look alike.
func param(p access.Param) string {
	if p.Null {
		return "NULL"
	}
	return strconv.QuoteToASCII(string(p.Value))
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// hour is clock without the day, for lists of today's things.
func hour(t time.Time) string { return t.UTC().Format("15:04:05 UTC") }

// stamp is clock for machines.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// left says how long something still lasts, as people say it.
func left(d time.Duration) string {
	switch {
	case d <= 0:
		return "none"
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	}
	return fmt.Sprintf("%d h", int(d.Hours()))
}
